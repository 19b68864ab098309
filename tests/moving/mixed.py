"""A stopped node's file with deliveries in every state, and what it holds, to be held against."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import msgspec

from eventflow import Event
from eventflow.delivery import (
    COMMON,
    DELIVERED,
    Attempt,
    Dead,
    Delivery,
    Parked,
    Queued,
    Reason,
    Retrying,
    Row,
    Tally,
)
from eventflow.engine.embedded import open_engine, open_stopped
from eventflow.engine.embedded.writer import InlineWriter
from eventflow.engine.protocol import (
    Census,
    Finish,
    Kind,
    Note,
    Plan,
    Queue,
    Route,
    Settle,
    Target,
    TopicPlan,
)
from eventflow.event import PRIORITIES
from eventflow.storage.protocol import Actor, Filter
from eventflow.testing.clock import ManualClock

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from eventflow.engine.embedded import EmbeddedEngine
    from eventflow.engine.protocol import Engine, Lease, Settled

TOPICS = ("email", "db", "api")
BATCH = 1_000
NOW = 1_790_000_000.0
"""When it all happened, seconds since 1970."""
WEEK_S = 604_800.0


def plan_for(count: int) -> Plan:
    """Return queues that have room for so many events, and for their deliveries."""
    topics = {name: TopicPlan(2 * count + 100, 2 * count + 100) for name in TOPICS}
    return Plan({COMMON: TopicPlan(2 * count + 100), **topics}, memory_limit_bytes=2**40)


async def fill(path: Path, count: int, seed: int, *, now: float = NOW) -> None:
    """Make the file of a node that was killed, having accepted `count` events.

    A twentieth is in common; of the rest each topic has its share: delivered, queued, retrying,
    parked, dead, and some that were running. One topic is paused, one has another capacity, and
    some of what was dead has been discarded.
    """
    chance = random.Random(seed)
    clock = ManualClock(now)
    engine = await open_engine(
        str(path), clock=clock, draw_bits=chance.getrandbits, writer=InlineWriter
    )
    await engine.apply(plan_for(count))
    for start in range(0, count, BATCH):
        stop = min(start + BATCH, count)
        await engine.accept([_event(number, chance) for number in range(start, stop)])
    routed = 0
    while routed < count - count // 20:
        limit = min(BATCH, count - count // 20 - routed)
        leases = _leases(await engine.lease(Queue(Kind.TOPIC, COMMON), limit=limit, wait_s=0.0))
        await engine.settle([_route(lease, chance) for lease in leases])
        routed += len(leases)
    for topic in TOPICS:
        await _work(engine, Queue(Kind.TOPIC, topic), chance)
    await _operate(engine)
    await engine.close()  # with leases: what was running is told as after a kill


def _event(number: int, chance: random.Random) -> Event:
    more: dict[str, Any] = {"priority": chance.choice(PRIORITIES).value}
    if number % 3 == 0:
        more["partitionkey"] = f"customer-{number % 17}"
    return Event(
        type=f"shop.{chance.choice(TOPICS)}",
        source="/shop",
        id=str(number),
        data={"number": number, "text": "x" * chance.randrange(200)},
        **more,
    )


def _leases(given: Sequence[Any]) -> list[Lease]:
    """Return leases one by one, also of what was leased as a run."""
    found: list[Lease] = []
    for one in given:
        found += [one.lease(index) for index in range(len(one))] if hasattr(one, "refs") else [one]
    return found


def _route(lease: Lease, chance: random.Random) -> Route:
    topics = chance.sample(TOPICS, chance.choice((1, 1, 2)))
    return Route(lease, tuple(Target(topic, (Queued(Row.ROUTED),)) for topic in topics))


async def _work(engine: EmbeddedEngine, queue: Queue, chance: random.Random) -> None:
    left = engine.depth(queue.topic).queued
    while left > 0:
        leases = _leases(await engine.lease(queue, limit=min(BATCH, left), wait_s=0.0))
        left -= len(leases)
        acts = [act for lease in leases if (act := _act(lease, chance)) is not None]
        _all_taken(await engine.settle(acts))


def _act(lease: Lease, chance: random.Random) -> Settle | Finish | None:
    """Return what becomes of a delivery; None: it was still running."""
    ends = chance.choices(
        ("delivered", "queued", "retrying", "parked", "dead", "running"), (4, 6, 4, 3, 2, 0.2)
    )[0]
    tally = Tally(chance.randrange(5), chance.randrange(1, 3), chance.randrange(3))
    due_at = NOW + chance.random() * WEEK_S
    attempt = Attempt(NOW - 2.0, NOW - 1.0, "failed", "http 503", "no", "f1", tally.rounds)
    note = Note({"attempts": tally.attempts}, attempt, "Traceback: …")
    match ends:
        case "delivered":
            return Settle(lease, (DELIVERED,))
        case "queued":
            return Settle(lease, (Queued(Row.DUE, tally),), note)
        case "retrying":
            place = Retrying(Row.RETRY, tally, due_at, Reason.HANDLER_ERROR)
            return Settle(lease, (place,), note)
        case "parked":
            reason = chance.choice((Reason.RETRIES_EXHAUSTED, Reason.LONG_DELAY))
            return Settle(lease, (Parked(Row.RETRIES_EXHAUSTED, tally, due_at, reason),), note)
        case "dead":
            return Settle(lease, (Dead(Row.PERMANENT, tally, Reason.PERMANENT),), note)
        case _:
            return None


def _all_taken(answers: Sequence[Settled]) -> None:
    assert not any(answer.lost or answer.refused for answer in answers)


async def _operate(engine: EmbeddedEngine) -> None:
    by = Actor("somebody", "ticket 4711")
    await engine.storage.override("email", {"paused": True}, by)
    await engine.storage.override("db", {"concurrency": 2}, by)
    page = await engine.storage.page(Filter(state="dead", topic="api"), limit=3)
    await engine.storage.discard([kept.delivery.id for kept in page.items], by)


class Held:
    """All that is held somewhere: deliveries as they are, in order, by place."""

    def __init__(self, places: dict[str, list[bytes]], census: Census, trail: list[str]) -> None:
        self.places = places
        self.census = census
        self.trail = trail
        """The ends of the audit chains."""

    @property
    def count(self) -> int:
        """How many deliveries there are."""
        return sum(map(len, self.places.values()))


async def held_by_file(path: Path) -> Held:
    """Return what a stopped node's file holds."""
    engine = await open_stopped(path, clock=ManualClock(NOW))
    try:
        return await held_by(engine, engine.storage)
    finally:
        await engine.close()


