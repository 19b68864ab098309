"""(b) EventFlow embedded: `publish_many` of 500, until all is settled and durable.

Each event to one of three topics, or (`--fan-out`) every event to all three; no-op async handlers,
capacities 1,000,000, fsync before `publish_many` returns. Decodes the same bytes as the floor.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from typing import TYPE_CHECKING

import uvloop

from bench.payload import TOPICS, batches
from bench.report import answer, fresh_folder
from eventflow import Delivery, Event, EventFlow
from eventflow.app.serving import SWITCH_INTERVAL_S
from eventflow.cloudevents import decode_batch

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

CAPACITY = 1_000_000
AHEAD = 4
"""Batches being accepted at once: the floor keeps its best number of them on their way too."""


def node(path: Path, *, fan_out: bool, waiting: bool = False) -> tuple[EventFlow, list[int]]:
    """Return a node with three topics, and where their handlers count (with `waiting` a fourth)."""
    flow = EventFlow(engine=f"sqlite:{path}")
    flow.override({"common": {"capacity": CAPACITY}, "engine": {"memory_limit": "4GiB"}})
    handled = [0]
    for name in TOPICS:

        @flow.topic(name, match="*.made" if fan_out else f"{name}.made", capacity=CAPACITY)
        async def nothing(event: Event) -> None:
            handled[0] += 1

    if waiting:

        @flow.topic("waiting", match="held.*", capacity=CAPACITY)
        async def never(event: Event, delivery: Delivery) -> None:
            raise AssertionError(delivery.id)

    return flow, handled


async def publish(flow: EventFlow, bodies: Sequence[bytes], ahead: int = AHEAD) -> None:
    """Decode and accept all bodies, some at once."""
    given = iter(bodies)

    async def some() -> None:
        for body in given:
            await flow.publish_many(decode_batch(body))

    await asyncio.gather(*(some() for _ in range(ahead)))


async def run(path: Path, events: int, *, fan_out: bool) -> dict[str, float]:
    """Return events a second, from the first decode until all is settled, durably."""
    bodies = batches(events, 500)
    flow, handled = node(path, fan_out=fan_out)
    await flow.start()
    await publish(flow, batches(5_000, 500, prefix="warm"))
    await flow.drain()
    before = handled[0]
    cpu = time.process_time()
    began = time.perf_counter()
    await publish(flow, bodies)
    await flow.drain()
    took_s = time.perf_counter() - began
    cpu = time.process_time() - cpu
    census = await flow.flow.tools.engine.census(walk=True)
    await flow.stop()
    deliveries = handled[0] - before
    assert deliveries == events * (len(TOPICS) if fan_out else 1), (deliveries, events)
    assert census.unaccounted == 0, census
    assert sum(counts.queued + counts.running for counts in census.topics.values()) == 0, census
    return {"per_s": events / took_s, "cpu_us": cpu / events * 1e6}


def main() -> None:
    """Measure once."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--events", type=int, default=200_000)
    parser.add_argument("--fan-out", action="store_true")
    given = parser.parse_args()
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    with fresh_folder() as folder:
        answer(uvloop.run(run(folder / "node.db", given.events, fan_out=given.fan_out)))


if __name__ == "__main__":
    main()
