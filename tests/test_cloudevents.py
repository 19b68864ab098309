"""The CloudEvents codec: what comes in is the event that was meant, or a sentence says why not."""

from __future__ import annotations

import base64
import json
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from eventflow.cloudevents import (
    decode_batch,
    decode_binary,
    decode_lines,
    decode_structured,
    encode_batch,
    encode_lines,
    encode_structured,
    to_binary,
)
from eventflow.cloudevents.careful import decode_carefully
from eventflow.cloudevents.payload import too_deep
from eventflow.cloudevents.wire import Wire, events_of, plain
from eventflow.errors import InvalidEvent, TooLarge
from eventflow.event import Event, check, from_parts

if TYPE_CHECKING:
    from collections.abc import Callable

LEAST = {"specversion": "1.0", "id": "1", "source": "/shop", "type": "order.created"}
FULL = LEAST | {
    "time": "2026-11-24T08:00:00Z",
    "subject": "order 7",
    "datacontenttype": "application/json",
    "dataschema": "https://shop.example/order.json",
    "data": {"id": 7, "total": 12.50},
    "partitionkey": "customer-3",
    "priority": "high",
    "expirytime": "2026-11-24T09:00:00Z",
    "deliverat": "2026-11-24T08:30:00Z",
    "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    "tracestate": "shop=1",
}


def encoded(*events: dict[str, Any]) -> bytes:
    return json.dumps(events[0] if len(events) == 1 else events).encode()


def problems(decode: Callable[..., object], *args: Any) -> tuple[str, ...]:
    with pytest.raises(InvalidEvent) as caught:
        decode(*args)
    return caught.value.problems


def ascii_headers(headers: dict[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.encode("ascii"), value.encode("ascii")) for name, value in headers.items()]


# ------------------------------------------------------------------ what comes in as it was meant


class TestStructured:
    def test_the_least_event(self) -> None:
        event = decode_structured(encoded(LEAST))

        assert (event.id, event.source, event.type) == ("1", "/shop", "order.created")
        assert (event.body, event.extensions) == (None, None)

    def test_every_attribute(self) -> None:
        event = decode_structured(encoded(FULL))

        assert event.attributes() == {k: v for k, v in FULL.items() if k != "data"}
        assert event.data == FULL["data"]

    def test_extensions_nobody_knows(self) -> None:
        event = decode_structured(encoded(LEAST | {"tenant": "acme", "shard": -3, "test": True}))

        assert event.extensions == {"tenant": "acme", "shard": -3, "test": True}

    def test_data_keeps_its_bytes(self) -> None:
        data = b'{ "a" : 1.50,\n "a" : [ 1e999 , 123456789012345678901234567890 ] }'
        event = decode_structured(encoded(LEAST)[:-1] + b', "data": ' + data + b" }")

        assert event.body == data

    def test_data_that_is_text_is_stored_as_its_bytes(self) -> None:
        event = decode_structured(
            encoded(LEAST | {"datacontenttype": "text/plain", "data": 'naïve\n"x"'})
        )

        assert event.body == 'naïve\n"x"'.encode()
        assert event.data == 'naïve\n"x"'

    def test_data_that_is_a_json_string_stays_one(self) -> None:
        assert decode_structured(encoded(LEAST | {"data": "hello"})).body == b'"hello"'

    @pytest.mark.parametrize("data", [b"", b"\x00\xff", b"{}"])
    def test_data_base64(self, data: bytes) -> None:
        text = base64.b64encode(data).decode()
        event = decode_structured(encoded(LEAST | {"data_base64": text}))

        assert event.body == data
        assert event.datacontenttype == "application/octet-stream"
        assert event.data == data

    def test_json_in_base64(self) -> None:
        text = base64.b64encode(b'{"a":1}').decode()
        event = decode_structured(
            encoded(LEAST | {"datacontenttype": "application/json", "data_base64": text})
        )

        assert event.data == {"a": 1}

    def test_null_is_absent(self) -> None:
        event = decode_structured(
            encoded(LEAST | dict.fromkeys(["time", "subject", "data", "data_base64", "tenant"]))
        )

        assert event == decode_structured(encoded(LEAST))

    def test_null_beside_base64_is_absent(self) -> None:
        event = decode_structured(encoded(LEAST | {"data": None, "data_base64": "AA=="}))

        assert event.body == b"\x00"

    def test_of_a_member_given_twice_the_last_counts(self) -> None:
        event = decode_structured(encoded(LEAST)[:-1] + b', "id": "2"}')

        assert event.id == "2"

    @pytest.mark.parametrize(
        "time", ["2026-02-28T23:59:59+14:00", "2024-02-29T00:00:00.123456789Z"]
    )
    def test_times_keep_their_text(self, time: str) -> None:
        assert decode_structured(encoded(LEAST | {"time": time})).time == time


