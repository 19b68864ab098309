"""CEL over events, at its edges."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import cel
import pytest

from eventflow.delivery import Delivery, Tally
from eventflow.errors import ConfigError, EventFlowError
from eventflow.event import Event
from eventflow.policy.expression import (
    ExpressionError,
    Names,
    compile_expression,
)

DATA = {
    "country": "FR",
    "n": 5,
    "price": 2.5,
    "none": None,
    "tags": ["a", "b"],
    "buyer": {"email": "Ann@Example.com"},
}
EVENT = Event(type="user.registered", source="/shop", id="7", data=DATA, priority="high", age=3)


def value(text: str, event: Event = EVENT) -> Any:
    return compile_expression(text).value(Names(event))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # attributes and extensions
        ("event.type", "user.registered"),
        ("event.id + '@' + event.source", "7@/shop"),
        ("event.specversion", "1.0"),
        ("event['type']", "user.registered"),
        ("event.age + 1", 4),
        ("event.priority", "high"),
        ("event.key == '" + EVENT.key + "'", True),
        ("has(event.subject)", False),
        ("has(event.subject) && event.subject == 'x'", False),
        # data
        ("event.data.country == 'FR'", True),
        ("event['data']['country']", "FR"),
        ("event.data.buyer.email", "Ann@Example.com"),
        ("event.data['buyer']['email']", "Ann@Example.com"),
        ("has(event.data.city)", False),
        ("has(event.data.buyer.email)", True),
        ("event.data.none == null", True),
        ("event.data.tags[1]", "b"),
        ("event.data.tags.exists(t, t == 'b')", True),
        ("'b' in event.data.tags", True),
        ("event.data.tags.map(t, t + '!')", ["a!", "b!"]),
        ("size(event.data)", 6),
        ("event.data.size()", 6),
        ("event . data . country", "FR"),
        ("event.data.all(k, k != 'zzz')", True),
        # numbers: no quiet conversion, but comparison across kinds
        ("event.data.n > 4", True),
        ("event.data.n > 4.5", True),
        ("event.data.n == 5.0", True),
        ("double(event.data.n) + 0.5", 5.5),
        ("event.data.n / 2", 2),
        # an error on one side does not matter where the other decides
        ("event.data.city == 'Paris' || event.data.country == 'FR'", True),
        ("event.data.country == 'DE' && event.data.city == 'Paris'", False),
        # functions: CEL's own and the extensions
        ("event.type.startsWith('user.')", True),
        ("event.type.matches('^user[.]')", True),
        ("event.data.buyer.email.lowerAscii()", "ann@example.com"),
        ("event.type.split('.')[0]", "user"),
        ("math.greatest(event.data.n, 9)", 9),
        ("base64.encode(b'hi')", "aGk="),
        ("type(event.data.n) == int", True),
        ("type(event.data.tags) == list && type(event.data) == map", True),
        ("type(event.type) == string && type(event.data.price) == double", True),
        ("type(event.data.none) == null_type && type(true) == bool", True),
        ("type(b'') == bytes && type(1u) == uint && type(int) == type", True),
        # values of other kinds
        ("timestamp('2026-11-24T08:00:00Z')", datetime(2026, 11, 24, 8, tzinfo=UTC)),
        ("duration('90s')", timedelta(seconds=90)),
        ("b'abc'", b"abc"),
        ("{'a': [1, null]}", {"a": [1, None]}),
        ("9007199254740993 + 0", 9_007_199_254_740_993),
    ],
)
def test_values(text: str, expected: Any) -> None:
    found = value(text)

    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(
    ("text", "extended"),
    [
        ("event.type.contains('user')", False),
        ("size(event.type)", False),
        ("event.type.lowerAscii()", True),
        ("sets.contains([1], [1])", True),
        ("strings.quote(event.type)", True),
    ],
)
def test_extensions_are_added_only_for_those_who_call_them(text: str, *, extended: bool) -> None:
    """They are forty functions in Python, and most expressions call none."""
    assert compile_expression(text).extended is extended
    assert value(text) is not None


def test_an_event_without_priority_is_normal() -> None:
    assert value("event.priority", Event(type="a", source="/s")) == "normal"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("event.data.city", "event.data.city: there is no 'city'"),
        ("event.data.city.name", "there is no 'city'"),
        ("event.subject", "there is no 'subject'"),
        ("event.data['city']", "there is no 'city'"),
        ("event.data.tags[9]", "index out of bounds: 9"),
        ("event.data.n / 0", "division by zero"),
        ("event.data.n % 0", "by zero"),
        ("9223372036854775807 + event.data.n", "overflow"),
        ("event.data.n + 0.5", "No such overload"),
        ("'a' + event.data.n", "string + int"),
        ("event.data.n ? 1 : 2", "No such overload"),
        ("event.type.matches('(')", "not a valid regex"),
        ("int('x')", "int"),
        ("timestamp('yesterday')", "timestamp"),
        ("event.type.charAt(99)", "out of range"),
        ("event.data.n.lowerAscii()", "lowerAscii"),
        ("delivery.attempt", "delivery"),
        ("header['x']", "header"),
    ],
)
def test_what_can_not_be_computed_says_what_is_missing(text: str, says: str) -> None:
    with pytest.raises(ExpressionError) as raised:
        value(text)

    assert says in str(raised.value)
    assert str(raised.value).startswith(text)


def test_an_expression_error_is_one_of_ours() -> None:
    assert issubclass(ExpressionError, EventFlowError)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("event.data.", "line 1, column 12: Syntax error"),
        ("", "line 1, column 1: Syntax error"),
        ("event.type ==\n  ==", "line 2, column 3: Syntax error"),
        ("a b", "line 1, column 3"),
        ("'open", "line 1, column 1"),
        ("(" * 500 + "1" + ")" * 500, "expected a CEL expression"),
        ("evnt.type == 'a'", "'evnt' (line 1, column 1); there are event, delivery, header. Did"),
        ("event.type ==\n data.type", "'data' (line 2, column 2); there are event"),
        ("event.type.lowerasci()", "calls 'lowerasci' (line 1, column 12), which does not exist. "),
        ("open('x')", "calls 'open' (line 1, column 1), which does not exist."),
        ("x.map(e, e)", "'x' (line 1, column 1)"),
    ],
)
def test_what_is_no_expression_says_where(text: str, says: str) -> None:
    with pytest.raises(ConfigError) as raised:
        compile_expression(text)

    assert says in raised.value.problems[0]


def test_all_mistakes_are_told_at_once() -> None:
    with pytest.raises(ConfigError) as raised:
        compile_expression("evnt.type.lower() == datta.x")

    assert len(raised.value.problems) == 3


@pytest.mark.parametrize(
    ("text", "reads"),
    [
        ("event.type == 'a' && event.age > 1", {"type", "age"}),
        ("event.data.country", {"data.country"}),
        ("event . data\n. country", {"data.country"}),
        ("has(event.data.a.b)", {"data.a"}),
        ("event.data.tags.size()", {"data.tags"}),
        ("event.data.size()", {"data"}),
        ("size(event.data)", {"data"}),
        ("event.data['a']", {"data"}),
        ("event.size()", {"*"}),
        ("event['type']", {"*"}),
        ("event", {"*"}),
        ("'event.data.a' == event.type", {"data.a", "type"}),
        ("1 + 1", set()),
        ("header['event']", set()),
        ("event.database == 'x'", {"database"}),
    ],
)
def test_what_it_reads_is_known_beforehand(text: str, reads: set[str]) -> None:
    assert compile_expression(text).reads == reads


class CountingEvent:
    """An event that counts how often its data is decoded."""

    def __init__(self) -> None:
        self.decoded = 0
        self.priority = EVENT.priority
        self.key = EVENT.key

    def attributes(self) -> dict[str, Any]:
        return EVENT.attributes()

    @property
    def data(self) -> Any:
        self.decoded += 1
        return EVENT.data


@pytest.mark.parametrize(
    ("texts", "decoded"),
    [
        (["event.type == 'a'", "event.age > 1", "has(event.subject)"], 0),
        (["event.data.n", "event.type", "event.data.country", "event", "event.data"], 1),
    ],
)
def test_data_is_decoded_once_and_only_if_named(texts: list[str], decoded: int) -> None:
    event = CountingEvent()
    names = Names(event)  # type: ignore[arg-type]  # a stand-in

    found = [compile_expression(text).value(names) for text in texts]

    assert event.decoded == decoded
    assert found == [value(text) for text in texts]


def test_one_expression_after_the_other_sees_what_it_names() -> None:
    """Names are added as they are needed; none that was there goes."""
    names = Names(EVENT, header={"x-kind": "push"})

    assert compile_expression("event.data.n").value(names) == 5
    assert compile_expression("event.data.country + event.type").value(names) == "FRuser.registered"
    assert compile_expression("header['x-kind'].upperAscii()").value(names) == "PUSH"
    assert compile_expression("event.data.n + event.age").value(names) == 8


def test_what_a_delivery_shows() -> None:
    tally = Tally(attempts=1, rounds=2, replays=3)
    delivery = Delivery(EVENT, "0190", "email", 1_800_000_000.0, tally=tally)

    assert compile_expression("delivery").value(Names(delivery.event, delivery)) == {
        "id": "0190.email",
        "ref": "0190",
        "topic": "email",
        "attempt": 2,
        "round": 2,
        "replays": 3,
        "accepted_at": "2027-01-15T08:00:00.000000Z",
    }


def test_the_idempotency_key_is_not_for_an_event_to_say() -> None:
    """An extension `key` does not stand in for it."""
    impostor = Event(type="a", source="/shop", id="7", key="mine")

    assert value("event.key", impostor) == impostor.key == EVENT.key


@pytest.mark.parametrize("found", ["event.data.n", "event.data.none", "'true'", "event.data.tags"])
def test_a_filter_says_true_or_false(found: str) -> None:
    with pytest.raises(ExpressionError, match="expected true or false"):
        compile_expression(found).test(Names(EVENT))


def test_text_and_bytes_as_data() -> None:
    text = Event(type="a", source="/s", data="hello", datacontenttype="text/plain")
    raw = Event(type="a", source="/s", data=b"\x00\x01")

    assert value("event.data.startsWith('he')", text) is True
    assert value("size(event.data)", raw) == 2
    with pytest.raises(ExpressionError):
        value("event.data.name", text)


def nested(depth: int) -> Event:
    body = b"[" * depth + b"]" * depth
    return Event(type="a", source="/s", data=body, datacontenttype="application/json")


def test_deeply_nested_data_can_be_read() -> None:
    assert value("size(event.data)", nested(900)) == 1


def test_data_nested_deeper_than_json_is_decoded_is_no_crash() -> None:
    with pytest.raises(ExpressionError, match="recursion"):
        value("size(event.data)", nested(100_000))


CALLS = """
    bytes('a')
    'abc'.contains('b')
    double(1)
    duration('1s')
    dyn(1)
    'ab'.endsWith('b')
    int('1')
    'a'.matches('a')
    size('a')
    'ab'.startsWith('a')
    string(1)
    type(1)
    uint(1)
    timestamp('2026-01-01T00:00:00Z').getDate()
    timestamp('2026-01-01T00:00:00Z').getDayOfMonth()
    timestamp('2026-01-01T00:00:00Z').getDayOfWeek()
    timestamp('2026-01-01T00:00:00Z').getDayOfYear()
    timestamp('2026-01-01T00:00:00Z').getFullYear()
    timestamp('2026-01-01T00:00:00Z').getHours()
    timestamp('2026-01-01T00:00:00Z').getMilliseconds()
    timestamp('2026-01-01T00:00:00Z').getMinutes()
    timestamp('2026-01-01T00:00:00Z').getMonth()
    timestamp('2026-01-01T00:00:00Z').getSeconds()
"""


@pytest.mark.parametrize("text", CALLS.strip().splitlines())
def test_the_functions_said_to_be_known_are(text: str) -> None:
    """The list in `expression` is written by hand: the library does not tell what it has."""
    assert value(text) == cel.evaluate(text.strip())
