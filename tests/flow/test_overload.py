"""Twenty thousand events at once into a handler that is far too slow."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

from eventflow import Event, EventFlow
from eventflow.testing.harness import settle, started, virtual
from eventflow.testing.loop import VirtualLoop, run

EVENTS = 20_000
CAPACITY = 100
LANE = 200


def test_what_does_not_fit_waits_and_all_is_delivered(seed: int, proof: Any) -> None:
    """No queue above its capacity at any step; nothing dead; every event runs once."""
    runs: Counter[str] = Counter()
    peak = 0
    checks = 0

    async def story() -> EventFlow:
        nonlocal peak
        flow = EventFlow(engine="memory:", surroundings=virtual(seed))

        @flow.topic(
            "slow",
            match="**",
            capacity=CAPACITY,
            concurrency=8,
            retry={"capacity": LANE},
            recovery={"rate": "100%"},
        )
        async def slow(event: Event) -> None:
            runs[event.id] += 1
            await asyncio.sleep(0.02)

        async with started(flow):
            engine: Any = flow.flow.tools.engine

            def check() -> None:
                nonlocal peak, checks
                depth = engine.depth("slow")
                counts = engine.counts("slow")
                checks += 1
                assert depth.queued + depth.running <= CAPACITY
                assert depth.retrying <= LANE
                assert engine.counts("common").unaccounted == 0
                peak = max(peak, counts.parked + counts.retrying)

            loop = asyncio.get_running_loop()
            assert isinstance(loop, VirtualLoop)
            loop.on_step.append(check)
            events = [Event(type="load", source="/load", id=str(n)) for n in range(EVENTS)]
            for first in range(0, EVENTS, 1000):
                await flow.publish_many(events[first : first + 1000])
            ledger = await settle(flow)
            loop.on_step.clear()
            slow_counts = ledger.topics["slow"]
            assert (slow_counts.delivered, slow_counts.dead) == (EVENTS, 0)
            assert ledger.unaccounted == 0
        return flow

    run(story(), seed=seed)

    assert peak >= 19_000
    assert Counter(runs.values()) == {1: EVENTS}
    proof("overload", peak_waiting=peak, checks=checks, delivered=EVENTS, attempts={1: EVENTS})
