"""A node with a bit of everything, which dies at the failpoint it is told, or ends in order.

    python -m tests.crash.sweep_app FOLDER work [FAILPOINT NTH]
    python -m tests.crash.sweep_app FOLDER end [FAILPOINT NTH]

`work` publishes, and notes in FOLDER/acked what it was told is stored; handlers note in
FOLDER/runs what they have done. `end` waits until nothing waits any more. Both print what the
test wants to know as JSON.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from tests.crash.failpoints import Failpoints

from eventflow import Delivery, Event, EventFlow, Permanent
from eventflow.storage.protocol import Actor, Filter

KINDS = ("ok", "ok", "ok", "slow", "shaky", "broken", "both", "later")
EVENTS = 120
WHO = Actor("the sweep", "to have it done")


def node(folder: Path) -> EventFlow:
    """Return the node, not started."""
    runs = os.open(folder / "runs", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    flow = EventFlow(engine=f"sqlite:{folder / 'journal.db'}")
    flow.override({"common": {"capacity": 60}, "log": {"level": "error"}})

    @flow.topic(
        "work",
        match="work.*",
        capacity=20,
        concurrency=4,
        retry={
            "max_attempts": 2,
            "base": "5ms",
            "max": "20ms",
            "capacity": 20,
            "max_overflows": 1,
        },
        recovery={"after": "1s", "rate": "1000/s", "max_rounds": 50},
    )
    async def work(event: Event, delivery: Delivery) -> None:
        kind = event.type.removeprefix("work.")
        if kind == "slow":
            await asyncio.sleep(0.005)
        if kind == "broken":
            raise Permanent("no use")
        if kind == "shaky" and delivery.tally.rounds == 1:
            raise ConnectionError("not yet")
        os.write(runs, f"work {event.id}\n".encode())

    @flow.topic("copy", match="work.both", capacity=10, concurrency=2)
    async def copy(event: Event) -> None:
        os.write(runs, f"copy {event.id}\n".encode())

    return flow


async def work(folder: Path) -> dict[str, Any]:
    """Publish, let some be replayed and discarded, and stop while work is left."""
    acked = os.open(folder / "acked", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    flow = node(folder)
    await flow.start()
    for first in range(0, EVENTS, 10):
        events = [
            Event(type=f"work.{KINDS[nth % len(KINDS)]}", source="/sweep", id=f"{nth}")
            for nth in range(first, first + 10)
        ]
        await flow.publish_many(events, wait_s=10.0)
        os.write(acked, "".join(f"{event.id} {event.type}\n" for event in events).encode())
    storage: Any = flow.flow.tools.storage
    dead: list[str] = []
    for _ in range(200):
        dead = sorted(await storage.ids(Filter(state="dead")))
        if len(dead) >= 4:
            break
        await asyncio.sleep(0.01)
    await storage.replay(dead[:2], WHO)
    flow.flow.nudge("work")
    await asyncio.sleep(1.2)  # what was parked comes back, and some of it is left for the end
    released = await flow.stop(0.2)
    return {"released": released}


async def end(folder: Path) -> dict[str, Any]:
    """Start again, and wait until nothing waits any more."""
    flow = node(folder)
    await flow.start()
    until = time.monotonic() + 30.0
    engine: Any = flow.flow.tools.engine
    while True:
        census = await engine.census()
        lines = census.topics.values()
        waiting = sum(line.queued + line.running + line.retrying + line.parked for line in lines)
        if not waiting or time.monotonic() > until:
            break
        await asyncio.sleep(0.01)
    walked = await engine.census(walk=True)
    kept = await flow.flow.tools.storage.page(Filter(state="dead"), limit=1_000)
    answer = {
        "waiting": waiting,
        "unaccounted": sum(abs(line.unaccounted) for line in walked.topics.values()),
        "dead": [item.delivery.event.id for item in kept.items],
        "audit_ok": (await flow.flow.tools.storage.verify()).ok,
    }
    await flow.stop(5.0)
    return answer


def main(folder: Path, what: str, where: str | None = None, nth: str = "1") -> None:
    """Do what the command line says."""
    failpoints = Failpoints(where, int(nth))
    failpoints.install()
    answer = asyncio.run(work(folder) if what == "work" else end(folder))
    sys.stdout.write(json.dumps({**answer, "passed": failpoints.passed}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
