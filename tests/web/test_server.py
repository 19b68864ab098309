"""The door over a real socket: where it listens, what it says, how it stops."""

from __future__ import annotations

import asyncio
import gc
import json
import signal
import socket
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from tests.web.fake import FakeNode
from tests.web.samples import event, lines
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from eventflow.errors import ConfigError
from eventflow.web import server as server_module
from eventflow.web.server import MAX_HEADER_BYTES, Address, Server, make_app

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from eventflow.event import Event

pytestmark = pytest.mark.slow

ALIVE = b"GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


@asynccontextmanager
async def serving(node: FakeNode, host: str = "127.0.0.1") -> AsyncIterator[Address]:
    server = Server(make_app(node), host, 0)
    address = await server.start()
    try:
        yield address
    finally:
        await server.stop(1.0)


async def talk(address: Address, *pieces: bytes) -> bytes:
    """Send raw HTTP, return all that comes until the other side hangs up."""
    reader, writer = await asyncio.open_connection(address.host, address.port)
    for piece in pieces:
        writer.write(piece)
        await writer.drain()
    answer = await reader.read()
    writer.close()
    return answer


def post(body: bytes, *headers: str, kind: str = "application/cloudevents+json") -> bytes:
    head = [
        "POST /v1/events HTTP/1.1",
        "Host: localhost",
        f"Content-Type: {kind}",
        "Connection: close",
        *headers,
    ]
    if not any(header.startswith(("Content-Length", "Transfer")) for header in headers):
        head.append(f"Content-Length: {len(body)}")
    return "\r\n".join(head).encode() + b"\r\n\r\n" + body


def split(answers: bytes) -> list[bytes]:
    start = b"HTTP/1.1 "
    return [start + rest for rest in answers.split(start)[1:]]


async def test_an_event_over_a_socket() -> None:
    node = FakeNode()
    before = signal.getsignal(signal.SIGTERM)
    async with serving(node) as address:
        assert address.port > 0
        assert address.url == f"http://127.0.0.1:{address.port}"
        answer = await talk(address, post(json.dumps(event()).encode()))
        assert signal.getsignal(signal.SIGTERM) is before  # signals are the node's

    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 202 ")
    assert b"server:" not in head
    assert json.loads(body)["accepted"] == 1
    with pytest.raises(OSError, match=r"refused|Connect call failed"):
        await talk(address)


async def test_answers_in_one_piece_say_what_others_say(monkeypatch: pytest.MonkeyPatch) -> None:
    whole: list[bool] = []

    def answered(*args: Any) -> bool:
        whole.append(real(*args))
        return whole[-1]

    real = server_module.write_whole
    monkeypatch.setattr(server_module, "write_whole", answered)
    closing = post(json.dumps(event()).encode())
    kept = closing.replace(b"Connection: close", b"Connection: keep-alive")
    async with serving(FakeNode()) as address:
        answers = await talk(address, kept + kept + closing)
    assert whole == [True, True, False]
    first, second, last = (
        (set(head.lower().splitlines()), body)
        for head, _, body in (one.partition(b"\r\n\r\n") for one in split(answers))
    )
    assert json.loads(first[1])["accepted"] == json.loads(second[1])["duplicates"] == 1
    assert (second[0] | {b"connection: close"}, second[1]) == last
    assert {b"http/1.1 202 accepted", b"content-type: application/json"} < first[0]
    assert b"content-length: %d" % len(first[1]) in first[0]
    assert any(line.startswith(b"date: ") for line in first[0])


async def test_requests_leave_nothing_to_the_collector() -> None:
    """A request that its own scope holds is freed by the collector alone, which stops the node."""
    gc.collect()
    before = sum(isinstance(one, RequestResponseCycle) for one in gc.get_objects())
    gc.disable()
    try:
        async with serving(FakeNode()) as address:
            for number in range(20):
                await talk(address, post(json.dumps(event(id=str(number))).encode()))
            left = sum(isinstance(one, RequestResponseCycle) for one in gc.get_objects())
    finally:
        gc.enable()
    assert left - before <= 1


async def test_a_body_without_a_length_over_a_socket() -> None:
    """Chunked, and refused as soon as it is too much: not read to its end."""
    node = FakeNode()
    node.max_request_bytes = 1_000
    async with serving(node) as address:
        first = post(b"", "Transfer-Encoding: chunked")
        answer = await talk(address, first, b"3e9\r\n" + b" " * 1_001 + b"\r\n")

    assert answer.startswith(b"HTTP/1.1 413 ")


