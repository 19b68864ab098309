"""What the engine contract works with: how to make an engine, and the words its tests use."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar
from weakref import WeakSet

import pytest_asyncio

from eventflow.delivery import (
    CLEAN,
    COMMON,
    DELIVERED,
    Dead,
    Delivery,
    Parked,
    Place,
    Queued,
    Reason,
    Retrying,
    Row,
    Tally,
)
from eventflow.engine.protocol import (
    Fallback,
    Kind,
    Lease,
    Note,
    Placing,
    Plan,
    Queue,
    Route,
    Settle,
    Target,
    TopicPlan,
    Way,
)
from eventflow.event import Event
from eventflow.storage.protocol import Filter

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager, AbstractContextManager

    from eventflow.engine.protocol import Census, Counts, Engine, Settled
    from eventflow.storage.protocol import Kept, Storage

COMMON_QUEUE = Queue(Kind.TOPIC, COMMON)
QUEUED = Queued(Row.ROUTED)
LEASE_S = 30.0
_LOOKS = 10
"""How often the ledger is read, at most, to find one that nothing has changed meanwhile."""


class EngineBench(ABC):
    """Makes engines for the contract, and lets time pass for them."""

    PLAN: ClassVar[Plan] = Plan(
        topics={
            COMMON: TopicPlan(100),
            "a": TopicPlan(20, 10),
            "b": TopicPlan(20, 10),
        },
        dedup_window_s=60.0,
        dedup_max=50,
        lease_s=LEASE_S,
        storage_max_bytes=2**20,
    )

    @abstractmethod
    def open_engine(self, plan: Plan) -> AbstractAsyncContextManager[Engine]:
        """Return a new, empty engine with this plan applied; leaving it closes the engine."""

    @abstractmethod
    async def let_pass(self, seconds: float) -> None:
        """Turn the clock, or wait."""

    @abstractmethod
    def now_s(self) -> float:
        """Return the engine's time, seconds since 1970."""

    @abstractmethod
    def storage(self, engine: Engine) -> Storage:
        """Return the secondary storage that `engine` moves parked and dead deliveries to."""

    @abstractmethod
    def storage_refuses(self) -> AbstractContextManager[None]:
        """Let storage refuse every delivery that comes or goes, until left."""

    @pytest_asyncio.fixture
    async def engine(self) -> AsyncIterator[Engine]:
        async with self.open_engine(self.PLAN) as engine:
            yield engine

    def lane_place(self, wait_s: float = 60.0, wish: Parked | Dead | None = None) -> Retrying:
        """Return a place in the lane, due `wait_s` from now."""
        tally = Tally(attempts=1)
        reason = Reason.HANDLER_ERROR if wish is None else Reason.STORAGE_DOWN
        return Retrying(Row.RETRY, tally, self.now_s() + wait_s, reason, wish)

    def parked_place(self, wait_s: float = 60.0) -> Parked:
        """Return a place in storage, due `wait_s` from now."""
        tally = Tally(attempts=1, overflows=2)
        return Parked(Row.RETRY_FULL, tally, self.now_s() + wait_s, Reason.RETRY_FULL)

    def fallback(self) -> Fallback:
        """Return where events go that find common full."""
        place = Parked(Row.COMMON_FULL, Tally(overflows=1), self.now_s(), Reason.COMMON_FULL)
        return Fallback(place, Note({"capacity": 100}))

    def back(self, stored: Kept) -> Placing:
        """Return the way back into its queue of what was parked at the door."""
        return Placing(stored.delivery, Queued(Row.RECOVERED_COMMON, stored.delivery.tally))


class DurableBench(EngineBench):
    """The same for engines that outlive their process."""

    @abstractmethod
    async def crash(self, engine: Engine) -> Engine:
        """Let every process of the engine die, closing nothing, and start anew with its plan."""

    @abstractmethod
    async def reopen(self, engine: Engine) -> Engine:
        """Close the engine and open it anew with its plan."""


# words ---------------------------------------------------------------------------------------


def event(id: str, priority: str | None = None, **more: Any) -> Event:
    """Return a small event."""
    if priority is not None:
        more["priority"] = priority
    return Event(type="order.placed", source="/shop", id=id, data={"id": id}, **more)


def events(count: int, priority: str | None = None, name: str = "e") -> list[Event]:
    """Return so many events, named e0, e1 and so on."""
    return [event(f"{name}{n}", priority) for n in range(count)]


def topic(name: str) -> Queue:
    """Return the topic's queue."""
    return Queue(Kind.TOPIC, name)


def lane(name: str) -> Queue:
    """Return the topic's lane."""
    return Queue(Kind.LANE, name)


def dead_place() -> Dead:
    """Return the place of what is given up."""
    return Dead(Row.PERMANENT, Tally(attempts=1), Reason.PERMANENT)


async def lease(engine: Engine, queue: Queue, limit: int = 1000) -> Sequence[Lease]:
    """Lease what is there now."""
    return await engine.lease(queue, limit=limit, wait_s=0)


