"""The sandbox of mail bodies: what a template may read, and how much it may make."""

from __future__ import annotations

from typing import Any

import pytest

from eventflow.errors import ConfigError
from eventflow.sinks.smtp.body import compile_body
from eventflow.sinks.smtp.sandbox import STEPS_MAX, BodyError

DOUBLED = (
    "{% set all = namespace(one='x') %}{% for n in range(30) %}{% set all.one = ? %}{% endfor %}"
    "{{ all.one }}"
)
"""A name that is given twice what it holds, thirty times: a thousand million at the end."""


def render(text: str, /, *, html: bool = False, **data: Any) -> str:
    return compile_body(text, html=html).render({"event": {"data": data}, "delivery": {}})


def test_it_reads_what_expressions_read() -> None:
    """A field of the data is never one of the methods of Python's dict."""
    items: dict[str, Any] = {
        "items": [{"sku": "a", "count": 2}, {"sku": "b", "count": 1}],
        "keys": "of the house",
    }
    text = (
        "{% for item in event.data.items %}\n"
        "{{ item.count }} * {{ item.sku }}\n"
        "{% endfor %}\n"
        "{{ event.data.keys }} {{ event['data']['keys'] | upper }}\n"
    )

    assert render(text, **items) == "2 * a\n1 * b\nof the house OF THE HOUSE\n"


def test_it_may_still_go_through_a_dict() -> None:
    text = "{% for name, value in event.data.items() %}{{ name }}={{ value }} {% endfor %}"

    assert render(text, a=1, b=2) == "a=1 b=2 "


def test_what_is_not_there_can_be_asked_for_and_is_an_error_else() -> None:
    text = "{% if event.data.name is defined %}{{ event.data.name }}{% else %}you{% endif %}"

    assert (render(text), render(text, name="Ada")) == ("you", "Ada")
    with pytest.raises(BodyError, match=r"UndefinedError: .*'name'"):
        render("{{ event.data.name }}")


def test_html_escapes_what_is_put_in() -> None:
    text = '<a title="{{ event.data.name }}">{{ event.data.name }}</a>'
    name = '"><script>'

    assert render(text, html=True, name=name) == (
        '<a title="&#34;&gt;&lt;script&gt;">&#34;&gt;&lt;script&gt;</a>'
    )
    assert render(text, name=name).count(name) == 2


@pytest.mark.parametrize(
    "text",
    [
        "{{ event.__class__ }}",
        "{{ event.data.__class__.__mro__ }}",
        "{{ ''.__class__.__base__.__subclasses__() }}",
        "{{ event.data['__class__'].__mro__ }}",
        "{{ (event | attr('__class__')).x }}",
        "{{ ('' | attr('format')).__globals__ }}",
        "{{ range.__globals__ }}",
        "{{ '{0.__class__.__mro__}'.format(event) }}",
        "{{ event.update({'data': 1}) }}",
        "{{ event.data.pop('name') }}",
        "{{ event.data.clear() }}",
    ],
)
def test_it_reaches_nothing_else(text: str) -> None:
    with pytest.raises(BodyError):
        render(text, name="x")


