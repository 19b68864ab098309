"""Both clients against a server on loopback that answers by script."""

from __future__ import annotations

import asyncio
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest

from eventflow import AsyncClient, Client, Event, NodeUnavailable, QueueFull, Unauthorized

if TYPE_CHECKING:
    from collections.abc import Iterator

    from eventflow.engine.protocol import Receipt


class Script(ThreadingHTTPServer):
    """Answers requests with the statuses it is given, then accepts; keeps what came."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answering)
        self.refusals: list[int] = []
        self.ids: list[list[str]] = []
        self.connections: set[Any] = set()
        self.tokens: set[str | None] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Answering(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Script

    def do_POST(self) -> None:
        lines = self.rfile.read(int(self.headers["content-length"])).splitlines()
        self.server.ids.append([json.loads(line)["id"] for line in lines])
        self.server.connections.add(self.client_address)
        self.server.tokens.add(self.headers["authorization"])
        if self.server.refusals:
            status = self.server.refusals.pop(0)
            self._say(status, "application/problem+json", {"status": status, "detail": "no"})
            return
        events = [{"ref": f"r{i}", "duplicate": False} for i in range(len(lines))]
        chunk = {"first": 0, "count": len(lines), "status": 202, "events": events}
        self._say(200, "application/x-ndjson", chunk | {"accepted": len(lines), "duplicates": 0})

    def _say(self, status: int, kind: str, members: dict[str, Any]) -> None:
        body = json.dumps(members).encode() + b"\n"
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        if status in {429, 503}:
            self.send_header("retry-after", "3")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def node() -> Iterator[Script]:
    with Script() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def _sleeping_by(client: Any, sleep: Any) -> None:
    client._sleep = sleep  # noqa: SLF001  # tests don't wait


def _blocking(
    url: str, *calls: list[Event], **given: Any
) -> tuple[list[list[Receipt]], list[float]]:
    slept: list[float] = []
    with Client(url, **given) as client:
        _sleeping_by(client, slept.append)
        return [client.publish_many(events) for events in calls], slept


def _awaiting(
    url: str, *calls: list[Event], **given: Any
) -> tuple[list[list[Receipt]], list[float]]:
    slept: list[float] = []

    async def sleep(delay_s: float) -> None:
        slept.append(delay_s)

    async def run() -> list[list[Receipt]]:
        async with AsyncClient(url, **given) as client:
            _sleeping_by(client, sleep)
            return [await client.publish_many(events) for events in calls]

    return asyncio.run(run()), slept


both = pytest.mark.parametrize("publish", [_blocking, _awaiting])


def _events(count: int) -> list[Event]:
    return [Event(type="a.b", source="/s", data={"n": n}) for n in range(count)]


@both
def test_a_refused_request_is_sent_again_under_the_same_ids(node: Script, publish: Any) -> None:
    node.refusals = [503, 429]
    events = _events(3)
    receipts, slept = publish(node.url, events)
    assert [one.ref for one in receipts[0]] == ["r0", "r1", "r2"]
    assert node.ids == [[event.id for event in events]] * 3
    assert len(slept) == 2
    assert min(slept) >= 3, "Retry-After says 3 s"


@both
def test_patience_ends_and_nothing_was_stored(node: Script, publish: Any) -> None:
    node.refusals = [429] * 5
    with pytest.raises(QueueFull):
        publish(node.url, _events(1), wait_s=0)
    assert len(node.ids) == 1


@both
def test_a_wrong_token_is_not_tried_again(node: Script, publish: Any) -> None:
    node.refusals = [401] * 5
    with pytest.raises(Unauthorized, match="does not know this token"):
        publish(node.url, _events(1), token="wrong")
    assert len(node.ids) == 1
    assert node.tokens == {"Bearer wrong"}


@both
def test_what_was_accepted_before_an_error_is_said(node: Script, publish: Any) -> None:
    events = _events(1_200)

    def made() -> Iterator[Event]:
        for event in events:
            if node.ids:
                node.refusals = [401]
            yield event

    with pytest.raises(Unauthorized) as caught:
        publish(node.url, made())
    accepted = sum(len(ids) for ids in node.ids[:-1])
    assert 0 < accepted < len(events)
    assert any(f"first {accepted} events" in note for note in caught.value.__notes__)


@both
def test_the_connection_is_used_again(node: Script, publish: Any) -> None:
    publish(node.url, _events(1), _events(1), _events(1))
    assert len(node.ids) == 3
    assert len(node.connections) == 1


@both
def test_nobody_there_is_said_with_the_address(node: Script, publish: Any) -> None:
    with pytest.raises(NodeUnavailable, match=r"127\.0\.0\.1:1: no node answers"):
        publish("http://127.0.0.1:1", _events(1), wait_s=0)
