"""Events by the line: chunks of 500, each all or nothing, and where to resume."""

from __future__ import annotations

import asyncio
import json
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.web.samples import LINES, event, lines

from eventflow.errors import InvalidEvent, QueueFull, Unroutable
from eventflow.web.asgi import make_app
from eventflow.web.lines import Lines

if TYPE_CHECKING:
    from collections.abc import Sequence

    from starlette.types import Message
    from tests.web.client import Client
    from tests.web.fake import FakeNode


# ------------------------------------------------------------------ cutting


@given(
    st.lists(st.binary(max_size=6).map(lambda text: text.replace(b"\n", b"")), max_size=12),
    st.lists(st.integers(0, 60), max_size=6),
    st.integers(1, 4),
    st.integers(6, 12),
)
def test_no_line_is_lost_whichever_way_they_come(
    texts: list[bytes], cuts: list[int], max_lines: int, max_bytes: int
) -> None:
    whole = b"".join(text + b"\n" for text in texts)
    edges = [0, *sorted(min(cut, len(whole)) for cut in cuts), len(whole)]
    cutter = Lines(max_bytes, max_lines)
    chunks = [chunk for a, b in pairwise(edges) for chunk in cutter.feed(whole[a:b])]
    chunks += cutter.end()

    assert [line for chunk in chunks for line in chunk.lines] == texts
    firsts = [sum(len(before.lines) for before in chunks[:n]) for n in range(len(chunks))]
    assert [chunk.first for chunk in chunks] == firsts
    assert all(0 < len(chunk.lines) <= max_lines for chunk in chunks)
    assert all(sum(map(len, chunk.lines)) <= max_bytes for chunk in chunks)


def test_the_last_line_needs_no_end() -> None:
    cutter = Lines(10)

    assert cutter.feed(b"a\nb") == []
    assert [chunk.lines for chunk in cutter.end()] == [[b"a", b"b"]]


@pytest.mark.parametrize("piece", [b"x" * 11, b"x" * 11 + b"\nmore\n"])
def test_a_line_that_is_too_long_comes_last_and_without_its_text(piece: bytes) -> None:
    first, last = Lines(10).feed(b"a\n" + piece)

    assert (first.lines, first.overlong) == ([b"a"], 0)
    assert (last.first, last.lines, last.overlong) == (1, [b""], 11)


def test_a_line_without_end_is_not_collected() -> None:
    """What is kept is bounded, however many small pieces it comes in."""
    cutter = Lines(10)
    pieces = [cutter.feed(b"xxx") for _ in range(4)]

    assert pieces[:3] == [[], [], []]
    assert pieces[3][0].overlong == 12


# ------------------------------------------------------------------ answering


async def test_a_line_of_answer_a_chunk(client: Client, node: FakeNode) -> None:
    body = lines(*[event(n) for n in range(1_200)])
    pieces = [body[n : n + 1_000] for n in range(0, len(body), 1_000)]

    answer = await client.send("POST", "/v1/events", pieces, LINES)

    assert (answer.status, answer.headers["content-type"]) == (200, "application/x-ndjson")
    assert node.requests == [500, 500, 200]
    assert [event.id for event in node.accepted] == [str(n) for n in range(1_200)]
    first, second, third = answer.lines()
    assert {**first, "events": len(first["events"])} == {
        "first": 0,
        "count": 500,
        "status": 202,
        "accepted": 500,
        "duplicates": 0,
        "events": 500,
    }
    assert second["events"][0] == {"id": "500", "ref": "ref-500", "duplicate": False}
    assert (third["first"], third["count"]) == (1_000, 200)
    assert answer.complete


async def test_no_lines(client: Client) -> None:
    answer = await client.send("POST", "/v1/events", [], LINES)

    assert (answer.status, answer.body, answer.complete) == (200, b"", True)


