"""A mail server for tests: aiosmtpd on a loopback port, which answers as told."""

# ruff: noqa: ARG002  # the methods are called with all that aiosmtpd has
from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import SMTP as SMTP_POLICY
from typing import TYPE_CHECKING, Any

from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

OK = "250 OK"


class Watched(SMTP):
    """A session whose end can be awaited."""

    def connection_lost(self, error: Exception | None) -> None:
        super().connection_lost(error)
        self.event_handler.left.set()

    async def end(self) -> None:
        """Wait until nothing of it runs any more."""
        if self.transport is not None:
            self.transport.close()
        if self._handler_coroutine is not None:
            self._handler_coroutine.cancel()
            await asyncio.gather(self._handler_coroutine, return_exceptions=True)


@dataclass
class MailServer:
    """Takes mails, unless its answers say otherwise.

    Each answer is a function of what came: None lets the server go on.
    """

    options: dict[str, Any] = field(default_factory=dict)
    """Of aiosmtpd's SMTP: `tls_context`, `auth_required`, ..."""
    international: bool = True
    password: bytes = b"sesame"
    on_mail: Callable[[str], str | None] = lambda _: None
    on_rcpt: Callable[[str], str | None] = lambda _: None
    on_data: Callable[[EmailMessage], str | None] = lambda _: None
    before_data: Callable[[], Any] | None = None
    """Awaited before a whole mail is answered."""
    taken: list[EmailMessage] = field(default_factory=list)
    raw: list[bytes] = field(default_factory=list)
    """Whole mails as they came, those that were refused then too."""
    envelopes: list[tuple[str, list[str]]] = field(default_factory=list)
    """Of the mails taken."""
    left: asyncio.Event = field(default_factory=asyncio.Event)
    """A connection has ended."""
    sessions: list[Watched] = field(default_factory=list)
    logins: list[str] = field(default_factory=list)
    """How each login went."""
    resets: int = 0
    port: int = 0

    async def handle_MAIL(  # noqa: N802  # the name aiosmtpd calls, and how
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if said := self.on_mail(address):
            return said
        envelope.mail_from = address
        envelope.mail_options.extend(options)
        return OK

    async def handle_RCPT(  # noqa: N802  # as above
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if said := self.on_rcpt(address):
            return said
        envelope.rcpt_tos.append(address)
        return OK

    async def handle_RSET(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802  # as above
        self.resets += 1
        return OK

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802  # as above
        if self.before_data is not None:
            await self.before_data()
        content = envelope.content
        assert isinstance(content, bytes)
        self.raw.append(content)
        mail = message_from_bytes(content, EmailMessage, policy=SMTP_POLICY)
        if said := self.on_data(mail):
            return said
        self.taken.append(mail)
        self.envelopes.append((envelope.mail_from or "", envelope.rcpt_tos))
        return OK

    def authenticate(  # as aiosmtpd calls it
        self,
        server: SMTP,
        session: Session,
        envelope: Envelope,
        mechanism: str,
        data: LoginPassword,
    ) -> AuthResult:
        """Check a login."""
        self.logins.append(f"{mechanism} {data.login.decode()}")
        return AuthResult(success=data.password == self.password, handled=False)

    @property
    def ids(self) -> list[str]:
        """The Message-IDs of the mails taken."""
        return [mail["message-id"] for mail in self.taken]

    def hang_up(self) -> None:
        """Close all connections."""
        for session in self.sessions:
            if session.transport is not None:
                session.transport.close()

    @asynccontextmanager
    async def serving(self, port: int = 0, tls: Any = None) -> AsyncIterator[MailServer]:
        """Listen on a loopback port; with `tls` from the first byte."""
        loop = asyncio.get_running_loop()

        def session() -> Watched:
            one = Watched(
                self, hostname="mail.test", enable_SMTPUTF8=self.international, loop=loop,
                authenticator=self.authenticate, **self.options,
            )  # fmt: skip
            self.sessions.append(one)
            return one

        server = await loop.create_server(session, "127.0.0.1", port, ssl=tls)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            await asyncio.gather(*(one.end() for one in self.sessions))
