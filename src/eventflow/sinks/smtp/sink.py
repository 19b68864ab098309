"""Sends mails, and says what the server's answer means; `policy.causes` has the table.

A mail goes to all its recipients or to none: if the server refuses one, the mail is not sent to the
others either, so that an attempt that is repeated can't reach anybody twice. One refused for good
(5xx) makes the delivery dead; else a refusal for now (4xx) is tried again, for all of them.

What the server says before a mail has begun is about the connection or the login. It is worth
another try whatever the code, for it would be the same for every mail (docs/adr/0006).

There is no timeout but the topic's. Past it the connection is closed; if that was while the server
thought about a whole mail, it may have taken it, and the next attempt sends it with the same
Message-ID.
"""

from __future__ import annotations

import socket
import ssl
from base64 import b64encode
from typing import TYPE_CHECKING

from aiosmtplib import SMTP, SMTPException, SMTPRecipientRefused, SMTPResponseException

from eventflow.config.secret import MASK
from eventflow.errors import ConfigError
from eventflow.policy import causes
from eventflow.policy.outcome import Failed
from eventflow.sinks.base import SinkError
from eventflow.sinks.smtp.connections import Connections, NoSession
from eventflow.sinks.smtp.mail import Composer, InvalidMail

if TYPE_CHECKING:
    from eventflow.config import SmtpSinkSettings
    from eventflow.delivery import Delivery
    from eventflow.event import Event
    from eventflow.sinks.smtp.mail import Mail

_ERROR_MAX = 2_000
_HANGING_UP = 421


class SmtpSink:
    """Delivers events as mails.

    Args:
        settings: The topic's `sink` table.
        concurrency: Deliveries at the same time: connections at most.

    Raises:
        ConfigError: a template or `ca_file` can't be used.
    """

    def __init__(self, settings: SmtpSinkSettings, *, concurrency: int) -> None:
        self._settings = settings
        self._composer = Composer(settings)
        self._tls = _tls_context(settings)
        self._server = f"{settings.host}:{settings.port}"
        self._unsaid = _spellings(settings)
        """What no server should say, and some do: of the command that they don't understand."""
        self._own_name = _own_name()
        self._concurrency = concurrency
        self._connections: Connections | None = None

    async def start(self) -> None:
        """Make the pool of connections; the first is opened by the first delivery."""
        self._connections = Connections(self._connect, self._concurrency)

    async def deliver(self, event: Event, delivery: Delivery) -> None:
        """Send one event.

        Raises:
            SinkError: it is no mail, or the server did not take it.
        """
        if self._connections is None:
            raise RuntimeError("the sink has not been started")
        try:
            mail = self._composer.compose(event, delivery)
        except InvalidMail as error:
            raise SinkError(_no_mail(error)) from error
        try:
            await self._send(self._connections, mail)
        except NoSession as error:
            raise SinkError(self._no_session(error)) from error
        except SMTPResponseException as error:
            raise SinkError(self._refused(error)) from error
        except (SMTPException, OSError) as error:
            raise SinkError(self._lost(error)) from error

    async def close(self) -> None:
        """Take leave of the server."""
        if self._connections is not None:
            await self._connections.close()

    async def _send(self, connections: Connections, mail: Mail) -> None:
        """Send a mail; where a kept connection turns out to be none, over a new one."""
        async with connections.lent() as lent:
            try:
                await _envelope(lent.smtp, mail)
            except (SMTPException, OSError) as error:
                if lent.fresh or not _hung_up(error):
                    raise
                await connections.renew(lent)
                await _envelope(lent.smtp, mail)
            await lent.smtp.data(mail.content)

    async def _connect(self) -> SMTP:
        """Return a connection, encrypted and logged in as the settings say."""
        settings = self._settings
        smtp = SMTP(
            hostname=settings.host,
            port=settings.port,
            local_hostname=self._own_name,
            timeout=None,
            use_tls=settings.tls,
            start_tls=settings.starttls,
            tls_context=self._tls,
        )
        await smtp.connect()
        try:
            if settings.username is not None and settings.password is not None:
                await smtp.login(settings.username, settings.password.reveal())
            else:
                await smtp.ehlo()
        except BaseException:
            smtp.close()
            raise
        return smtp

    def _no_session(self, error: NoSession) -> Failed:
        """Return what it means that there is no connection: another try, whatever was said."""
        cause = error.__cause__
        if isinstance(cause, SMTPResponseException) and not 200 <= cause.code < 400:
            found = causes.of_smtp(cause.code, session=True)
            return self._failed(
                found.name,
                f"answered {cause.code} before a mail began: {cause.message}",
                permanent=found.permanent,
            )
        return self._lost(cause)

    def _refused(self, error: SMTPResponseException) -> Failed:
        """Return what an answer about a mail means."""
        what = "the mail"
        if isinstance(error, SMTPRecipientRefused):
            what = f"the recipient {error.recipient}, and the mail was sent to nobody"
        if 200 <= error.code < 400:  # not what the command can be answered with
            message = f"answered {error.code} out of turn: {error.message}"
            return self._failed("SMTPResponseException", message)
        found = causes.of_smtp(error.code)
        message = f"answered {error.code} to {what}: {error.message}"
        return self._failed(found.name, message, permanent=found.permanent)

    def _lost(self, error: BaseException | None) -> Failed:
        name = type(error).__name__
        return self._failed(name, str(error) or name)

    def _failed(self, cause: str, message: str, *, permanent: bool = False) -> Failed:
        for said in self._unsaid:
            message = message.replace(said, MASK)
        text = f"{self._server}: {' '.join(message.split())}"
        return Failed(
            cause,
            text[:_ERROR_MAX],
            permanent=permanent,
            fingerprint=causes.fingerprint(cause, text),
        )