class TestBatch:
    def test_keeps_the_order(self) -> None:
        events = decode_batch(json.dumps([LEAST | {"id": str(n)} for n in range(3)]).encode())

        assert [event.id for event in events] == ["0", "1", "2"]

    def test_may_be_empty(self) -> None:
        assert decode_batch(b" [ ] ") == []

    def test_fast_and_slow_ways_mix(self) -> None:
        """An attribute nobody knows sends only its own event the slow way."""
        events = decode_batch(encoded(FULL, LEAST | {"tenant": "acme"}, LEAST))

        assert [event.extension("tenant") for event in events] == [None, "acme", None]
        assert events[0] == decode_structured(encoded(FULL))

    def test_names_the_event(self) -> None:
        with pytest.raises(InvalidEvent) as caught:
            decode_batch(encoded(LEAST, LEAST | {"source": ""}))

        assert caught.value.index == 1
        assert str(caught.value) == "event 1: source: expected at least one character, got ''"


class TestLines:
    def test_an_event_a_line(self) -> None:
        lines = [encoded(LEAST | {"id": str(n)}) for n in range(3)]

        assert [event.id for event in decode_lines(lines)] == ["0", "1", "2"]

    def test_blank_lines_are_left_out_and_counted(self) -> None:
        lines = [b"", encoded(LEAST) + b"\r\n", b" \t\r", b"{"]

        assert len(decode_lines(lines[:3])) == 1
        with pytest.raises(InvalidEvent) as caught:
            decode_lines(lines, 500)
        assert caught.value.index == 503

    def test_a_line_is_whole(self) -> None:
        """Two halves of an event, or two events, on a line are no event."""
        half, rest = encoded(LEAST)[:20], encoded(LEAST)[20:]

        assert problems(decode_lines, [half, rest])
        assert problems(decode_lines, [encoded(LEAST) + encoded(LEAST)])


class TestBinary:
    def test_every_attribute(self) -> None:
        whole = decode_structured(encoded(FULL))
        headers, body = to_binary(whole)

        assert headers["content-type"] == "application/json"
        assert decode_binary(ascii_headers(headers), body) == whole

    def test_headers_are_percent_encoded_as_the_binding_says(self) -> None:
        """The binding's own example: blanks, quotes, percent signs and what is not ASCII."""
        event = Event(type="t", source="/s", id="1", subject='Euro € 😀 "50%"')

        headers, _ = to_binary(event)

        assert headers["ce-subject"] == "Euro%20%E2%82%AC%20%F0%9F%98%80%20%2250%25%22"
        assert decode_binary(ascii_headers(headers), b"") == event

    @pytest.mark.parametrize(
        ("value", "text"),
        [
            (b"plain", "plain"),
            (b"caf%c3%a9", "café"),
            (b"%2541", "%41"),
            (b"50%", "50%"),
            (b"%zz", "%zz"),
            (b'"in \\"quotes\\" \\\\"', 'in "quotes" \\'),
            (b'"', '"'),
            ("café".encode(), "café"),
        ],
    )
    def test_a_header_is_unquoted_then_decoded_once(self, value: bytes, text: str) -> None:
        headers = [*ascii_headers(to_binary(decode_structured(encoded(LEAST)))[0])]

        assert decode_binary([*headers, (b"CE-Subject", value)], b"").subject == text

    @pytest.mark.parametrize(
        ("body", "kind"),
        [(b'{"a": 1}', None), (b"a=1", "application/octet-stream"), (b"", None)],
    )
    def test_a_body_of_no_stated_kind(self, body: bytes, kind: str | None) -> None:
        headers = ascii_headers(to_binary(decode_structured(encoded(LEAST)))[0])
        event = decode_binary(headers, body)

        assert (event.body, event.datacontenttype) == (body or None, kind)

    def test_booleans_and_integers_become_text(self) -> None:
        """Headers say no more than text: that is the binding's loss, not ours."""
        headers, body = to_binary(decode_structured(encoded(LEAST | {"test": True, "shard": 3})))

        assert decode_binary(ascii_headers(headers), body).extensions == {
            "test": "true",
            "shard": "3",
        }


# ------------------------------------------------------------------ what is wrong, in which words


