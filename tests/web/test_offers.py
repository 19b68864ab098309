"""Senders that offer another protocol (HTTP/2, WebSocket) are served by the one they have."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from tests.web.fake import FakeNode
from tests.web.samples import event
from tests.web.test_quick import STRUCTURED, Sender, connected

pytestmark = pytest.mark.slow

# As java.net.http.HttpClient and `curl --http2` do it on http://.
H2C = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQ")
WEBSOCKET = ("Connection: keep-alive, Upgrade", "Upgrade: websocket")


def body(id: str) -> bytes:
    return json.dumps(event(id=id, data={"name": "Ada"})).encode()


def data(node: FakeNode) -> dict[str, Any]:
    return {one.id: one.data for one in node.accepted}


@pytest.mark.parametrize("offer", [H2C, WEBSOCKET])
async def test_their_bodies_are_read(offer: tuple[str, ...]) -> None:
    node = FakeNode()
    async with connected(node) as (sender, _):
        for number in range(3):  # on one connection
            answer = await sender.ask(body(f"{number}"), *offer)
            assert answer[0] == 202, answer
            assert "upgrade" not in answer[1].get("connection", "")
        binary = "Ce-Id: b", "Ce-Source: /s", "Ce-Specversion: 1.0", "Ce-Type: t"
        assert (await sender.ask(b"hello", *offer, *binary, kind="text/plain"))[0] == 202
        many = b"[" + body("c") + b"," + body("d") + b"]"
        batch = await sender.ask(many, *offer, kind="application/cloudevents-batch+json")
        assert batch[2]["accepted"] == 2
        assert (await sender.ask(body("e")))[0] == 202
    ada = {"name": "Ada"}
    assert data(node) == {"0": ada, "1": ada, "2": ada, "b": "hello", "c": ada, "d": ada, "e": ada}


async def test_whole_or_in_pieces_and_one_behind_the_other() -> None:
    sent = Sender(*[None, _Kept()])  # type: ignore[arg-type]  # to have its bytes
    for number in range(3):
        sent.send(body(f"{number}"), *H2C)
    stream = sent.writer.kept  # type: ignore[attr-defined]
    for size in (len(stream), 100, 7):
        node = FakeNode()
        async with connected(node) as (sender, _):
            for at in range(0, len(stream), size):
                sender.writer.write(stream[at : at + size])
                if size < 100:
                    await asyncio.sleep(0)  # each piece a read, or nearly
            answers = [await sender.answer() for _ in range(3)]
        assert [status for status, _, _ in answers] == [202] * 3
        assert data(node) == {f"{number}": {"name": "Ada"} for number in range(3)}


class _Kept:
    def __init__(self) -> None:
        self.kept = b""

    def write(self, more: bytes) -> None:
        self.kept += more


async def test_in_chunks_and_what_follows_them_is_no_header() -> None:
    node = FakeNode()
    async with connected(node) as (sender, _):
        sent = body("1")
        for offer in ((), H2C):
            head = [
                "POST /v1/events HTTP/1.1",
                *offer,
                "Host: localhost",
                f"Content-Type: {STRUCTURED}",
                "Transfer-Encoding: chunked",
            ]
            trailer = b"Content-Encoding: gzip\r\nAuthorization: Bearer x\r\n\r\n"
            chunk = b"%x\r\n%s\r\n0\r\n" % (len(sent), sent)
            sender.writer.write("\r\n".join(head).encode() + b"\r\n\r\n" + chunk + trailer)
            assert (await sender.answer())[0] == 202
    assert data(node) == {"1": {"name": "Ada"}}


async def test_what_they_ask_for_otherwise_is_kept() -> None:
    """Of `Connection` only the offer is taken away."""
    node = FakeNode()
    async with connected(node) as (sender, _):
        offer = ("Connection: close, Upgrade", "Upgrade: h2c")
        status, headers, _ = await sender.ask(body("1"), *offer)
        assert (status, headers["connection"]) == (202, "close")
        assert await sender.reader.read() == b""


async def test_the_bound_of_headers_is_that_of_others() -> None:
    async with connected(FakeNode()) as (sender, _):
        for offer in ((), ("Upgrade: h2c",)):
            fill = "," * 64_000
            status, _, _ = await sender.ask(
                body("1"), f"Connection: keep-alive, Upgrade{fill}", *offer
            )
            assert status == 202
