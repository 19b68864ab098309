"""The http sink against a real server on a loopback port: what it sends, what answers mean."""

from __future__ import annotations

import asyncio
import socket
from base64 import b64encode
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web
from cloudevents.core.bindings.http import HTTPMessage, from_http_event
from standardwebhooks import Webhook, WebhookVerificationError

from eventflow.config import Header, HttpSinkSettings
from eventflow.config.secret import Secret
from eventflow.delivery import Delivery, Tally
from eventflow.errors import ConfigError
from eventflow.event import Event
from eventflow.flow.failures import outcome_of
from eventflow.flow.handlers import Handler
from eventflow.flow.slots import Runner
from eventflow.policy.outcome import SUCCEEDED, Failed
from eventflow.sinks import http
from eventflow.sinks.base import SinkError
from eventflow.sinks.http import AddressRefused, HttpSink, PublicOnly, is_public
from eventflow.telemetry.metrics import Metrics
from eventflow.testing import ManualClock
from eventflow.version import VERSION

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from aiohttp.abc import ResolveResult

EVENT = Event(
    type="user.registered",
    source="/shop",
    id="7",
    data={"name": "Zoë"},
    subject="a b",
    priority="high",
)
DELIVERY = Delivery(EVENT, "0193", "email", 0.0, tally=Tally(attempts=2))


