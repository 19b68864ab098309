"""The `http` sink: each event is a request, a 2xx answer means the target has it.

    format = "cloudevents"   binary mode: attributes in `ce-*` headers, the data as the body
    format = "structured"    structured mode: one JSON document of attributes and data
    format = "data"          the data alone

Every request carries `idempotency-key` (the same for an event for ever), `ef-delivery` and
`ef-attempt`, and with a `secret` the signature of Standard Webhooks (`sinks.signature`). Redirects
are not followed; what an answer means is `policy.causes`' table.

Where it may connect to. An address written into the URL (`http://10.1.2.3/`) is taken as it is.
A name is looked up, and unless `allow_private = true` only public addresses are connected to: no
private, loopback, link-local or otherwise special ones, and none of the metadata services of
clouds. The check is on the addresses that are then connected to, so a name that changes its
address between check and connect gains nothing; no proxy of the environment stands in between.
"""

from __future__ import annotations

import asyncio
import contextlib
from ipaddress import IPv6Address, ip_address, ip_network
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import aiohttp
from aiohttp.abc import AbstractResolver
from aiohttp.resolver import DefaultResolver
from multidict import CIMultiDict

from eventflow.clock import SystemClock
from eventflow.cloudevents import encode_structured, to_binary
from eventflow.errors import ConfigError
from eventflow.policy import causes
from eventflow.policy.outcome import Failed
from eventflow.sinks.base import SinkError
from eventflow.sinks.signature import Signer
from eventflow.version import VERSION

if TYPE_CHECKING:
    import socket

    from aiohttp.abc import ResolveResult

    from eventflow.clock import Clock
    from eventflow.config import HttpSinkSettings
    from eventflow.delivery import Delivery
    from eventflow.event import Event

ANSWER_MAX_BYTES = 2_048
"""Of an answer that is no success, so much is shown."""
STRUCTURED = "application/cloudevents+json"
_KIND = "content-type"
_ERROR_MAX = 2_000
_DRAINED_MAX_BYTES = 65_536
"""The rest of a success is read up to here, for the connection to be used again."""
_DRAIN_S = 1.0
_SPECIAL = tuple(
    ip_network(text)
    for text in (
        "192.0.0.0/24",  # protocol assignments, a metadata service among them; not all Pythons know
        "168.63.129.16/32",  # Azure's own service, under an address that looks public
        "64:ff9b:1::/48",  # NAT64 of a local network
    )
)
_NAT64 = ip_network("64:ff9b::/96")


class HttpSink:
    """Delivers events by HTTP requests.

    Args:
        settings: The topic's `sink` table.
        concurrency: Deliveries at the same time: connections at most.
        clock: When a request is signed; by default the machine's.

    Raises:
        ConfigError: the URL holds a template, which is not supported yet.
    """

    def __init__(
        self, settings: HttpSinkSettings, *, concurrency: int, clock: Clock | None = None
    ) -> None:
        if "{{" in settings.url:
            raise ConfigError(["sink.url: expected a URL without {{ }}: not supported yet"])
        self._settings = settings
        self._concurrency = concurrency
        self._host = urlsplit(settings.url).hostname or ""
        self._headers = [(header.name, header.value.reveal()) for header in settings.headers]
        self._signer = Signer([secret.reveal() for secret in settings.secret])
        self._clock: Clock = SystemClock() if clock is None else clock
        self._session: aiohttp.ClientSession | None = None

    async def start(self) -> None:
        """Make the pool of connections; the first is opened by the first delivery."""
        resolver: AbstractResolver = DefaultResolver()
        if not self._settings.allow_private:
            resolver = PublicOnly(resolver)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=self._concurrency, resolver=resolver),
            timeout=aiohttp.ClientTimeout(total=self._settings.timeout_s),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,  # nothing that swells when unpacked
            headers={"user-agent": f"EventFlow/{VERSION}", "accept-encoding": "identity"},
            skip_auto_headers=("content-type",),  # the event's, or none
        )

    async def deliver(self, event: Event, delivery: Delivery) -> None:
        """Send one event.

        Raises:
            SinkError: no answer, or one that is no success.
        """
        if self._session is None:
            raise RuntimeError("the sink has not been started")
        headers, body = self._request(event, delivery)
        try:
            async with self._session.request(
                self._settings.method,
                self._settings.url,
                headers=headers,
                data=body,
                allow_redirects=False,
            ) as response:
                if 200 <= response.status < 300:
                    await _drain(response)
                else:
                    raise await self._refused(response)
        except TimeoutError as error:
            raise SinkError(self._timed_out()) from error
        except (aiohttp.ClientError, OSError) as error:
            raise SinkError(self._unreached(error)) from error

    async def close(self) -> None:
        """Close all connections."""
        if self._session is not None:
            await self._session.close()

    def _request(self, event: Event, delivery: Delivery) -> tuple[CIMultiDict[str], bytes]:
        headers: CIMultiDict[str]
        if self._settings.format == "structured":
            headers, body = CIMultiDict({_KIND: STRUCTURED}), encode_structured(event)
        else:
            attributes, body = to_binary(event)
            if self._settings.format == "data":
                attributes = {name: text for name, text in attributes.items() if name == _KIND}
            headers = CIMultiDict(attributes)
        headers["idempotency-key"] = event.key
        headers["ef-delivery"] = delivery.id
        headers["ef-attempt"] = str(delivery.attempt)
        headers.update(self._headers)
        if self._signer.signs:
            headers.update(self._signer.headers(event.key, self._clock.now_s(), body))
        return headers, body

    async def _refused(self, response: aiohttp.ClientResponse) -> SinkError:
        """Return what an answer means that is no success. Its headers came, so it is one."""
        said = b""
        with contextlib.suppress(aiohttp.ClientError, TimeoutError):
            said = await _read(response, ANSWER_MAX_BYTES)
        retry_after = response.headers.get("Retry-After")
        cause = causes.of_status(response.status, retry_after)
        text = " ".join(said.decode("utf-8", "replace").split())
        answer = f"{self._host} answered {response.status} {response.reason or ''}".rstrip()
        if 300 <= response.status < 400:
            answer += ", a redirect; these are not followed"
        message = f"{answer}: {text}" if text else answer
        failed = Failed(
            cause.name,
            message[:_ERROR_MAX],
            permanent=cause.permanent,
            fingerprint=causes.fingerprint(cause.name, message),
        )
        return SinkError(failed, retry_after=cause.retry_after)

    def _timed_out(self) -> Failed:
        message = f"{self._host} did not answer within {self._settings.timeout_s:g} s"
        return Failed(
            "timeout", message, fingerprint=causes.fingerprint("timeout", message), timed_out=True
        )

    def _unreached(self, error: Exception) -> Failed:
        """Return what it means that no answer came; without the URL, whose path may be secret."""
        refused = getattr(error, "os_error", error)
        if isinstance(refused, AddressRefused):
            name, why = AddressRefused.__name__, str(refused)
        else:
            name, why = type(error).__name__, _reason(error)
        message = f"{self._host}: {why}"[:_ERROR_MAX]
        return Failed(name, message, fingerprint=causes.fingerprint(name, message))