EXAMPLE = "2026-11-24T08:00:00Z"
NO_TIMES = (
    "2026-W48-4T08:00:00Z",
    "2026-11-24T080000Z",
    "2026-11-24T08:00:00+0100",
    "2026-11-24T08:00:00",
    "2026-11-24T08:00:00,5Z",
)
"""What `datetime.fromisoformat` reads, and RFC 3339 does not know."""


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"specversion": "0.3"}, "specversion: expected '1.0', got '0.3'"),
        ({"specversion": None}, "specversion: expected '1.0', got nothing"),
        ({"specversion": {}}, "specversion: expected '1.0', got an object"),
        ({"id": None}, "id: expected text, got nothing"),
        ({"id": 7}, "id: expected text, got a number"),
        ({"type": ["a"]}, "type: expected text, got an array"),
        ({"source": ""}, "source: expected at least one character, got ''"),
        ({"source": "/my shop"}, "source: expected a URI reference, got '/my shop'"),
        ({"dataschema": "a<b"}, "dataschema: expected a URI reference, got 'a<b'"),
        ({"id": "a\nb"}, "id: expected text without control characters, got 'a\\nb'"),
        ({"type": "a\x7fb"}, "type: expected text without control characters, got 'a\\x7fb'"),
        ({"subject": "\x85"}, "subject: expected text without control characters, got '\\x85'"),
        (
            {"time": "yesterday"},
            "time: expected an RFC 3339 time such as 2026-11-24T08:00:00Z, got 'yesterday'",
        ),
        (
            {"time": "2026-02-30T08:00:00Z"},
            (
                "time: expected an RFC 3339 time such as 2026-11-24T08:00:00Z, "
                "got '2026-02-30T08:00:00Z'"
            ),
        ),
        *(
            ({name: text}, f"{name}: expected an RFC 3339 time such as {EXAMPLE}, got '{text}'")
            for name in ("time", "expirytime", "deliverat")
            for text in NO_TIMES
        ),
        *(
            ({name: text}, f"{name}: expected a time in the years 1 to 9999 of UTC, got '{text}'")
            for name in ("expirytime", "deliverat")
            for text in ("9999-12-31T23:59:59-14:00", "0001-01-01T00:00:00+14:00")
        ),
        (
            {"priority": "urgent"},
            "priority: expected one of critical, high, normal, low, got 'urgent'",
        ),
        ({"partitionkey": ""}, "partitionkey: expected text of at least one character, got ''"),
        (
            {"Tenant": "a"},
            "Tenant: expected an attribute name of 1 to 20 lower-case letters and digits",
        ),
        ({"tenant": 1.5}, "tenant: expected text, an integer or a boolean, got a number"),
        ({"tenant": 2**31}, "tenant: expected an integer of 32 bits, got 2147483648"),
        ({"tenant": {"a": 1}}, "tenant: expected text, an integer or a boolean, got an object"),
        ({"data": 1, "data_base64": "AA=="}, "data: expected data or data_base64, got both"),
        ({"data_base64": "?"}, "data_base64: expected text in base64, got something else"),
        ({"data_base64": 5}, "data_base64: expected text in base64, got something else"),
        (
            {"data_base64": "ew==", "datacontenttype": "application/json"},
            (
                "data_base64: expected JSON, got text that ends too soon, "
                "where datacontenttype says JSON"
            ),
        ),
        (
            {"data": {"a": 1}, "datacontenttype": "text/xml"},
            "data: expected text, since datacontenttype is 'text/xml', got an object",
        ),
    ],
)
def test_each_fault_has_its_sentence(changes: dict[str, Any], problem: str) -> None:
    event = LEAST | changes

    assert problems(decode_structured, encoded(event)) == (problem,)
    assert problems(decode_batch, encoded(LEAST, event)) == (problem,)


def test_control_characters_that_json_need_not_escape() -> None:
    (said,) = problems(decode_structured, written(LEAST | {"type": "a\x7fb"}, escaped=False))

    assert said.startswith("type: expected text without control characters")


