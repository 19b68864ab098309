"""Text with expressions in it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventflow.errors import ConfigError
from eventflow.event import Event
from eventflow.policy.expression import ExpressionError, Names
from eventflow.policy.template import compile_template

EVENT = Event(type="push", source="/s", data={"name": "Ann", "n": 5, "x": None, "l": [1, "a"]})
NAMES = Names(EVENT, header={"x-github-event": "push"})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Welcome, {{ event.data.name }}!", "Welcome, Ann!"),
        ("github.{{ header['x-github-event'] }}", "github.push"),
        ("{{event.data.name}}{{event.data.n}}", "Ann5"),
        ("no expression { } } {", "no expression { } } {"),
        ("", ""),
        ("}} {{ 1 }} }}", "}} 1 }}"),
        # braces and quotes inside
        ("{{ {'a': {'b': 1}}['a']['b'] }}", "1"),
        ("{{ {'a': 1}}}", '{"a":1}'),
        ("{{ {'a':{'b':1}}}}", '{"a":{"b":1}}'),
        ("{{ '}}' }}", "}}"),
        ("{{ '{{' }}", "{{"),
        ("{{ '{' }}", "{"),
        ('{{ "it\'s }}" }}', "it's }}"),
        (r"{{ '\'}}' }}", "'}}"),
        (r"{{ r'\' + '}}' }}", "\\}}"),
        ("{{ '''a'}}''' }}", "a'}}"),
        ("{{\n  event.data.name\n}}", "Ann"),
        # values as text
        ("{{ event.data.n > 1 }}", "true"),
        ("{{ event.data.x }}", ""),
        ("{{ 2.5 }} {{ 5.0 }} {{ -3 }}", "2.5 5.0 -3"),
        ("{{ event.data.l }}", '[1,"a"]'),
        ("{{ timestamp('2026-11-24T08:00:00Z') }}", "2026-11-24T08:00:00Z"),
        ("{{ b'hi' }}", "aGk="),
        ("{{ 'größe' }}", "größe"),
    ],
)
def test_texts(text: str, expected: str) -> None:
    assert compile_template(text).render(NAMES) == expected


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a {{ event.type", "the {{ at character 3 is never closed by }}"),
        ("{{ '}}", "line 1, column 1: Syntax error"),
        ("{{ {'a': 1 }}", "never closed"),
        ("{{ }}", "line 1, column 1: Syntax error"),
        ("a {{ event. }}", "line 1, column 7: Syntax error"),
        ("a {{ evnt.type }}", "Did you mean 'event'?"),
    ],
)
def test_what_is_no_template_says_where(text: str, says: str) -> None:
    with pytest.raises(ConfigError) as raised:
        compile_template(text)

    assert says in raised.value.problems[0]


def test_what_is_missing_is_an_error_not_an_empty_text() -> None:
    with pytest.raises(ExpressionError, match="there is no 'city'"):
        compile_template("to {{ event.data.city }}").render(NAMES)


@pytest.mark.parametrize(("text", "constant"), [("a", True), ("", True), ("a{{ 1 }}", False)])
def test_a_template_knows_whether_it_can_change(
    text: str,
    constant: bool,  # noqa: FBT001  # a column of the table
) -> None:
    assert compile_template(text).is_constant is constant


@given(st.text().filter(lambda text: "{{" not in text))
def test_text_without_braces_is_as_it_stands(text: str) -> None:
    assert compile_template(text).render(NAMES) == text
