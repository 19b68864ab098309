"""The node that test_kill kills: its handlers write each run that ended well to a file.

Events say themselves what is to happen to them: "ok", "slow", "shaky" (fails twice, is parked,
recovers), "broken" (dead at once).
"""

from __future__ import annotations

import asyncio
import os
import sys

from eventflow import Delivery, Event, EventFlow, Permanent
from eventflow.app.serving import run

CONCURRENCY = 8


def node(journal: str, runs_path: str, port: int) -> EventFlow:
    """Return the node, not started."""
    runs = os.open(runs_path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    flow = EventFlow(engine=f"sqlite:{journal}")

    @flow.topic(
        "work",
        match="work.*",
        capacity=400,
        concurrency=CONCURRENCY,
        retry={"max_attempts": 2, "base": "50ms", "max": "200ms", "capacity": 200},
        recovery={"after": "1s", "rate": "1000/s", "max_rounds": 50},
    )
    async def work(event: Event, delivery: Delivery) -> None:
        kind = event.type.removeprefix("work.")
        if kind == "slow":
            await asyncio.sleep(0.02)
        if kind == "broken":
            raise Permanent("no use")
        if kind == "shaky" and delivery.tally.rounds == 1:
            raise ConnectionError("not yet")
        os.write(runs, f"{event.id}\n".encode())

    flow.override({"server": {"port": port}, "log": {"level": "error"}})
    return flow


if __name__ == "__main__":
    sys.exit(run(node(sys.argv[1], sys.argv[2], int(sys.argv[3]))))
