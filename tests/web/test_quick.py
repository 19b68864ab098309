"""Requests answered without a task of their own say what all others say, whatever happens."""

from __future__ import annotations

import asyncio
import gc
import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
import uvloop
from tests.web.fake import FakeNode
from tests.web.samples import event
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from eventflow.config.secret import Secret
from eventflow.config.settings import Token
from eventflow.errors import EngineUnavailable, InvalidEvent, QueueFull, Unroutable
from eventflow.web.server import Server, make_app

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from eventflow.engine.protocol import Receipt
    from eventflow.event import Event

pytestmark = pytest.mark.slow

STRUCTURED = "application/cloudevents+json"


class Sender:
    """A connection that is kept."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, body: bytes, *headers: str, kind: str = STRUCTURED, path: str = "") -> None:
        lines = [
            f"POST {path or '/v1/events'} HTTP/1.1",
            *headers,
            "Host: localhost",
            f"Content-Type: {kind}",
            f"Content-Length: {len(body)}",
        ]
        self.writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + body)

    async def answer(self) -> tuple[int, dict[str, str], Any]:
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = dict(line.split(": ", 1) for line in head[1:] if line)
        body = await self.reader.readexactly(int(headers["content-length"]))
        return int(head[0].split()[1]), headers, json.loads(body)

    async def ask(self, *args: Any, **named: Any) -> tuple[int, dict[str, str], Any]:
        self.send(*args, **named)
        return await self.answer()


@asynccontextmanager
async def connected(node: FakeNode) -> AsyncIterator[tuple[Sender, Server]]:
    server = Server(make_app(node), "127.0.0.1", 0)
    address = await server.start()
    sender = Sender(*await asyncio.open_connection(address.host, address.port))
    try:
        yield sender, server
    finally:
        sender.writer.close()
        await server.stop(1.0)


def body(**attributes: Any) -> bytes:
    return json.dumps(event(**attributes)).encode()


async def test_it_is_answered_as_the_others_are() -> None:
    node = FakeNode()
    async with connected(node) as (sender, _):
        quick = await sender.ask(body(id="1"))
        again = await sender.ask(body(id="1"), kind=f"{STRUCTURED}; charset=UTF-8")
        assert node.offered == 2
        batch = b"[" + body(id="1") + b"]"
        ordinary = await sender.ask(batch, kind="application/cloudevents-batch+json")
        assert node.offered == 2
    assert quick[2]["accepted"] == 1
    assert again[2] == ordinary[2]
    assert again[2]["duplicates"] == 1
    assert (again[0], again[1].keys()) == (ordinary[0], ordinary[1].keys())
    assert node.principals == ["local"] * 3


EMPTY_KIND = "Content-Type:"
"""Said first: the first one counts."""
READER = Token(name="reader", secret=Secret("s" * 32), role="read")


@pytest.mark.parametrize(
    ("sent", "headers", "node", "status"),
    [
        (b"{}", (), {}, 400),
        (body(id=""), (), {}, 400),
        (body(), (), {"tokens": [READER]}, 401),
        (body(), (f"Authorization: Bearer {'s' * 32}",), {"tokens": [READER]}, 403),
        (body(), ("Content-Encoding: gzip",), {}, 415),
        (body(), (EMPTY_KIND,), {}, 415),
        (body(), ("Origin: https://elsewhere.example",), {}, 403),
        (body(), (), {"max_event_bytes": 10}, 413),
        (body(), (), {"max_request_bytes": 10}, 413),
        (body(), (), {"stopping": True}, 503),
    ],
)
async def test_what_is_refused_at_once_is_refused_in_the_ordinary_way(
    sent: bytes, headers: tuple[str, ...], node: dict[str, Any], status: int
) -> None:
    fake = FakeNode()
    for name, value in node.items():
        setattr(fake, name, value)
    async with connected(fake) as (sender, _):
        quick = await sender.ask(sent, *headers)
        counted = fake.counted.copy()
        ordinary = await sender.ask(sent, *headers, "Connection: close")
    assert quick[0] == ordinary[0] == status
    assert quick[2] == ordinary[2]
    assert (fake.offered, fake.accepted) == (0, [])
    assert fake.counted == counted + counted
    assert sum(counted.values()) == 1


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (QueueFull("common", 10, 3.0), 429),
        (EngineUnavailable("the disk is full"), 503),
        (InvalidEvent(["data: expected an order"]), 400),
        (Unroutable("x"), 422),
        (RuntimeError("a fault of ours"), 500),
    ],
)
async def test_what_the_node_refuses_later_is_refused_in_the_ordinary_way(
    error: Exception, status: int
) -> None:
    node = FakeNode()
    node.fails = error
    async with connected(node) as (sender, _):
        quick = await sender.ask(body())
        assert node.offered == 1
        ordinary = await sender.ask(body(), "Connection: close")
        assert node.offered == 1
    assert quick[0] == ordinary[0] == status
    assert quick[2] == ordinary[2]
    assert quick[1].get("retry-after") == ordinary[1].get("retry-after")


async def test_a_node_that_does_not_take_them_so_is_asked_in_the_ordinary_way() -> None:
    class Gathers(FakeNode):
        def offer(self, *_: Any, **__: Any) -> bool:
            return False

    node = Gathers()
    async with connected(node) as (sender, _):
        assert (await sender.ask(body()))[2]["accepted"] == 1


async def test_what_a_node_refuses_as_it_is_offered() -> None:
    class Full(FakeNode):
        def offer(self, *_: Any, **__: Any) -> bool:
            raise QueueFull("storage", 10, 3.0)

    node = Full()
    node.fails = QueueFull("storage", 10, 3.0)
    async with connected(node) as (sender, _):
        assert (await sender.ask(body()))[0] == 429
    assert node.counted == {"full": 1}


async def test_bodies_in_pieces_and_requests_one_behind_the_other() -> None:
    node = FakeNode()
    async with connected(node) as (sender, _):
        whole = body(id="1")
        sender.send(whole[:9], f"X-Length: {len(whole)}")
        sender.writer.transport.abort()
        await asyncio.sleep(0.01)
    assert node.accepted == []

    async with connected(node) as (sender, _):
        request = b"POST /v1/events HTTP/1.1\r\nHost: localhost\r\nContent-Type: %s\r\n"
        request = request % STRUCTURED.encode() + b"Content-Length: %d\r\n\r\n" % len(whole)
        for piece in (request, whole[:9], whole[9:]):
            sender.writer.write(piece)
            await asyncio.sleep(0.01)
        assert (await sender.answer())[2]["accepted"] == 1
        assert node.offered == 0  # its body was still to come when its head had

        for number in range(2, 6):
            sender.send(body(id=str(number)))
        answers = [await sender.answer() for _ in range(4)]
        assert [one[2]["events"][0]["id"] for one in answers] == ["2", "3", "4", "5"]
        assert node.offered == 4


async def test_a_sender_that_asks_first_is_told_to_go_on() -> None:
    node = FakeNode()
    async with connected(node) as (sender, _):
        sent = body()
        head = "POST /v1/events HTTP/1.1", "Host: localhost", "Expect: 100-continue"
        kind = f"Content-Type: {STRUCTURED}", f"Content-Length: {len(sent)}", "", ""
        sender.writer.write("\r\n".join((*head, *kind)).encode())
        assert (await sender.reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 100 ")
        sender.writer.write(sent)
        assert (await sender.answer())[0] == 202
    assert node.offered == 0


def cycles() -> int:
    return sum(isinstance(one, RequestResponseCycle) for one in gc.get_objects())


class Slow(FakeNode):
    """Says what came of an event once it is let."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = asyncio.Event()
        self.waiting: list[Callable[[], bool]] = []

    def offer(
        self, event: Event, told: Callable[[Receipt | Exception], None], *, principal: str
    ) -> bool:
        super_offer = super().offer
        self.waiting.append(lambda: super_offer(event, told, principal=principal))
        self.asked.set()
        return True