def test_all_faults_are_said_at_once() -> None:
    assert problems(decode_structured, b"{}") == (
        "specversion: expected '1.0', got nothing",
        "id: expected text, got nothing",
        "source: expected text, got nothing",
        "type: expected text, got nothing",
    )


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (b"", "expected a JSON object, got text that ends too soon"),
        (b'{"id": 1', "expected a JSON object, got text that ends too soon"),
        (b"[]", "expected a JSON object, got an array"),
        (b'"x', "expected a JSON object, got text"),
        (b"{'id': 1}", "expected a JSON object, got malformed JSON, "),
        (b'{"id": "\xff"}', "expected UTF-8, got byte 0xff at position 8"),
        (b'{"data": NaN}', "expected a JSON object, got malformed JSON, "),
        (b'{"data": "\\ud800 and on"}', "expected a JSON object, got malformed JSON, "),
        (b'{"id": "\x01"}', "expected a JSON object, got malformed JSON, "),
    ],
)
def test_text_that_is_no_object(body: bytes, problem: str) -> None:
    (said,) = problems(decode_structured, body)

    assert said.startswith(problem)


def test_text_that_is_no_batch() -> None:
    assert problems(decode_batch, encoded(LEAST)) == (
        "expected a JSON array of events, got an object",
    )


def test_faults_are_few_and_short() -> None:
    """A body of faults is no lever to get a larger answer."""
    event = LEAST | {f"A{n}": 1 for n in range(90)} | {"priority": "x" * 100_000}

    said = problems(decode_structured, encoded(event))

    assert len(said) == 11
    assert sum(map(len, said)) < 4_000


def test_more_attributes_than_anybody_has() -> None:
    said = problems(decode_structured, encoded(LEAST | {f"x{n}": 1 for n in range(1000)}))

    assert said == ("expected at most 100 attributes, got 1004",)


@pytest.mark.parametrize("more", [{}, {"tenant": "acme"}])
def test_a_batch_over_its_limit(more: dict[str, Any]) -> None:
    body = json.dumps([LEAST | more] * 1_001).encode()

    with pytest.raises(TooLarge, match="events in the batch: 1001 is over the limit of 1000"):
        decode_batch(body, max_events=1_000)
    assert len(decode_batch(body, max_events=1_001)) == 1_001


@pytest.mark.parametrize(
    ("headers", "body", "problem"),
    [
        (
            {"content-type": "application/json"},
            b"{",
            "data: expected JSON, got text that ends too soon, where Content-Type says JSON",
        ),
        ({"ce-subject": "%ff"}, b"", "subject: expected UTF-8, got b'%ff'"),
        (
            {"ce-subject": "%0a"},
            b"",
            "subject: expected text without control characters, got '\\n'",
        ),
        (
            {"ce-data": "x"},
            b"",
            "data: expected an attribute name of 1 to 20 lower-case letters and digits",
        ),
        ({"CE-ID": "2"}, b"", "id: expected one header, got two"),
    ],
)
def test_each_fault_of_binary_mode(headers: dict[str, str], body: bytes, problem: str) -> None:
    least = ascii_headers({f"ce-{name}": value for name, value in LEAST.items()})

    assert problems(decode_binary, [*least, *ascii_headers(headers)], body) == (problem,)


# ------------------------------------------------------------------ nesting


