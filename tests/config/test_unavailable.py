"""What DESIGN names and this version does not do is refused by name, never passed over."""

from __future__ import annotations

import pytest

from eventflow.config import parse
from eventflow.config.schema import Group, Shape, Variants, table_of
from eventflow.config.settings import Settings
from eventflow.config.unavailable import ELSEWHERE, NOT_BUILT, NotBuilt
from eventflow.errors import ConfigError

EMAIL = '[topics.email]\nmatch = "**"\nhandler = "shop:send"\n'
SINK = '[topics.email]\nmatch = "**"\n[topics.email.sink]\n'

# One faulty file for each line of the table: what is written, and where the message says it stands.
WRITTEN = {
    ("engine.url", "postgres*:*"): ('engine.url = "postgresql+psycopg://host/db"', "[engine] url"),
    ("storage.url", "postgres*:*"): (
        'engine.url = "sqlite:a.db"\nstorage.url = "postgresql://host/db"',
        "[storage] url",
    ),
    ("storage.url", None): ('storage.url = "sqlite:other.db"', "[storage] url"),
    ("topics.*.rate", None): (EMAIL + 'rate = "50/s"', "[topics.email] rate"),
    ("topics.*.breaker", None): (EMAIL + "breaker = { probes = 3 }", "[topics.email.breaker]"),
    ("topics.*.order", "key"): (EMAIL + 'order = "key"', "[topics.email] order"),
    ("topics.*.on_dead", None): (EMAIL + 'on_dead = "hold"', "[topics.email] on_dead"),
}


@pytest.mark.parametrize("entry", NOT_BUILT, ids=lambda entry: f"{entry.path}={entry.value}")
def test_it_is_refused_once_and_says_what_holds_instead(entry: NotBuilt) -> None:
    text, place = WRITTEN[entry.path, entry.value]
    with pytest.raises(ConfigError) as caught:
        parse(text, name="eventflow.toml", environ={})

    says = f"{place}{entry.shown} is not available in this version: {entry.instead}"
    assert caught.value.problems == (f"eventflow.toml: {says}",)


def test_a_variable_that_names_it_is_read_first() -> None:
    """The value of the variable is what is refused, and is not shown."""
    with pytest.raises(ConfigError) as caught:
        parse(
            'engine.url = "${URL}"', name="eventflow.toml", environ={"URL": "postgresql://host/db"}
        )

    (problem,) = caught.value.problems
    assert problem.startswith('eventflow.toml: [engine] url = "postgresql://…" is not available')


def test_what_is_built_has_no_line() -> None:
    """A line whose setting is there now would keep people from using it."""
    for entry in NOT_BUILT:
        if entry.value is not None or entry is ELSEWHERE:
            continue
        *tables, name = entry.path.split(".")
        table = table_of(Settings)
        for step in tables:
            key = table.key(step)
            if step == "*" or key is None:
                continue
            if isinstance(key.node, Variants):
                table = key.node.merged
                continue
            assert isinstance(key.node, Group)
            named = key.node.shape is Shape.NAMED
            table = key.node.table.named if named else key.node.table
        assert table.key(name) is None, entry.path


def test_storage_may_name_the_engine_s_own_file_in_another_way() -> None:
    text = 'engine.url = "sqlite:shop.db"\nstorage.url = "sqlite:./data/../shop.db"'

    assert parse(text, name="", environ={}).engine.path is not None


@pytest.mark.parametrize(
    ("engine", "storage"), [("memory:", "sqlite:eventflow.db"), ("sqlite:eventflow.db", "memory:")]
)
def test_memory_and_file_do_not_mix(engine: str, storage: str) -> None:
    with pytest.raises(ConfigError, match="not available in this version"):
        parse(f'engine.url = "{engine}"\nstorage.url = "{storage}"', name="", environ={})
