"""Three destinations on this machine, as unreliable as real ones."""

from __future__ import annotations

import asyncio
import random
import sqlite3
from collections import Counter
from contextlib import asynccontextmanager, closing
from typing import TYPE_CHECKING

from aiohttp import web
from aiosmtpd.controller import UnthreadedController
from standardwebhooks import Webhook, WebhookVerificationError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from aiosmtpd.smtp import SMTP, Envelope, Session

SLOW_S = 2.0
"""Longer than the topic's timeout: to the node this is no answer."""
STUMBLES_MAX = 4
"""Faults that one event meets: fewer than its attempts, so that what dies is always the same."""


class Endpoint:
    """An HTTP endpoint: one answer in five is a 500, one in twenty a 429, one in twenty late.

    An event that has met a few of them is taken.

    Args:
        seed: Of the faults; the same seed, the same faults for the same order of requests.
        secret: What requests have to be signed with.
    """

    def __init__(self, seed: int, secret: str) -> None:
        self._webhook = Webhook(secret)
        self._random = random.Random(seed)  # noqa: S311  # faults, not secrets
        self._stumbled: Counter[str] = Counter()
        self.accepted: set[str] = set()
        """Idempotency keys of events that were answered with 200."""
        self.url = ""

    async def _answer(self, request: web.Request) -> web.Response:
        try:
            self._webhook.verify(await request.read(), dict(request.headers))
        except WebhookVerificationError as error:
            return web.Response(status=401, text=str(error))
        type = request.headers.get("ce-type", "")
        if type == "invoice.voided":
            return web.Response(status=410, text="this endpoint takes no voided invoices any more")
        if type == "invoice.disputed":
            return web.Response(status=500, text="disputed invoices crash this endpoint")
        key = request.headers.get("idempotency-key", "")
        draw = self._random.random()
        if draw < 0.30:
            self._stumbled[key] += 1
            draw += float(self._stumbled[key] > STUMBLES_MAX)
        if draw < 0.20:
            return web.Response(status=500, text="the endpoint stumbled")
        if draw < 0.25:
            return web.Response(status=429, headers={"retry-after": "1"}, text="not so fast")
        if draw < 0.30:
            await asyncio.sleep(SLOW_S)
        self.accepted.add(key)
        return web.Response(text="thanks")

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[Endpoint]:
        """Answer on a free port of the loopback address."""
        application = web.Application()
        application.router.add_post("/events", self._answer)
        runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        self.url = f"http://{host}:{port}"
        try:
            yield self
        finally:
            await runner.cleanup()


class MailServer:
    """A mail server that answers 451 to the first try for each message and takes the second."""

    def __init__(self) -> None:
        self.port = 0
        self.taken: dict[str, str] = {}
        """Subject by Message-ID of what was taken."""
        self._seen: set[str] = set()

    async def handle_DATA(  # noqa: N802  # the name aiosmtpd calls
        self, server: SMTP, session: Session, envelope: Envelope
    ) -> str:
        """Take a message, or not yet."""
        del server, session
        headers = _headers(envelope.content)
        message_id = headers.get("message-id", "")
        if message_id not in self._seen:
            self._seen.add(message_id)
            return "451 greylisted, try again in a moment"
        self.taken[message_id] = headers.get("subject", "")
        return "250 taken"

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[MailServer]:
        """Listen on a free port of the loopback address."""
        loop = asyncio.get_running_loop()
        controller = UnthreadedController(self, hostname="127.0.0.1", port=0, loop=loop)
        server = await loop.create_server(controller.factory, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()


def rows_of(database: Path) -> int:
    """Return how many events the database of the quickstart holds."""
    with closing(sqlite3.connect(database)) as opened:
        count: int = opened.execute("SELECT count(*) FROM events").fetchone()[0]
    return count


def _headers(content: bytes | str | None) -> dict[str, str]:
    text = content.decode("utf-8", "replace") if isinstance(content, bytes) else content or ""
    head = text.replace("\r\n", "\n").partition("\n\n")[0]
    pairs = (line.partition(":") for line in head.splitlines())
    return {name.strip().lower(): value.strip() for name, _, value in pairs}