async def test_lines_are_answered_while_they_are_sent() -> None:
    node = FakeNode()
    async with serving(node) as address:
        reader, writer = await asyncio.open_connection(address.host, address.port)
        writer.write(post(b"", "Transfer-Encoding: chunked", kind="application/x-ndjson"))
        for n in range(2):
            body = lines(*[event(500 * n + m) for m in range(500)])
            writer.write(b"%x\r\n%b\r\n" % (len(body), body))
            await reader.readuntil(b'{"first":%d,"count":500,"status":202,' % (500 * n))
        writer.write(b"0\r\n\r\n")
        await reader.readuntil(b"\r\n0\r\n\r\n")
        writer.close()

    assert len(node.accepted) == 1_000


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"nonsense\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nX: " + b"x" * MAX_HEADER_BYTES + b"\r\n\r\n",
        b"GET /" + b"x" * MAX_HEADER_BYTES + b" HTTP/1.1\r\n\r\n",
        b"GET /" + b"\xff HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"CONNECT localhost:80 HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"CONNECT http://localhost/livez HTTP/1.1\r\nHost: localhost\r\n\r\n" + ALIVE,
    ],
    ids=["nonsense", "long header", "long line", "not ascii", "connect", "connect to a path"],
)
async def test_what_is_not_http_is_hung_up_on(request_bytes: bytes) -> None:
    async with serving(FakeNode()) as address:
        answer = await talk(address, request_bytes)
        assert answer.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 404 "))

        assert (await talk(address, ALIVE)).endswith(b'{"alive":true}')


async def test_a_name_is_all_of_its_addresses() -> None:
    async with serving(FakeNode(), "localhost") as address:
        assert (await talk(Address("127.0.0.1", address.port), ALIVE)).endswith(b"}")


async def test_all_addresses_have_the_same_port(monkeypatch: pytest.MonkeyPatch) -> None:
    """And one of a kind that this machine has not is left out."""
    ours = ["127.0.0.1", "192.0.2.1", "127.0.0.2"]
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, 0)) for host in ours]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_args, **_more: found)
    async with serving(FakeNode(), "two.example") as address:
        monkeypatch.undo()
        for host in ("127.0.0.1", "127.0.0.2"):
            assert (await talk(Address(host, address.port), ALIVE)).endswith(b'{"alive":true}')


async def test_a_proxy_is_not_believed() -> None:
    """Who may is decided by who is connected, not by what they say of others."""
    async with serving(FakeNode()) as address:
        said = ALIVE.replace(b"/livez", b"/v1/stats").replace(
            b"Connection", b"X-Forwarded-For: 192.0.2.7\r\nConnection"
        )
        assert (await talk(address, said)).startswith(b"HTTP/1.1 200 ")


async def test_a_port_that_is_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"can't listen on 127.0.0.1:{port}: .* in use"):
            await Server(make_app(FakeNode()), "127.0.0.1", port).start()


@pytest.mark.parametrize("host", ["192.0.2.1", "no-such-host.invalid"])
async def test_an_address_that_is_not_ours(host: str) -> None:
    with pytest.raises(ConfigError, match=f"can't listen on {host}:0"):
        await Server(make_app(FakeNode()), host, 0).start()


class Waits(FakeNode):
    """Accepts once it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = asyncio.Event()
        self.told = asyncio.Event()

    async def accept(self, events: Sequence[Event], *, principal: str, park: bool = False) -> Any:
        self.asked.set()
        await self.told.wait()
        return await super().accept(events, principal=principal, park=park)


async def test_stopping_lets_requests_finish() -> None:
    node = Waits()
    server = Server(make_app(node), "127.0.0.1", 0)
    address = await server.start()
    asking = asyncio.create_task(talk(address, post(json.dumps(event()).encode())))
    await node.asked.wait()
    stopping = asyncio.create_task(server.stop(10.0))
    node.told.set()

    assert (await asking).startswith(b"HTTP/1.1 202 ")
    await stopping
    await server.stop(10.0)  # twice does nothing


async def test_stopping_waits_no_longer_than_it_is_told() -> None:
    """What it was about may be stored or not, so the sender is told to send again."""
    node = Waits()
    server = Server(make_app(node), "127.0.0.1", 0)
    address = await server.start()
    asking = asyncio.create_task(talk(address, post(json.dumps(event()).encode())))
    await node.asked.wait()
    await server.stop(0.05)

    answer = await asking
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b"retry-after: 5" in answer
