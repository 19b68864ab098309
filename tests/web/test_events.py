"""POST /v1/events: each content mode, its limits, and what is said when the answer is no."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from tests.web.client import Client
from tests.web.samples import BATCH, LINES, STRUCTURED, event

from eventflow.errors import (
    EngineUnanswered,
    EngineUnavailable,
    InvalidEvent,
    QueueFull,
    StorageUnavailable,
    TooLarge,
    Unroutable,
)
from eventflow.web.asgi import make_app

if TYPE_CHECKING:
    from starlette.types import Message
    from tests.web.fake import FakeNode

BINARY = {
    "ce-specversion": "1.0",
    "ce-id": "1",
    "ce-source": "/shop",
    "ce-type": "order.created",
    "content-type": "application/json",
}


async def test_a_structured_event(client: Client, node: FakeNode) -> None:
    answer = await client.post("/v1/events", event(1, data={"id": 7}), **STRUCTURED)

    assert answer.status == 202
    assert answer.json() == {
        "accepted": 1,
        "duplicates": 0,
        "events": [{"id": "1", "ref": "ref-0", "duplicate": False}],
    }
    assert answer.headers["content-type"] == "application/json"
    assert int(answer.headers["content-length"]) == len(answer.body)
    assert node.accepted[0].data == {"id": 7}
    assert node.principals == ["local"]


async def test_a_batch_is_one_act_and_keeps_its_order(client: Client, node: FakeNode) -> None:
    answer = await client.post("/v1/events", [event(1), event(2), event(1)], **BATCH)

    assert (answer.status, node.requests) == (202, [3])
    assert answer.json() == {
        "accepted": 2,
        "duplicates": 1,
        "events": [
            {"id": "1", "ref": "ref-0", "duplicate": False},
            {"id": "2", "ref": "ref-1", "duplicate": False},
            {"id": "1", "ref": "ref-0", "duplicate": True},
        ],
    }


async def test_an_empty_batch(client: Client, node: FakeNode) -> None:
    answer = await client.post("/v1/events", [], **BATCH)

    assert answer.json() == {"accepted": 0, "duplicates": 0, "events": []}
    assert node.requests == []


async def test_binary_mode(client: Client, node: FakeNode) -> None:
    answer = await client.send("POST", "/v1/events", [b'{"id":', b" 7}"], BINARY)

    assert answer.status == 202
    assert node.accepted[0].body == b'{"id": 7}'


async def test_lines_are_data_where_headers_say_so(client: Client, node: FakeNode) -> None:
    """Binary mode allows any Content-Type, so that of lines as well."""
    headers = BINARY | {"content-type": "application/x-ndjson"}
    answer = await client.send("POST", "/v1/events", [b"{}\n{}\n"], headers)

    assert answer.status == 202
    assert node.accepted[0].body == b"{}\n{}\n"


async def test_content_type_decides_and_not_the_headers(client: Client, node: FakeNode) -> None:
    headers = BINARY | {"content-type": "application/cloudevents+json"}
    await client.send("POST", "/v1/events", [json.dumps(event(9)).encode()], headers)

    assert node.accepted[0].id == "9"


@pytest.mark.parametrize(
    "kind", ["application/cloudevents+json; charset=utf-8", "Application/CloudEvents+JSON"]
)
async def test_content_types_in_any_case_and_with_parameters(client: Client, kind: str) -> None:
    assert (await client.post("/v1/events", event(), content_type=kind)).status == 202


# ------------------------------------------------------------------ refused: the sender's doing


async def test_an_invalid_event_refuses_the_whole_request(client: Client, node: FakeNode) -> None:
    answer = await client.post("/v1/events", [event(1), event(2, time="now"), event(3)], **BATCH)
    detail = "time: expected an RFC 3339 time such as 2026-11-24T08:00:00Z, got 'now'"

    assert answer.status == 400
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json() == {
        "type": "urn:eventflow:problem:invalid-event",
        "title": "An event is not valid",
        "status": 400,
        "detail": f"event 1: {detail}. Nothing was stored; correct the event and send the request "
        "again.",
        "errors": [{"event": 1, "detail": detail}],
    }
    assert node.accepted == []
    assert node.counted == {"invalid": 1}


@pytest.mark.parametrize(
    "headers",
    [{}, {"content_type": "application/json"}, {"content_type": "application/cloudevents+xml"}],
)
async def test_a_body_of_another_kind(client: Client, headers: dict[str, str]) -> None:
    answer = await client.post("/v1/events", event(), **headers)

    assert answer.status == 415
    assert "expected Content-Type application/cloudevents+json, " in answer.json()["detail"]
    assert "application/x-ndjson" in answer.headers["accept"]


@pytest.mark.parametrize("encoding", ["gzip", "br", "gzip, identity"])
async def test_a_compressed_body(client: Client, node: FakeNode, encoding: str) -> None:
    answer = await client.post("/v1/events", b"\x1f\x8b", **STRUCTURED, content_encoding=encoding)

    assert (answer.status, answer.headers["accept-encoding"]) == (415, "identity")
    assert f"got {encoding!r}" in answer.json()["detail"]
    assert node.accepted == []


async def test_a_thousand_events_and_no_more(client: Client, node: FakeNode) -> None:
    thousand = [event(n) for n in range(1_000)]

    assert (await client.post("/v1/events", thousand, **BATCH)).status == 202
    answer = await client.post("/v1/events", [*thousand, event(1_000)], **BATCH)
    assert answer.status == 413
    told = answer.json()
    assert told["detail"].startswith("events in the batch: 1001 is over the limit of 1000")
    assert told["detail"].endswith("of those there is no greatest number.")
    assert "setting" not in told
    assert len(node.accepted) == 1_000


@pytest.mark.parametrize("declared", [True, False])
async def test_a_request_over_its_limit(client: Client, node: FakeNode, *, declared: bool) -> None:
    """Also one that doesn't say how long it is: as soon as too much has come."""
    node.max_request_bytes = 1_000
    headers = STRUCTURED | ({"content-length": "1001"} if declared else {})
    pieces = iter([b'{"data":"', *[b"x" * 100] * 20, b'"}'])
    answer = await client.send("POST", "/v1/events", list(pieces), headers)

    assert answer.status == 413
    assert answer.json()["detail"] == (
        f"body of the request, in bytes: {1001 if declared else 1009} is over the limit of 1000; "
        "nothing was stored. Send less at once, or raise [server] max_request."
    )
    assert node.counted == {"too_large": 1}


