"""What was given, from whom, and how a message names it.

The layers of a configuration, later ones win:

    declared      topics that Python code declares
    file          eventflow.toml
    environment   EVENTFLOW_TOPICS__EMAIL__CAPACITY=20000
    overrides     options of the command line
    override      what an operator has set of a topic while the node ran

They are merged key by key. Each value remembers its layer, so that a message names the place to
go to and not merely the setting.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

Path: TypeAlias = tuple[str | int, ...]
"""Names of tables and keys from the top; a number is a place in a list, from 0."""

DEEPEST: Final = 6
"""Tables below this depth are not merged: no setting is as deep."""

_LONGEST: Final = 80
_BARE = re.compile(r"[A-Za-z0-9_-]+")


@dataclass(frozen=True)
class Origin:
    """Where values came from."""

    label: str
    """A file's name, a variable's name, "overrides"."""
    path: Path = ()
    """What a variable gives. Others give everything."""
    expand: bool = True
    """Whether `${NAME}` in it names a variable. What is from a variable is taken as it is."""


@dataclass
class Tree:
    """The merged layers."""

    root: dict[str, Any] = field(default_factory=dict)
    origins: dict[Path, Origin] = field(default_factory=dict)
    default: Origin = field(default_factory=lambda: Origin("defaults"))
    """Whom to name for what nobody gave."""

    def merge(self, values: Mapping[Any, Any], origin: Origin, path: Path = ()) -> None:
        """Lay `values` over what stands at `path`. Python's None stands for nothing given."""
        for name, value in values.items():
            if value is None:
                continue
            at = (*path, str(name))
            if isinstance(value, Mapping) and len(at) < DEEPEST:
                self.origins.setdefault(at, origin)
                if not isinstance(self.get(at), dict):
                    self._put(at, {}, origin)
                self.merge(value, origin, at)
            else:
                self._put(at, value, origin)

    def set(self, path: Path, value: object, origin: Origin) -> None:
        """Lay one value over, with the tables that lead to it.

        Where something else than a table is in the way it stays: the reader complains of that.
        """
        for length in range(1, len(path)):
            above = path[:length]
            if self.get(above) is None:
                self._put(above, {}, origin)
            elif not isinstance(self.get(above), dict):
                return
        if isinstance(value, Mapping):
            self.merge({path[-1]: value}, origin, path[:-1])
        else:
            self._put(path, value, origin)

    def get(self, path: Path) -> Any:
        """Return what was given at `path`; None: nothing."""
        found: Any = self.root
        for step in path:
            if isinstance(found, Mapping) and isinstance(step, str):
                found = found.get(step)
            elif isinstance(found, list | tuple) and isinstance(step, int):
                found = found[step]
            else:
                return None
        return found

    def origin(self, path: Path) -> Origin:
        """Return who gave what stands at `path`, or the table around it."""
        for length in range(len(path), 0, -1):
            if path[:length] in self.origins:
                return self.origins[path[:length]]
        return self.default

    def where(self, path: Path, *, table: bool = False) -> str:
        """Return how a message names `path`: "eventflow.toml: [topics.email] capacity"."""
        origin = self.origin(path)
        if origin.path and origin.path == path:
            return origin.label
        return f"{origin.label}: {location(path, table=table)}"

    def _put(self, path: Path, value: object, origin: Origin) -> None:
        table: dict[str | int, object] = self.get(path[:-1])
        table[path[-1]] = value
        self.origins[path] = origin


def location(path: Path, *, table: bool = False) -> str:
    """Return the name of a key as "[table] key", or of a table as "[table]"."""
    if table or len(path) == 1:
        return f"[{_dotted(path)}]"
    cut = len(path) - (2 if isinstance(path[-1], int) else 1)
    return f"[{_dotted(path[:cut])}] {_dotted(path[cut:])}"


def show(value: object) -> str:
    """Return `value` for a message: short, on one line, harmless to a terminal."""
    match value:
        case bool():
            return "true" if value else "false"
        case int():
            return str(value) if value.bit_length() < 100 else "a number of more than 30 digits"
        case float():
            return repr(value)
        case str():
            return quoted(value)
        case Mapping():
            return "a table"
        case list() | tuple():
            return "a list" if value else "an empty list"
        case _:
            return f"a {type(value).__name__}"


def quoted(text: str) -> str:
    """Return `text` in quotes, cut where it is long, with nothing in it that does not print."""
    cut = text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
    return f'"{"".join(_printable(char) for char in cut)}"'


def _printable(char: str) -> str:
    if char in '"\\':
        return f"\\{char}"
    if char.isprintable():
        return char
    return f"\\u{ord(char):04x}" if ord(char) < 0x10000 else f"\\U{ord(char):08x}"


def _dotted(path: Path) -> str:
    text = ""
    for step in path:
        if isinstance(step, int):
            text += f" #{step + 1}"
        else:
            text += ("." if text else "") + (step if _BARE.fullmatch(step) else quoted(step))
    return text