async def lease_one(engine: Engine, queue: Queue) -> Lease:
    """Lease exactly one delivery."""
    (found,) = await engine.lease(queue, limit=1, wait_s=0)
    return found


async def settle(engine: Engine, lease: Lease, *tries: Place, note: Note | None = None) -> Settled:
    """End one lease."""
    (answer,) = await engine.settle([Settle(lease, tries, note)])
    return answer


async def route(engine: Engine, lease: Lease, ways: Mapping[str, Sequence[Place]]) -> Settled:
    """Route one event of common."""
    targets = tuple(Target(name, tuple(tries)) for name, tries in ways.items())
    (answer,) = await engine.settle([Route(lease, targets)])
    return answer


STRAIGHT: WeakSet[Any] = WeakSet()
"""Engines whose events go into their topics in the write that accepts them: see `bring`."""


async def bring(engine: Engine, name: str, *given: Event) -> None:
    """Accept events and route them into one topic's queue; all at once, if it is `STRAIGHT`."""
    ways = []
    if engine in STRAIGHT:
        ranks = [event.rank for event in given]
        ways = [
            Way((name,), [at for at, other in enumerate(ranks) if other == rank], rank)
            for rank in sorted(set(ranks))
        ]
    receipts = await engine.accept(given, ways)
    if receipts.ways:
        return
    leases = await lease(engine, COMMON_QUEUE)
    acts = [Route(one, (Target(name, (QUEUED,)),)) for one in leases]
    answers = await engine.settle(acts)
    assert all(answer.routed == (QUEUED,) for answer in answers)


async def fill_common(engine: Engine) -> None:
    """Accept what common has room for, but for what is urgent."""
    await engine.accept(events(90, name="full"))


async def bring_one(engine: Engine, name: str, id: str = "1") -> Lease:
    """Return the lease of one event in a topic."""
    await bring(engine, name, event(id))
    return await lease_one(engine, topic(name))


async def walk(engine: Engine, queue: Queue) -> list[Delivery]:
    """Return all deliveries of a queue, in order of entry."""
    return [found.delivery for found in await engine.walk(queue)]


def ids(found: Sequence[Lease] | Sequence[Delivery]) -> list[str]:
    """Return the ids of the events."""
    return [(one.delivery if isinstance(one, Lease) else one).event.id for one in found]


async def kept(storage: Storage, **which: Any) -> list[Kept]:
    """Return what storage keeps, oldest first."""
    page = await storage.page(Filter(**which), limit=10_000)
    return list(reversed(page.items))


async def places(engine: Engine, storage: Storage, ref: str) -> list[str]:
    """Return the states of all deliveries of an event, wherever they are."""
    found = [one.state for one in await engine.find(ref)]
    return sorted(found + [one.state for one in await storage.find(ref)])


async def counted_by_hand(engine: Engine, storage: Storage) -> dict[str, tuple[int, ...]]:
    """Return queued, running, retrying, parked and dead by topic, walking everything."""
    by_hand: dict[str, tuple[int, ...]] = {}
    for name in (await engine.census()).topics:
        states = [found.state for found in await engine.walk(topic(name), limit=10**6)]
        states += [found.state for found in await engine.walk(lane(name), limit=10**6)]
        states += [one.state for one in await kept(storage, topic=name)]
        names = ("queued", "running", "retrying", "parked", "dead")
        by_hand[name] = tuple(states.count(state) for state in names)
    return by_hand


def depths(counts: Counts) -> tuple[int, ...]:
    """Return queued, running, retrying, parked and dead."""
    return (counts.queued, counts.running, counts.retrying, counts.parked, counts.dead)


async def true_census(engine: Engine, storage: Storage) -> Census:
    """Return the ledger, having found it true: counted, walked, and counted by hand."""
    looks = 0
    while True:
        looks += 1
        census = await engine.census()
        walked = await engine.census(walk=True)
        by_hand = await counted_by_hand(engine, storage)
        if looks == _LOOKS or await engine.census() == census:
            break  # else a lease has run out meanwhile, where time is real: look again
    found = {name: depths(counts) for name, counts in census.topics.items()}
    assert walked == census
    assert by_hand == found
    assert {name: counts.unaccounted for name, counts in census.topics.items()} == dict.fromkeys(
        census.topics, 0
    )
    return census


__all__ = [
    "CLEAN",
    "COMMON_QUEUE",
    "DELIVERED",
    "LEASE_S",
    "QUEUED",
    "STRAIGHT",
    "DurableBench",
    "EngineBench",
    "bring",
    "bring_one",
    "counted_by_hand",
    "dead_place",
    "depths",
    "event",
    "events",
    "fill_common",
    "ids",
    "kept",
    "lane",
    "lease",
    "lease_one",
    "places",
    "route",
    "settle",
    "topic",
    "true_census",
    "walk",
]
