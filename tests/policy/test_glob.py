"""Patterns over event types."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventflow.errors import ConfigError
from eventflow.policy.glob import Glob


@pytest.mark.parametrize(
    ("pattern", "yes", "no"),
    [
        ("user.registered", ["user.registered"], ["user.registered2", "user", "xuser.registered"]),
        ("user.*", ["user.registered", "user."], ["user", "user.a.b", "users.x", "user.a."]),
        ("user.**", ["user.a", "user.a.b", "user."], ["user", "users.x"]),
        ("*", ["user", ""], ["user.a", "."]),
        ("**", ["user", "user.a.b", "", "..", "a\nb"], []),
        ("*.created", ["order.created", ".created"], ["shop.order.created", "order.created.x"]),
        ("**.created", ["order.created", "shop.order.created"], ["created", "order.created2"]),
        ("com.*.order.*", ["com.shop.order.x"], ["com.a.b.order.x", "com.shop.order.x.y"]),
        ("com.**.order.*", ["com.shop.order.x", "com.a.b.order.x"], ["com.order.x"]),
        ("user.*ed", ["user.registered", "user.ed"], ["user.register", "user.a.ed"]),
        ("a*b*c", ["abc", "aXbXc", "abbcbc"], ["ab", "a.bc", "abcd"]),
        ("a**b*c", ["abc", "a.x.bc", "a.b.bxc"], ["a.b.c", "a.bx.c"]),
        ("**a*b", ["a.ab", "ab", "a.a.ab"], ["a.b", "ab."]),
        ("a***b", ["ab", "a.x.b"], ["a", "b"]),
        ("User.*", ["User.x"], ["user.x"]),
        ("a.b", ["a.b"], ["axb"]),
        ("a[b]?+(", ["a[b]?+("], ["ab", "a[b]"]),
        ("größe.*", ["größe.da"], ["groesse.da"]),
    ],
)
def test_the_table(pattern: str, yes: list[str], no: list[str]) -> None:
    glob = Glob(pattern)

    assert [text for text in yes if not glob.matches(text)] == []
    assert [text for text in no if glob.matches(text)] == []


def test_an_empty_pattern_matches_nothing_and_is_refused() -> None:
    with pytest.raises(ConfigError, match="expected a pattern"):
        Glob("")


@given(st.text("ab.*", min_size=1, max_size=8), st.text("ab.", max_size=10))
def test_it_says_what_a_regular_expression_would(pattern: str, text: str) -> None:
    pieces = [
        ".*" if len(piece) > 1 else "[^.]*" if piece == "*" else re.escape(piece)
        for piece in re.findall(r"\*+|[^*]", pattern)
    ]
    expected = re.fullmatch("".join(pieces), text) is not None

    assert Glob(pattern).matches(text) is expected


def test_a_long_type_from_outside_takes_time_in_proportion() -> None:
    """Where a regular expression would go back and forth 10**15 times."""
    assert not Glob("**a**a**a**b").matches("a" * 100_000)
