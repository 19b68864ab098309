"""(f) How late retries are: 100,000 due over 100 s, each timed from when it is due."""

from __future__ import annotations

import argparse
import asyncio
import time
from typing import TYPE_CHECKING

import uvloop

from bench.embedded import CAPACITY
from bench.payload import batches
from bench.report import answer, fresh_folder
from eventflow import Delivery, Event, EventFlow, RetryLater
from eventflow.app.measure.lateness import Lateness
from eventflow.app.measure.rate import publish, settled
from eventflow.app.serving import tune

if TYPE_CHECKING:
    from pathlib import Path


POLL_S = 0.05


async def run(path: Path, events: int, lead_s: float, over_s: float) -> dict[str, float]:
    """Let every event ask once for a time of its own, and see how late it is run then.

    The first is due after `lead_s`, when all have asked: what comes due beside 100,000 first
    attempts waits behind them in the topic's queue, and that is not what is measured.
    """
    late = Lateness()
    due: dict[str, float] = {}
    flow = EventFlow(engine=f"sqlite:{path}")
    flow.override({"common": {"capacity": CAPACITY}, "engine": {"memory_limit": "4GiB"}})

    @flow.topic("a", match="a.*", capacity=CAPACITY, retry={"capacity": CAPACITY})
    async def handle(event: Event, delivery: Delivery) -> None:
        now = time.time()
        if event.id in due:
            late.taken_s.append(now - due[event.id])
            return
        wait_s = first_due_at - now + over_s * len(due) / events
        due[event.id] = now + wait_s
        raise RetryLater(wait_s)

    await flow.start()
    first_due_at = time.time() + lead_s
    await publish(flow, batches(events, 500, topic="a"))
    await settled(flow)
    spare_s = first_due_at - time.time()
    assert spare_s > 0, f"the first were due {-spare_s:.1f} s before all had asked: --lead"
    while len(late.taken_s) < events:  # noqa: ASYNC110  # the clock: nothing happens for long
        await asyncio.sleep(POLL_S)
    await flow.stop()
    return {**late.figures(), "spare_s": spare_s}


def main() -> None:
    """Measure once."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--events", type=int, default=100_000)
    parser.add_argument("--lead", type=float, default=60.0, help="seconds")
    parser.add_argument("--over", type=float, default=100.0, help="seconds")
    given = parser.parse_args()
    tune()
    with fresh_folder() as folder:
        answer(uvloop.run(run(folder / "node.db", given.events, given.lead, given.over)))


if __name__ == "__main__":
    main()
