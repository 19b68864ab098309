"""Serves the door over HTTP, in the event loop that the node runs in.

uvicorn does the talking, with httptools. It gets neither the signals (they are the node's, which
closes its doors, drains and only then stops serving) nor the logging, nor a word in who the
sender is: headers of proxies are not believed.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import ref

import httptools
import uvicorn
from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)

from eventflow.errors import ConfigError
from eventflow.web.asgi import make_app
from eventflow.web.call import WHOLE

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.types import ASGIApp
    from uvicorn._types import ASGI3Application

    from eventflow.web.quick import Quick

__all__ = ["Address", "Server", "make_app"]

BACKLOG = 2048
KEEP_ALIVE_S = 75
"""How long a connection may be idle: longer than the 60 s at which balancers reuse theirs."""

MAX_HEADER_BYTES = 64 * 1024
"""Request line and headers together. uvicorn has no bound of its own with httptools."""

STOP_S = 5.0
"""Seconds that running requests get to finish: nothing they wait for takes longer by then."""

_OFFERS = (b"upgrade", b"http2-settings")
"""Headers, and what `Connection` says of them, by which a sender offers another protocol."""

_NO_SUCH_ADDRESS = {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}


class Address(NamedTuple):
    """Where the door is."""

    host: str
    port: int
    """The real one, also where 0 was asked for."""

    @property
    def url(self) -> str:
        """As clients write it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"


class Server:
    """An HTTP server for one application.

    Args:
        app: The application.
        host: Name or address to listen on; of a name, every address that this machine has.
        port: Port to listen on; 0 takes a free one.
    """

    def __init__(self, app: ASGIApp, host: str, port: int) -> None:
        self._host = host
        self._port = port
        self._config = uvicorn.Config(
            app,
            http=_Protocol,
            ws="none",
            loop="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            log_level="warning",
            access_log=False,
            proxy_headers=False,
            server_header=False,
            backlog=BACKLOG,
            timeout_keep_alive=KEEP_ALIVE_S,
        )
        self._server = uvicorn.Server(self._config)
        self._ticking: asyncio.Task[None] | None = None
        self._address: Address | None = None

    @property
    def url(self) -> str:
        """Where the door is, once started."""
        address = self._address or Address(self._host, self._port)
        return address.url

    async def start(self) -> Address:
        """Listen, and return where.

        Raises:
            ConfigError: the address can't be listened on; nothing was started.
        """
        sockets = await _listen(self._host, self._port)
        # `uvicorn.Server.serve` would take the signals, so its three steps are taken here.
        self._config.load()
        self._server.lifespan = self._config.lifespan_class(self._config)
        await self._server.startup(sockets=sockets)
        self._ticking = asyncio.create_task(self._server.main_loop(), name="http-server")
        self._address = Address(self._host, sockets[0].getsockname()[1])
        return self._address

    async def stop(self, within_s: float = STOP_S) -> None:
        """Stop listening, let running requests finish within so many seconds, close.

        What has not been answered by then is answered with 503. Stopping twice does nothing.
        """
        ticking, self._ticking = self._ticking, None
        if ticking is None:
            return
        self._server.should_exit = True
        await ticking
        # uvicorn's type says whole seconds; it hands them to asyncio, which takes any.
        self._config.timeout_graceful_shutdown = within_s  # type: ignore[assignment]
        await self._server.shutdown()


async def _listen(host: str, port: int) -> list[socket.socket]:
    """Return a listening socket for each address of `host`, all on the same port."""
    loop = asyncio.get_running_loop()
    sockets: list[socket.socket] = []
    failed: OSError | None = None
    try:
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, _, _, _, address in dict.fromkeys(found):
            try:
                sockets.append(_bound(family, (address[0], port, *address[2:])))
            except OSError as error:
                if error.errno not in _NO_SUCH_ADDRESS:
                    raise
                failed = error  # a name may have addresses of a kind that this machine has not
            else:
                port = sockets[-1].getsockname()[1]
    except OSError as error:
        failed = error
        while sockets:
            sockets.pop().close()
    if not sockets and failed is not None:
        raise _unusable(host, port, failed) from failed
    return sockets


def _bound(family: int, address: tuple[object, ...]) -> socket.socket:
    one = socket.socket(family, socket.SOCK_STREAM)
    try:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        one.bind(address)
        one.listen(BACKLOG)
        one.setblocking(False)  # noqa: FBT003  # the standard library's own
    except OSError:
        one.close()
        raise
    return one


def answer_whole(request: ref[RequestResponseCycle], status: int, head: bytes, body: bytes) -> bool:
    """Write an answer in one piece; False if it has to be sent in the ordinary way.

    Args:
        request: uvicorn's state of it, which its scope leads to: so the scope must not hold it.
        status: Its number.
        head: Lines of headers, each with its end. The content's length is among them.
        body: All of it.
    """
    cycle = request()
    return cycle is not None and write_whole(cycle, status, head, body)


def write_whole(cycle: RequestResponseCycle, status: int, head: bytes, body: bytes) -> bool:
    """Write an answer in one piece: see `answer_whole`."""
    if cycle.transport.is_closing():
        cycle.disconnected = True
    if not cycle.keep_alive or cycle.flow.write_paused or cycle.disconnected:
        return False
    lines = [name + b": " + value + b"\r\n" for name, value in cycle.default_headers]
    cycle.response_started = cycle.response_complete = True
    cycle.transport.write(b"".join((STATUS_LINE[status], *lines, head, b"\r\n", body)))
    cycle.message_event.set()
    cycle.on_response()
    return True


def _nothing() -> None:
    """Stand for what is over."""


