"""The power fails under the embedded engine: what was acknowledged is there afterwards.

A seeded workload (accept, route, settle in every way, all at once) runs on a disk that loses power
at a random operation. What the disk kept is opened by the system's own file access, and held
against what the engine had said: an event it acknowledged is in exactly one place for each of its
deliveries, or was delivered; the counts are true; the file is sound.
"""

from __future__ import annotations

import asyncio
from contextlib import closing, suppress
from random import Random
from typing import TYPE_CHECKING, Any, NamedTuple

import apsw
import pytest

from eventflow.delivery import (
    COMMON,
    DELIVERED,
    RELEASED,
    Dead,
    Delivered,
    Delivery,
    Parked,
    Place,
    Queued,
    Reason,
    Retrying,
    Row,
    Tally,
)
from eventflow.engine.embedded import EmbeddedEngine, file, open_engine, space
from eventflow.engine.embedded.writer import InlineWriter
from eventflow.engine.protocol import (
    Act,
    Fallback,
    Finish,
    Kind,
    Lease,
    Placing,
    Plan,
    Queue,
    Route,
    Run,
    Settle,
    Target,
    TopicPlan,
    Way,
)
from eventflow.errors import EngineUnavailable, QueueFull
from eventflow.event import Event
from eventflow.storage.protocol import Filter
from eventflow.testing import CrashDisk, VirtualClock, run

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from eventflow.engine.protocol import Settled

TOPICS = ("a", "b")
PLAN = Plan({COMMON: TopicPlan(24), "a": TopicPlan(60, 30), "b": TopicPlan(60, 30)}, lease_s=5.0)
COMMON_QUEUE = Queue(Kind.TOPIC, COMMON)
CLOCK = VirtualClock()
ROUNDS = 12
FEW, MANY = 60, 2_000


class Seen(NamedTuple):
    """What one cut did."""

    acknowledged: int
    lost: int
    undone: int
    """Settlements that were acknowledged, and that the file knows nothing of."""
    damaged: bool
    unaccounted: int


