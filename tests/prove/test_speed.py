"""First figures of speed: accepted with fsync, routed to three topics, handled, settled."""

from __future__ import annotations

import statistics
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest
import uvloop

from eventflow import Event, EventFlow
from eventflow.app.eventflow import Surroundings
from eventflow.app.serving import SWITCH_INTERVAL_S

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

EVENTS = 60_000
BATCH = 500
RUNS = 7
BAR_PER_S = 30_000


async def once(path: Path) -> float:
    """Return events a second, from the first publish until all are settled."""
    flow = EventFlow(engine=f"sqlite:{path}", surroundings=Surroundings(environ={}))
    flow.override({"common": {"capacity": 1_000_000}})

    async def nothing(event: Event) -> None:
        pass

    for topic in ("a", "b", "c"):
        flow.topic(topic, match=f"{topic}.*", capacity=1_000_000)(nothing)
    data = {"note": "x" * 400}
    events = [Event(type=f"{'abc'[n % 3]}.made", source="/s", data=data) for n in range(EVENTS)]
    await flow.start()
    began = time.perf_counter()
    for first in range(0, EVENTS, BATCH):
        await flow.publish_many(events[first : first + BATCH])
    await flow.drain()
    took_s = time.perf_counter() - began
    census = await flow.flow.tools.engine.census()
    assert census.unaccounted == 0
    assert (
        sum(counts.delivered for name, counts in census.topics.items() if name in "abc") == EVENTS
    )
    await flow.stop()
    return EVENTS / took_s


@pytest.mark.prove
@pytest.mark.timeout(300)
def test_batches_of_500_with_fsync(tmp_path: Path, proof: Callable[..., dict[str, Any]]) -> None:
    before = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    try:
        rates = [uvloop.run(once(tmp_path / f"{n}.db")) for n in range(RUNS)]
    finally:
        sys.setswitchinterval(before)
    median = statistics.median(rates)
    proof(
        "speed-batches",
        events_per_s=round(median),
        least=round(min(rates)),
        most=round(max(rates)),
        runs=RUNS,
        durability="fsync",
        on="ext4 or what the temporary folder is on",
    )
    assert median >= BAR_PER_S