def _unusable(host: str, port: int, error: OSError) -> ConfigError:
    what = f"[server] host and port: can't listen on {host}:{port}: {error.strerror or error}"
    if error.errno == errno.EADDRINUSE:
        return ConfigError([f"{what}. Stop what holds it, or choose another port; 0 takes any."])
    return ConfigError([f"{what}. Expected an address of this machine and a port it may use."])


class _Protocol(HttpToolsProtocol):
    """uvicorn's, with a bound on what comes before the body, and short answers in one piece.

    Head and body sent as two ASGI messages are two writes here and two reads at the sender, which
    took a fifth of the door's time. What may answer in one piece finds `WHOLE` in its scope.
    """

    _header_bytes = 0
    _quick: Callable[..., Quick | None] | None
    """How the application takes requests that are all there."""
    _held: RequestResponseCycle | None = None
    """The request whose body is still to come: if it is in the same read, there may be no task."""
    _answering: RequestResponseCycle | None = None
    """The request begun last; those behind it on the connection wait."""
    _in_head = True
    _offers = False
    """Whether this request offers another protocol: it is parsed anew without."""
    _reading = False
    _taken: tuple[RequestResponseCycle, Quick] | None = None
    """The one that waits for its answer without a task."""

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        self._quick = getattr(self.app, "quick", None)

    def data_received(self, data: bytes) -> None:
        self._unset_keepalive_if_required()
        self._reading = True
        try:
            while data:
                data = self._parse(data)
        except httptools.HttpParserError:
            message = "Invalid HTTP request received."
            self.logger.warning(message)
            self.send_400_response(message)
        self._reading = False
        held, self._held = self._held, None
        if held is not None:  # more is to come: it takes the ordinary way from here
            self._start_task(held, self.app)

    def _parse(self, data: bytes) -> bytes:
        """Parse what came; return what has to be parsed anew."""
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as offer:
            return self._head_without_offer() + data[offer.args[0] :]
        return b""

    def _head_without_offer(self) -> bytes:
        """Return the head of a request that offers to speak another protocol, without the offer.

        Java's client offers HTTP/2 with each request. A server may ignore that (RFC 9110, 7.8), but
        the parser doesn't: to it all that follows the head is in that protocol, the body too.
        """
        version, method = self.parser.get_http_version().encode(), self.parser.get_method()
        head = [method, b" ", self.url, b" HTTP/", version, b"\r\n"]
        for name, value in self.headers:
            kept = value
            if name == b"connection":
                kept = b",".join(w for w in value.split(b",") if w.strip().lower() not in _OFFERS)
            if name not in _OFFERS:
                head += [name, b": ", kept, b"\r\n"]
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn does
        return b"".join([*head, b"\r\n"])

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._offers = self.parser.should_upgrade()
        if self._offers and self.parser.get_method() == b"CONNECT":
            # As for what is no HTTP: what follows is meant for somebody behind us.
            raise ValueError("expected requests to this server, got CONNECT")
        if not self._offers:
            super().on_headers_complete()

    def on_message_complete(self) -> None:
        if self._offers:  # it begins anew
            return
        super().on_message_complete()
        held, self._held = self._held, None
        if held is not None:
            self._start(held)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._answering = cycle
        if app is not self.app or self._quick is None or cycle.waiting_for_100_continue:
            self._start_task(cycle, app)
        elif not cycle.more_body:  # it came behind another, and has waited for that
            self._start(cycle)
        elif self._reading:
            self._held = cycle
        else:
            self._start_task(cycle, app)

    def _start(self, cycle: RequestResponseCycle) -> None:
        """Begin with a request that is all there."""
        quick = None
        if self._quick is not None and cycle.keep_alive and not cycle.disconnected:
            quick = self._quick(cycle.scope, bytes(cycle.body), partial(self._told, cycle))
        if quick is None:
            self._start_task(cycle, self.app)
        else:
            cycle.body = bytearray()  # uvicorn would keep it until the next request
            self._taken = cycle, quick

    def _told(self, cycle: RequestResponseCycle, quick: Quick) -> None:
        """Answer a request that was taken without a task."""
        self._taken = None
        whole = quick.whole()
        if whole is None or not (write_whole(cycle, *whole) or cycle.disconnected):
            self._start_task(cycle, quick)  # also where nobody listens: refusals are counted
        else:
            cycle.on_response = _nothing  # it holds this protocol, which holds the cycle

    def _start_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        cycle.scope["extensions"] = {WHOLE: {"answer": partial(answer_whole, ref(cycle))}}
        super()._start_asgi_task(cycle, app)

    def shutdown(self) -> None:
        taken, self._taken = self._taken, None
        if taken is not None:  # what is stopped has to find a task for it
            cycle, quick = taken
            quick.leave()
            self._start_task(cycle, quick)
        super().shutdown()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        # uvicorn tells the newest request alone, and one that came before may wait for its answer.
        if self._answering is not None and not self._answering.response_complete:
            self._answering.disconnected = True
            self._answering.message_event.set()
        self._answering = None
        self.pipeline.clear()  # nobody is left to be answered; they hold this, too

    def on_message_begin(self) -> None:
        self._header_bytes = 0
        self._in_head = True
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        self._bound(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._bound(len(name) + len(value))
        if self._in_head:  # what follows a body in pieces was sent when all was decided
            super().on_header(name, value)

    def _bound(self, more: int) -> None:
        self._header_bytes += more
        if self._header_bytes > MAX_HEADER_BYTES:
            # httptools makes a parser error of it, and uvicorn a 400 that ends the connection.
            raise ValueError(f"expected at most {MAX_HEADER_BYTES} bytes of headers")