async def test_a_stop_waits_for_it_and_hangs_up_behind_the_answer() -> None:
    node = Slow()
    async with connected(node) as (sender, server):
        sender.send(body())
        await node.asked.wait()
        stopping = asyncio.create_task(server.stop(10.0))
        await asyncio.sleep(0.2)  # the server looks ten times a second whether it is to stop
        node.waiting[0]()
        status, headers, answer = await sender.answer()
        assert (status, answer["accepted"], headers["connection"]) == (202, 1, "close")
        assert await sender.reader.read() == b""
        await stopping


async def test_a_stop_waits_no_longer_than_it_is_told() -> None:
    node = Slow()
    async with connected(node) as (sender, server):
        sender.send(body())
        await node.asked.wait()
        await server.stop(0.05)
        status, headers, _ = await sender.answer()
        assert (status, headers["retry-after"]) == (503, "5")
        node.waiting[0]()  # too late: nobody listens, and nothing breaks
        await asyncio.sleep(0.01)
    assert len(node.accepted) == 1


async def test_who_hangs_up_takes_nothing_from_the_others() -> None:
    node = Slow()
    async with connected(node) as (sender, server):
        sender.send(body(id="1"))
        await node.asked.wait()
        sender.writer.transport.abort()
        await asyncio.sleep(0.01)
        node.waiting.pop()()
        node.asked.clear()
        host, port = server.url.removeprefix("http://").split(":")
        other = Sender(*await asyncio.open_connection(host, int(port)))
        other.send(body(id="2"))
        await node.asked.wait()
        node.waiting.pop()()
        assert (await other.answer())[0] == 202
        other.writer.close()
    assert [one.id for one in node.accepted] == ["1", "2"]


async def test_a_stop_answers_what_has_come_in_part_behind_another() -> None:
    node = Slow()
    async with connected(node) as (sender, server):
        sender.send(body(id="1"))
        sender.writer.write(b"POST /v1/events HTTP/1.1\r\nHost: localhost\r\n")
        sender.writer.write(f"Content-Type: {STRUCTURED}\r\n".encode())
        sender.writer.write(b"Content-Length: 100\r\n\r\n{")
        await node.asked.wait()
        node.waiting[0]()
        assert (await sender.answer())[0] == 202
        await server.stop(0.05)
        assert (await sender.answer())[0] == 503


