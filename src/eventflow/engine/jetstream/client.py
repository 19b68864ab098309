"""The connection's client: nats-py's, made to hold on, and to say what holds it up.

nats-py closes for good on any error that a server sends, a revoked user among them, and sends a
password over a connection that was to be encrypted and is not. Here neither happens: every error
but one of permissions leads to the next attempt, and where TLS is wanted there is no other way.

Methods of nats-py's own are overridden for it; tests hold each against real servers.
"""

from __future__ import annotations

import asyncio
import os
import ssl
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

import nats.errors
from nats.aio.client import Client

from eventflow.engine.jetstream.access import NOBODY, Unusable, context_of, keys_of, who
from eventflow.errors import ConfigError, EngineUnavailable

if TYPE_CHECKING:
    from eventflow.config import NatsSettings

START_S: Final = 10.0
"""How long the first connection may take: servers may be starting, too."""
CONNECT_S: Final = 5
CLOSE_S: Final = 1.0
AGAIN_S: Final = 0.25
"""How long after a connection was lost, or not made, the next attempt is."""
REFUSED_AGAIN_S: Final = 5.0
"""The same after the servers refused the credentials: they will not take them soon."""
DOWN_S: Final = 1.0
"""How long a connection may be away before that is a fault: servers are restarted."""
PING_S: Final = 2
PINGS: Final = 2
"""How many pings may be without an answer: a server that is cut off is left within 6 s."""

_REFUSALS: Final = ("authorization violation", "authentication ")
"""What the texts hold with which servers refuse credentials, or take them away."""
_DENIED: Final = "permissions violation"


class Persistent(Client):
    """One connection to servers, for as long as the node runs."""

    def __init__(self, url: str, access: NatsSettings, *, encrypted: bool) -> None:
        super().__init__()
        self.place = url
        """Of the servers, without a user: for messages."""
        self._access = access
        self._encrypted = encrypted
        self._trouble: Exception | None = None
        self._down_since: float | None = None
        self._starting = False
        self.denied: str | None = None
        """The last thing that the user is not permitted."""

    async def begin(self) -> None:
        """Connect.

        Raises:
            ConfigError: a file of the settings can't be used.
            EngineUnavailable: no server answers, or none takes this node. Nothing was sent.
        """
        self._check_files()
        self._starting = True
        try:
            async with asyncio.timeout(START_S):
                await self._begin()
        except (TimeoutError, OSError, nats.errors.Error) as error:
            await self.end()
            raise self._unavailable(self._trouble or error) from None
        except BaseException:
            await self.end()
            raise
        finally:
            self._starting = False

    @property
    def cipher(self) -> str | None:
        """What the connection is encrypted with, None where it is not."""
        writer = getattr(self._transport, "_io_writer", None)
        tls = None if writer is None else writer.get_extra_info("ssl_object")
        return None if tls is None else str(tls.version())

    async def end(self) -> None:
        """Close the connection, in whatever state it is."""
        # It may be gone; and one whose TLS failed never says that it is closed.
        with suppress(OSError, nats.errors.Error, TimeoutError):
            async with asyncio.timeout(CLOSE_S):
                await self.close()

    @property
    def fault(self) -> str | None:
        """What keeps the node from the servers, None while nothing does."""
        if self.is_connected or self._down_since is None:
            return None
        away_s = asyncio.get_running_loop().time() - self._down_since
        if away_s < DOWN_S and not _refused(self._trouble):
            return None
        return f"{self._explained(self._trouble)}. It goes on trying. {self._advice(self._trouble)}"

    # what nats-py calls -------------------------------------------------------------

    async def _process_err(self, err_msg: str) -> None:
        text = err_msg.strip("' \r\n")
        error = nats.errors.Error(f"nats: {text}")
        if _DENIED in text:
            self.denied = text
            return
        await self._heard(error)
        await self._process_op_err(error)

    async def _process_info(self, info: dict[str, Any], initial_connection: bool = False) -> None:  # noqa: FBT001, FBT002  # as nats-py has it
        if initial_connection and self._encrypted and not info.get("tls_required"):
            if not info.get("tls_available"):
                raise nats.errors.SecureConnWantedError
            info["tls_required"] = True  # it need not be, for the server: here it must
        await super()._process_info(info, initial_connection=initial_connection)

    async def _connect_to_server(self, s: Any) -> None:
        if self._transport:  # of an attempt that failed: nats-py leaves it open
            self._transport.close()  # type: ignore[no-untyped-call]  # as nats-py has it
        await super()._connect_to_server(s)

    async def _process_connect_init(self) -> None:
        await super()._process_connect_init()
        if not self.is_connected:  # the server has hung up: nats-py takes that for a yes
            raise nats.errors.UnexpectedEOF

    def _connect_command(self) -> bytes:
        keys = keys_of(self._access)
        if keys is not None:
            self._signature_cb = keys.sign
            self._public_nkey = keys.public
            self._user_jwt_cb = None if keys.jwt is None else keys.jwt.encode
        command: bytes = super()._connect_command()
        return command

    @property
    def ssl_context(self) -> ssl.SSLContext:
        """What an encrypted connection is made with: files may have been replaced."""
        return context_of(self._access)

    # inside -------------------------------------------------------------------------

    def _check_files(self) -> None:
        try:
            keys_of(self._access)
            context_of(self._access)
        except Unusable as unusable:
            raise ConfigError([f"{unusable}. Nothing was started"]) from unusable

    async def _begin(self) -> None:
        said = self._access
        await self.connect(
            self.place.split(","),
            name="eventflow",
            user=said.user,
            password=None if said.password is None else said.password.reveal(),
            token=None if said.token is None else said.token.reveal(),
            tls_handshake_first=said.tls_first,
            max_reconnect_attempts=-1,
            reconnect_time_wait=AGAIN_S,  # type: ignore[arg-type]  # it sleeps so long
            connect_timeout=CONNECT_S,
            ping_interval=PING_S,
            max_outstanding_pings=PINGS,
            allow_reconnect=True,
            error_cb=self._heard,
            disconnected_cb=self._lost,
            reconnected_cb=self._back,
            pending_size=64 * 2**20,
        )

    def _unavailable(self, error: Exception | None) -> EngineUnavailable:
        return EngineUnavailable(
            f"{self._explained(error)}. Nothing was sent. {self._advice(error)}"
        )

    async def _heard(self, error: Exception) -> None:
        """Whoever waits for an answer hears of it; here only what it says of the connection."""
        # A refusal stands until it is over: other servers may not even answer.
        if not _refused(self._trouble) or _refused(error):
            self._trouble = error
        if _refused(error):
            self.options["reconnect_time_wait"] = REFUSED_AGAIN_S
        if self._starting and _final(error):
            raise self._unavailable(error)  # through nats-py, which would try for ever

    async def _lost(self) -> None:
        self._down_since = asyncio.get_running_loop().time()

    async def _back(self) -> None:
        self._down_since = self._trouble = None
        self.options["reconnect_time_wait"] = AGAIN_S

    def _explained(self, error: Exception | None) -> str:
        return explained(error, self.place, self._access, self._server_info)

    def _advice(self, error: Exception | None) -> str:
        return advice(error, self._access, self._server_info)


