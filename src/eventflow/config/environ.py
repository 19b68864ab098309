"""The environment: variables that stand for settings, and variables that texts name.

    EVENTFLOW_TOPICS__EMAIL__CAPACITY=20000     [topics.email] capacity, wins over the file
    secret = "${SHOP_TOKEN}"                    reads SHOP_TOKEN; "$${X}" is the text "${X}"

Two underscores lead one level down. A text is taken as it is, everything else as TOML writes it:
`EVENTFLOW_SERVER__TOKENS=[{ name = "shop", role = "publish", secret = "…" }]`.

The environment is an argument: nothing here reads that of the process.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from eventflow.config.kinds import toml_value
from eventflow.config.schema import Group, Leaf, Node, Shape, Table, Variants
from eventflow.config.tree import Origin, Path, Tree, quoted
from eventflow.config.unavailable import not_built
from eventflow.errors import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

PREFIX: Final = "EVENTFLOW_"
LEVEL: Final = "__"

OTHERS: Final = frozenset(f"{PREFIX}{name}" for name in ("URL", "TOKEN", "SEED", "PROOF"))
"""Variables that are no settings: the command line's, and the tests'."""

# Kubernetes sets these in every pod of a namespace that has a service named "eventflow…":
# https://kubernetes.io/docs/concepts/containers/container-environment/#cluster-information
_SERVICE = re.compile(r"\w+_SERVICE_(HOST|PORT(_\w+)?)|\w+_PORT_\d+_(TCP|UDP|SCTP)(_\w+)?")
_SERVICE_URL = re.compile(r"(tcp|udp|sctp)://\S+")

_VARIABLE = re.compile(r"\$\$\{|\$\{(?P<name>[^{}]*)\}|\$\{")


class BadReference(Exception):
    """A text names no variable that is set, or a variable names no one setting."""


def apply(environ: Mapping[str, str], schema: Table, tree: Tree) -> Iterator[str]:
    """Lay the variables of EventFlow over `tree`. Yield a problem for each that is no setting."""
    found = []
    for name in sorted(environ):
        if not name.startswith(PREFIX) or name in OTHERS or _is_service(name, environ[name]):
            continue
        try:
            target = _find(schema, (), name.removeprefix(PREFIX), tree)
        except BadReference as error:
            yield f"{name}: {error}"
            continue
        if target is None:
            meant = did_you_mean(name, variables(schema, tree))
            yield f"{name}: there is no such setting.{meant}"
        else:
            found.append((*target, name))
    for path, node, name in sorted(found, key=lambda entry: len(entry[0])):
        tree.set(path, _value(node, environ[name]), Origin(name, path, expand=False))


def variables(schema: Table, tree: Tree, path: Path = ()) -> Iterator[str]:
    """Yield the names of all variables, for topics and the like those that `tree` has."""
    for key in schema.keys:
        at = (*path, key.name)
        yield variable(at)
        if isinstance(key.node, Group):
            yield from _variables_within(key.node, at, tree)
        elif isinstance(key.node, Variants):
            yield from variables(key.node.merged, tree, at)


def variable(path: Path) -> str:
    """Return the variable that stands for `path`."""
    return PREFIX + LEVEL.join(_upper(str(step)) for step in path)


def expand(text: str, environ: Mapping[str, str]) -> tuple[str, bool]:
    """Return `text` with its `${NAME}` filled in, and whether there was one.

    Raises:
        BadReference: one names no variable that is set. Its text names the variable.
    """
    read = False

    def fill(match: re.Match[str]) -> str:
        nonlocal read
        if match[0] == "$${":
            return "${"
        name = match["name"]
        if name is None or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            raise BadReference('"${" must be followed by a variable\'s name and "}"; "$${" is "${"')
        if name not in environ:
            raise BadReference(f"the variable {name} is not set")
        read = True
        return environ[name]

    return _VARIABLE.sub(fill, text), read


def _find(table: Table, path: Path, rest: str, tree: Tree) -> tuple[Path, Node | None] | None:
    """Return what the variable's `rest` names within `table`, with None for what isn't built."""
    head, _, tail = rest.partition(LEVEL)
    if not_built(at := (*path, head.lower()), None) is not None:
        return at, None
    key = next((key for key in table.keys if _upper(key.name) == head), None)
    if key is None:
        return None
    if not rest.removeprefix(head):
        return at, key.node
    if isinstance(key.node, Group) and tail:
        return _find_within(key.node, at, tail, tree)
    if isinstance(key.node, Variants) and tail:  # the reader says what this `type` does not have
        return _find(key.node.merged, at, tail, tree)
    return None


def _find_within(
    group: Group, path: Path, rest: str, tree: Tree
) -> tuple[Path, Node | None] | None:
    if group.shape is Shape.ONE:
        return _find(group.table, path, rest, tree)
    if group.shape is Shape.LIST:
        return None
    name = _name(_given(tree, path), rest)
    tail = rest[len(name) :].removeprefix(LEVEL) if name else rest.partition(LEVEL)[2]
    if group.shape is Shape.PAIRS:
        return ((*path, name), group.table.keys[1].node) if name and not tail else None
    at = (*path, name or rest.partition(LEVEL)[0].lower())
    return _find(group.table.named, at, tail, tree) if tail else (at, Group(Shape.ONE, group.table))


def _name(given: list[str], rest: str) -> str | None:
    """Return the given name that `rest` begins with: the longest, as names may hold `__`.

    Raises:
        BadReference: two names look alike in capitals.
    """
    fits = [name for name in given if f"{rest}{LEVEL}".startswith(f"{_upper(name)}{LEVEL}")]
    longest = [name for name in fits if len(name) == max(map(len, fits))]
    if len(longest) > 1:
        both = " and ".join(quoted(name) for name in longest)
        raise BadReference(f"it may mean {both}; set this one in the file")
    return longest[0] if longest else None


def _variables_within(group: Group, path: Path, tree: Tree) -> Iterator[str]:
    if group.shape is Shape.ONE:
        yield from variables(group.table, tree, path)
    elif group.shape is Shape.NAMED:
        for name in _given(tree, path):
            yield from variables(group.table.named, tree, (*path, name))
    elif group.shape is Shape.PAIRS:
        yield from (variable((*path, name)) for name in _given(tree, path))


def _value(node: Node | None, text: str) -> object:
    """Return what `text` means where `node` stands."""
    if node is None:
        return text
    if isinstance(node, Leaf):
        return node.kind.from_text(text)
    if isinstance(node, Group | Variants) or text.startswith("["):
        return toml_value(text)
    return text


def _given(tree: Tree, path: Path) -> list[str]:
    table = tree.get(path)
    return list(table) if isinstance(table, dict) else []


def _upper(name: str) -> str:
    return re.sub(r"[^A-Z0-9]", "_", name.upper())


def _is_service(name: str, value: str) -> bool:
    """Return whether Kubernetes, and not a person, has set this variable."""
    if LEVEL in name:
        return False
    by_value = name.endswith("_PORT") and _SERVICE_URL.fullmatch(value)
    return bool(by_value or _SERVICE.fullmatch(name))