async def test_a_fault_of_ours_is_told_as_one() -> None:
    class Broken(FakeNode):
        def offer(self, *_: Any, **__: Any) -> bool:
            raise ValueError("a fault of ours")

    node = Broken()
    node.fails = ValueError("a fault of ours")
    async with connected(node) as (sender, _):
        sender.send(body(id="1"))
        sender.send(body(id="2"))
        answers = [await sender.answer() for _ in range(2)]
    assert [status for status, _, _ in answers] == [500, 500]
    assert node.counted == {"unavailable": 2}


@pytest.mark.parametrize(("fails", "status"), [(None, 202), (QueueFull("common", 10, 3.0), 429)])
async def test_who_was_let_in_is_answered_though_tokens_have_changed(
    fails: Exception | None, status: int
) -> None:
    node = Slow()
    node.tokens = [Token(name="shop", secret=Secret("s" * 32), role="publish")]
    async with connected(node) as (sender, server):
        sender.send(body(), f"Authorization: Bearer {'s' * 32}")
        await node.asked.wait()
        node.tokens = [Token(name="shop", secret=Secret("t" * 32), role="publish")]
        node.fails = fails
        stopping = asyncio.create_task(server.stop(10.0))
        await asyncio.sleep(0.2)
        node.waiting[0]()
        assert (await sender.answer())[0] == status
        await stopping


async def test_what_is_refused_is_counted_though_nobody_listens() -> None:
    node = Slow()
    node.fails = QueueFull("common", 10, 3.0)
    async with connected(node) as (sender, _):
        sender.send(body())
        await node.asked.wait()
        sender.writer.transport.abort()
        await asyncio.sleep(0.01)
        node.waiting[0]()
        await asyncio.sleep(0.01)
    assert node.counted == {"full": 1}


async def test_a_body_is_not_kept_while_a_connection_rests() -> None:
    async with connected(FakeNode()) as (sender, _):
        assert (await sender.ask(body(data="x" * 100_000)))[0] == 202
        cycles = [one for one in gc.get_objects() if isinstance(one, RequestResponseCycle)]
        assert max(len(cycle.body) for cycle in cycles) == 0


async def test_who_hangs_up_leaves_nothing_to_the_collector() -> None:
    node = Slow()
    gc.collect()
    before = cycles()
    gc.disable()
    try:
        async with connected(node) as (_, server):
            host, port = server.url.removeprefix("http://").split(":")
            for number in range(20):
                node.asked.clear()
                other = Sender(*await asyncio.open_connection(host, int(port)))
                other.send(body(id=str(number)))
                await node.asked.wait()
                other.writer.transport.abort()
                await asyncio.sleep(0.001)
                node.waiting.pop()()
            await asyncio.sleep(0.01)
            assert cycles() - before <= 1
    finally:
        gc.enable()


class Full(FakeNode):
    async def accept(self, *_: Any, **__: Any) -> Any:
        raise QueueFull("common", 10, 3.0)


@pytest.mark.parametrize(("node", "status"), [(FakeNode, 202), (Full, 429)])
async def test_it_leaves_nothing_to_the_collector(node: type[FakeNode], status: int) -> None:
    gc.collect()
    before = cycles()
    gc.disable()
    try:
        async with connected(node()) as (sender, _):
            for number in range(20):
                assert (await sender.ask(body(id=str(number))))[0] == status
            assert cycles() - before <= 1
        await asyncio.sleep(0)
        assert cycles() - before <= 1
    finally:
        gc.enable()


@pytest.mark.parametrize("kind", [STRUCTURED, "application/cloudevents-batch+json"])
def test_who_hangs_up_with_requests_behind_the_first_breaks_nothing(
    kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    class Late(FakeNode):
        asked: asyncio.Event
        goes_on: asyncio.Event

        async def accept(self, *args: Any, **named: Any) -> Sequence[Receipt]:
            if self.accepted:  # the second one: with the first, nothing more is read
                self.asked.set()
                await self.goes_on.wait()
            return await super().accept(*args, **named)

    async def story() -> tuple[list[str], list[dict[str, Any]], dict[str, int]]:
        node = Late()
        node.asked, node.goes_on = asyncio.Event(), asyncio.Event()
        faults: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, fault: faults.append(fault))
        async with connected(node) as (sender, server):
            for number in range(3):
                sent = body(id=str(number))
                sender.send(sent if kind == STRUCTURED else b"[" + sent + b"]", kind=kind)
            sender.writer.close()
            await node.asked.wait()
            await asyncio.sleep(0.05)
            node.goes_on.set()
            await asyncio.sleep(0.01)
            await server.stop(1.0)
        return [one.id for one in node.accepted], faults, node.counted

    # The loop of a node: asyncio's own says nothing where it writes to who has hung up.
    assert uvloop.run(story()) == (["0", "1"], [], {})
    assert not caplog.records