def explained(error: Exception | None, url: str, access: NatsSettings, info: dict[str, Any]) -> str:
    """Return why there is no connection: what was expected, and what came.

    Args:
        error: The last one, or the one that says most.
        url: Of the servers, without a user.
        access: How this node logs in.
        info: How the last server that greeted introduced itself.
    """
    if isinstance(error, Unusable):
        return str(error)
    if _refused(error):
        said = str(error).removeprefix("nats: ").strip("'").lower()
        return f"the NATS servers at {url} refuse {who(access)}: they say {said!r}"
    if isinstance(error, nats.errors.SecureConnWantedError):
        return f"expected NATS servers that offer TLS at {url}, got one that does not"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the certificate of the NATS server at {url} is not trusted: {error.verify_message}"
    if _wants_cert(access, info):
        return f"the NATS server at {url} asks for a certificate of this node, and it shows none"
    if isinstance(error, ssl.SSLError):
        return f"no encrypted connection to the NATS servers at {url}: {error.reason or error}"
    return f"no NATS server answers at {url} ({_said(error)})"


def advice(error: Exception | None, access: NatsSettings, info: dict[str, Any]) -> str:
    """Return what to do about it."""
    if isinstance(error, Unusable):
        return "Put the right file there"
    if _refused(error):
        return (
            "Give [engine.nats] what they know: user and password, token, creds or nkey"
            if who(access) == NOBODY
            else "Correct [engine.nats], or let the servers know this user"
        )
    if isinstance(error, nats.errors.SecureConnWantedError):
        return "Set tls {} in their configuration, or write nats://, and leave out ca and cert"
    if isinstance(error, ssl.SSLCertVerificationError):
        return "Set [engine.nats] ca to the certificate of its authority, and use a host it names"
    if _wants_cert(access, info):
        return "Set [engine.nats] cert and key"
    if isinstance(error, ssl.SSLError):
        return "See that both sides speak TLS, and [engine.nats] tls_first as the servers have it"
    return "Start one, or correct [engine] url"


def _wants_cert(access: NatsSettings, info: dict[str, Any]) -> bool:
    return bool(info.get("tls_verify")) and access.cert is None


def _said(error: Exception | None) -> str:
    if isinstance(error, OSError) and not isinstance(error, TimeoutError):
        number = error.errno or 0
        plain = os.strerror(number) if number > 0 else error.strerror  # below 0: no such host
        return plain or type(error).__name__
    text = str(error).removeprefix("nats: ") if error is not None else ""
    return text or "no answer in time"


def _refused(error: Exception | None) -> bool:
    """Return whether servers refuse the credentials."""
    text = str(error).lower() if isinstance(error, nats.errors.Error) else ""
    return any(word in text for word in _REFUSALS)


def _final(error: Exception) -> bool:
    """Return whether a first connection that failed so is not tried again."""
    ours = (Unusable, nats.errors.SecureConnWantedError, ssl.SSLError)
    return isinstance(error, ours) or _refused(error)
