"""Whatever stands in a file or in the environment: settings or a `ConfigError`, nothing else."""

from __future__ import annotations

import math
import tomllib
from datetime import UTC, date, datetime, time
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eventflow.config import Settings, parse
from eventflow.config.environ import variable
from eventflow.config.schema import Group, Shape, Table, Variants, table_of
from eventflow.config.topic import TopicSettings
from eventflow.config.tree import location
from eventflow.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

HIDDEN = "hunter2-hunter2"

ODD: list[Any] = [
    *(True, False, 0, 1, -1, 2**63, 10**30, 0.0, 0.5, -0.5, 1e308, math.inf, -math.inf, math.nan),
    *("", " ", "x", "0", "5", "-5", "5m", "10%", "5/s", "1MiB", "99999999999999999999d", "true"),
    *(
        "key",
        "http",
        "smtp",
        "sql",
        "nats://host",
        "memory:",
        "sqlite:",
        "sqlite:x",
        "::1",
        "0.0.0.1",
    ),
    *(
        "${",
        "${}",
        "${MISSING}",
        "${HIDDEN}",
        "$${x}",
        "a\0b",
        "a\nb",
        "\u2028",
        "\U000e0001",
        "é" * 300,
    ),
    *(
        "https://[",
        "https://a:99999",
        "https://{{",
        "http://a b",
        "//",
        "a:b",
        "shop:send",
        "user.*",
    ),
    *([], [[]], [1], ["a", 1], ["a"], [{}], [{"name": "a"}], [{"match": "a", "topics": ["a", 1]}]),
    *({}, {"": 1}, {"type": 1}, {"type": "http"}, {"type": "sql"}, {"a": {"b": {"c": {"d": {}}}}}),
    *(date(2026, 11, 24), time(8), datetime(2026, 11, 24, tzinfo=UTC)),
]


def paths(table: Table, above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield the path of every key and table; in lists and named tables that of one of them."""
    for key in table.keys:
        path = (*above, key.name)
        yield path
        if isinstance(key.node, Group) and key.node.shape is Shape.ONE:
            yield from paths(key.node.table, path)
        elif isinstance(key.node, Variants):
            yield from paths(key.node.merged, path)
        elif isinstance(key.node, Group) and key.node.shape is Shape.NAMED:
            yield (*path, "email")
            yield from paths(key.node.table.named, (*path, "email"))


PATHS = sorted(set(paths(table_of(Settings))))


def types(table: Table) -> dict[str, str]:
    """Return by a key's name the `type` that a table of several kinds must be to have it."""
    return {
        key.name: word
        for outer in table.keys
        if isinstance(outer.node, Variants)
        for word in reversed(outer.node.type.words)
        for key in outer.node.of(word).keys
    }


TYPES = types(table_of(TopicSettings))


def nested(path: tuple[str, ...], value: object) -> dict[str, Any]:
    *above, last = path
    table = {last: value}
    if "sink" in above and last != "type":
        table["type"] = TYPES[last]
    value = table
    for name in reversed(above):
        value = {name: value}
    assert isinstance(value, dict)
    return value


def try_it(
    values: Mapping[str, Any], environ: Mapping[str, str], text: str = ""
) -> tuple[str, ...]:
    """Return the problems. Each is one line, and without the secret."""
    try:
        parse(text, name="f.toml", environ=environ, overrides=values)
    except ConfigError as error:
        found = error.problems
    else:
        return ()
    assert found
    for problem in found:
        assert problem.isprintable(), repr(problem)
        assert HIDDEN not in problem
    return found


@pytest.mark.parametrize("path", PATHS, ids=".".join)
def test_odd_values_of_each_key(path: tuple[str, ...]) -> None:
    for value in ODD:
        try_it(nested(path, value), {"HIDDEN": HIDDEN})


@pytest.mark.parametrize("path", PATHS, ids=".".join)
def test_odd_values_of_each_variable(path: tuple[str, ...]) -> None:
    for value in (*ODD, "[", "{", "[{}]", "{ a = 1 }", '"', "\udcff", "x = 1"):
        if isinstance(value, str) and "hunter" not in value:
            try_it({}, {variable(path): value})


WRONG_TYPES = {
    "text": "x\ny",
    "number": -5,
    "boolean": True,
    "date": date(2026, 11, 24),
    "list": [[1]],
    "table": {"no_such": 1},
}


FLAGS = ("allow_private", "create", "fsync", "starttls", "tls", "verify")
FITTING: set[tuple[tuple[str, ...], str]] = {
    (("topics", "email", "sink", flag), "boolean") for flag in FLAGS
} | {(("topics", "email", "sink", body), "text") for body in ("html", "text")}
FITTING |= {(("engine", "nats", "tls_first"), "boolean")}


@pytest.mark.parametrize("path", PATHS, ids=".".join)
@pytest.mark.parametrize("kind", WRONG_TYPES)
def test_a_wrong_type_is_a_problem_of_the_key(path: tuple[str, ...], kind: str) -> None:
    """None slips through, and the message names the key and not its neighbours."""
    found = try_it(nested(path, WRONG_TYPES[kind]), {})
    places = tuple(f"overrides: {text}" for text in (location(path), f"[{'.'.join(path)}"))

    told = [problem for problem in found if problem.startswith(places)]
    assert bool(told) != ((path, kind) in FITTING)


NAMES = sorted({name for path in PATHS for name in path} | {"name", "role", "secret", "rate"})
TREES = st.recursive(
    st.sampled_from(ODD) | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=4), inner, max_size=4)
    ),
    max_leaves=12,
)


@settings(max_examples=50)
@given(st.dictionaries(st.sampled_from(NAMES), TREES, max_size=5))
def test_any_tree(tree: dict[str, Any]) -> None:
    try_it(tree, {"HIDDEN": HIDDEN})


@settings(max_examples=50)
@given(st.dictionaries(st.sampled_from(PATHS), TREES, max_size=4))
def test_any_values_where_settings_stand(values: dict[tuple[str, ...], Any]) -> None:
    """Deeper than chance gets by itself."""
    root: dict[str, Any] = {}
    for path, value in values.items():
        table = root
        for name in path[:-1]:
            inner = table.get(name)
            if not isinstance(inner, dict):
                inner = table[name] = {}
            table = inner
        table[path[-1]] = value
    try_it(root, {"HIDDEN": HIDDEN})


@given(st.text(alphabet="[]{}=\"'.,#\n \\ab0-_:$", max_size=60))
def test_any_text(text: str) -> None:
    try_it({}, {}, text or "\n")


@given(
    st.dictionaries(
        st.sampled_from([variable(path) for path in PATHS])
        | st.text(alphabet="AB_TOPICS0", max_size=20).map("EVENTFLOW_{}".format),
        st.text(max_size=12),
        max_size=4,
    )
)
def test_any_environment(environ: dict[str, str]) -> None:
    try_it({}, environ)


def test_a_chain_of_tables_deeper_than_python_can_go() -> None:
    """Dotted keys nest without end, and TOML's reader takes them."""
    text = f"{'.'.join('a' * 1_500)} = 1\ntopics.{'.'.join('b' * 1_500)} = 1"

    assert tomllib.loads(text)
    assert try_it({}, {}, text)