def _no_mail(error: InvalidMail) -> Failed:
    text, cause = str(error)[:_ERROR_MAX], InvalidMail.__name__
    return Failed(cause, text, permanent=True, fingerprint=causes.fingerprint(cause, text))


def _hung_up(error: Exception) -> bool:
    """Return whether the server has left, and not said a word about the mail."""
    return not isinstance(error, SMTPResponseException) or error.code == _HANGING_UP


async def _envelope(smtp: SMTP, mail: Mail) -> None:
    """Say from whom and to whom.

    Raises:
        SMTPResponseException: the server refuses the sender, or the recipient it refuses most.
    """
    encoding = "ascii"
    options = [f"SIZE={len(mail.content)}"] if smtp.supports_extension("size") else []
    if mail.international:
        if not smtp.supports_extension("smtputf8"):
            raise SMTPResponseException(553, "it takes only ASCII addresses (no SMTPUTF8)")
        options, encoding = [*options, "SMTPUTF8"], "utf-8"
    await smtp.mail(mail.sender, options=options, encoding=encoding)
    refusals: list[SMTPRecipientRefused] = []
    for recipient in mail.recipients:
        try:
            await smtp.rcpt(recipient, encoding=encoding)
        except SMTPRecipientRefused as refusal:
            refusals.append(refusal)
            if refusal.code == _HANGING_UP:
                break
    if refusals:
        raise max(refusals, key=lambda refusal: causes.of_smtp(refusal.code).permanent)


def _tls_context(settings: SmtpSinkSettings) -> ssl.SSLContext | None:
    if not settings.tls and not settings.starttls:
        return None
    try:
        context = ssl.create_default_context(cafile=settings.ca_file)
    except OSError as error:  # ssl.SSLError is one too
        problem = (
            f"sink.ca_file: expected a file of certificates in PEM form, got "
            f"{str(settings.ca_file)!r}: {error.strerror or error}"
        )
        raise ConfigError([problem]) from error
    if not settings.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _spellings(settings: SmtpSinkSettings) -> list[str]:
    """Return the password as it goes over the wire (AUTH PLAIN, AUTH LOGIN) and as it is."""
    if settings.password is None or not settings.password.reveal():
        return []
    password = settings.password.reveal()
    plain = f"\0{settings.username}\0{password}"
    # The longest first: the second may be the end of the first.
    return [*(b64encode(text.encode()).decode() for text in (plain, password)), password]


def _own_name() -> str:
    """Return what this machine calls itself to a server: a full name, or an address.

    It is not asked of DNS, which aiosmtplib would do: where that hangs, no attempt would ever get
    to the server in its time.
    """
    name = socket.gethostname()
    return name if "." in name and name.isascii() and name.isprintable() else "[127.0.0.1]"
