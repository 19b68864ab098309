"""From what was given to values: every key is held against the schema, every problem is kept.

The outcome is a draft: nested dicts with the names of the dataclasses' fields. A key that was
not given has its default; a key that was given wrong is missing, so that later checks can tell
the two apart and don't complain twice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from eventflow.config.environ import BadReference, expand
from eventflow.config.kinds import Kind, Unfit
from eventflow.config.schema import MISSING, Group, Key, Leaf, Many, Shape, Table, Variants
from eventflow.config.tree import Path, Tree, location, quoted, show
from eventflow.config.unavailable import not_built
from eventflow.errors import did_you_mean


class Draft(dict[str, Any]):
    """A table's values by field, before it is known whether all of them can be used."""

    def __init__(self, table: Table, path: Path) -> None:
        super().__init__()
        self.table = table
        self.path = path
        """Where the table stands."""

    def at(self, name: str) -> Path:
        """Return where the key `name` of this table stands."""
        return (*self.path, name)


class Faulty(Exception):
    """A value can't be used; the problem has been noted."""


@dataclass
class Reader:
    """Reads one tree. Never stops at a problem."""

    tree: Tree
    environ: Mapping[str, str]
    problems: list[str] = field(default_factory=list)

    def read(self, schema: Table) -> Draft:
        """Return the draft of the whole tree."""
        return self._table(schema, self.tree.root, ())

    def _table(self, table: Table, raw: Mapping[str, object], path: Path) -> Draft:
        for name in raw:
            if table.key(name) is None:
                self._unknown(table, name, path)
        draft = Draft(table, path)
        for key in table.keys:
            try:
                draft[key.field] = self._key(key, raw, path)
            except Faulty:
                continue
        return draft

    def _unknown(self, table: Table, name: str, path: Path) -> None:
        at = (*path, name)
        given = self.tree.get(at)
        entry = not_built(at, given)
        if entry is not None:
            where = self.tree.where(at, table=isinstance(given, Mapping))
            self.problems.append(entry.refusal(where))
            return
        label = self.tree.origin(at).label
        self.problems.append(f"{label}: {_no_such(table, name, path)}")

    def _key(self, key: Key, raw: Mapping[str, object], path: Path) -> Any:
        at = (*path, key.name)
        if key.name in raw:
            return self._node(key, raw[key.name], at)
        if key.required:
            self._expected(at, _expected(key), "nothing")
            raise Faulty
        if isinstance(key.node, Group) and key.node.shape is Shape.ONE and key.default is not None:
            return self._table(key.node.table, {}, at)
        return None if key.default is MISSING or key.follows else key.default

    def _node(self, key: Key, raw: object, at: Path) -> Any:
        match key.node:
            case Leaf(kind):
                return self._leaf(kind, raw, at)
            case Many(kind, least):
                return self._many(kind, least, raw, at)
            case Group(shape, table):
                return self._group(shape, table, raw, at)
            case Variants() as variants:
                return self._variant(variants, raw, at)

    def _leaf(self, kind: Kind, raw: object, at: Path) -> Any:
        text, filled = self._filled(raw, at)
        value = kind.from_text(text) if filled and isinstance(text, str) else text
        entry = not_built(at, value)
        if entry is not None:
            self.problems.append(entry.refusal(self.tree.where(at)))
            raise Faulty
        try:
            return kind.read(value)
        except Unfit as unfit:
            if unfit.hide or kind.secret:
                got = "a value that is not shown"
            else:
                got = show(raw) + ("" if filled else unfit.hint)
            self._expected(at, unfit.expected, got)
            raise Faulty from None

    def _filled(self, raw: object, at: Path) -> tuple[object, bool]:
        if not isinstance(raw, str) or not self.tree.origin(at).expand:
            return raw, False
        try:
            return expand(raw, self.environ)
        except BadReference as error:
            self.problems.append(f"{self.tree.where(at)}: {error}.")
            raise Faulty from None

    def _many(self, kind: Kind, least: int, raw: object, at: Path) -> tuple[Any, ...]:
        if not isinstance(raw, list | tuple):
            return (self._leaf(kind, raw, at),)
        if len(raw) < least:
            self._expected(at, kind.expected, show(raw))
            raise Faulty
        return tuple(self._all(lambda item, place: self._leaf(kind, item, place), raw, at))

    def _group(self, shape: Shape, table: Table, raw: object, at: Path) -> Any:
        if shape is Shape.LIST:
            if not isinstance(raw, list | tuple):
                self._expected(at, "a list of tables", _type(raw), table=True)
                raise Faulty
            return self._all(lambda item, place: self._one(table, item, place), raw, at)
        if not isinstance(raw, Mapping):
            self._expected(at, "a table", _type(raw), table=True)
            raise Faulty
        if shape is Shape.ONE:
            return self._one(table, raw, at)
        return self._named(shape, table, raw, at)

    def _one(self, table: Table, raw: object, at: Path) -> Draft:
        if not isinstance(raw, Mapping):
            self._expected(at, "a table", _type(raw), table=True)
            raise Faulty
        return self._table(table, raw, at)

    def _variant(self, variants: Variants, raw: object, at: Path) -> Draft:
        """Read the table that its `type` names; of an unknown one nothing more can be said."""
        if not isinstance(raw, Mapping):
            self._expected(at, "a table", _type(raw), table=True)
            raise Faulty
        place = (*at, "type")
        if "type" not in raw:
            self._expected(place, variants.type.expected, "nothing")
            raise Faulty
        type_, _ = self._filled(raw["type"], place)
        entry = not_built(at, {"type": type_})
        if entry is not None:
            self.problems.append(entry.refusal(self.tree.where(at, table=True)))
            raise Faulty
        word = self._leaf(variants.type, raw["type"], place)
        return self._table(variants.of(word), raw, at)

    def _named(
        self, shape: Shape, table: Table, raw: Mapping[str, object], at: Path
    ) -> list[Draft]:
        """Read tables, or values, that are told apart by name."""
        by, value = table.keys[0], table.keys[1]
        drafts = []
        for name, item in raw.items():
            here = (*at, name)
            try:
                draft = Draft(table, here)
                draft |= self._name(by, name, here)
                if shape is Shape.PAIRS:
                    draft[value.field] = self._node(value, item, here)
                else:
                    draft |= self._one(table.named, item, here)
            except Faulty:
                continue
            drafts.append(draft)
        return drafts

    def _name(self, by: Key, name: str, at: Path) -> dict[str, Any]:
        """Return the name of a table by field. A faulty one is noted, and left out."""
        assert isinstance(by.node, Leaf)  # noqa: S101  # names are texts in every table
        try:
            return {by.field: by.node.kind.read(name)}
        except Unfit as unfit:
            self._expected(at, unfit.expected, f"{quoted(name)}{unfit.hint}", table=True)
            return {}

    def _all(
        self, read: Callable[[object, Path], Any], raw: Sequence[object], at: Path
    ) -> list[Any]:
        """Read the items of a list. One that is faulty is None, to keep the others' places."""
        items: list[Any] = []
        for number, item in enumerate(raw):
            try:
                items.append(read(item, (*at, number)))
            except Faulty:
                items.append(None)
        return items

    def _expected(self, at: Path, expected: str, got: str, *, table: bool = False) -> None:
        where = self.tree.where(at, table=table)
        self.problems.append(f"{where}: expected {expected}, got {got}")


def _no_such(table: Table, name: str, path: Path) -> str:
    """Return that `table` has no such key, and what may have been meant."""
    meant = did_you_mean(name, [key.name for key in table.keys])
    if path:
        return f"{location(path, table=True)} has no setting {quoted(name)}.{meant}"
    for key in table.keys:
        if isinstance(key.node, Group) and key.node.table.key(name) is not None and not meant:
            meant = f" Did you mean {location((key.name, name))}?"
    return f"there is no table {location((name,), table=True)}.{meant}"


def _expected(key: Key) -> str:
    match key.node:
        case Leaf(kind):
            return kind.expected
        case Many() as many:
            return many.expected
        case Group() | Variants():
            return "a table"


def _type(raw: object) -> str:
    """Return what `raw` is, and not what it says: it may hold a secret."""
    return "a text" if isinstance(raw, str) else show(raw)