class AddressRefused(OSError):
    """A name led to no public address. Worth another try: names and settings can be mended."""

    def __init__(self, host: str, addresses: list[str]) -> None:
        super().__init__(
            f"{host!r} is {', '.join(sorted(set(addresses)))}, which is not public; nothing was "
            f"sent. If it is meant, set allow_private = true, or write the address into the url."
        )


class PublicOnly(AbstractResolver):
    """Looks names up, and gives only the public addresses to whoever connects."""

    def __init__(self, resolver: AbstractResolver) -> None:
        self._resolver = resolver

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily | int = 0
    ) -> list[ResolveResult]:
        """Return the public addresses of a host.

        Raises:
            AddressRefused: it has none.
            OSError: it could not be looked up.
        """
        found = await self._resolver.resolve(host, port, family)  # type: ignore[arg-type]  # 0: any
        public = [result for result in found if is_public(result["host"])]
        if found and not public:
            raise AddressRefused(host, [result["host"] for result in found])
        return public

    async def close(self) -> None:
        """Close what it asks."""
        await self._resolver.close()


def is_public(address: str) -> bool:
    """Return whether an IP address is one of the public internet.

    An IPv6 address that stands for an IPv4 one (mapped, 6to4, Teredo, NAT64) is what that one is.
    """
    ip = ip_address(address)
    if isinstance(ip, IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)
        if inner is None and ip in _NAT64:
            inner = ip_address(int(ip) & 0xFFFF_FFFF)  # type: ignore[assignment]  # 32 bits: v4
        if inner is not None:
            return is_public(str(inner))
    return ip.is_global and not ip.is_multicast and not any(ip in special for special in _SPECIAL)


def _reason(error: Exception) -> str:
    """Return what an error says, without the URL that some of aiohttp's say."""
    if isinstance(error, aiohttp.ClientResponseError):
        return f"the answer is not HTTP: {error.message}"
    if isinstance(error, aiohttp.InvalidURL):
        return "the URL can't be used"
    return str(error) or type(error).__name__


async def _drain(response: aiohttp.ClientResponse) -> None:
    """Read the rest of a success, if it is short and comes soon.

    The target has the event, so nothing that happens here can change that: not even that this
    run is cancelled now (who cancelled it makes sure that the task ends).
    """
    if response.content.at_eof():
        return
    with contextlib.suppress(aiohttp.ClientError, TimeoutError, OSError, asyncio.CancelledError):
        async with asyncio.timeout(_DRAIN_S):
            await _read(response, _DRAINED_MAX_BYTES)


async def _read(response: aiohttp.ClientResponse, limit: int) -> bytes:
    """Return up to `limit` bytes of a body."""
    chunks: list[bytes] = []
    while limit > 0 and (chunk := await response.content.read(limit)):
        chunks.append(chunk)
        limit -= len(chunk)
    return b"".join(chunks)
