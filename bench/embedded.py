"""(b) EventFlow embedded: `publish_many` of 500, until all is settled and durable.

Each event to one of three topics, or (`--fan-out`) every event to all three; no-op async handlers,
capacities 1,000,000, fsync before `publish_many` returns. Decodes the same bytes as the floor.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

import uvloop

from bench.payload import TOPICS, batches
from bench.report import answer, fresh_folder
from eventflow import Delivery, Event, EventFlow
from eventflow.app.measure.rate import measured, publish, settled
from eventflow.app.serving import tune
from eventflow.storage.protocol import Actor

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    Handler = Callable[[Event], Awaitable[None]]

CAPACITY = 1_000_000
HELD = "held"
"""The topic of events that wait."""


def node(path: Path, handler: Handler, *, fan_out: bool = False) -> EventFlow:
    """Return a node with three topics of one handler, and a fourth that no other events go to."""
    flow = EventFlow(engine=f"sqlite:{path}")
    flow.override({"common": {"capacity": CAPACITY}, "engine": {"memory_limit": "4GiB"}})
    for name in TOPICS:
        match = "*.made" if fan_out else f"{name}.made"
        flow.topic(name, match=match, capacity=CAPACITY)(handler)

    @flow.topic(HELD, match=f"{HELD}.*", capacity=CAPACITY)
    async def never(event: Event, delivery: Delivery) -> None:
        raise AssertionError(delivery.id)

    return flow


async def run(path: Path, events: int, *, fan_out: bool, waiting: int) -> dict[str, float]:
    """Return events a second, from the first decode until all is settled, durably."""
    handled = 0

    async def nothing(event: Event) -> None:
        nonlocal handled
        handled += 1

    bodies = batches(events, 500)
    flow = node(path, nothing, fan_out=fan_out)
    await flow.start()
    await flow.flow.pause(HELD, Actor("the bench", "to let events wait"))
    await publish(flow, batches(waiting, 500, topic=HELD))
    await publish(flow, batches(5_000, 500, prefix="warm"))
    await settled(flow)
    before = handled
    took = await measured(flow, bodies)
    census = await flow.flow.tools.engine.census(walk=True)
    await flow.stop()
    assert handled - before == events * (len(TOPICS) if fan_out else 1), (handled, events)
    assert census.unaccounted == 0, census
    assert sum(counts.queued for counts in census.topics.values()) == waiting, census
    return {"per_s": took.per_s, "cpu_us": took.cpu_s / events * 1e6}


def main() -> None:
    """Measure once."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--events", type=int, default=200_000)
    parser.add_argument("--fan-out", action="store_true")
    parser.add_argument("--waiting", type=int, default=0, help="events in a fourth, paused topic")
    given = parser.parse_args()
    tune()
    with fresh_folder() as folder:
        path, more = folder / "node.db", {"fan_out": given.fan_out, "waiting": given.waiting}
        answer(uvloop.run(run(path, given.events, **more)))


if __name__ == "__main__":
    main()