@pytest.mark.parametrize(
    "text",
    [
        "{{ event.data.char * 100_000_000 }}",
        "{{ 100_000_000 * event.data.char }}",
        "{{ [1] * event.data.large }}",
        "{{ 9 ** 100_000_000 }}",
        "{{ event.data.large ** event.data.large }}",
        "{{ '%0100000000d' % 1 }}",
        "{{ event.data.char.ljust(100_000_000) }}",
        "{{ event.data.char | center(100_000_000) }}",
        "{{ event.data.char | indent(event.data.large) }}",
        "{{ event.data.char | indent(width=event.data.large) }}",
        "{{ [1] | batch(event.data.large, 'x') | list }}",
        "{{ range(event.data.large) | list }}",
        "{% for n in range(1_000) %}{% for m in range(10_000) %}{% endfor %}{% endfor %}",
        "{% for n in range(200_000) %}{{ event.data.text }}{% endfor %}",
        "{% for n in range(300_000) %}{% if event.data.text %}{% endif %}{% endfor %}",
        "{% for n in event.data.list %}{% for m in event.data.list %}{% endfor %}{% endfor %}",
        "{% macro again() %}{{ again() }}{% endmacro %}{{ again() }}",
        "{% for n in range(99) %}{{ event.data.wide }}{% endfor %}",
        DOUBLED.replace("?", "all.one ~ all.one"),
        DOUBLED.replace("?", "all.one + all.one"),
        DOUBLED.replace("?", "[all.one, all.one]"),
        DOUBLED.replace("?", "[all.one, all.one]").replace("}}", "| tojson }}"),
        DOUBLED.replace("?", "(all.one, all.one)").replace("}}", "| string }}"),
        "{{ ([event.data.wide] * 9_000) | join | length }}",
        "{{ event.data.wide.join([event.data.wide] * 9_000) | length }}",
        "{{ event.data.list | join(event.data.wide) | length }}",
        "{{ event.data.wide | replace('x', event.data.wide) | length }}",
        "{{ event.data.wide.replace('x', event.data.wide) | length }}",
        "{{ event.data.lines | indent(event.data.wide) | length }}",
        "{{ event.data.wide * 9_999 }}",
        "{{ '%0100000000d' | format(1) }}",
        "{{ '%*d' | format(event.data.large, 1) }}",
        "{{ '{:>100000000}'.format(1) }}",
        "{{ '{:>{}}'['format'](1, event.data.large) }}",
        "{{ event.data.wide.translate({120: event.data.wide}) | length }}",
        "{{ [1] | tojson(event.data.large) }}",
    ],
)
def test_it_makes_no_bomb(text: str) -> None:
    """Each of these would take seconds or gigabytes."""
    data: dict[str, Any] = {
        "char": "x",
        "large": 100_000_000,
        "text": "abc",
        "list": [0] * 2_000,
        "wide": "x" * 20_000,
        "lines": "\n" * 20_000,
    }
    with pytest.raises(BodyError):
        render(text, **data)


def test_an_ordinary_table_is_far_from_the_bounds() -> None:
    rows = [{"sku": f"sku-{n}", "price": n / 100} for n in range(5_000)]
    row = "{{ '%08.2f' | format(row.price) }} {{ row.sku }}\n"
    text = "{% for row in event.data.rows %}" + row + "{% endfor %}"

    assert render(text, rows=rows).count("\n") == 5_000


@pytest.mark.parametrize("html", [False, True])
def test_what_is_counted_is_computed_as_ever(*, html: bool) -> None:
    text = (
        "{{ event.data.id | center(9) }}|{{ 1_000_000 + event.data.id }}|"
        "{{ 'a' ~ event.data.id ~ '<' }}|{{ event.data.tags | join(', ') }}|"
        "{{ 'a-b'.replace('-', '+') }}|{{ '%05.1f' | format(2) }}|"
        "{{ [1] + [2] }}|{{ 'ab' * 2 }}|{{ 7 % 4 }}|{{ event.data.tags | map('upper') | join }}|"
        "{{ 'x\ny' | indent(2) }}|{{ ', '.join(event.data.tags) }}|{{ 10_000_000 * 2 }}"
    )
    expected = "  123456 |1123456|a123456<|a, b|a+b|002.0|[1, 2]|abab|3|AB|x\n  y|a, b|20000000"

    assert render(text, html=html, id=123_456, tags=["a", "b"]) == (
        expected.replace("<", "&lt;") if html else expected
    )


def test_each_rendering_is_counted_by_itself() -> None:
    compiled = compile_body("{% for n in range(150_000) %}{% endfor %}")
    assert STEPS_MAX < 300_000
    for _ in range(3):
        assert compiled.render({}) == ""


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{{ event.data.name", "expected a Jinja2 template: line 1: unexpected end of template"),
        ("\n{% fro %}", "expected a Jinja2 template: line 2: Encountered unknown tag 'fro'"),
        ("{{ x | nosuch }}", "expected a Jinja2 template: line 1: No filter named 'nosuch'"),
        ("{{ event | pprint }}", "No filter named 'pprint'"),
        (
            "{{ evnt.type }}",
            "it speaks of 'evnt'; there are event and delivery. Did you mean 'event'?",
        ),
        ("{{ header['x'] }}", "it speaks of 'header'; there are event and delivery."),
        ("{{ lipsum() }}", "it speaks of 'lipsum'"),
        ("{% include 'a' %}", "it speaks of another template; a body stands alone"),
        ("{% extends 'a' %}", "it speaks of another template; a body stands alone"),
        ("{% import 'a' as a %}", "it speaks of another template; a body stands alone"),
    ],
)
def test_what_can_never_be_rendered_is_refused_at_start(text: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        compile_body(text)

    assert said in str(caught.value)
