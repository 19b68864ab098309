"""Doors that park: what finds common full goes to storage, and comes back by itself."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from eventflow import Event, EventFlow
from eventflow.delivery import COMMON
from eventflow.errors import QueueFull, StorageUnavailable
from eventflow.storage.protocol import Filter
from eventflow.storage.shelf import Shelf
from eventflow.telemetry import names
from eventflow.testing.harness import settle, started, virtual
from eventflow.testing.loop import VirtualLoop, run

if TYPE_CHECKING:
    from collections.abc import Sequence

    from eventflow.engine.protocol import Receipt

CAPACITY = 50


def event(n: int) -> Event:
    return Event(type="push", source="/webhooks/github", id=str(n))


def node(seed: int, runs: list[str], **engine: Any) -> EventFlow:
    flow = EventFlow(engine="memory:", surroundings=virtual(seed, **engine))
    flow.override({"common": {"capacity": CAPACITY}, "storage": {"max_size": "1MiB"}})

    @flow.topic("ci", match="**", capacity=10_000, concurrency=1)
    async def ci(event: Event) -> None:
        runs.append(event.id)

    return flow


async def all_at_once(flow: EventFlow, numbers: range) -> list[Receipt]:
    """Bring events one by one, so fast that the router does not come in between."""
    accept = flow.flow.ingress.accept
    answers: Sequence[Sequence[Receipt]]
    answers = await asyncio.gather(*(accept([event(n)], park=True) for n in numbers))
    return [receipt for (receipt,) in answers]


def test_a_burst_into_a_full_common_is_accepted_and_delivered(seed: int) -> None:
    """Common is never over its capacity, and what was parked comes back oldest first."""
    runs: list[str] = []
    peak = 0

    async def story() -> None:
        nonlocal peak
        flow = node(seed, runs)
        async with started(flow):
            engine: Any = flow.flow.tools.engine

            def check() -> None:
                nonlocal peak
                depth = engine.depth(COMMON)
                peak = max(peak, depth.queued + depth.running)
                assert engine.counts(COMMON).unaccounted == 0

            loop = asyncio.get_running_loop()
            assert isinstance(loop, VirtualLoop)
            loop.on_step.append(check)
            receipts = []
            for wave in range(4):
                receipts += await all_at_once(flow, range(wave * 100, wave * 100 + 100))
                await asyncio.sleep(0.01)
            kept = await flow.flow.tools.storage.page(Filter(state="parked"), limit=1000)
            parked = [one.delivery.event.id for one in reversed(kept.items)]
            ledger = await settle(flow)
            loop.on_step.clear()

            assert [receipt.duplicate for receipt in receipts] == [False] * 400
            assert {n for n, receipt in enumerate(receipts) if receipt.parked} >= {
                int(id) for id in parked
            }
            assert len(parked) > 150
            assert (ledger.topics[COMMON].created, ledger.topics["ci"].delivered) == (400, 400)
            assert (ledger.unaccounted, ledger.topics[COMMON].dead) == (0, 0)
            assert sorted(map(int, runs)) == list(range(400))
            back = [int(id) // 100 for id in runs if id in set(parked)]
            assert back == sorted(back)
            metrics = flow.flow.tools.metrics
            total = sum(receipt.parked for receipt in receipts)
            assert metrics.counted(names.OVERFLOWS)[COMMON,] == total
            assert metrics.counted(names.DELIVERIES_PARKED)[COMMON, "common_full"] == total
            assert metrics.counted(names.DELIVERIES_RECOVERED)[COMMON,] == total
            assert metrics.counted(names.EVENTS_ACCEPTED)[()] == 400

    run(story(), seed=seed)

    assert 0 < peak <= CAPACITY


def test_a_door_that_does_not_park_refuses(seed: int) -> None:
    async def story() -> None:
        flow = node(seed, [])
        async with started(flow):
            accept = flow.flow.ingress.accept
            answers = await asyncio.gather(
                *(accept([event(n)]) for n in range(100)), return_exceptions=True
            )
            refused = [answer for answer in answers if isinstance(answer, QueueFull)]
            assert len(refused) == 100 - CAPACITY * 0.9

    run(story(), seed=seed)


def test_at_95_percent_of_storage_no_door_parks(seed: int) -> None:
    """Parking at a door is letting in: the rest is for what was accepted before."""

    async def story() -> None:
        flow = node(seed, [])
        async with started(flow):
            engine: Any = flow.flow.tools.engine
            engine.state.storage_bytes = 2**20 * 95 // 100 + 1
            with pytest.raises(QueueFull, match="doors close at 95 %"):
                await flow.flow.ingress.accept([event(1)], park=True)
            engine.state.storage_bytes = 0

    run(story(), seed=seed)


def test_where_storage_refuses_the_door_does_too(seed: int) -> None:
    """It says why, and when to come again; the same events are then no duplicates."""

    class Weak(Shelf):
        refuses = True

        def keep(self, items: Any) -> None:
            if Weak.refuses:
                raise StorageUnavailable("told to refuse")
            super().keep(items)

    async def story() -> None:
        flow = node(seed, [], shelf=Weak)
        async with started(flow):
            accept = flow.flow.ingress.accept
            answers = await asyncio.gather(
                *(accept([event(n)], park=True) for n in range(100)), return_exceptions=True
            )
            refused = [answer for answer in answers if isinstance(answer, QueueFull)]
            assert len(refused) == 100 - CAPACITY * 0.9
            assert "told to refuse" in str(refused[0])
            assert refused[0].retry_after_s >= 1
            Weak.refuses = False
            receipts = await all_at_once(flow, range(100))
            assert sum(receipt.duplicate for receipt in receipts) == CAPACITY * 0.9
            ledger = await settle(flow)
            assert (ledger.topics["ci"].delivered, ledger.unaccounted) == (100, 0)

    run(story(), seed=seed)
