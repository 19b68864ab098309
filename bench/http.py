"""(c) Events over HTTP: how many a second a door answers 202, at so many connections.

Closed loop: each connection sends its next request when the last one is answered. The client is a
process beside the door, on the same machine: with few cores it takes its share of them.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import re
import sys
import time
from asyncio.subprocess import PIPE
from typing import TYPE_CHECKING, Any

import uvloop

from bench.doors import KINDS
from bench.payload import structured
from bench.report import answer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

WARM_S = 0.5
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)


class Client(asyncio.Protocol):
    """One connection, kept alive: sends what it is given, one request after the other."""

    def __init__(
        self,
        requests: Iterator[bytes],
        tell: Callable[[], None],
        rest: Callable[[Client], None] | None = None,
    ) -> None:
        """Be a connection.

        Args:
            requests: What to send; where the next is empty, there is nothing to send now.
            tell: Called for each answer.
            rest: Called when there is nothing to send now.
        """
        self._requests = requests
        self._tell = tell
        self._rest = rest
        self._got = b""
        self._transport: Any = None

    def connection_made(self, transport: Any) -> None:
        """Send the first request."""
        self._transport = transport
        self.resume()

    def resume(self) -> None:
        """Send the next request."""
        request = next(self._requests, None)
        if request is None:
            self._transport.close()
        elif request:
            self._transport.write(request)
        elif self._rest is not None:
            self._rest(self)

    def data_received(self, data: bytes) -> None:
        """Take an answer, and send the next request."""
        self._got += data
        head = self._got.find(b"\r\n\r\n")
        if head < 0:
            return
        found = _LENGTH.search(self._got, 0, head + 2)
        end = head + 4 + (int(found[1]) if found else 0)
        if len(self._got) < end:
            return
        if self._got[9:12] != b"202":
            raise AssertionError(self._got[:500])
        self._got = self._got[end:]
        self._tell()
        self.resume()


def request(body: bytes, kind: str) -> bytes:
    """Return a request that publishes this body."""
    head = (
        "POST /v1/events HTTP/1.1\r\nhost: localhost\r\n"
        f"content-type: application/{kind}\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def requests(batch: int, run: int) -> Iterator[bytes]:
    """Yield requests of ever new events."""
    number = 0
    while True:
        made = [structured(number + n, prefix=f"{run}-") for n in range(batch)]
        number += batch
        if batch == 1:
            yield request(made[0], "cloudevents+json")
        else:
            yield request(b"[" + b",".join(made) + b"]", "cloudevents-batch+json")


@contextlib.asynccontextmanager
async def door(kind: str) -> AsyncIterator[tuple[int, dict[str, float]]]:
    """Start a door in a process of its own; give its port, and where its own figures will be."""
    arguments = ("-m", "bench.doors", kind)
    process = await asyncio.create_subprocess_exec(
        sys.executable, *arguments, stdin=PIPE, stdout=PIPE
    )
    assert process.stdin is not None
    assert process.stdout is not None
    figures: dict[str, float] = {}
    try:
        yield int(await process.stdout.readline()), figures
    finally:
        process.stdin.close()
        figures.update(json.loads(await process.stdout.readline()))
        await process.wait()


async def measure(kind: str, connections: int, batch: int, seconds: float) -> dict[str, float]:
    """Return events a second."""
    loop = asyncio.get_running_loop()
    # Made before: the client's work beside sending should be small.
    made = requests(batch, time.monotonic_ns())
    if kind == "node":
        most = int((WARM_S + seconds) * (200_000 if batch > 1 else 15_000)) // batch
        ready = iter([next(made) for _ in range(most)])
    else:  # those know no duplicates
        ready = itertools.cycle([next(made) for _ in range(100)])
    answered = 0

    def tell() -> None:
        nonlocal answered
        answered += 1

    async with door(kind) as (port, _):
        opened = [
            await loop.create_connection(lambda: Client(ready, tell), "127.0.0.1", port)
            for _ in range(connections)
        ]
        await asyncio.sleep(WARM_S)
        before, began = answered, time.perf_counter()
        while time.perf_counter() - began < seconds and not all(  # noqa: ASYNC110  # a clock
            transport.is_closing() for transport, _ in opened
        ):
            await asyncio.sleep(0.01)
        took_s = time.perf_counter() - began
        done = answered - before
        for transport, _ in opened:
            transport.close()
    return {"per_s": done * batch / took_s}


def main() -> None:
    """Measure once."""
    parser = argparse.ArgumentParser()
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=3.0)
    given = parser.parse_args()
    answer(uvloop.run(measure(given.kind, given.connections, given.batch, given.seconds)))


if __name__ == "__main__":
    main()