def nested(levels: int) -> bytes:
    return (
        b'{"a":' * (levels // 2)
        + b"[" * (levels - levels // 2)
        + b"]" * (levels - levels // 2)
        + b"}" * (levels // 2)
    )


@pytest.mark.parametrize("levels", [101, 300, 2_000, 1_000_000])
def test_data_nested_too_deep(levels: int) -> None:
    (said,) = problems(
        decode_structured, encoded(LEAST)[:-1] + b', "data":' + nested(levels) + b"}"
    )

    assert "100 levels of nesting" in said


def test_data_nested_just_so() -> None:
    event = decode_structured(encoded(LEAST)[:-1] + b', "data":' + nested(100) + b"}")

    assert event.body == nested(100)


@pytest.mark.parametrize("beside", [b"1", b"{}", b"[[]]", b'"[{"', nested(60)])
@pytest.mark.parametrize("at", [0, 7, 149])
@pytest.mark.parametrize("levels", [100, 101])
def test_one_of_many_nested_too_deep(levels: int, at: int, beside: bytes) -> None:
    """Found among those that are cleared together, and nothing else is."""
    datas = [beside] * 150
    datas[at] = nested(levels)
    batch = b"[%s]" % b",".join(encoded(LEAST)[:-1] + b', "data":%s}' % data for data in datas)
    if levels == 100:
        assert [event.body for event in decode_batch(batch)] == datas
        return
    with pytest.raises(InvalidEvent, match="100 levels of nesting") as said:
        decode_batch(batch)
    assert said.value.index == at


@pytest.mark.parametrize(
    "text",
    [
        json.dumps("[" * 500).encode(),
        json.dumps(['\\"[' * 200, "\\", "{" * 199]).encode(),
        json.dumps([[n] for n in range(500)]).encode(),
        b"[" + b"[]," * 100 + nested(99) + b"]",
    ],
    ids=["in a string", "behind escapes", "side by side", "beside depth"],
)
def test_many_brackets_are_not_deep(text: bytes) -> None:
    assert not too_deep(text)


@pytest.mark.parametrize(
    "more",
    [
        {"subject": "x" * 1_000},
        {"time": "2026-11-24T08:00:00." + "0" * 979 + "Z"},
        {"dataschema": "x" * 1_000},
        {"tenant": "x" * 994},
        {"data": b"x" * 1_000},
    ],
    ids=["subject", "time", "dataschema", "an extension and its name", "data"],
)
def test_every_part_counts_towards_the_size(more: dict[str, Any]) -> None:
    least = Event(id="1", source="/s", type="t")

    assert Event(id="1", source="/s", type="t", **more).size_bytes == least.size_bytes + 1_000


def test_what_an_older_version_let_in_can_still_be_read() -> None:
    old = from_parts("1", "/s", "t", *[None] * 5, {"expirytime": "2026-W48-2T08:00:00Z"})

    assert old.expires_at == 1_795_507_200


# ------------------------------------------------------------------ what holds for any event

TEXTS = st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=20)
URIS = st.from_regex(r"[a-z]{1,5}:/[a-z0-9/%#?]{0,10}|/[\wäöü.~-]{1,10}", fullmatch=True).filter(
    lambda text: text.isprintable()
)
TIMES = (
    st.datetimes(timezones=st.timezones())
    .filter(
        lambda at: (at.utcoffset() or at.resolution * 0).seconds % 60 == 0 and 1 < at.year < 9999
    )
    .map(lambda at: at.isoformat())
)
JSON: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=10,
)
EXTENSIONS = st.dictionaries(
    st.from_regex(r"x[a-z0-9]{0,19}", fullmatch=True),
    TEXTS | st.integers(-(2**31), 2**31 - 1) | st.booleans(),
    max_size=3,
)
EVENTS = st.builds(
    lambda needed, more, extensions: needed | more | extensions,
    st.fixed_dictionaries(
        {"specversion": st.just("1.0"), "id": TEXTS, "source": URIS, "type": TEXTS}
    ),
    st.fixed_dictionaries(
        {},
        optional={
            "time": TIMES,
            "subject": TEXTS,
            "dataschema": URIS,
            "data": JSON,
            "partitionkey": TEXTS,
            "priority": st.sampled_from(["critical", "high", "normal", "low"]),
            "expirytime": TIMES,
            "deliverat": TIMES,
            "traceparent": TEXTS,
        },
    ),
    EXTENSIONS,
)


def written(event: dict[str, Any], *, escaped: bool) -> bytes:
    return json.dumps(event, ensure_ascii=escaped).encode()


@given(event=EVENTS, escaped=st.booleans())
def test_any_event_comes_in_as_it_was_meant(*, event: dict[str, Any], escaped: bool) -> None:
    found = decode_structured(written(event, escaped=escaped))

    assert found.attributes() == {k: v for k, v in event.items() if k != "data"}
    assert found.data == event.get("data")
    check(found)


@given(events=st.lists(EVENTS, max_size=4), escaped=st.booleans())
def test_fast_and_slow_way_agree(*, events: list[dict[str, Any]], escaped: bool) -> None:
    lines = [written(event, escaped=escaped) for event in events]
    slow = [decode_carefully(line, None) for line in lines]

    assert decode_batch(b"[" + b",".join(lines) + b"]") == slow
    assert decode_lines(lines) == slow


@given(EVENTS)
def test_what_goes_out_comes_in_again(event: dict[str, Any]) -> None:
    found = decode_structured(written(event, escaped=True))

    assert decode_structured(encode_structured(found)) == found
    assert decode_batch(encode_batch([found, found])) == [found, found]


@given(EVENTS)
def test_what_goes_out_in_binary_mode_comes_in_again(event: dict[str, Any]) -> None:
    found = decode_structured(written(event, escaped=True))
    headers, body = to_binary(found)
    again = decode_binary(ascii_headers(headers), body)

    assert again.body == found.body
    assert again.datacontenttype in {found.datacontenttype, "application/json"}
    assert again.extensions == (
        {
            name: str(value).lower() if isinstance(value, bool) else str(value)
            for name, value in found.extensions.items()
        }
        if found.extensions
        else None
    )


@given(st.binary(max_size=50), st.sampled_from(["text/plain", "application/json", "image/png"]))
@example(b" null ", "application/json")
@example(b'{"a": NaN}', "application/json")
def test_any_data_goes_out_and_comes_in(data: bytes, kind: str) -> None:
    """Also what calls itself JSON and is none: it goes out in base64."""
    event = Event(id="1", type="t", source="/s", data=data, datacontenttype=kind)
    members = json.loads(encode_structured(event))

    if kind != "application/json":
        assert decode_structured(encode_structured(event)) == event
    elif "data" in members:
        assert decode_structured(encode_structured(event)).data == event.data
    else:
        assert base64.b64decode(members["data_base64"]) == data


# ------------------------------------------------------------------ nothing but InvalidEvent

SCRAPS = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=10)
    | st.sampled_from(["1.0", "AA==", "2026-11-24T08:00:00Z", "/s", "high"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=5,
)
MALFORMED = st.dictionaries(
    st.sampled_from([*FULL, "data_base64", "tenant", ""]) | st.text(max_size=5), SCRAPS, max_size=8
)


@st.composite
def bent(draw: st.DrawFn) -> bytes:
    """An event of which some bytes were changed, cut out or doubled."""
    text = bytearray(written(draw(EVENTS), escaped=draw(st.booleans())))
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(text)))
        end = min(len(text), start + draw(st.integers(0, 5)))
        text[start:end] = draw(st.binary(max_size=3) | st.just(bytes(text[start:end] * 2)))
    return bytes(text)


