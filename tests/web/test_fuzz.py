"""Whatever is sent is answered: taken in, or refused in words. Never 500, never an exception."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.web.client import Answer, Client
from tests.web.fake import FakeNode, delivery
from tests.web.samples import event

from eventflow.event import check
from eventflow.web.asgi import make_app
from eventflow.web.routes import ROUTES

KINDS = st.sampled_from(
    [
        b"application/cloudevents+json",
        b"application/cloudevents-batch+json",
        b"application/x-ndjson",
        b"application/json",
        b"text/plain; charset=utf-16",
        b";;",
    ]
) | st.binary(max_size=10)
HEADERS = st.lists(
    st.tuples(
        st.sampled_from(
            [
                b"ce-id",
                b"ce-source",
                b"ce-type",
                b"ce-specversion",
                b"ce-time",
                b"ce-",
                b"content-length",
                b"content-encoding",
                b"authorization",
                b"origin",
                b"expect",
            ]
        ),
        st.binary(max_size=10) | st.sampled_from([b"1.0", b"/s", b"t", b"-1", b"identity"]),
    ),
    max_size=6,
)
JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=6,
)
EVENTS = st.builds(
    lambda more: event(**more),
    st.dictionaries(
        st.sampled_from(["id", "time", "data", "data_base64", "priority", "x", "specversion"]),
        JSON,
        max_size=3,
    ),
)
BODIES = (
    st.binary(max_size=40)
    | st.builds(lambda one: json.dumps(one).encode(), EVENTS | st.lists(EVENTS, max_size=3) | JSON)
    | st.builds(
        lambda some: b"\n".join(json.dumps(one).encode() for one in some),
        st.lists(EVENTS | JSON, max_size=4),
    )
)


USUAL = st.builds(
    lambda form, some: (form[0], form[1](some)),
    st.sampled_from(
        [
            (b"application/cloudevents+json", lambda some: json.dumps(some[0]).encode()),
            (b"application/cloudevents-batch+json", lambda some: json.dumps(some).encode()),
            (
                b"application/x-ndjson",
                lambda some: b"\n".join(json.dumps(x).encode() for x in some),
            ),
        ]
    ),
    st.lists(st.just(event()) | EVENTS, min_size=1, max_size=3),
)
"""A Content-Type with a body that fits."""


@st.composite
def pieces(draw: st.DrawFn, body: bytes) -> list[bytes]:
    """A body in pieces, as a network cuts it."""
    cuts = sorted(draw(st.lists(st.integers(0, len(body)), max_size=3)))
    return [body[a:b] for a, b in zip([0, *cuts], [*cuts, len(body)], strict=True)]


def ask(node: FakeNode, *request: Any, **more: Any) -> Answer:
    """Send a request from a loop of its own: Hypothesis does not await."""
    return asyncio.run(Client(make_app(node)).send(*request, **more))


@settings(max_examples=300)
@given(
    sent=USUAL | st.tuples(KINDS, BODIES),
    headers=st.just([]) | HEADERS,
    hang_up=st.booleans(),
    data=st.data(),
)
def test_whatever_is_sent_as_events(
    *,
    sent: tuple[bytes, bytes],
    headers: list[tuple[bytes, bytes]],
    hang_up: bool,
    data: st.DataObject,
) -> None:
    node = FakeNode()
    given_headers = [(b"content-type", sent[0]), *headers]
    body = data.draw(pieces(sent[1]))
    answer = ask(node, "POST", "/v1/events", body, given_headers, hang_up=hang_up)

    assert answer.status in ({0, 200, 202} if hang_up else {200, 202}) or 400 <= answer.status < 500
    for accepted in node.accepted:
        check(accepted)
    if answer.status >= 400:
        assert {"type", "title", "status", "detail"} <= answer.json().keys()
        assert node.accepted == []


@given(
    st.sampled_from(ROUTES),
    st.text(max_size=12),
    st.text(max_size=20) | st.sampled_from(["limit=1", "state=dead&q=%00", "source=a&id=b"]),
    BODIES
    | st.builds(lambda ids, which: json.dumps({"ids": ids, "filter": which}).encode(), JSON, JSON),
)
def test_whatever_is_sent_to_any_route(route: Any, part: str, query: str, body: bytes) -> None:
    node = FakeNode()
    node.keep(delivery(1))
    path = "/".join(part if step.startswith("{") else step for step in route.path.split("/"))
    answer = ask(node, route.method, f"{path}?{query}".replace("\ud800", ""), [body])

    assert answer.status == 200 or 400 <= answer.status < 500
    assert answer.complete
