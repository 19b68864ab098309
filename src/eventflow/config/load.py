"""From a file and the environment to `Settings`, or to all that is wrong with them at once."""

from __future__ import annotations

import dataclasses
import re
import tomllib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from eventflow.config import checks
from eventflow.config import environ as environment
from eventflow.config.reader import Reader
from eventflow.config.schema import Group, Node, Shape, Variants, table_of
from eventflow.config.settings import Settings
from eventflow.config.tree import Origin, Tree, quoted
from eventflow.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

Values = Mapping[str, Any]
"""Settings as TOML has them: tables are mappings, values carry their units."""


def load(
    path: Path | None,
    *,
    environ: Mapping[str, str],
    overrides: Values | None = None,
    declared: Mapping[str, Values] | None = None,
    operators: Mapping[str, Values] | None = None,
) -> Settings:
    """Return the settings of the file at `path`; None: there is none, defaults are used.

    Args:
        path: The TOML file.
        environ: The environment, with variables for settings and for `${NAME}`.
        overrides: What wins over file and environment: `{"server": {"port": 0}}`. A value of
            None is one that was not given.
        declared: Topics whose handlers Python code gives, by name, with what it says of them.
            File and environment win over that.
        operators: What operators have set of topics while the node ran, by name; it wins over all
            else. Of a topic that is not configured it says nothing.

    Raises:
        ConfigError: the file can't be read, or has problems. All of them, not the first one.
    """
    text, name = ("", "settings") if path is None else (read(path), str(path))
    return parse(
        text,
        name=name,
        environ=environ,
        overrides=overrides,
        declared=declared,
        operators=operators,
    )


def parse(
    text: str,
    *,
    name: str,
    environ: Mapping[str, str],
    overrides: Values | None = None,
    declared: Mapping[str, Values] | None = None,
    operators: Mapping[str, Values] | None = None,
) -> Settings:
    """Return the settings that `text` holds; see `load`. Messages call it `name`.

    Raises:
        ConfigError: it is no TOML, or has problems. All of them, not the first one.
    """
    declared = declared or {}
    schema = table_of(Settings)
    tree = Tree(default=Origin(name))
    for topic, values in declared.items():
        tree.merge({"topics": {topic: values}}, Origin("Python"))
    tree.merge(_toml(text, name), Origin(name))
    unknown = [*environment.apply(environ, schema, tree)]
    tree.merge(overrides or {}, Origin("overrides"))
    for topic, values in (operators or {}).items():
        if tree.get(("topics", topic)) is not None:
            tree.merge({"topics": {topic: values}}, Origin("override"))

    reader = Reader(tree, environ)
    draft = reader.read(schema)
    checks.follow(draft)
    subject = checks.Subject(draft, tree, frozenset(declared))
    problems = [*reader.problems, *checks.problems(subject), *unknown]
    if problems:
        raise ConfigError(problems)
    settings: Settings = _value(Group(Shape.ONE, schema), draft)
    return dataclasses.replace(settings, warnings=tuple(checks.warnings(subject)))


def read(path: Path) -> str:
    """Return what a configuration file holds.

    Raises:
        ConfigError: it can't be read; the message names the file that was looked for.
    """
    try:
        return path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        looked = f"there is no such file; looked for {path.absolute()}"
        raise ConfigError([f"{path}: {looked}. Check the path and the directory."]) from None
    except OSError as error:
        raise ConfigError([f"{path}: can't be read: {error.strerror}."]) from None
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise ConfigError([f"{path}: line {line}: expected UTF-8 text."]) from None
    except ValueError as error:  # a NUL in the path
        raise ConfigError([f"{quoted(str(path))}: can't be read: {error}."]) from None


def _toml(text: str, name: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ConfigError([f"{name}: lists or tables are nested too deep."]) from None
    except ValueError as error:  # TOMLDecodeError is one, and so is a number of 5,000 digits
        raise ConfigError([f"{name}: {_syntax(str(error), text)}"]) from None


def _syntax(error: str, text: str) -> str:
    """Return tomllib's message with the place in front."""
    placed = re.fullmatch(r"(.*) \(at line (\d+), column (\d+)\)", error, re.DOTALL)
    if placed:
        return f"line {placed[2]}, column {placed[3]}: {placed[1]}."
    ended = re.fullmatch(r"(.*) \(at end of document\)", error, re.DOTALL)
    if ended:
        *before, last = text.split("\n")
        return f"line {len(before) + 1}, column {len(last) + 1}: {ended[1]}."
    return "a number has too many digits." if "digits" in error else f"not TOML: {error}."


def _value(node: Node, found: Any) -> Any:
    """Return the frozen value for a part of a draft without problems."""
    if found is None or not isinstance(node, Group | Variants):
        return found
    if isinstance(node, Variants):
        return _value(Group(Shape.ONE, found.table), found)
    if node.shape is not Shape.ONE:
        return tuple(_value(Group(Shape.ONE, node.table), item) for item in found)
    fields = {key.field: _value(key.node, found[key.field]) for key in node.table.keys}
    return node.table.cls(**fields)
