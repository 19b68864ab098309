"""What may stand where in a configuration: derived from the dataclasses, written nowhere twice.

    capacity: Annotated[int, Integer(1, 10_000_000, "deliveries")] = 10_000
    │                        │                                       │
    name in TOML             unit, range, messages                   default

A field's kind stands in its annotation; `Literal` and `bool` are kinds by themselves. A field
whose type is another dataclass is a table, a tuple of them is a list of tables or what its
`Shape` says; one of several, marked `ByType`, is the table that its key `type` names. Loading,
messages, names of variables and the reference all walk this tree.
"""

from __future__ import annotations

import dataclasses
import functools
import types
from dataclasses import dataclass, replace
from enum import Enum
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from eventflow.config.kinds import Choice, Flag, Kind

MISSING = dataclasses.MISSING


class Shape(Enum):
    """How many tables of a kind there are, and how they are told apart."""

    ONE = "one"
    """`[engine]`."""
    LIST = "list"
    """`[[routes]]`, or `tokens = [{ … }]`."""
    NAMED = "named"
    """`[topics.email]`: the name is the first field of the dataclass."""
    PAIRS = "pairs"
    """`headers = { x-api-key = "…" }`: name and value are its two fields."""


@dataclass(frozen=True)
class Follows:
    """Marks a setting that takes its default from another one."""

    what: str
    """Which one, for the reference: "the topic's `timeout`"."""


class ByType:
    """Marks a table of one of several kinds: its key `type` says which."""


class Derived:
    """Marks a field that is no setting."""


@dataclass(frozen=True)
class Leaf:
    """One value."""

    kind: Kind


@dataclass(frozen=True)
class Many:
    """Marks a text, or a list of texts."""

    kind: Kind
    least: int = 0
    """How many there must be."""

    @property
    def expected(self) -> str:
        """What is expected, for messages and for the reference."""
        return f"{self.kind.expected}, or a list of such"


@dataclass(frozen=True)
class Group:
    """Tables of one kind."""

    shape: Shape
    table: Table


@dataclass(frozen=True)
class Variants:
    """A table of one of several kinds, told apart by its key `type`."""

    tables: tuple[Table, ...]

    @property
    def type(self) -> Choice:
        """The words that `type` may be, in the order of the tables."""
        return Choice(tuple(_word(table) for table in self.tables))

    def of(self, word: str) -> Table:
        """Return the table whose `type` is `word`."""
        return next(table for table in self.tables if _word(table) == word)

    @property
    def merged(self) -> Table:
        """All keys there are, `type` first: for what is read before the type is known."""
        keys = {key.name: key for table in self.tables for key in table.keys}
        first = self.tables[0]
        type_ = replace(keys.pop("type"), node=Leaf(self.type))
        return Table(first.cls, (type_, *keys.values()))


Node = Leaf | Many | Group | Variants


@dataclass(frozen=True)
class Key:
    """One setting, or one table."""

    name: str
    """In TOML."""
    field: str
    """In Python: the same with its unit."""
    node: Node
    default: Any
    """As in Python. `MISSING`: it has none, so it must be given."""
    follows: str = ""
    """Which other setting gives the default."""

    @property
    def required(self) -> bool:
        """Whether it must be given."""
        return self.default is MISSING and not self.follows


@dataclass(frozen=True)
class Table:
    """The keys of a table, in the order of the dataclass."""

    cls: type[Any]
    keys: tuple[Key, ...]

    def key(self, name: str) -> Key | None:
        """Return the key with this name in TOML."""
        return next((key for key in self.keys if key.name == name), None)

    @property
    def named(self) -> Table:
        """This table without its first key, which is its name."""
        return Table(self.cls, self.keys[1:])


@functools.cache
def table_of(cls: type[Any]) -> Table:
    """Return the table that the dataclass `cls` describes."""
    hints = get_type_hints(cls, include_extras=True)
    keys = (_key(field, hints[field.name]) for field in dataclasses.fields(cls))
    return Table(cls, tuple(key for key in keys if key is not None))


def _key(field: dataclasses.Field[Any], hint: Any) -> Key | None:
    hint, marks = _unwrap(hint)
    if any(mark is Derived for mark in marks):
        return None
    node = _node(hint, marks)
    default = field.default
    if field.default_factory is not MISSING:
        default = field.default_factory()
    follows = next((mark.what for mark in marks if isinstance(mark, Follows)), "")
    suffix = node.kind.suffix if isinstance(node, Leaf) else ""
    name = field.name.removesuffix("_")  # as PEP 8 writes what Python keeps for itself: from_
    return Key(name.removesuffix(suffix), field.name, node, default, follows)


def _unwrap(hint: Any) -> tuple[Any, tuple[Any, ...]]:
    """Return the type without `| None` and `Annotated`, and what was annotated."""
    if get_origin(hint) in (Union, types.UnionType):
        arms = [arm for arm in get_args(hint) if arm is not types.NoneType]
        if len(arms) == 1:
            return _unwrap(arms[0])
    if get_origin(hint) is Annotated:
        inner, *marks = get_args(hint)
        return inner, tuple(marks)
    return hint, ()


def _node(hint: Any, marks: tuple[Any, ...]) -> Node:
    for mark in marks:
        if isinstance(mark, Kind):
            return Leaf(mark)
        if isinstance(mark, Many):
            return mark
    if any(isinstance(mark, ByType) for mark in marks):
        arms = get_args(hint) or (hint,)
        return Variants(tuple(table_of(arm) for arm in arms))
    shape = next((mark for mark in marks if isinstance(mark, Shape)), Shape.LIST)
    match get_origin(hint), get_args(hint):
        case (origin, words) if origin is Literal:
            return Leaf(Choice(words))
        case (origin, (cls, _)) if origin is tuple:
            return Group(shape, table_of(cls))
    if hint is bool:
        return Leaf(Flag())
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return Group(Shape.ONE, table_of(hint))
    raise TypeError(f"no kind of setting is known for {hint!r}")


def _word(table: Table) -> str:
    """Return the word that the key `type` of a variant must be."""
    key = table.key("type")
    if key is None or not isinstance(key.node, Leaf) or not isinstance(key.node.kind, Choice):
        raise TypeError(f"{table.cls.__name__} needs a field `type` of one word")
    (word,) = key.node.kind.words
    return word