async def held_by(engine: Engine, storage: Any) -> Held:
    """Return what an engine holds."""
    census = await engine.census(walk=True)
    places: dict[str, list[bytes]] = {}
    for topic in census.topics:
        for kind in Kind:
            found = await engine.walk(Queue(kind, topic), limit=10**9)
            places[f"{kind.value}:{topic}"] = [_written(one.delivery) for one in found]
    after: str | None = ""
    while after is not None:
        some, after = await storage.along(Filter(), after=after or None, limit=BATCH)
        for kept in some:
            place = places.setdefault(f"{kept.state}:{kept.delivery.topic}", [])
            place.append(_written(kept.delivery) + str(kept.since).encode())
    there = {name: lines for name, lines in places.items() if lines}
    return Held(there, census, sorted(await storage.heads()))


def _written(delivery: Delivery) -> bytes:
    return msgspec.json.encode(delivery)


def same(before: Held, after: Held) -> None:
    """See that nothing is lost, nothing is there twice, and the ledgers agree."""
    assert {name: len(lines) for name, lines in after.places.items()} == {
        name: len(lines) for name, lines in before.places.items()
    }
    assert after.places == before.places  # each as it was, and in its order
    assert set(before.trail) <= set(after.trail)
    assert after.census.since == before.census.since
    for topic, counts in before.census.topics.items():
        queued = counts.queued + counts.running
        still = msgspec.structs.replace(counts, queued=queued, running=0)
        assert after.census.topics[topic] == still
    assert (before.census.unaccounted, after.census.unaccounted, after.census.moving) == (0, 0, 0)
