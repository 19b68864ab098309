"""(d) From publish to handler: open loop at 5,000 events a second, timed from the scheduled send.

From Python as `eventflow.app.measure.latency` does it, which `eventflow bench` does too; over HTTP
with the events of the same loop.
"""

from __future__ import annotations

import argparse
import asyncio
from collections import deque
from typing import TYPE_CHECKING

import uvloop

from bench.embedded import node
from bench.http import Client, door, request
from bench.payload import TOPICS
from bench.report import answer, fresh_folder
from eventflow.app.measure.latency import NOTE, WARM_S, open_loop
from eventflow.app.measure.latency import by_python as measured
from eventflow.app.measure.lateness import Lateness
from eventflow.app.serving import tune

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CONNECTIONS = 64
TYPES = [f"{topic}.made" for topic in TOPICS]


async def by_python(path: Path, seconds: float) -> dict[str, float]:
    """Publish each event by itself from a task of its own."""
    late = Lateness()
    flow = node(path, late.handle)
    await flow.start()
    await measured(flow, late, TYPES, seconds)
    await flow.stop()
    return late.figures()


async def by_http(seconds: float) -> dict[str, float]:
    """Send each event by itself over a connection that is free, or the next that will be."""
    loop = asyncio.get_running_loop()
    waiting: deque[bytes] = deque()
    free: deque[Client] = deque()

    def taken() -> Iterator[bytes]:
        while True:
            yield waiting.popleft() if waiting else b""

    def send(number: int, at: float) -> None:
        type = TYPES[number % len(TYPES)]
        body = (
            f'{{"specversion":"1.0","id":"{at}","source":"/bench","type":"{type}",'
            f'"data":{{"sent_at":{at},"note":"{NOTE}"}}}}'
        )
        waiting.append(request(body.encode(), "cloudevents+json"))
        if free:
            free.popleft().resume()

    async with door("node") as (port, figures):
        for _ in range(CONNECTIONS):
            await loop.create_connection(
                lambda: Client(taken(), lambda: None, free.append), "127.0.0.1", port
            )
        await open_loop(WARM_S + seconds, send)
        while waiting:  # noqa: ASYNC110  # only at the end
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.2)
    return figures


def main() -> None:
    """Measure once."""
    parser = argparse.ArgumentParser()
    parser.add_argument("kind", choices=("python", "http"))
    parser.add_argument("--seconds", type=float, default=5.0)
    given = parser.parse_args()
    tune()
    if given.kind == "http":
        answer(uvloop.run(by_http(given.seconds)))
        return
    with fresh_folder() as folder:
        answer(uvloop.run(by_python(folder / "node.db", given.seconds)))


if __name__ == "__main__":
    main()