class Target:
    """A server that answers as told and remembers what came."""

    def __init__(self, answer: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> None:
        self.requests: list[tuple[str, str, dict[str, str], bytes]] = []
        self.ports: set[int] = set()
        self.hosts: set[str] = set()
        """Addresses of its own that were connected to."""
        self.url = ""
        self.again: Callable[[], Awaitable[None]]
        self._answer = answer

    async def handle(self, request: Any) -> web.StreamResponse:
        headers = {name.lower(): value for name, value in request.headers.items()}
        assert request.transport is not None
        self.ports.add(request.transport.get_extra_info("peername")[1])
        self.hosts.add(request.transport.get_extra_info("sockname")[0])
        self.requests.append((request.method, request.path, headers, await request.read()))
        return await self._answer(request)

    @property
    def headers(self) -> dict[str, str]:
        """Of the last request."""
        return self.requests[-1][2]

    @property
    def body(self) -> bytes:
        """Of the last request."""
        return self.requests[-1][3]


@asynccontextmanager
async def serving(
    answer: Callable[[web.Request], Awaitable[web.StreamResponse]],
) -> AsyncIterator[Target]:
    target = Target(answer)
    runner = web.ServerRunner(web.Server(target.handle), shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    target.url = f"http://127.0.0.1:{port}/hook"
    try:
        yield target
    finally:
        await runner.cleanup()


SECRETS = tuple(f"whsec_{b64encode(bytes(range(n, n + 24))).decode()}" for n in (0, 200))


@asynccontextmanager
async def signing(
    *secrets: str, clock: ManualClock | None = None, **keys: Any
) -> AsyncIterator[Target]:
    """Send one event that is signed, and have it sent again."""
    async with serving(always(200)) as target:
        settings = HttpSinkSettings(
            type="http", url=target.url, secret=tuple(map(Secret, secrets)), **keys
        )
        sink = HttpSink(settings, concurrency=1, clock=clock)
        await sink.start()
        target.again = partial(sink.deliver, EVENT, DELIVERY)
        try:
            await target.again()
            yield target
        finally:
            await sink.close()


def always(status: int, text: str = "", **headers: str) -> Any:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(status=status, text=text, headers=headers)

    return answer


@asynccontextmanager
async def opened(url: str, *, concurrency: int = 2, **keys: Any) -> AsyncIterator[HttpSink]:
    sink = HttpSink(HttpSinkSettings(type="http", url=url, **keys), concurrency=concurrency)
    await sink.start()
    try:
        yield sink
    finally:
        await sink.close()


async def failure(url: str, **keys: Any) -> Failed:
    """Return what it means that one delivery failed."""
    async with opened(url, **keys) as sink:
        with pytest.raises(SinkError) as caught:
            await sink.deliver(EVENT, DELIVERY)
    outcome = outcome_of(caught.value, 1_000.0)
    assert isinstance(outcome, Failed)
    return outcome


async def failure_at(answer: Any, **keys: Any) -> Failed:
    async with serving(answer) as target:
        return await failure(target.url, **keys)


class TestARequest:
    async def test_is_a_cloudevent_in_binary_mode(self) -> None:
        async with serving(always(204)) as target, opened(target.url) as sink:
            await sink.deliver(EVENT, DELIVERY)

        method, path, headers, body = target.requests[0]
        assert (method, path) == ("POST", "/hook")
        assert body == EVENT.body
        assert {name: value for name, value in headers.items() if name.startswith("ce-")} == {
            "ce-specversion": "1.0",
            "ce-id": "7",
            "ce-source": "/shop",
            "ce-type": "user.registered",
            "ce-subject": "a%20b",
            "ce-priority": "high",
        }
        assert headers["content-type"] == "application/json"

    async def test_says_which_delivery_it_is(self) -> None:
        async with serving(always(204)) as target, opened(target.url) as sink:
            await sink.deliver(EVENT, DELIVERY)

        assert target.headers["idempotency-key"] == EVENT.key
        assert target.headers["ef-delivery"] == "0193.email"
        assert target.headers["ef-attempt"] == "3"
        assert target.headers["user-agent"] == f"EventFlow/{VERSION}"

    async def test_may_be_the_data_alone(self) -> None:
        text = Event(type="a", source="/", data=b"hello", datacontenttype="text/plain")
        async with serving(always(204)) as target, opened(target.url, format="data") as sink:
            await sink.deliver(text, DELIVERY)

        assert target.body == b"hello"
        assert target.headers["content-type"] == "text/plain"
        assert not any(name.startswith("ce-") for name in target.headers)
        assert target.headers["idempotency-key"] == text.key

    async def test_of_an_event_without_data_has_no_body(self) -> None:
        async with serving(always(204)) as target, opened(target.url) as sink:
            await sink.deliver(Event(type="a", source="/"), DELIVERY)

        assert target.body == b""
        assert target.headers["content-length"] == "0"
        assert "content-type" not in target.headers

    async def test_has_the_method_and_headers_of_the_settings(self) -> None:
        keys: dict[str, Any] = {
            "method": "PUT",
            "headers": (
                Header(name="Authorization", value=Secret("Bearer 1")),
                Header(name="Idempotency-Key", value=Secret("mine")),
            ),
        }
        async with serving(always(204)) as target, opened(target.url, **keys) as sink:
            await sink.deliver(EVENT, DELIVERY)

        assert target.requests[0][0] == "PUT"
        assert target.headers["authorization"] == "Bearer 1"
        assert target.headers["idempotency-key"] == "mine"

    async def test_goes_over_a_connection_that_is_open(self) -> None:
        async with serving(always(200, "thanks")) as target, opened(target.url) as sink:
            for _ in range(5):
                await sink.deliver(EVENT, DELIVERY)

        assert len(target.requests) == 5
        assert len(target.ports) == 1

    async def test_waits_for_one_of_as_many_connections_as_the_topic_may(self) -> None:
        """Three deliveries, two connections: the third begins when one of the others ends."""
        at_once: list[int] = []
        go_on = asyncio.Event()

        async def answer(_: web.Request) -> web.Response:
            at_once.append(1)
            if len(at_once) == 2:
                go_on.set()
            await go_on.wait()
            return web.Response()

        async with serving(answer) as target, opened(target.url, concurrency=2) as sink:
            await asyncio.gather(*(sink.deliver(EVENT, DELIVERY) for _ in range(3)))

        assert len(target.ports) == 2


class TestTheReferenceSdk:
    """The official one of CloudEvents: what the sink sends, it reads."""

    @pytest.mark.parametrize("format", ["cloudevents", "structured"])
    @pytest.mark.parametrize(
        ("kind", "data"),
        [
            *[("application/json", {"name": "Zoë", "n": [1, None]}), ("text/plain", "naïve\n")],
            *[("image/png", b"\x89PNG\r\n\x00"), (None, None)],
        ],
    )
    async def test_reads_each_mode(self, format: str, kind: str | None, data: Any) -> None:
        attributes: dict[str, Any] = {
            "subject": 'Euro € 😀 "50%"',
            "dataschema": "https://shop.example/user.json",
            "partitionkey": "müller",
        }
        event = Event(
            type="user.registered",
            source="https://shop.example/eu?x=1",
            id="a%20b",
            data=data,
            datacontenttype=kind,
            time="2026-11-24T08:00:00.123Z",
            **attributes,
        )
        async with serving(always(200)) as target, opened(target.url, format=format) as sink:
            await sink.deliver(event, Delivery(event, "0193", "api", 0.0))

        read = from_http_event(HTTPMessage(target.headers, target.body))
        shown = read.get_attributes()
        assert shown.pop("time") == datetime(2026, 11, 24, 8, 0, 0, 123_000, UTC)
        assert shown == {name: v for name, v in event.attributes().items() if name != "time"}
        assert read.get_data() == data
        assert ("ce-id" in target.headers) is (format == "cloudevents")


class TestASignature:
    """Of Standard Webhooks, held against its reference library."""

    @pytest.mark.parametrize("format", ["cloudevents", "structured", "data"])
    async def test_is_one_that_the_library_verifies(self, format: str) -> None:
        async with signing(SECRETS[0], format=format) as target:
            pass

        data = Webhook(SECRETS[0]).verify(target.body, target.headers)
        assert (data["data"] if format == "structured" else data) == EVENT.data
        assert target.headers["webhook-id"] == EVENT.key

    async def test_is_of_this_body_and_this_secret(self) -> None:
        async with signing(SECRETS[0]) as target:
            pass

        for secret, body in ((SECRETS[1], target.body), (SECRETS[0], target.body + b" ")):
            with pytest.raises(WebhookVerificationError, match="No matching signature"):
                Webhook(secret).verify(body, target.headers, json_parse=False)

    async def test_is_one_a_secret_while_one_replaces_the_other(self) -> None:
        async with signing(*SECRETS) as target:
            pass

        for secret in SECRETS:
            Webhook(secret).verify(target.body, target.headers)

    async def test_is_of_this_attempt_and_its_id_of_the_event(self) -> None:
        """Receivers refuse what is older than five minutes; a repeat they know by its id."""
        clock = ManualClock(1_800_000_000.9)
        async with signing(SECRETS[0], clock=clock) as target:
            clock.advance(600.0)
            await target.again()

        (*_, first, _), (*_, second, _) = target.requests
        assert [h["webhook-timestamp"] for h in (first, second)] == ["1800000000", "1800000600"]
        assert first["webhook-id"] == second["webhook-id"]
        assert first["webhook-signature"] != second["webhook-signature"]

    async def test_is_none_without_a_secret(self) -> None:
        async with signing() as target:
            pass

        assert not [name for name in target.headers if name.startswith("webhook-")]


class TestAnAnswer:
    @pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
    async def test_of_the_200s_is_a_success(self, status: int) -> None:
        async with serving(always(status)) as target, opened(target.url) as sink:
            await sink.deliver(EVENT, DELIVERY)

    @pytest.mark.parametrize(
        ("status", "permanent"),
        [
            (302, True),
            (304, True),
            (400, True),
            (401, False),
            (403, False),
            (404, False),
            (408, False),
            (410, True),
            (422, True),
            (425, False),
            (429, False),
            (500, False),
            (503, False),
        ],
    )
    async def test_is_judged_by_its_status(self, status: int, *, permanent: bool) -> None:
        failed = await failure_at(always(status, "" if status == 304 else "why"))

        assert (failed.cause, failed.permanent) == (f"http {status}", permanent)
        assert not failed.timed_out
        assert failed.fingerprint

    async def test_that_is_a_redirect_is_not_followed(self) -> None:
        async with serving(always(307, location="/elsewhere")) as target:
            failed = await failure(target.url)

        assert len(target.requests) == 1
        assert failed.error == (
            "127.0.0.1 answered 307 Temporary Redirect, a redirect; these are not followed"
        )

    async def test_says_when_to_try_again(self) -> None:
        failed = await failure_at(always(429, "slow down", **{"Retry-After": "120"}))

        assert failed.retry_at == 1_120.0
        assert failed.error == "127.0.0.1 answered 429 Too Many Requests: slow down"

    async def test_says_when_to_try_again_as_a_date(self) -> None:
        date = "Thu, 01 Jan 1970 00:20:00 GMT"
        failed = await failure_at(always(503, **{"Retry-After": date}))

        assert failed.retry_at == 1_200.0

    async def test_that_is_permanent_has_no_other_time(self) -> None:
        assert (await failure_at(always(400, **{"Retry-After": "1"}))).retry_at is None

    async def test_is_shown_up_to_a_limit(self) -> None:
        """However much it sends: 2 KiB of it are read, and the connection is closed."""

        async def endless(request: web.Request) -> web.StreamResponse:
            response = web.StreamResponse(status=500)
            await response.prepare(request)
            while True:
                await response.write(b"x" * 10_000)

        failed = await failure_at(endless)

        assert failed.error.startswith("127.0.0.1 answered 500 Internal Server Error: xxx")
        assert len(failed.error) == 2_000

    async def test_may_hold_bytes_that_are_no_text(self) -> None:
        async def answer(_: web.Request) -> web.Response:
            return web.Response(status=500, body=b"a\xff\n\n  b")

        assert (await failure_at(answer)).error.endswith(": a\ufffd b")

    async def test_of_the_200s_counts_even_if_its_body_never_ends(self) -> None:
        """The target has the event. Sending it again would be our mistake."""

        async def endless(request: web.Request) -> web.StreamResponse:
            response = web.StreamResponse()
            await response.prepare(request)
            while True:
                await response.write(b"x" * 10_000)

        async with serving(endless) as target, opened(target.url) as sink:
            await sink.deliver(EVENT, DELIVERY)

        assert len(target.requests) == 1

    async def test_of_the_200s_counts_even_if_the_run_is_over_by_then(self) -> None:
        """Its topic's timeout falls between the head of the answer and its end."""
        hanging = asyncio.Event()

        async def slow(request: web.Request) -> web.StreamResponse:
            response = web.StreamResponse()
            response.content_length = 5
            await response.prepare(request)
            await hanging.wait()
            return response

        async with serving(slow) as target, opened(target.url) as sink:
            handler = Handler.of_sink(sink, name="http", timeout_s=0.05)
            runner = Runner(handler, "email", 1, ManualClock(), Metrics())

            assert await runner.run(0, DELIVERY) is SUCCEEDED
            hanging.set()
            await runner.close()


class TestNoAnswer:
    async def test_in_time_is_a_timeout(self) -> None:
        hanging = asyncio.Event()

        async def slow(_: web.Request) -> web.Response:
            await hanging.wait()
            return web.Response()

        async with serving(slow) as target:
            failed = await failure(target.url, timeout_s=0.05)
            hanging.set()

        assert (failed.cause, failed.timed_out, failed.permanent) == ("timeout", True, False)
        assert failed.error == "127.0.0.1 did not answer within 0.05 s"

    async def test_since_nobody_listens_is_worth_another_try(self) -> None:
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            failed = await failure(f"http://127.0.0.1:{unused.getsockname()[1]}/secret-path")

        assert (failed.cause, failed.permanent) == ("ClientConnectorError", False)
        assert failed.error.startswith("127.0.0.1: Cannot connect to host")
        assert "secret-path" not in failed.error

    async def test_since_the_target_hangs_up_is_worth_another_try(self) -> None:
        async def hang_up(request: web.Request) -> web.Response:
            assert request.transport is not None
            request.transport.close()
            return web.Response()

        failed = await failure_at(hang_up)

        assert (failed.cause, failed.permanent) == ("ServerDisconnectedError", False)

    async def test_that_is_http_is_no_bad_request(self) -> None:
        """An answer that can't be read has status 400 in aiohttp, which would be permanent."""

        async def nonsense(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"220 mail.example.com ESMTP\r\n")
            await writer.drain()
            writer.close()

        server = await asyncio.start_server(nonsense, "127.0.0.1", 0)
        async with server:
            failed = await failure(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/")

        assert (failed.cause, failed.permanent) == ("ClientResponseError", False)
        assert failed.error.startswith("127.0.0.1: the answer is not HTTP")

    async def test_over_tls_is_worth_another_try(self) -> None:
        async with serving(always(204)) as target:
            failed = await failure(target.url.replace("http", "https"))

        assert failed.cause == "ClientConnectorSSLError"
        assert not failed.permanent


class Names:
    """A DNS of the test's own."""

    def __init__(self, **hosts: list[str]) -> None:
        self.hosts = hosts
        self.then: dict[str, list[str]] = hosts
        """What it says from the second question on."""
        self.asked: list[str] = []

    async def resolve(self, host: str, port: int = 0, family: int = 0) -> list[ResolveResult]:
        del family
        self.asked.append(host)
        if host not in self.hosts:
            raise OSError(f"no such host: {host}")
        known, self.hosts = self.hosts, self.then
        return [
            {"hostname": host, "host": address, "port": port, "family": 2, "proto": 0, "flags": 0}
            for address in known[host]
        ]

    async def close(self) -> None:
        self.asked.append("closed")


class TestWhereItConnectsTo:
    @pytest.mark.parametrize(
        "address",
        [
            "93.184.216.34",
            "8.8.8.8",
            "2606:2800:220:1:248:1893:25c8:1946",
            "::ffff:8.8.8.8",
            "64:ff9b::808:808",
        ],
    )
    def test_a_public_address_is_public(self, address: str) -> None:
        assert is_public(address)

    @pytest.mark.parametrize(
        "address",
        [
            "127.0.0.1",
            "127.8.8.8",
            "0.0.0.0",  # noqa: S104  # nobody is bound to it
            "10.1.2.3",
            "172.16.0.1",
            "192.168.1.1",
            "100.64.0.1",
            "100.100.100.200",
            "169.254.169.254",
            "168.63.129.16",
            "192.0.0.192",
            "198.18.0.1",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "fe80::1",
            "fe80::1%eth0",
            "fc00::1",
            "fd00:ec2::254",
            "ff02::1",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "64:ff9b::a9fe:a9fe",
            "64:ff9b:1::1",
            "2002:7f00:1::1",
            "2002:a9fe:a9fe::1",
            "2001:0:4136:e378:8000:63bf:f5ff:fffe",
        ],
    )
    def test_any_other_is_not(self, address: str) -> None:
        assert not is_public(address)

    async def test_only_public_addresses_of_a_name_are_given(self) -> None:
        names = Names(mixed=["10.0.0.1", "8.8.8.8", "::1"])
        found = await PublicOnly(names).resolve("mixed", 80)  # type: ignore[arg-type]  # as one

        assert [one["host"] for one in found] == ["8.8.8.8"]

    async def test_a_name_without_one_is_refused(self) -> None:
        names = Names(inner=["10.0.0.1", "::1", "10.0.0.1"])
        resolver = PublicOnly(names)  # type: ignore[arg-type]  # as one
        with pytest.raises(AddressRefused) as caught:
            await resolver.resolve("inner", 80)
        await resolver.close()

        assert str(caught.value) == (
            "'inner' is 10.0.0.1, ::1, which is not public; nothing was sent. If it is meant, "
            "set allow_private = true, or write the address into the url."
        )
        assert names.asked == ["inner", "closed"]

    async def test_a_name_that_leads_inside_is_not_connected_to(self) -> None:
        async with serving(always(204)) as target:
            failed = await failure(target.url.replace("127.0.0.1", "localhost"))

        assert target.requests == []
        assert (failed.cause, failed.permanent) == ("AddressRefused", False)
        assert failed.error.startswith("localhost: 'localhost' is 127.0.0.1")
        assert "allow_private = true" in failed.error

    async def test_what_was_checked_is_what_is_connected_to(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A name that changes between check and connect gains nothing: it is looked up once."""
        names = Names(changing=["127.0.0.1", "127.0.0.2"])
        monkeypatch.setattr(http, "DefaultResolver", lambda: names)
        monkeypatch.setattr(http, "is_public", lambda address: address == "127.0.0.1")
        async with (
            serving(always(204)) as target,
            opened(target.url.replace("127.0.0.1", "changing")) as sink,
        ):
            names.then = {"changing": ["127.0.0.2"]}
            await sink.deliver(EVENT, DELIVERY)

        assert target.hosts == {"127.0.0.1"}
        assert names.asked == ["changing"]

    @pytest.mark.parametrize("host", ["127.1", "2130706433", "0x7f.1", "localhost."])
    async def test_an_address_in_disguise_is_a_name(self, host: str) -> None:
        """Only an address that anybody can read is taken as it is."""
        async with serving(always(204)) as target:
            failed = await failure(target.url.replace("127.0.0.1", host))

        assert target.requests == []
        assert not failed.permanent

    async def test_it_is_where_private_ones_are_allowed(self) -> None:
        async with (
            serving(always(204)) as target,
            opened(target.url.replace("127.0.0.1", "localhost"), allow_private=True) as sink,
        ):
            await sink.deliver(EVENT, DELIVERY)

        assert len(target.requests) == 1

    async def test_a_proxy_of_the_environment_is_not_asked(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
        async with serving(always(204)) as target, opened(target.url) as sink:
            await sink.deliver(EVENT, DELIVERY)

        assert len(target.requests) == 1


def test_a_template_is_refused() -> None:
    settings = HttpSinkSettings(type="http", url="http://example.com/{{ event.id }}")
    with pytest.raises(ConfigError, match="not supported yet"):
        HttpSink(settings, concurrency=1)


async def test_a_sink_that_was_not_started_says_so() -> None:
    sink = HttpSink(HttpSinkSettings(type="http", url="http://example.com/"), concurrency=1)
    with pytest.raises(RuntimeError, match="has not been started"):
        await sink.deliver(EVENT, DELIVERY)
    await sink.close()
