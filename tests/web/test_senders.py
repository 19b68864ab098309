"""What others send: the official CloudEvents SDK, and real events of GitHub, in each mode."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from cloudevents.core.bindings.http import to_binary_event, to_structured_event
from cloudevents.core.v1.event import CloudEvent
from tests.web.samples import BATCH, LINES, STRUCTURED

from eventflow.cloudevents import encode_batch, encode_structured, to_binary
from eventflow.event import Event

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cloudevents.core.bindings.http import HTTPMessage
    from tests.web.client import Answer, Client
    from tests.web.fake import FakeNode

ATTRIBUTES: dict[str, Any] = {
    "specversion": "1.0",
    "id": "a%20b",
    "source": "https://shop.example/eu?x=1",
    "type": "order.created",
    "time": datetime(2026, 11, 24, 8, 0, 0, 123_000, UTC),
    "subject": 'Euro € 😀 "50%"',
    "datacontenttype": "application/json",
    "dataschema": "https://shop.example/order.json",
    "partitionkey": "müller",
    "priority": "high",
}
SHOWN = ATTRIBUTES | {"time": "2026-11-24T08:00:00.123000Z"}
DATA = {"id": 7, "text": "naïve\n"}


async def send(client: Client, message: HTTPMessage) -> Answer:
    return await client.send("POST", "/v1/events", [message.body], message.headers)


@pytest.mark.parametrize("to_http", [to_structured_event, to_binary_event])
async def test_an_event_of_the_sdk(client: Client, node: FakeNode, to_http: Any) -> None:
    answer = await send(client, to_http(CloudEvent(ATTRIBUTES, DATA)))

    assert answer.status == 202, answer.body
    (event,) = node.accepted
    assert event.attributes() == {**SHOWN, "time": event.time}
    assert datetime.fromisoformat(event.time or "") == ATTRIBUTES["time"]
    assert event.data == DATA


@pytest.mark.parametrize("to_http", [to_structured_event, to_binary_event])
@pytest.mark.parametrize(
    ("kind", "data"), [("text/plain", "naïve\n"), ("image/png", b"\x89PNG\r\n"), (None, None)]
)
async def test_other_data_of_the_sdk(
    client: Client, node: FakeNode, to_http: Any, kind: str | None, data: str | bytes | None
) -> None:
    attributes = {k: v for k, v in ATTRIBUTES.items() if k != "datacontenttype"}
    if kind is not None:
        attributes["datacontenttype"] = kind

    answer = await send(client, to_http(CloudEvent(attributes, data)))

    assert answer.status == 202, answer.body
    assert node.accepted[0].data == data
    assert node.accepted[0].datacontenttype == kind


async def test_a_batch_of_the_sdk(client: Client, node: FakeNode) -> None:
    """The SDK writes no batches itself: an array of what it writes is one."""
    events = [CloudEvent(ATTRIBUTES | {"id": str(n)}, DATA) for n in range(3)]
    bodies = [to_structured_event(event).body for event in events]
    answer = await client.post("/v1/events", b"[" + b",".join(bodies) + b"]", **BATCH)

    assert answer.status == 202
    assert [event.id for event in node.accepted] == ["0", "1", "2"]


# ------------------------------------------------------------------ real events

FOLDER = Path(__file__).parents[2].parent / "shared" / "data"


@cache
def deliveries() -> Sequence[tuple[Event, Any]]:
    """Return each delivery of GitHub as an event, and its payload."""
    lines = (FOLDER / "github-deliveries.ndjson").read_text().splitlines()
    found = [json.loads(line) for line in lines]
    return [
        (
            Event(
                id=one["delivery"],
                source="/webhooks/github",
                type=f"github.{one['event']}",
                data=json.dumps(one["payload"], separators=(",", ":")).encode(),
                datacontenttype="application/json",
            ),
            one["payload"],
        )
        for one in found
    ]


@pytest.mark.skipif(
    not FOLDER.exists() and "CI" not in os.environ,
    reason="needs the folder `shared` beside the project: real deliveries of GitHub",
)
class TestGitHub:
    def check(self, accepted: Sequence[Event]) -> None:
        assert len(accepted) == 329
        for got, (sent, payload) in zip(accepted, deliveries(), strict=True):
            assert got == sent  # every byte of the payload among them
            assert got.data == payload

    async def test_structured(self, client: Client, node: FakeNode) -> None:
        for event, _ in deliveries():
            answer = await client.post("/v1/events", encode_structured(event), **STRUCTURED)
            assert answer.status == 202
        self.check(node.accepted)

    async def test_binary(self, client: Client, node: FakeNode) -> None:
        for event, _ in deliveries():
            headers, body = to_binary(event)
            assert (await client.send("POST", "/v1/events", [body], headers)).status == 202
        self.check(node.accepted)

    async def test_batch(self, client: Client, node: FakeNode) -> None:
        body = encode_batch([event for event, _ in deliveries()])

        assert (await client.post("/v1/events", body, **BATCH)).json()["accepted"] == 329
        self.check(node.accepted)

    async def test_lines(self, client: Client, node: FakeNode) -> None:
        body = b"\n".join(encode_structured(event) for event, _ in deliveries())
        pieces = [body[n : n + 65_536] for n in range(0, len(body), 65_536)]
        answer = await client.send("POST", "/v1/events", pieces, LINES)

        assert [line["accepted"] for line in answer.lines()] == [329]
        self.check(node.accepted)

    async def test_as_others_write_it(self, client: Client, node: FakeNode) -> None:
        """Escaped and spaced by Python's own json: other bytes, the same meaning."""
        for event, payload in deliveries():
            body = json.dumps({**event.attributes(), "data": payload}, indent=1).encode()
            assert (await client.post("/v1/events", body, **STRUCTURED)).status == 202

        assert [event.data for event in node.accepted] == [payload for _, payload in deliveries()]
