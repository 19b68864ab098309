"""Connections to a mail server, kept open between mails.

A connection is lent to one mail at a time. One that was idle for more than a second, or had a mail
refused, is asked first (RSET): servers hang up on whom they wait for. One idle for longer than half
a minute, or that has sent its share of mails, is closed; so is any that was given up in the middle,
for what the server makes of that is not known.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

from aiosmtplib import SMTP, SMTPException, SMTPResponseException

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

IDLE_S = 30.0
"""Servers wait for five minutes at least (RFC 5321, 4.5.3.2.7); many in practice for less."""
UNASKED_S = 1.0
"""So long a connection is believed to be there."""
ANSWER_S = 5.0
"""A server that takes longer to answer RSET is as good as gone."""
MAILS_MAX = 100
"""Mails over one connection: a usual limit, after which servers hang up themselves."""
QUIT_S = 1.0


class NoSession(Exception):
    """No connection that mails can be sent over; its cause says why. Never leaves the sink."""


class Lent:
    """A connection, for one mail."""

    __slots__ = ("clean", "fresh", "idle_since", "mails", "smtp")

    def __init__(self, smtp: SMTP) -> None:
        self.smtp = smtp
        self.fresh = True
        """No mail has gone over it yet."""
        self.clean = True
        """No mail was begun and not ended."""
        self.mails = 0
        self.idle_since = 0.0
        """In the loop's time."""


class Connections:
    """Opens connections, and keeps them for the next mail.

    Args:
        connect: Returns a new connection, greeted and logged in.
        size: Connections at the same time, at most.
    """

    def __init__(self, connect: Callable[[], Awaitable[SMTP]], size: int) -> None:
        self._connect = connect
        self._room = asyncio.Semaphore(size)
        self._idle: list[Lent] = []
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    @asynccontextmanager
    async def lent(self) -> AsyncIterator[Lent]:
        """Lend a connection: one that was kept, or a new one.

        Raises:
            NoSession: none can be had.
        """
        async with self._room:
            lent = await self._kept() or Lent(await self._opened())
            try:
                yield lent
            except SMTPResponseException:
                lent.clean = False  # the server refused something, and goes on
                self._keep(lent)
                raise
            except BaseException:
                lent.smtp.close()
                raise
            self._keep(lent)

    async def renew(self, lent: Lent) -> None:
        """Put a new connection in the place of one that the server has left.

        Raises:
            NoSession: none can be had.
        """
        lent.smtp.close()
        lent.smtp = await self._opened()
        lent.fresh, lent.mails = True, 0

    async def close(self) -> None:
        """Take leave of the server. Connections that are lent are closed by who has them."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        idle, self._idle = self._idle, []
        await asyncio.gather(*(_quit(lent.smtp) for lent in idle))

    async def _opened(self) -> SMTP:
        try:
            return await self._connect()
        except (SMTPException, OSError, ValueError) as error:  # ValueError: a name no DNS can hold
            raise NoSession(str(error)) from error

    async def _kept(self) -> Lent | None:
        """Return a connection that still is one: the one used last, so that others can go."""
        now = asyncio.get_running_loop().time()
        while self._idle:
            lent = self._idle.pop()
            idle_s = now - lent.idle_since
            if not lent.smtp.is_connected:
                continue
            if idle_s > IDLE_S:
                lent.smtp.close()
                continue
            if (lent.clean and idle_s <= UNASKED_S) or await _answers(lent.smtp):
                lent.clean = True
                return lent
            # Those left have been idle for longer. To ask each of a server that is gone would
            # take an attempt all its time.
            idle, self._idle = self._idle, []
            for other in idle:
                other.smtp.close()
        return None

    def _keep(self, lent: Lent) -> None:
        lent.fresh = False
        lent.mails += 1
        if self._closed or lent.mails >= MAILS_MAX:
            lent.smtp.close()
        if not lent.smtp.is_connected:
            return
        loop = asyncio.get_running_loop()
        lent.idle_since = loop.time()
        self._idle.append(lent)
        if self._timer is None:
            self._timer = loop.call_later(IDLE_S, self._sweep)

    def _sweep(self) -> None:
        """Close what nobody has asked for in a while."""
        loop = asyncio.get_running_loop()
        self._timer = None
        kept = [lent for lent in self._idle if loop.time() - lent.idle_since < IDLE_S]
        for lent in self._idle:
            if lent not in kept:
                lent.smtp.close()
        self._idle = kept
        if kept:
            oldest = min(lent.idle_since for lent in kept)
            self._timer = loop.call_at(oldest + IDLE_S, self._sweep)


async def _answers(smtp: SMTP) -> bool:
    """Return whether the server is still there, and ready for a mail."""
    try:
        await smtp.rset(timeout=ANSWER_S)
    except BaseException as error:
        smtp.close()
        if isinstance(error, SMTPException | OSError):
            return False
        raise
    return True


async def _quit(smtp: SMTP) -> None:
    with suppress(SMTPException, OSError):
        await smtp.quit(timeout=QUIT_S)
    smtp.close()
