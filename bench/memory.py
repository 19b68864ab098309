"""(e) What an event that waits takes beside its body: 500,000 of 512 bytes in a paused topic.

Also how long reading 200,000 of them back takes when the node is started again.
"""

from __future__ import annotations

import argparse
import gc
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

import uvloop

from bench.embedded import HELD, node
from bench.payload import batches
from bench.report import answer, fresh_folder
from eventflow.app.measure.rate import publish
from eventflow.app.serving import tune
from eventflow.storage.protocol import Actor

if TYPE_CHECKING:
    from eventflow import Event

BODY_BYTES = 512
NOTE_BYTES = BODY_BYTES - len('{"order":000000,"note":""}')


async def never(event: Event) -> None:
    """Be a handler that has nothing to do."""


def resident_bytes() -> int:
    """Return how much memory this process has."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


async def waiting(path: Path, events: int) -> dict[str, float]:
    """Return bytes an event beside its body, while it waits."""
    flow = node(path, never)
    await flow.start()
    await flow.flow.pause(HELD, Actor("the bench", "to let events wait"))
    await publish(flow, batches(5_000, 500, prefix="warm", topic=HELD, note_bytes=NOTE_BYTES))
    gc.collect()
    before = resident_bytes()
    for part in range(0, events, 50_000):  # what is still to be published should not count
        bodies = batches(50_000, 500, prefix=f"{part}-", topic=HELD, note_bytes=NOTE_BYTES)
        await publish(flow, bodies)
        del bodies
    gc.collect()
    grown = resident_bytes() - before
    await flow.stop()
    return {"bytes": grown / events - BODY_BYTES}


async def reopening(path: Path, events: int) -> dict[str, float]:
    """Return the seconds that a start takes with so many events in the journal."""
    flow = node(path, never)
    await flow.start()
    await flow.flow.pause(HELD, Actor("the bench", "to let events wait"))
    await publish(flow, batches(events, 500, topic=HELD))
    await flow.stop()
    began = time.perf_counter()
    flow = node(path, never)
    await flow.start()
    took_s = time.perf_counter() - began
    assert flow.flow.tools.engine.depth(HELD).queued == events
    await flow.stop()
    return {"s": took_s}


def main() -> None:
    """Measure once."""
    parser = argparse.ArgumentParser()
    parser.add_argument("kind", choices=("waiting", "reopening"))
    parser.add_argument("--events", type=int, default=500_000)
    given = parser.parse_args()
    tune()
    call = waiting if given.kind == "waiting" else reopening
    with fresh_folder() as folder:
        answer(uvloop.run(call(folder / "node.db", given.events)))


if __name__ == "__main__":
    main()
