"""docs/reference/python.md, from the code: `python -m tests.repo.python_reference > ...`."""

from __future__ import annotations

import enum
import inspect
import re
import sys
from typing import TYPE_CHECKING, Any, Final

import eventflow
from eventflow import errors, testing
from eventflow.config.describe import described
from eventflow.engine import protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

HEAD: Final = """\
# Python

Every public name, with its signature and what it says of itself; `help(eventflow.Client)` says
more. How they are used stands in [write a handler](../how-to/write-a-handler.md),
[publish from Python](../how-to/publish-from-python.md) and
[test your handlers](../how-to/test-your-handlers.md). Times end in `_at` (seconds since 1970, UTC)
or `_s` (seconds). Other names may change with any version.
"""
RESULTS: Final = (protocol.Receipt, protocol.Census, protocol.Counts)
"""What public functions return, and nobody has to make."""
_MODULE: Final = re.compile(r"\b(?:eventflow|collections|typing|pathlib)(?:\.\w+)*\.(?=[A-Z])")
_ADDRESS: Final = re.compile(r"<(?:function|class) '?(?:[\w.]*\.)?(\w+).*?>")


class _Verbatim:
    """An annotation that is shown as it is written."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return self.text


def reference() -> str:
    """Return the page."""
    public = {name: getattr(eventflow, name) for name in eventflow.__all__}
    raised = [one for one in vars(errors).values() if _is_error(one)]
    named = [*public.values(), *raised]
    parts = [
        HEAD,
        "## `eventflow`\n",
        *(_entry(name, one) for name, one in public.items() if one not in raised),
        "## Errors\n\nOf `eventflow` where it says so, else of `eventflow.errors`.\n",
        *(_error(one, imported=one.__name__ in public) for one in raised),
        "## What comes back\n",
        *(_entry(one.__name__, one) for one in RESULTS),
        "## `eventflow.testing`\n",
        *(
            _entry(name, getattr(testing, name))
            for name in testing.__all__
            if getattr(testing, name) not in named
        ),
    ]
    return "\n".join(parts)


def _is_error(one: object) -> bool:
    return inspect.isclass(one) and issubclass(one, errors.EventFlowError)


def _error(one: type[Exception], *, imported: bool) -> str:
    where = "eventflow" if imported else "eventflow.errors"
    return _entry(one.__name__, one, f" · `from {where} import {one.__name__}`")


def _entry(name: str, one: Any, where: str = "") -> str:
    if not callable(one) or not hasattr(one, "__name__") or not hasattr(one, "__module__"):
        shown = type(one).__name__ if name == "__version__" else repr(one)  # it changes by itself
        return f"### `{name}`\n\n`{shown}`\n"
    if not (inspect.isclass(one) or inspect.isfunction(one)):
        return f"### `{name}`\n\n`{_MODULE.sub('', repr(one))}`\n"
    title = f"### `{name}`{where}\n\n```python\n{_called(name, one)}\n```\n\n{_first_line(one)}\n"
    rows = list(_members(one)) if inspect.isclass(one) else []
    if rows:
        title += "\n| | |\n|---|---|\n" + "".join(
            f"| `{_cell(sign)}` | {_cell(says)} |\n" for sign, says in rows
        )
    return title


def _members(cls: type[Any]) -> Iterator[tuple[str, str]]:
    """Yield fields, properties and methods: what a class adds to those of other libraries."""
    if issubclass(cls, enum.Enum):
        yield from ((f"{one.name} = {one.value!r}", "") for one in cls)
        return
    foreign = {name for base in cls.__mro__ if not _is_ours(base) for name in vars(base)}
    ours = [base for base in reversed(cls.__mro__) if _is_ours(base) and base is not object]
    seen: dict[str, tuple[str, str]] = {}
    for base in ours:
        said = described(base)
        for name, kind in inspect.get_annotations(base).items():
            text = said[name].what if name in said else ""
            seen[name] = (f"{name}: {_short(kind)}", text)
        for name, found in vars(base).items():
            row = _member(name, found)
            if row is not None:
                seen[name] = row
    yield from (
        row for name, row in seen.items() if not name.startswith("_") and name not in foreign
    )


def _member(name: str, found: Any) -> tuple[str, str] | None:
    if isinstance(found, property):
        kind = _short(inspect.signature(found.fget).return_annotation)  # type: ignore[arg-type]  # all can be read
        return f"{name}: {kind}", _first_line(found)
    function = found.__func__ if isinstance(found, staticmethod | classmethod) else found
    if not inspect.isfunction(function):
        return None
    word = "async " if inspect.iscoroutinefunction(function) else ""
    return f"{word}{_called(name, function)}", _first_line(function)


def _is_ours(cls: type[Any]) -> bool:
    return cls.__module__.partition(".")[0] == "eventflow"


def _called(name: str, one: Callable[..., Any]) -> str:
    """Return how something is called."""
    if inspect.isclass(one) and issubclass(one, enum.Enum):
        return f"{name}(value)"
    made: Any = one
    if inspect.isclass(one):
        if issubclass(one, Exception) and "__init__" not in vars(one):
            return f"{name}(message)"
        # A metaclass of ours that takes other arguments than its fields.
        made = type(one).__call__ if _is_ours(type(one)) else one
    found = inspect.signature(made)
    places = [
        place.replace(
            annotation=_verbatim(place.annotation),
            default=_Verbatim(_ADDRESS.sub(r"\1", repr(place.default)))
            if place.default is not place.empty
            else place.empty,
        )
        for place in found.parameters.values()
        if place.name not in {"self", "cls"}
    ]
    if inspect.isasyncgenfunction(getattr(one, "__wrapped__", None)):
        given = _short(found.return_annotation).removeprefix("AsyncIterator[").removesuffix("]")
        return f"async with {name}{inspect.Signature(places)} as node:  # {given}"
    shown = f"{name}{inspect.Signature(places)}"
    if inspect.isclass(one) or found.return_annotation is found.empty:
        return shown
    return f"{shown} -> {_short(found.return_annotation)}"


def _verbatim(annotation: Any) -> Any:
    return annotation if annotation is inspect.Parameter.empty else _Verbatim(_short(annotation))


def _short(annotation: Any) -> str:
    text = annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
    return _MODULE.sub("", text)


def _first_line(one: Any) -> str:
    text = inspect.getdoc(one) or ""
    return " ".join(text.partition("\n\n")[0].split())


def _cell(text: str) -> str:
    return text.replace("|", r"\|")


if __name__ == "__main__":
    sys.stdout.write(reference())
