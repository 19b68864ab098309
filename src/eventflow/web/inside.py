"""Requests to the door from within its own process: no socket, the same answers."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.types import ASGIApp, Message, Scope

AHEAD: Final = 8
"""Pieces of an answer that may wait for whoever reads it."""


class Answer:
    """An answer that is read as it comes. What the application raises is raised here."""

    def __init__(self, app: ASGIApp, scope: Scope, body: bytes) -> None:
        self._messages: asyncio.Queue[Message | None] = asyncio.Queue(AHEAD)
        self._body: bytes | None = body
        self._gone = False
        self._task = asyncio.create_task(self._run(app, scope))

    async def status(self) -> int:
        """Return its status: to be asked once, and first."""
        message = await self._messages.get()
        if message is None:
            await self._task
            raise RuntimeError("the application ended without an answer")
        return int(message["status"])

    async def pieces(self) -> AsyncIterator[bytes]:
        """Yield its body."""
        while (message := await self._messages.get()) is not None:
            if message.get("body"):
                yield bytes(message["body"])
        await self._task

    async def close(self) -> None:
        """Read no more of it."""
        self._gone = True
        if not self._task.done():
            self._task.cancel()
            with suppress(asyncio.CancelledError, OSError):
                await self._task

    async def _run(self, app: ASGIApp, scope: Scope) -> None:
        try:
            await app(scope, self._receive, self._send)
        except asyncio.CancelledError:
            self._gone = True
            raise
        finally:
            if not self._gone:
                await self._messages.put(None)

    async def _receive(self) -> Message:
        body, self._body = self._body, None
        if body is None:
            await asyncio.Event().wait()  # nobody hangs up: it is closed instead
        return {"type": "http.request", "body": body, "more_body": False}

    async def _send(self, message: Message) -> None:
        if self._gone:  # putting it would wait for a reader for ever
            raise OSError("the reader has gone")
        await self._messages.put(message)


@asynccontextmanager
async def request(
    app: ASGIApp, method: str, path: str, query: str = "", body: bytes = b""
) -> AsyncIterator[Answer]:
    """Send a request from this machine."""
    scope: Scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": query.encode(),
        "headers": [(b"host", b"localhost")],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 1),
    }
    answer = Answer(app, scope, body)
    try:
        yield answer
    finally:
        await answer.close()
