"""Each kind of value by itself: the ends of its range, and how it is shown."""

from __future__ import annotations

from typing import Any

import pytest

from eventflow.config.kinds import Integer, Kind, Number, Odd, Unfit
from eventflow.config.quantities import Duration, ShareOrRate, Size
from eventflow.config.tree import location, show
from eventflow.config.units import Share

ENDS: list[tuple[Kind, list[Any], list[Any]]] = [
    (Integer(1, 10, "events"), [1, 10], [0, 11]),
    (Odd(1, 5, "servers"), [1, 3, 5], [0, 2, 4, 7, True]),
    (Number(0.5, 2.0), [0.5, 2, 2.0], [0.4999, 2.0001]),
    (Duration(0.001, 60.0), ["1ms", "60s", "1m"], ["0.9ms", "60001ms"]),
    (Duration(0.0, 1.0), ["0s", "1s"], ["1001ms"]),
    (Size(1024, 2048), ["1KiB", "2048B"], ["1023B", "2049B"]),
    (ShareOrRate(100.0), ["100%", "0.1%", "100/s", "1/d"], ["0%", "0/s", "100.1/s", "101%"]),
]


@pytest.mark.parametrize(("kind", "inside", "outside"), ENDS, ids=lambda part: str(part)[:24])
def test_both_ends_of_a_range_are_in_it(kind: Kind, inside: list[Any], outside: list[Any]) -> None:
    for raw in inside:
        kind.read(raw)
    for raw in outside:
        with pytest.raises(Unfit):
            kind.read(raw)


def test_a_share_and_a_rate_are_told_apart() -> None:
    kind = ShareOrRate(100.0)

    assert kind.read("100%") == Share(1.0)
    assert kind.read("30/m") == 0.5


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("x" * 80, f'"{"x" * 80}"'),
        ("x" * 81, f'"{"x" * 80}…"'),
        ('a "b" \\', '"a \\"b\\" \\\\"'),
        ("\x1b[2J\x9b\u2028", '"\\u001b[2J\\u009b\\u2028"'),
        ("\uffff\U0001f600\U000e0001", '"\\uffff\U0001f600\\U000e0001"'),
        ("\udcff", '"\\udcff"'),
        (2**99 - 1, str(2**99 - 1)),
        (-(2**99) + 1, str(-(2**99) + 1)),
        (2**99, "a number of more than 30 digits"),
        (True, "true"),
        (1e300, "1e+300"),
        ([], "an empty list"),
        (["hunter2"], "a list"),
        ({"a": "hunter2"}, "a table"),
        (None, "a NoneType"),
    ],
)
def test_a_value_is_shown_short_and_on_one_line(value: object, shown: str) -> None:
    assert show(value) == shown


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        (("server", "port"), "[server] port"),
        (("topics", "email", "retry", "max"), "[topics.email.retry] max"),
        (("server", "tokens", 0, "role"), "[server.tokens #1] role"),
        (("routes", 1, "topics", 2), "[routes #2] topics #3"),
        (("topics", "a b", "x.y"), '[topics."a b"] "x.y"'),
        (("webhooks",), "[webhooks]"),
    ],
)
def test_a_place_is_named_as_in_the_file(path: tuple[str | int, ...], shown: str) -> None:
    assert location(path) == shown