class Workload:
    """Uses the engine at random until the power is gone; notes what the engine has said."""

    def __init__(self, chance: Random) -> None:
        self.chance = chance
        self.accepted: set[str] = set()
        self.beyond_common = 0
        """How many of those were accepted and routed in one write."""
        self.handed: set[str] = set()
        """Delivery ids that were given to be delivered: whether they were is not known."""
        self.delivered: set[str] = set()
        self.hops: dict[str, int] = {}
        """By delivery id, the hop of its last move that was acknowledged."""

    async def run(self, engine: EmbeddedEngine) -> None:
        for n in range(ROUNDS):
            ways = [self._accept(engine, n), self._accept(engine, n + 1000), self._route(engine)]
            ways += [self._settle(engine, Queue(Kind.TOPIC, name)) for name in TOPICS]
            ways += [self._settle(engine, Queue(Kind.LANE, name)) for name in TOPICS]
            ways += [self._place(engine)]
            for answer in await asyncio.gather(*ways, return_exceptions=True):
                if isinstance(answer, BaseException):
                    assert isinstance(answer, EngineUnavailable | QueueFull), repr(answer)
            if engine.broken:
                return
            await asyncio.sleep(self.chance.choice([0, 0.5, 6]))

    async def _accept(self, engine: EmbeddedEngine, n: int) -> None:
        count = self.chance.randint(1, 12)
        events = [
            Event(type="t", source="/s", id=f"{n}-{i}", data="x" * self.chance.randint(0, 400))
            for i in range(count)
        ]
        place = Parked(Row.COMMON_FULL, Tally(overflows=1), CLOCK.now_s(), Reason.COMMON_FULL)
        fallback = self.chance.choice([None, Fallback(place)])
        receipts = await engine.accept(events, self._ways(count), fallback=fallback)
        self.accepted |= {receipt.ref for receipt in receipts if receipt.ref}
        self.beyond_common += len(events) if receipts.ways else 0

    def _ways(self, count: int) -> list[Way]:
        """Return where so many events could go in the write that accepts them, maybe nowhere."""
        if self.chance.random() < 0.5:
            return []
        cut = self.chance.randint(0, count)
        parts = [list(range(cut)), list(range(cut, count))]
        names = [("a",), ("b",), ("a", "b")]
        return [Way(self.chance.choice(names), part, 2) for part in parts if part]

    async def _route(self, engine: EmbeddedEngine) -> None:
        leases = await engine.lease(COMMON_QUEUE, limit=20, wait_s=0)
        acts: list[Act] = []
        for lease in leases:
            names = self.chance.choice([("a",), ("b",), ("a", "b")])
            acts.append(Route(lease, tuple(Target(name, self._tries()) for name in names)))
        await engine.settle(acts)

    async def _settle(self, engine: EmbeddedEngine, queue: Queue) -> None:
        leases = await engine.lease(queue, limit=self.chance.randint(1, 15), wait_s=0)
        acts: list[Act] = []
        given: list[list[Delivery]] = []
        for part in leases.parts:
            if isinstance(part, Lease):
                self._end(part, acts, given)
            else:
                self._end_run(part, acts, given)
        for some, answer in zip(given, await engine.settle(acts), strict=True):
            for delivery in some:
                self._note(delivery, answer)

    def _end(self, lease: Lease, acts: list[Act], given: list[list[Delivery]]) -> None:
        if self.chance.random() < 0.1:
            return  # left to run out
        ends: list[Place] = [DELIVERED, DELIVERED, RELEASED, *self._tries()]
        end = self.chance.choice(ends)
        if isinstance(end, Delivered):
            self.handed.add(lease.delivery.id)
        acts.append(Settle(lease, (end,)))
        given.append([lease.delivery])

    def _end_run(self, run: Run, acts: list[Act], given: list[list[Delivery]]) -> None:
        """End some of a run together, take some out, and leave some to run out with it."""
        well: list[Delivery] = []
        spans: list[tuple[int, int]] = []
        for index in range(len(run)):
            if self.chance.random() < 0.6:
                spans.append((index, index + 1))
                well.append(run.delivery(index))
            elif self.chance.random() < 0.7:
                self._end(run.lease(index), acts, given)
        if spans:
            self.handed |= {delivery.id for delivery in well}
            acts.append(Finish(run, spans))
            given.append(well)

    def _note(self, delivery: Delivery, answer: Settled) -> None:
        if isinstance(answer.taken, Delivered):
            self.delivered.add(delivery.id)
        elif isinstance(answer.taken, Retrying | Parked | Dead):
            self.hops[delivery.id] = delivery.hop + 1

    async def _place(self, engine: EmbeddedEngine) -> None:
        if self.chance.random() < 0.5:
            return
        page = await engine.storage.page(Filter(state="parked"), limit=5)
        await engine.place(
            [Placing(kept.delivery, Queued(Row.RECOVERED_DUE)) for kept in page.items]
        )

    def _tries(self) -> tuple[Place, ...]:
        due_at = CLOCK.now_s() + self.chance.choice([0, 1, 100])
        ways: list[Place] = [
            Queued(Row.ROUTED),
            Retrying(Row.RETRY, Tally(attempts=1), due_at, Reason.HANDLER_ERROR),
            Parked(Row.RETRY_FULL, Tally(), due_at, Reason.RETRY_FULL),
            Dead(Row.PERMANENT, Tally(attempts=1), Reason.PERMANENT),
        ]
        return (ways[0] if self.chance.random() < 0.6 else self.chance.choice(ways), *ways[1:])


async def start(path: str, **more: Any) -> EmbeddedEngine:
    engine = await open_engine(
        path, clock=CLOCK, draw_bits=Random(1).getrandbits, writer=InlineWriter, **more
    )
    await engine.apply(PLAN)
    return engine


async def work(disk: CrashDisk, durability: str, seed: int) -> Workload:
    """Run the workload until the power is gone, or to its end."""
    workload = Workload(Random(seed))
    with suppress(apsw.Error, EngineUnavailable):
        engine = await start("journal.db", vfs=disk.name, durability=durability)
        await workload.run(engine)
        await engine.close()
    return workload


async def look(path: Path, workload: Workload) -> Seen:
    """Open what the disk kept, and hold it against what the engine had said."""
    with closing(apsw.Connection(str(path))) as connection:
        sound = connection.execute("PRAGMA integrity_check").get == "ok"
    engine = await start(str(path))
    held = [entry.delivery for entry in engine.state.entries()]
    held += [kept.delivery for kept in (await engine.storage.page(Filter(), limit=9999)).items]
    ids = [delivery.id for delivery in held]
    assert len(set(ids)) == len(ids), "a delivery is in two places"
    known = {delivery.ref for delivery in held} | {id.partition(".")[0] for id in workload.handed}
    hops = {delivery.id: delivery.hop for delivery in held}
    undone = len(workload.delivered & hops.keys())
    undone += sum(
        hops.get(id, -1) < hop for id, hop in workload.hops.items() if id not in workload.handed
    )
    census = await engine.census(walk=True)
    assert census == await engine.census()
    await engine.close()
    return Seen(
        len(workload.accepted),
        len(workload.accepted - known),
        undone,
        not sound,
        census.unaccounted,
    )