async def test_a_request_just_so(client: Client, node: FakeNode) -> None:
    body = json.dumps(event()).encode()
    node.max_request_bytes = len(body)

    assert (await client.post("/v1/events", body, **STRUCTURED)).status == 202


@pytest.mark.parametrize(
    "members",
    [
        {"data": "x" * 2_000},
        {"subject": "x" * 2_000},
        {"dataschema": "x" * 2_000},
        {"tenant": "x" * 2_000},
    ],
)
async def test_an_event_over_its_limit(
    client: Client, node: FakeNode, members: dict[str, Any]
) -> None:
    """Whatever makes it large: attributes are kept as well."""
    node.max_event_bytes = 2_000
    batch = [event(0), event(1, **members)]

    answer = await client.post("/v1/events", batch, **BATCH)

    assert answer.status == 413
    assert answer.json()["detail"].startswith("event 1, in bytes: 2")
    assert answer.json()["detail"].endswith("or raise [common] max_event.")
    assert node.accepted == []


async def test_a_binary_event_over_its_limit(client: Client, node: FakeNode) -> None:
    node.max_event_bytes = 1_000

    answer = await client.send("POST", "/v1/events", [b"1"], BINARY | {"ce-tenant": "x" * 1_000})

    assert answer.status == 413


async def test_who_hangs_up_has_sent_nothing(client: Client, node: FakeNode) -> None:
    body = json.dumps(event()).encode()
    answer = await client.send("POST", "/v1/events", [body], STRUCTURED, hang_up=True)

    assert (answer.status, node.requests) == (0, [])


