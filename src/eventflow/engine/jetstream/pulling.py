"""Pull requests to one consumer: what a node asks for now, and what it waits for.

A delivery comes under its own subject, so it names the consumer but not the request. Two
subscriptions tell the two kinds apart, and of each kind one request is on its way at a time.

A request that waits can't be taken back: what comes when nobody asks any more is handed on too.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import msgspec

from eventflow.errors import EngineUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable

    from nats.aio.msg import Msg

    from eventflow.engine.jetstream.wire import Wire

_NS = 1_000_000_000
LANDING_S = 0.5
"""How long after its time a request may still bring something."""
ANSWER_S = 5.0
"""How long the server may take to say that there is nothing."""

_encode = msgspec.json.Encoder().encode


class Tap:
    """One consumer."""

    def __init__(self, wire: Wire, stream: str, consumer: str, came: Callable[[Msg], None]) -> None:
        """Of `came`: called with what a waiting request brings."""
        self._wire = wire
        self._name = f"{stream} {consumer}"
        self._subject = f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}"
        self._came = came
        self._number = 0
        self._now = _Asked()
        self._waits = _Asked()
        self._base = ""
        self._opening: asyncio.Future[None] | None = None

    @property
    def waits(self) -> bool:
        """Whether a request is waiting at the server."""
        return self._waits.left > 0 and asyncio.get_running_loop().time() < self._waits.until

    async def now(self, limit: int) -> list[Msg]:
        """Lease up to `limit` messages that are there now. One call at a time.

        Raises:
            EngineUnavailable: no answer. What was on its way comes again when its lease is over.
        """
        await self._open()
        loop = asyncio.get_running_loop()
        over: asyncio.Future[None] = loop.create_future()
        asked = self._now = _Asked(limit, loop.time() + ANSWER_S, over)
        await self._ask("now", asked, {"batch": limit, "no_wait": True})
        try:
            async with asyncio.timeout(ANSWER_S):
                await over
        except TimeoutError as error:
            if not asked.found:
                raise EngineUnavailable(f"no answer from {self._name}") from error
        return asked.found

    async def wait(self, limit: int, wait_s: float) -> None:
        """Have up to `limit` messages brought, whenever they come within `wait_s` seconds."""
        if self.waits:
            return
        loop = asyncio.get_running_loop()
        # After this time it is asked anew, whether or not the server said that it is over.
        asked = self._waits = _Asked(limit, loop.time() + wait_s, loop.create_future())
        await self._open()
        wish = {"batch": limit, "expires": max(int(wait_s * _NS), 1_000_000)}
        await self._ask("wait", asked, wish)

    async def rest(self) -> None:
        """Wait until no request waits at the server any more, and what it has sent is here.

        The server says so. Ending the subscription would be faster, and on a cluster wrong: what
        another server sends before it hears of that comes to nobody.
        """
        asked = self._waits
        left_s = asked.until + LANDING_S - asyncio.get_running_loop().time()
        if asked.left > 0 and asked.over is not None and left_s > 0:
            await asyncio.wait([asked.over], timeout=left_s)

    async def _ask(self, kind: str, asked: _Asked, wish: dict[str, Any]) -> None:
        self._number += 1
        asked.inbox = f"{self._base}.{kind}.{self._number}"
        try:
            await self._wire.tell(self._subject, _encode(wish), asked.inbox)
        except BaseException:
            asked.left = 0
            raise

    async def _open(self) -> None:
        if self._opening is None:
            self._opening = asyncio.ensure_future(self._subscribe())
        await asyncio.shield(self._opening)

    async def _subscribe(self) -> None:
        client = self._wire.client
        self._base = client.new_inbox()
        for kind, taken in (("now", self._take_now), ("wait", self._take_waited)):
            await client.subscribe(
                f"{self._base}.{kind}.*",
                cb=taken,
                pending_msgs_limit=2**31,
                pending_bytes_limit=0,
            )

    async def _take_now(self, message: Msg) -> None:
        asked = self._now
        if not _is_status(message):
            asked.left -= 1
            asked.found.append(message)
        elif message.subject == asked.inbox:
            asked.left = 0
        asked.tell()

    async def _take_waited(self, message: Msg) -> None:
        asked = self._waits
        if not _is_status(message):
            asked.left -= 1
            self._came(message)
        elif message.subject == asked.inbox:
            asked.left = 0
        asked.tell()


class _Asked:
    """A request on its way."""

    __slots__ = ("found", "inbox", "left", "over", "until")

    def __init__(
        self, left: int = 0, until: float = 0.0, over: asyncio.Future[None] | None = None
    ) -> None:
        self.left = left
        self.until = until
        self.over = over
        self.inbox = ""
        self.found: list[Msg] = []

    def tell(self) -> None:
        """Let whoever waits know, if it is over."""
        if self.left <= 0 and self.over is not None and not self.over.done():
            self.over.set_result(None)


def _is_status(message: Msg) -> bool:
    return message.headers is not None and "Status" in message.headers and not message.reply
