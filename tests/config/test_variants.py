"""A table of one of several kinds: its key `type` says which, and so what else may stand in it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import pytest

from eventflow.config.environ import apply, variables
from eventflow.config.kinds import Integer
from eventflow.config.load import _value
from eventflow.config.quantities import Duration
from eventflow.config.reader import Draft, Reader
from eventflow.config.schema import ByType, Group, Leaf, Shape, Table, Variants, table_of
from eventflow.config.settings import Settings
from eventflow.config.texts import HOST
from eventflow.config.topic import TopicSettings
from eventflow.config.tree import Origin, Tree


@dataclass(frozen=True, slots=True, kw_only=True)
class Lamp:
    type: Literal["lamp"]
    watts: Annotated[int, Integer(1, 100, "W")] = 9


@dataclass(frozen=True, slots=True, kw_only=True)
class Radio:
    type: Literal["radio"]
    station: Annotated[str, HOST]
    timeout_s: Annotated[float, Duration(0.0, 60.0)] = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    device: Annotated[Lamp | Radio, ByType()] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class House:
    room: Room


def read(values: dict[str, Any], environ: dict[str, str] | None = None) -> tuple[Any, list[str]]:
    """Return the value, and the problems."""
    schema = table_of(House)
    tree = Tree(default=Origin("f.toml"))
    tree.merge({"room": values}, Origin("f.toml"))
    problems = [*apply(environ or {}, schema, tree)]
    reader = Reader(tree, environ or {})
    draft: Draft = reader.read(schema)
    problems += reader.problems
    return None if problems else _value(Group(Shape.ONE, schema), draft), problems


def test_its_type_says_which_dataclass_it_is() -> None:
    lamp, _ = read({"device": {"type": "lamp"}})
    radio, _ = read({"device": {"type": "radio", "station": "fm4", "timeout": "2s"}})
    none, _ = read({})

    assert lamp.room.device == Lamp(type="lamp", watts=9)
    assert radio.room.device == Radio(type="radio", station="fm4", timeout_s=2.0)
    assert none.room.device is None


@pytest.mark.parametrize(
    ("device", "problem"),
    [
        ({"type": "lmap"}, 'type: expected "lamp" or "radio", got "lmap". Did you mean \'lamp\'?'),
        ({"type": 1}, 'type: expected "lamp" or "radio", got 1'),
        ({"watts": 3}, 'type: expected "lamp" or "radio", got nothing'),
    ],
)
def test_without_a_known_type_only_that_is_said(device: dict[str, Any], problem: str) -> None:
    """What else stands there may be right or wrong: nobody knows before the type is mended."""
    _, problems = read({"device": device})

    assert problems == [f"f.toml: [room.device] {problem}"]


def test_a_key_of_another_type_is_refused() -> None:
    _, problems = read({"device": {"type": "lamp", "station": "fm4"}})

    assert problems == ['f.toml: [room.device] has no setting "station".']


def test_what_is_no_table_is_said() -> None:
    _, problems = read({"device": "lamp"})

    assert problems == ["f.toml: [room.device]: expected a table, got a text"]


def test_variables_reach_every_type_s_keys() -> None:
    by_variable, _ = read(
        {}, {"EVENTFLOW_ROOM__DEVICE__TYPE": "lamp", "EVENTFLOW_ROOM__DEVICE__WATTS": "3"}
    )
    whole, _ = read({}, {"EVENTFLOW_ROOM__DEVICE": '{ type = "radio", station = "fm4" }'})
    _, problems = read({"device": {"type": "lamp"}}, {"EVENTFLOW_ROOM__DEVICE__STATION": "fm4"})

    assert by_variable.room.device == Lamp(type="lamp", watts=3)
    assert whole.room.device == Radio(type="radio", station="fm4")
    assert problems == ['EVENTFLOW_ROOM__DEVICE__STATION: [room.device] has no setting "station".']
    assert {name.rpartition("__")[2] for name in variables(table_of(House), Tree())} == {
        *("EVENTFLOW_ROOM", "DEVICE", "TYPE", "WATTS", "STATION", "TIMEOUT"),
    }


def test_a_type_may_be_read_from_a_variable() -> None:
    lamp, _ = read({"device": {"type": "${KIND}"}}, {"KIND": "lamp"})

    assert lamp.room.device == Lamp(type="lamp")


def test_a_kind_without_a_type_is_a_mistake_in_the_code() -> None:
    @dataclass(frozen=True, slots=True, kw_only=True)
    class Nameless:
        watts: bool = True

    with pytest.raises(TypeError, match="Nameless needs a field `type`"):
        _ = Variants((table_of(Nameless),)).type


def sinks() -> Variants:
    node = table_of(TopicSettings).key("sink")
    assert node is not None
    assert isinstance(node.node, Variants)
    return node.node


def test_sinks_write_settings_of_one_name_in_one_way() -> None:
    """A variable is read before it is known for which sink: `environ.apply`."""
    seen: dict[str, object] = {}
    for table in sinks().tables:
        for key in table.keys:
            read_by: object = type(key.node)
            if isinstance(key.node, Leaf):
                read_by = type(key.node.kind).from_text
            elif isinstance(key.node, Group):
                read_by = key.node.shape
            assert seen.setdefault(key.name, read_by) == read_by, key.name


def test_every_sink_begins_with_its_type_and_says_what_it_is() -> None:
    for word, table in zip(sinks().type.words, sinks().tables, strict=True):
        assert table.keys[0].name == "type"
        assert (table.cls.__doc__ or "").startswith(f'`sink = {{ type = "{word}", … }}`: ')
        assert dataclasses.is_dataclass(table.cls)
        assert Settings.__module__.rpartition(".")[0] in table.cls.__module__


def test_merged_has_every_key_once() -> None:
    merged: Table = Variants((table_of(Lamp), table_of(Radio))).merged

    assert [key.name for key in merged.keys] == ["type", "watts", "station", "timeout"]