# ------------------------------------------------------------------ refused: the node's doing


@pytest.mark.parametrize(
    ("error", "status", "code", "reason"),
    [
        (EngineUnavailable("disk"), 503, "unavailable", "unavailable"),
        (EngineUnanswered("disk"), 503, "unavailable", "unavailable"),
        (StorageUnavailable("disk"), 503, "unavailable", "unavailable"),
        (QueueFull("common", 100, 5), 429, "queue-full", "full"),
        (TooLarge("event 1", 2, 1, "x"), 413, "too-large", "too_large"),
        (Unroutable("a", index=1), 422, "unroutable", "unroutable"),
        (InvalidEvent(["data: no"], index=1), 400, "invalid-event", "invalid"),
        (RuntimeError("secret"), 500, "fault", "unavailable"),
    ],
)
async def test_what_the_node_refuses(
    node: FakeNode, error: Exception, status: int, code: str, reason: str
) -> None:
    node.fails = error
    answer = await Client(make_app(node)).post("/v1/events", [event(1), event(2)], **BATCH)

    assert answer.status == answer.json()["status"] == status
    assert answer.json()["type"] == f"urn:eventflow:problem:{code}"
    assert answer.headers.get("retry-after") == ("5" if status in {429, 503} else None)
    assert answer.json().get("retry_after_s") == (5 if status in {429, 503} else None)
    assert node.counted == {reason: 2}
    assert ("errors" in answer.json()) == (status in {400, 422})


@pytest.mark.parametrize(("seconds", "whole"), [(0.0, "1"), (1.0, "1"), (2.1, "3")])
async def test_retry_after_is_whole_seconds_and_never_too_early(
    client: Client, node: FakeNode, seconds: float, whole: str
) -> None:
    node.fails = QueueFull("common", 100, seconds)

    assert (await client.post("/v1/events", event(), **STRUCTURED)).headers["retry-after"] == whole


async def test_a_fault_is_logged_and_not_shown(
    client: Client, node: FakeNode, caplog: pytest.LogCaptureFixture
) -> None:
    node.fails = RuntimeError("secret")
    answer = await client.post("/v1/events", event(), **STRUCTURED)

    assert answer.status == 500
    assert b"secret" not in answer.body
    assert "request.failed" in caplog.text
    assert "RuntimeError: secret" in caplog.text


@pytest.mark.parametrize("kind", [STRUCTURED, LINES])
async def test_a_node_that_stops(client: Client, node: FakeNode, kind: dict[str, str]) -> None:
    node.stopping = True
    answer = await client.post("/v1/events", event(), **kind)

    assert (answer.status, answer.headers["retry-after"]) == (503, "5")
    assert answer.json()["type"] == "urn:eventflow:problem:stopping"
    assert (node.accepted, node.counted) == ([], {"stopping": 1})


async def test_an_answer_that_breaks_off_is_not_begun_again(
    node: FakeNode, caplog: pytest.LogCaptureFixture
) -> None:
    sent: list[str] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": json.dumps(event()).encode()}

    async def send(message: Message) -> None:
        sent.append(message["type"])
        if message["type"] == "http.response.body":
            raise RuntimeError("no way out")

    scope = {"type": "http", "method": "POST", "path": "/v1/events", "query_string": b""}
    headers = [(b"content-type", b"application/cloudevents+json")]
    await make_app(node)({**scope, "headers": headers, "client": None}, receive, send)

    assert sent == ["http.response.start", "http.response.body"]
    assert "no way out" in caplog.text


async def test_what_may_be_stored_is_said(client: Client, node: FakeNode) -> None:
    node.fails = EngineUnavailable("the disk is full")
    sure = (await client.post("/v1/events", [event()], **BATCH)).json()["detail"]
    node.fails = EngineUnanswered("the journal's file failed")
    unsure = (await client.post("/v1/events", [event()], **BATCH)).json()["detail"]
    assert "Nothing was stored" in sure
    assert "Nothing was stored" not in unsure
    assert "may have been done all the same" in unsure
