"""A node as a process of its own: `python jetstream_app.py CONFIG RUNS`.

Its handler writes a line for each run, when it starts, to RUNS: `{"id", "at", "node"}`.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from pathlib import Path

from eventflow import Event, EventFlow


def node(config: Path, runs: Path) -> EventFlow:
    flow = EventFlow(config)
    written = os.open(runs, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    @flow.topic("mail", match="user.*", concurrency=4)
    async def mail(event: Event) -> None:
        line = {"id": event.id, "at": time.time(), "node": config.stem}
        os.write(written, json.dumps(line).encode() + b"\n")
        await asyncio.sleep(event.data["takes_s"])

    return flow


if __name__ == "__main__":
    node(Path(sys.argv[1]), Path(sys.argv[2])).run()