async def test_blank_lines_count_as_lines(client: Client, node: FakeNode) -> None:
    answer = await client.send("POST", "/v1/events", [b"\n", lines(event(1)), b"\n \n"], LINES)

    (line,) = answer.lines()
    assert (line["count"], line["accepted"], len(node.accepted)) == (4, 1, 1)


async def test_only_blank_lines(client: Client, node: FakeNode) -> None:
    answer = await client.send("POST", "/v1/events", [b"\n\n"], LINES)

    assert answer.lines()[0]["accepted"] == 0
    assert node.requests == []


async def test_the_first_chunk_refused_is_an_ordinary_problem(
    client: Client, node: FakeNode
) -> None:
    node.fails = QueueFull("common", 100, 7)
    answer = await client.post("/v1/events", lines(event(1)), **LINES)

    assert (answer.status, answer.headers["retry-after"]) == (429, "7")
    assert answer.json()["type"] == "urn:eventflow:problem:queue-full"


async def test_a_later_chunk_refused_ends_the_answer(client: Client, node: FakeNode) -> None:
    node.fails, node.fails_after = QueueFull("common", 500, 7), 1
    answer = await client.post("/v1/events", lines(*[event(n) for n in range(1_200)]), **LINES)
    accepted, refused = answer.lines()

    assert accepted["status"] == 202
    assert refused == {
        "first": 500,
        "count": 500,
        "status": 429,
        "retry_after_s": 7,
        "problem": {
            "type": "urn:eventflow:problem:queue-full",
            "title": "No room now",
            "status": 429,
            "detail": "queue 'common' is full (capacity 500); nothing was stored. Send again in "
            "7 s.",
            "retry_after_s": 7,
            "queue": "common",
            "capacity": 500,
        },
    }
    assert answer.complete
    assert node.counted == {"full": 500}


async def test_a_sender_resumes_where_it_was_told(client: Client, node: FakeNode) -> None:
    events = [event(n) for n in range(1_200)]
    node.fails, node.fails_after = QueueFull("common", 500, 7), 1
    refused = (await client.post("/v1/events", lines(*events), **LINES)).lines()[-1]
    node.fails = None
    await client.post("/v1/events", lines(*events[refused["first"] :]), **LINES)

    assert [event.id for event in node.accepted] == [str(n) for n in range(1_200)]


@pytest.mark.parametrize(
    ("bad", "problem"),
    [
        (b"{\n", "event 502: expected a JSON object, got text that ends too soon."),
        (lines(event(7, source="")), "event 502: source: expected at least one character, got ''."),
        (b'{"id": "\xff"}\n', "event 502: expected UTF-8, got byte 0xff at position 8."),
    ],
)
async def test_a_faulty_line_has_its_number(
    client: Client, node: FakeNode, bad: bytes, problem: str
) -> None:
    """Blank lines are counted; nothing of its chunk is stored."""
    body = lines(*[event(n) for n in range(500)]) + lines(event("a")) + b"\n" + bad
    _, refused = (await client.post("/v1/events", body, **LINES)).lines()

    assert (refused["status"], refused["retry_after_s"]) == (400, None)
    assert refused["problem"]["detail"].startswith(problem)
    assert refused["problem"]["errors"][0]["event"] == 502
    assert len(node.accepted) == 500


@pytest.mark.parametrize(
    ("error", "status"),
    [(InvalidEvent(["data: no"], index=1), 400), (Unroutable("a", index=1), 422)],
)
async def test_what_the_node_finds_wrong_has_the_number_of_its_line(
    client: Client, node: FakeNode, error: Exception, status: int
) -> None:
    """The node counts events; the sender counts lines."""
    node.fails = error
    answer = await client.post("/v1/events", lines(event(1)) + b"\n" + lines(event(2)), **LINES)

    assert (answer.status, answer.json()["errors"][0]["event"]) == (status, 2)


async def test_a_line_over_the_limit_of_events(client: Client, node: FakeNode) -> None:
    node.max_event_bytes = 1_000
    body = lines(event(0)) + b"\n" + lines(event(1, data="x" * 1_000))
    answer = await client.post("/v1/events", body, **LINES)

    assert answer.status == 413
    assert answer.json()["detail"].startswith("event 2, in bytes: 1")


