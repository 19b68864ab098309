"""(d) From publish to handler: open loop at 5,000 events a second, timed from the scheduled send.

Open loop: an event is due at its time, however slow the ones before it are; what waits because of
that counts.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections import deque
from typing import TYPE_CHECKING, Any

import uvloop

from bench.embedded import node, settled
from bench.http import Client, door, request
from bench.lateness import Lateness
from bench.payload import TOPICS
from bench.report import answer, fresh_folder
from eventflow import Event
from eventflow.app.serving import tune

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

PER_S = 5_000
TICK_S = 0.001
WARM_S = 1.0
CONNECTIONS = 64


async def open_loop(seconds: float, send: Callable[[int, float], None]) -> None:
    """Call `send` for each event at its time, and tell it what that was."""
    began = time.monotonic() + 0.01
    number, total = 0, int(PER_S * seconds)
    while number < total:
        due = min(total, int((time.monotonic() - began) * PER_S) + 1)
        while number < due:
            send(number, began + number / PER_S)
            number += 1
        await asyncio.sleep(TICK_S)


async def by_python(path: Path, seconds: float) -> dict[str, float]:
    """Publish each event by itself from a task of its own."""
    late = Lateness()
    flow = node(path, late.handle)
    tasks: set[asyncio.Task[Any]] = set()

    def send(number: int, at: float) -> None:
        data = {"sent_at": at, "note": "x" * 400}
        event = Event(type=f"{TOPICS[number % 3]}.made", source="/bench", id=str(at), data=data)
        task = asyncio.create_task(flow.publish(event))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    await flow.start()
    await open_loop(WARM_S, send)
    late.taken_s.clear()
    await open_loop(seconds, send)
    await asyncio.gather(*tasks)
    await settled(flow)
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
        type, note = f"{TOPICS[number % 3]}.made", "x" * 400
        body = (
            f'{{"specversion":"1.0","id":"{at}","source":"/bench","type":"{type}",'
            f'"data":{{"sent_at":{at},"note":"{note}"}}}}'
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