def cut(seed: int, ops: int, durability: str, folder: Path) -> Seen:
    """Cut the power once, at an operation drawn from the seed."""
    chance = Random(seed)
    with CrashDisk() as disk:
        disk.cut_after(chance.randrange(ops))
        workload = run(work(disk, durability, seed), seed=seed)
        image = disk.crash(chance)
    for old in folder.iterdir():
        old.unlink()
    CrashDisk.restore(folder, image)
    return run(look(folder / "journal.db", workload))


def cuts(seeds: Sequence[int], durability: str, folder: Path) -> list[Seen]:
    """Cut the power once for each seed."""
    with CrashDisk() as whole:
        run(work(whole, durability, seeds[0]), seed=seeds[0])
    return [cut(seed, whole.ops, durability, folder) for seed in seeds]


def figures(seen: Sequence[Seen]) -> dict[str, int]:
    """Return the totals."""
    return {
        "cuts": len(seen),
        "acknowledged": sum(one.acknowledged for one in seen),
        "lost": sum(one.lost for one in seen),
        "undone": sum(one.undone for one in seen),
        "cuts_with_loss": sum(one.lost > 0 for one in seen),
        "damaged": sum(one.damaged for one in seen),
        "unaccounted": sum(abs(one.unaccounted) for one in seen),
    }


@pytest.fixture(autouse=True)
def _give_back_all_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let unused space go back to the disk in small pieces: the power may fail there, too."""
    monkeypatch.setattr(file, "MANY_PAGES", 2)
    monkeypatch.setattr(file, "KEEP_PAGES", 0)
    monkeypatch.setattr(file, "PIECE_PAGES", 2)
    monkeypatch.setattr(space, "LOOK_S", 0.1)


def test_the_workload_visits_every_place() -> None:
    """Else the cuts below prove little."""
    workloads = [Workload(Random(seed)) for seed in range(4)]

    async def story(workload: Workload) -> Any:
        engine = await start(":memory:")
        await workload.run(engine)
        census = await engine.census()
        await engine.close()
        return census.topics

    ends = [run(story(workload), seed=2) for workload in workloads]
    for name in ("delivered", "queued", "retrying", "parked", "dead"):
        assert sum(getattr(end[topic], name) for end in ends for topic in TOPICS) > 0, name
    assert sum(end[COMMON].parked for end in ends) > 0
    beyond_common = sum(workload.beyond_common for workload in workloads)
    assert 0 < beyond_common < sum(len(workload.accepted) for workload in workloads)


@pytest.mark.timeout(60)
def test_with_fsync_nothing_acknowledged_is_lost(tmp_path: Path, seed: int) -> None:
    found = figures(cuts(range(seed, seed + FEW), "fsync", tmp_path))

    assert found["acknowledged"] > FEW * 10
    assert (found["lost"], found["undone"]) == (0, 0)
    assert (found["damaged"], found["unaccounted"]) == (0, 0)


@pytest.mark.timeout(60)
def test_without_fsync_the_same_test_shows_losses(tmp_path: Path, seed: int) -> None:
    """Also without it the file stays sound and the counts true: it only goes back in time."""
    found = figures(cuts(range(seed, seed + FEW // 2), "os", tmp_path))

    assert found["lost"] > 0
    assert found["undone"] > 0
    assert (found["damaged"], found["unaccounted"]) == (0, 0)


@pytest.mark.prove
@pytest.mark.timeout(1_800)
def test_many_power_cuts(tmp_path: Path, seed: int, proof: Callable[..., dict[str, Any]]) -> None:
    safe = figures(cuts(range(seed, seed + MANY), "fsync", tmp_path))
    unsafe = figures(cuts(range(seed, seed + MANY // 10), "os", tmp_path))
    proof("power-cut", fsync=safe, os=unsafe)

    assert (safe["lost"], safe["undone"]) == (0, 0)
    assert (safe["damaged"], safe["unaccounted"]) == (0, 0)
    assert unsafe["lost"] > 0
    assert (unsafe["damaged"], unsafe["unaccounted"]) == (0, 0)