async def test_a_line_over_the_limit_of_requests(client: Client, node: FakeNode) -> None:
    """What came before it is taken in; the whole has no limit, what is kept at once has."""
    node.max_request_bytes = 1_000
    body = lines(*[event(n) for n in range(50)]) + b"x" * 1_001
    *accepted, refused = (await client.post("/v1/events", body, **LINES)).lines()

    assert len(node.accepted) == 50
    assert [line["status"] for line in accepted] == [202] * len(accepted)
    assert all(line["count"] < 20 for line in accepted)
    assert (refused["first"], refused["count"], refused["status"]) == (50, 1, 413)
    assert refused["problem"]["detail"].startswith("line 50, in bytes (so far): 1001 is over")


async def test_a_node_that_stops_meanwhile(client: Client, node: FakeNode) -> None:
    class StopsAfterOne(type(node)):  # type: ignore[misc]  # a base only known here
        async def accept(self, events: Sequence[Any], *, principal: str) -> Any:
            self.stopping = True
            return await super().accept(events, principal=principal)

    node.__class__ = StopsAfterOne
    answer = await client.post("/v1/events", lines(*[event(n) for n in range(501)]), **LINES)

    assert [line["status"] for line in answer.lines()] == [202, 503]
    assert answer.lines()[1]["retry_after_s"] == 5


async def test_a_fault_in_a_later_chunk(
    client: Client, node: FakeNode, caplog: pytest.LogCaptureFixture
) -> None:
    node.fails, node.fails_after = RuntimeError("secret"), 1
    answer = await client.post("/v1/events", lines(*[event(n) for n in range(501)]), **LINES)

    assert answer.lines()[1]["status"] == 500
    assert b"secret" not in answer.body
    assert "RuntimeError: secret" in caplog.text


async def test_who_hangs_up_has_sent_whole_chunks_only(client: Client, node: FakeNode) -> None:
    body = lines(*[event(n) for n in range(600)])
    answer = await client.send("POST", "/v1/events", [body], LINES, hang_up=True)

    assert (len(node.accepted), answer.complete) == (500, False)


async def test_the_answer_to_a_chunk_comes_before_the_next_is_read(node: FakeNode) -> None:
    """So a sender may wait for it; and it was durable before."""
    heard: list[str] = []
    body = json.dumps(event()).encode() + b"\n"
    messages = iter([body * 500, body * 500])

    async def receive() -> Message:
        heard.append("read")
        piece = next(messages, None)
        return {"type": "http.request", "body": piece or b"", "more_body": piece is not None}

    async def send(message: Message) -> None:
        heard.append(f"{message.get('body', b'')[:11].decode()} after {len(node.requests)}")

    scope = {"type": "http", "method": "POST", "path": "/v1/events", "query_string": b""}
    headers = [(b"content-type", b"application/x-ndjson"), (b"host", b"localhost")]
    await make_app(node)({**scope, "headers": headers, "client": None}, receive, send)

    assert heard == [
        "read",
        " after 1",
        '{"first":0, after 1',
        "read",
        '{"first":50 after 2',
        "read",
        " after 2",
    ]


async def test_who_never_reads_the_answer_is_let_go(
    node: FakeNode, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("eventflow.web.events.SEND_TIMEOUT_S", 0)
    stuck = asyncio.Event()

    async def receive() -> Message:
        return {"type": "http.request", "body": lines(event()), "more_body": False}

    async def send(message: Message) -> None:
        if message["type"] == "http.response.body":
            await stuck.wait()

    scope = {"type": "http", "method": "POST", "path": "/v1/events", "query_string": b""}
    headers = [(b"content-type", b"application/x-ndjson")]

    await make_app(node)({**scope, "headers": headers, "client": None}, receive, send)

    assert len(node.accepted) == 1
    assert caplog.text == ""  # no fault of ours
