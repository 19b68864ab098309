"""The doors of (c), each on the same HTTP server, in a process of its own.

    node     EventFlow: validated, deduplicated, durable, routed, delivered
    bare     decodes and answers 202; nothing is kept
    durable  the smallest durable door: decodes, commits in groups with fsync, answers 202

Prints its port, serves until its standard input ends, and says then how late handlers were called.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from typing import TYPE_CHECKING, Any

import msgspec
import uvloop

from bench.embedded import node
from bench.floor import Disk, Wire
from bench.report import fresh_folder
from eventflow.app.measure.lateness import Lateness
from eventflow.app.measure.rate import settled
from eventflow.app.serving import tune
from eventflow.web.server import Server, make_app

if TYPE_CHECKING:
    from pathlib import Path

KINDS = ("node", "bare", "durable")
_HEAD = b"content-type: application/json\r\ncontent-length: %d\r\n"
_ONE = msgspec.json.Decoder(Wire).decode
_BATCH = msgspec.json.Decoder(list[Wire]).decode


class Taken:
    """A request that waits for its answer, as the server takes it: see `eventflow.web.quick`."""

    __slots__ = ("_answer", "_reply")

    def __init__(self, answer: bytes, reply: Any) -> None:
        self._answer = answer
        self._reply = reply

    def told(self, _: Any = None) -> None:
        """Have it answered."""
        self._reply(self)

    def whole(self) -> tuple[int, bytes, bytes]:
        """Return status, lines of headers and body."""
        return 202, _HEAD % len(self._answer), self._answer

    def leave(self) -> None:
        """Be called as an application from now on: only where the server stops."""

    async def __call__(self, _: Any, __: Any, send: Any) -> None:
        """Answer in the ordinary way."""
        await answer(send, self._answer)


class SmallDoor:
    """An application that decodes what comes, keeps it if it has a disk, and answers.

    It has no more of uvicorn between itself and its requests than EventFlow's own door has: a
    floor uses at least what EventFlow uses.
    """

    def __init__(self, disk: Disk | None) -> None:
        self._disk = disk
        self._number = 0
        self._loop = asyncio.get_running_loop()

    def quick(self, _: Any, body: bytes, reply: Any) -> Taken:
        """Take a request that is all there."""
        taken = Taken(b'{"accepted":%d}' % count_of(body), reply)
        if self._disk is None:
            self._loop.call_soon(taken.told)
        else:
            self._kept(self._disk, body).add_done_callback(taken.told)
        return taken

    async def __call__(self, _: Any, receive: Any, send: Any) -> None:
        """Answer one request."""
        message = await receive()
        body = message["body"]
        while message.get("more_body"):
            message = await receive()
            body += message["body"]
        count = count_of(body)
        if self._disk is not None:
            await self._kept(self._disk, body)
        await answer(send, b'{"accepted":%d}' % count)

    def _kept(self, disk: Disk, body: bytes) -> asyncio.Future[None]:
        self._number += 1
        # What is older than a hundred requests is taken as handled: the file stays small.
        return disk.submit(self._number, body, self._number - 100)


def count_of(body: bytes) -> int:
    """Return how many events a body brings, having decoded them."""
    return len(_BATCH(body)) if body[:1] == b"[" else len([_ONE(body)])


async def answer(send: Any, body: bytes) -> None:
    """Answer 202 in two messages, as ASGI has it."""
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 202, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def serve(kind: str, folder: Path) -> None:
    """Serve one kind of door until standard input ends."""
    flow = None
    late = Lateness()
    app: Any
    if kind == "node":
        flow = node(folder / "node.db", late.handle)
        await flow.start()
        app = make_app(flow.door)
    else:
        disk = Disk(folder / "floor.db", 4000) if kind == "durable" else None
        app = SmallDoor(disk)
    server = Server(app, "127.0.0.1", 0)
    address = await server.start()
    sys.stdout.write(f"{address.port}\n")
    sys.stdout.flush()
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    await server.stop()
    if flow is not None:
        await settled(flow)
        await flow.stop()
    sys.stdout.write(json.dumps(late.figures()) + "\n")


def main() -> None:
    """Serve."""
    parser = argparse.ArgumentParser()
    parser.add_argument("kind", choices=KINDS)
    tune()
    with fresh_folder() as folder:
        uvloop.run(serve(parser.parse_args().kind, folder))


if __name__ == "__main__":
    main()