@given(st.binary(max_size=50) | bent() | st.builds(lambda m: json.dumps(m).encode(), MALFORMED))
@example(b'{"tenant": 1e999}')
@example(b'{"tenant": ' + b"9" * 10_000 + b"}")
@example(b'{"tenant": ' + b"[" * 10_000)
@example(
    b'{"specversion":"1.0","id":"1","source":"/s","type":"t","time":"0001-01-01T00:00:00+14:00"}'
)
def test_anything_is_an_event_or_invalid(body: bytes) -> None:
    for decode in (
        decode_structured,
        decode_batch,
        lambda text: decode_batch(b"[" + text + b"]"),
        lambda text: decode_lines([text]),
    ):
        try:
            found = decode(body)
        except InvalidEvent:
            continue
        for event in [found] if isinstance(found, Event) else found:
            check(event)


@given(
    st.lists(
        st.tuples(
            st.sampled_from([f"ce-{name}".encode() for name in FULL] + [b"content-type", b"host"])
            | st.binary(max_size=8).map(lambda name: b"ce-" + name),
            st.binary(max_size=12)
            | st.sampled_from([b"1.0", b"/s", b"%e2%82%ac", b'"\\"'])
            | st.just(b"application/json"),
        ),
        max_size=10,
    ),
    st.binary(max_size=20),
)
def test_any_headers_are_an_event_or_invalid(
    headers: list[tuple[bytes, bytes]], body: bytes
) -> None:
    least = ascii_headers({f"ce-{name}": value for name, value in LEAST.items()})
    for some in (headers, [*least, *headers]):
        with suppress(InvalidEvent):
            check(decode_binary(some, body))


# ------------------------------------------------------------------ the fast way is taken


@pytest.mark.parametrize(
    "event",
    [
        LEAST,
        FULL,
        LEAST | {"data": "é\n"},
        LEAST | {"subject": "é"},
        LEAST | {"datacontenttype": "text/plain", "data": "x"},
        *({**LEAST, name: FULL[name]} for name in FULL),
    ],
)
def test_usual_events_go_the_fast_way(event: dict[str, Any]) -> None:
    """Else the rest of this file could pass with the fast way never taken."""
    text = written(event, escaped=False)

    assert events_of([msgspec.json.decode(text, type=Wire)], plain=plain(text)) == [
        decode_carefully(text, None)
    ]


def test_lines_stay_lines_whatever_way_data_was_written() -> None:
    """Data is kept as it came, also on several lines; a line break in a text stays in it."""
    body = b'{\n  "a": "x\\ny",\r\n  "b": [\r1]\n}'
    events = [from_parts(str(n), "/", "a", body, None, None, None, None) for n in range(2)]

    lines = encode_lines(events)

    assert lines.count(b"\n") == 2
    assert b"\r" not in lines
    assert [event.data for event in decode_lines(lines.splitlines())] == [
        {"a": "x\ny", "b": [1]},
        {"a": "x\ny", "b": [1]},
    ]
