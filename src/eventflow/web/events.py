"""The way in by HTTP: `POST /v1/events` in every content mode of CloudEvents.

    Content-Type                          what the body is             how much is all or nothing
    application/cloudevents+json          an event                     the request
    application/cloudevents-batch+json    an array of events           the request
    any, with ce-* headers                an event's data              the request
    application/x-ndjson                  an event a line, no end      a chunk of 500 lines

It is read, decoded and answered without Starlette's request and response, which cost a quarter
of the time. 202 is only said once the node has said that the events are durable.
"""

from __future__ import annotations

import asyncio
from itertools import count
from typing import TYPE_CHECKING, Any

import msgspec

from eventflow.cloudevents import (
    decode_batch,
    decode_binary,
    decode_lines,
    decode_plainly,
    decode_structured,
)
from eventflow.errors import InvalidEvent, TooLarge, Unroutable
from eventflow.web.call import WHOLE, ClientGone
from eventflow.web.lines import Chunk, Lines
from eventflow.web.problem import Problem, Refusal, unavailable

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from eventflow.engine.protocol import Receipt
    from eventflow.event import Event
    from eventflow.web.call import Call
    from eventflow.web.node import Node

MAX_EVENTS = 1_000
"""Events of a request. Lines have no such limit."""

SEND_TIMEOUT_S = 30.0
"""How long a sender of lines may leave the answer unread, once all buffers are full."""

STRUCTURED = b"application/cloudevents+json"
BATCH = b"application/cloudevents-batch+json"
LINES = b"application/x-ndjson"

_ATTRIBUTES_BYTES = 64  # what `Event.size_bytes` adds for what every event has

_JSON_HEADERS = (
    (b"content-type", b"application/json"),
    (b"cache-control", b"no-store"),
    (b"x-content-type-options", b"nosniff"),
)
_JSON_HEAD = (
    b"".join(name + b": " + value + b"\r\n" for name, value in _JSON_HEADERS)
    + b"content-length: %d\r\n"
)
_LINES_HEADERS = ((b"content-type", LINES), *_JSON_HEADERS[1:])


class Taken(msgspec.Struct, frozen=True, gc=False):
    """What became of one event."""

    id: str
    ref: str | None
    duplicate: bool


class Answer(msgspec.Struct, frozen=True, gc=False):
    """What became of a request's events."""

    accepted: int
    """Without duplicates."""
    duplicates: int
    events: list[Taken]
    """In the order they were sent."""


class ChunkAnswer(msgspec.Struct, frozen=True, gc=False):
    """What became of a chunk of lines that was accepted."""

    first: int
    count: int
    """Lines, blank ones included."""
    status: int
    accepted: int
    duplicates: int
    events: list[Taken]


class ChunkRefusal(msgspec.Struct, frozen=True, gc=False):
    """What became of the chunk that ends the answer: nothing of it was stored."""

    first: int
    count: int
    status: int
    retry_after_s: int | None
    problem: dict[str, Any]


async def post_events(call: Call) -> None:
    """Accept what the request brings, and answer."""
    if call.node.stopping:
        raise Refusal(unavailable("this node is stopping; another may not be.", "stopping"))
    encoding = call.header(b"content-encoding")
    if encoding is not None and encoding.lower() != b"identity":
        raise Refusal(encoded(encoding))
    kind = (call.header(b"content-type") or b"").partition(b";")[0].strip().lower()
    structured = kind in {STRUCTURED, BATCH}
    binary = not structured and any(name.startswith(b"ce-") for name, _ in call.scope["headers"])
    if kind == LINES and not binary:
        await _post_lines(call)
    elif binary or structured:
        await _post_body(call, b"" if binary else kind)
    else:
        raise Refusal(_unknown_kind(kind))


async def _post_body(call: Call, kind: bytes) -> None:
    limit = call.node.max_request_bytes
    body = await call.body(
        limit,
        lambda size: TooLarge("body of the request, in bytes", size, limit, "[server] max_request"),
    )
    if kind == STRUCTURED:
        events = [decode_structured(body)]
    elif kind == BATCH:
        events = decode_batch(body, max_events=MAX_EVENTS)
    else:
        events = [decode_binary(call.scope["headers"], body)]
    call.events = len(events)
    if not kind or len(body) + _ATTRIBUTES_BYTES > call.node.max_event_bytes:
        check_sizes(events, call.node.max_event_bytes, count())
    await send_answer(call, msgspec.json.encode(await _accept(call, events)))


def one_event(node: Node, headers: Iterable[tuple[bytes, bytes]], body: bytes) -> Event | None:
    """Return the event of a request that brings just one, None where that needs a closer look."""
    kind = None
    for name, value in headers:
        if name == b"content-type":
            kind = value if kind is None else kind
        elif name == b"content-encoding":
            return None
    if kind is None or (
        kind != STRUCTURED and kind.partition(b";")[0].strip().lower() != STRUCTURED
    ):
        return None
    size = len(body)
    if size + _ATTRIBUTES_BYTES > node.max_event_bytes or size > node.max_request_bytes:
        return None
    return decode_plainly(body)


def head_of(answer: bytes) -> bytes:
    """Return the lines of headers, each with its end, that go before such an answer."""
    return _JSON_HEAD % len(answer)


async def send_answer(call: Call, answer: bytes) -> None:
    """Send it with 202: in one piece, if the server takes it so."""
    call.started = True
    whole = call.scope.get("extensions", {}).get(WHOLE)
    if whole is not None and whole["answer"](202, head_of(answer), answer):
        return
    headers = [*_JSON_HEADERS, (b"content-length", b"%d" % len(answer))]
    await call.send({"type": "http.response.start", "status": 202, "headers": headers})
    await call.send({"type": "http.response.body", "body": answer})


