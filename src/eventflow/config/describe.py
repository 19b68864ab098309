"""What the settings' docstrings say: read from the source, where they stand once."""

from __future__ import annotations

import ast
import inspect
import textwrap
from typing import Any, NamedTuple


class Said(NamedTuple):
    """The docstring of a setting."""

    what: str
    """What the setting is: the first paragraph."""
    why: str
    """Why its default and range are as they are: the rest."""


def described(cls: type[Any]) -> dict[str, Said]:
    """Return what is said of each field of a dataclass."""
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
    assert isinstance(definition, ast.ClassDef)  # noqa: S101  # the source of a class is one
    found = {}
    for node, follower in zip(definition.body, definition.body[1:], strict=False):
        if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name):
            continue
        if isinstance(follower, ast.Expr) and isinstance(follower.value, ast.Constant):
            found[node.target.id] = _said(str(follower.value.value))
    return found


def _said(text: str) -> Said:
    what, _, why = inspect.cleandoc(text).partition("\n\n")
    return Said(_one_line(what), _one_line(why))


def _one_line(text: str) -> str:
    return " ".join(text.split())
