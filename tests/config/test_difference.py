"""What differs between two configurations, and what of it a running node takes over."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from eventflow.config import Settings, parse
from eventflow.config.difference import RESTART, Difference, applied, difference, flat

TOPICS = {
    "a": 'match = "a.*"\nhandler = "shop:a"\n',
    "b": 'match = "b.*"\nhandler = "shop:b"\n',
}
"""Names that are never imported here."""


def settings(numbers: dict[str, Any]) -> Settings:
    topics = "".join(
        f"[topics.{name}]\n{text}concurrency = {numbers['concurrency']}\n"
        f"retry = {{ max_attempts = {numbers['attempts']} }}\n"
        for name, text in TOPICS.items()
        if numbers[name]
    )
    text = f"""
[engine]
url = "sqlite:{numbers["file"]}.db"
history_max = {numbers["history"]}
[server]
port = {numbers["port"]}
drain = "{numbers["drain"]}s"
[common]
capacity = {numbers["capacity"]}
{topics}
"""
    return parse(text, name="t.toml", environ={})


some = st.fixed_dictionaries(
    {
        "file": st.sampled_from("xy"),
        "history": st.integers(1, 3),
        "port": st.integers(1, 3),
        "drain": st.integers(1, 3),
        "capacity": st.integers(100, 102),
        "concurrency": st.integers(1, 3),
        "attempts": st.integers(1, 3),
        "a": st.booleans(),
        "b": st.booleans(),
    }
).map(settings)


def test_every_key_that_needs_a_restart_is_a_key() -> None:
    known = flat(settings({"file": "x", "history": 1, "port": 1, "drain": 1, "capacity": 100,
                           "concurrency": 1, "attempts": 1, "a": True, "b": False}))  # fmt: skip
    assert known.keys() >= RESTART
    tables = {key.partition(".")[0] for key in known}
    assert tables >= {"engine", "storage", "server", "common", "topics", "routes", "log"}


@given(some, some)
def test_what_is_applied_differs_only_in_what_needs_a_restart(old: Settings, new: Settings) -> None:
    found = difference(old, new)
    now = applied(old, new)
    assert difference(old, now).restart == ()
    assert difference(old, now).live == found.live
    assert difference(now, new).live == ()
    assert difference(now, new).restart == found.restart


@given(some)
def test_nothing_differs_from_itself(one: Settings) -> None:
    assert difference(one, one) == Difference((), ())
    assert applied(one, one) == one


def test_a_topic_that_comes_or_goes_is_told_by_its_name() -> None:
    old = parse("[topics.a]\n" + TOPICS["a"], name="t", environ={})
    new = parse("[topics.b]\n" + TOPICS["b"], name="t", environ={})
    assert difference(old, new).live == ("topics.a", "topics.b")


def test_a_key_is_told_as_it_is_written() -> None:
    old = parse("[topics.a]\n" + TOPICS["a"], name="t", environ={})
    text = (
        "[topics.a]\n" + TOPICS["a"] + 'timeout = "3s"\n[engine]\nmemory_limit = "99MiB"\n'
        '[server]\nport = 1\n[[routes]]\nmatch = "**"\ntopics = ["a"]\n'
    )
    found = difference(old, parse(text, name="t", environ={}))
    assert found.live == ("engine.memory_limit", "topics.a.timeout", "routes")
    assert found.restart == ("server.port",)