async def _accept(call: Call, events: Sequence[Event]) -> Answer:
    if not events:
        return Answer(0, 0, [])
    return _answer(events, await call.node.accept(events, principal=call.principal.name))


def answer_of(events: Sequence[Event], receipts: Sequence[Receipt]) -> bytes:
    """Return what is answered where events are accepted."""
    return msgspec.json.encode(_answer(events, receipts))


def _answer(events: Sequence[Event], receipts: Sequence[Receipt]) -> Answer:
    taken = [
        Taken(event.id, receipt.ref, receipt.duplicate)
        for event, receipt in zip(events, receipts, strict=True)
    ]
    duplicates = sum([one.duplicate for one in taken])
    return Answer(len(taken) - duplicates, duplicates, taken)


def check_sizes(events: Sequence[Event], limit: int, numbers: Iterable[int]) -> None:
    """Hold each event, attributes and all, against `[common] max_event`.

    Args:
        events: What came.
        limit: Bytes that one may have.
        numbers: What each is called in the message.

    Raises:
        TooLarge: one is larger.
    """
    for number, event in zip(numbers, events, strict=False):
        size = event.size_bytes
        if size > limit:
            what = f"event {number}, in bytes"
            raise TooLarge(what, size, limit, "[common] max_event", index=number)


# ------------------------------------------------------------------ lines


async def _post_lines(call: Call) -> None:
    """Accept chunk by chunk; the first refused one ends the answer, and the reading."""
    lines = Lines(call.node.max_request_bytes)
    async for data in call.chunks():
        for chunk in lines.feed(data):
            if not await _post_chunk(call, chunk):
                return
    for chunk in lines.end():
        if not await _post_chunk(call, chunk):
            return
    if not call.started:
        await _start_lines(call)
    await call.send({"type": "http.response.body"})


async def _post_chunk(call: Call, chunk: Chunk) -> bool:
    """Accept a chunk and answer its line; False if it was refused."""
    call.events = len(chunk.lines)
    try:
        answer = await _accept_chunk(call, chunk)
    except Exception as error:
        if not call.started:
            raise  # an ordinary problem: nothing of the request was stored
        await _refuse_chunk(call, chunk, call.failed(error))
        return False
    if not call.started:
        await _start_lines(call)
    await _send_line(call, answer, more=True)
    return True


async def _accept_chunk(call: Call, chunk: Chunk) -> ChunkAnswer:
    if call.node.stopping:
        raise Refusal(unavailable("this node is stopping; another may not be.", "stopping"))
    first, lines, limit = chunk.first, chunk.lines, call.node.max_request_bytes
    if chunk.overlong:
        size = chunk.overlong
        raise TooLarge(f"line {first}, in bytes (so far)", size, limit, "[server] max_request")
    events = decode_lines(lines, first)
    numbers = [number for number, line in enumerate(lines, first) if line and not line.isspace()]
    if sum(map(len, lines)) + _ATTRIBUTES_BYTES > call.node.max_event_bytes:
        check_sizes(events, call.node.max_event_bytes, numbers)
    try:
        done = await _accept(call, events)
    except (InvalidEvent, Unroutable) as error:
        raise _numbered(error, numbers) from error
    return ChunkAnswer(first, len(lines), 202, done.accepted, done.duplicates, done.events)


def _numbered(error: InvalidEvent | Unroutable, numbers: Sequence[int]) -> Exception:
    """Return the error with the number of the line, where it has that of the event."""
    number = numbers[error.index or 0]
    if isinstance(error, InvalidEvent):
        return InvalidEvent(error.problems, index=number)
    return Unroutable(error.type, index=number)


async def _refuse_chunk(call: Call, chunk: Chunk, problem: Problem) -> None:
    refusal = ChunkRefusal(
        chunk.first, len(chunk.lines), problem.status, problem.retry_after_s, problem.members()
    )
    await _send_line(call, refusal, more=False)


async def _start_lines(call: Call) -> None:
    call.started = True
    headers = list(_LINES_HEADERS)
    await call.send({"type": "http.response.start", "status": 200, "headers": headers})


async def _send_line(call: Call, answer: ChunkAnswer | ChunkRefusal, *, more: bool) -> None:
    body = msgspec.json.encode(answer) + b"\n"
    try:
        # A sender that never reads would otherwise hold its connection, and itself, for ever.
        async with asyncio.timeout(SEND_TIMEOUT_S):
            await call.send({"type": "http.response.body", "body": body, "more_body": more})
    except TimeoutError as error:
        raise ClientGone from error


# ------------------------------------------------------------------ refusals


def _unknown_kind(kind: bytes) -> Problem:
    got = repr(kind.decode("latin-1")[:80]) if kind else "none"
    return Problem(
        status=415,
        code="unsupported-media-type",
        title="Not a kind of body that brings events",
        detail=(
            f"expected Content-Type {STRUCTURED.decode()}, {BATCH.decode()} or {LINES.decode()}, "
            f"or the event's attributes as ce-* headers; got {got}. Nothing was stored."
        ),
        reason="invalid",
        headers={"accept": b", ".join((STRUCTURED, BATCH, LINES)).decode()},
    )


def encoded(encoding: bytes) -> Problem:
    """Return the problem of a body that is compressed."""
    return Problem(
        status=415,
        code="unsupported-encoding",
        title="Not with this Content-Encoding",
        detail=(
            f"expected a body that is not compressed, got {encoding.decode('latin-1')[:80]!r}. "
            "Nothing was stored; send it as it is."
        ),
        reason="invalid",
        headers={"accept-encoding": "identity"},
    )
