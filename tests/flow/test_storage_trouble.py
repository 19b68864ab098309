"""Secondary storage is full, or fails for a minute: nothing accepted is lost, the rest goes on."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from eventflow import Event, EventFlow, QueueFull
from eventflow.errors import StorageUnavailable
from eventflow.storage.shelf import Shelf
from eventflow.testing.harness import settle, started, virtual
from eventflow.testing.loop import run

if TYPE_CHECKING:
    from collections.abc import Sequence

    from eventflow.storage.protocol import Kept

MIB = 2**20


class Trouble:
    """A destination that is down, and a storage that fails, until told otherwise."""

    down = True
    storage_fails = False
    refused = 0


class FaultyShelf(Shelf):
    """A storage whose every park, dead and recover call fails while `trouble` says so."""

    trouble: Trouble

    def keep(self, items: Sequence[Kept]) -> None:
        self._fail(len(items))
        super().keep(items)

    def forget(self, pairs: Sequence[tuple[str, int]]) -> list[bool]:
        self._fail(len(pairs))
        return super().forget(pairs)

    def due(self, topic: str, now: float, limit: int) -> list[Kept]:
        self._fail(limit)
        return super().due(topic, now, limit)

    def _fail(self, count: int) -> None:
        if self.trouble.storage_fails:
            self.trouble.refused += count
            raise StorageUnavailable("no route to storage")


def node(seed: int, trouble: Trouble, runs: Counter[str], **settings: Any) -> EventFlow:
    """A node with one topic whose destination is down, and one that is well."""

    class Faulty(FaultyShelf):
        pass

    Faulty.trouble = trouble
    flow = EventFlow(engine="memory:", surroundings=virtual(seed, shelf=Faulty))
    flow.override({"storage": {"max_size": "1MiB"}, "common": {"capacity": 200}})

    @flow.topic("ill", match="ill.*", **settings)
    async def ill(event: Event) -> None:
        if trouble.down:
            raise ConnectionError("no route to host")
        runs[event.id] += 1

    @flow.topic("well", match="well.*")
    async def well(event: Event) -> None:
        runs[event.id] += 1

    return flow


def events(kind: str, first: int, count: int) -> list[Event]:
    return [
        Event(type=f"{kind}.x", source="/test", id=f"{kind}-{n}", data={"x": "y" * 1000})
        for n in range(first, first + count)
    ]


async def fill(flow: EventFlow, accepted: list[str]) -> QueueFull:
    """Publish ill events until the door says no; return what it said."""
    first = 0
    for _ in range(2000):
        batch = events("ill", first, 20)
        try:
            await flow.publish_many(batch)
        except QueueFull as full:
            return full
        accepted += [event.id for event in batch]
        first += 20
        await asyncio.sleep(0.5)
    pytest.fail("the door never said no")


def test_a_full_storage_closes_the_doors_and_loses_nothing(seed: int, proof: Any) -> None:
    trouble, runs = Trouble(), Counter[str]()
    accepted: list[str] = []

    async def story() -> None:
        flow = node(seed, trouble, runs, retry={"max_attempts": 1, "capacity": 100})
        async with started(flow):
            full = await fill(flow, accepted)
            usage = flow.flow.tools.engine.storage.usage()  # type: ignore[attr-defined]
            assert full.queue == "storage"
            assert usage.used_bytes >= 0.95 * usage.max_bytes
            # Those already inside may use the rest, and not a byte more.
            await asyncio.sleep(600)
            usage = flow.flow.tools.engine.storage.usage()  # type: ignore[attr-defined]
            assert usage.used_bytes <= usage.max_bytes
            trouble.down = False
            await settle(flow)
            # The doors are open again, and what is new goes its way.
            await flow.publish_many(events("well", 0, 50))
            ledger = await settle(flow)
            assert ledger.unaccounted == 0
            assert sum(counts.dead for counts in ledger.topics.values()) == 0

    run(story(), seed=seed)

    assert set(runs) == {*accepted, *(f"well-{n}" for n in range(50))}
    assert set(runs.values()) == {1}
    proof("storage-full", accepted=len(accepted), delivered=sum(runs.values()))


def test_a_failing_storage_backs_up_and_loses_nothing(seed: int, proof: Any) -> None:
    """Every park, dead and recover call fails for a minute; the journal works."""
    trouble, runs = Trouble(), Counter[str]()
    accepted: list[str] = []

    async def story() -> None:
        small = {"max_attempts": 2, "base": "100ms", "max": "1s", "capacity": 40}
        flow = node(seed, trouble, runs, retry=small, capacity=60)
        async with started(flow):
            await flow.publish_many(events("ill", 100_000, 20))
            accepted.extend(event.id for event in events("ill", 100_000, 20))
            await asyncio.sleep(5)
            trouble.storage_fails = True
            began = asyncio.get_running_loop().time()
            full = await fill(flow, accepted)
            assert full.queue == "common"
            assert trouble.refused > 0
            # What succeeds goes on, though its neighbour is stuck.
            urgent = [
                Event(type="well.x", source="/test", id=f"urgent-{n}", priority="critical")
                for n in range(5)
            ]
            await flow.publish_many(urgent)
            accepted.extend(event.id for event in urgent)
            await asyncio.sleep(max(0.0, began + 60 - asyncio.get_running_loop().time()))
            assert all(runs[event.id] == 1 for event in urgent)
            trouble.storage_fails = trouble.down = False
            ledger = await settle(flow)
            assert ledger.unaccounted == 0
            assert sum(counts.dead for counts in ledger.topics.values()) == 0

    run(story(), seed=seed)

    assert set(runs) == set(accepted)
    assert set(runs.values()) == {1}
    proof("storage-failing", accepted=len(accepted), refused=trouble.refused)
