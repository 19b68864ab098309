"""Jinja2 that reads and computes, reaches nothing else, and counts what it does.

    steps   fields read, calls, items gone through, pieces written, and what goes into filters
    texts   none grows beyond `TEXT_MAX`: what makes one looks first how long it would be

Steps, not seconds: a busy machine must not make a mail dead that a quiet one sends. A quarter of
a million of them take about a tenth of a second, in which the node does nothing else.

Against mistakes and against data: `{% set x = x ~ x %}` in a loop, a list that holds itself forty
times, a text of a million blanks in `replace`. Not against an operator, who can run any handler.
"""

from __future__ import annotations

import functools
import re
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, StrictUndefined, nodes
from jinja2.exceptions import SecurityError
from jinja2.runtime import markup_join, str_join
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

from eventflow.errors import EventFlowError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from jinja2.runtime import Context

STEPS_MAX = 250_000
"""A table of 5,000 rows takes about 70,000."""
TEXT_MAX = 1_048_576
"""Characters of a body, and of any text on its way there: what an event may hold."""
NUMBER_MAX = 10_000
"""The largest number that may say how wide, how often or how many."""

_WIDE = frozenset({"batch", "center", "indent", "slice", "tojson", "truncate", "wordwrap"})
"""Filters that make much of little if a number says so."""
_WIDE_METHODS = frozenset({"center", "expandtabs", "ljust", "rjust", "zfill"})
_LEFT_OUT = ("pprint", "random", "xmlattr")
"""Filters that show Python's side, differ at every attempt, or have been a way around escaping."""
_JOINED = "~"
"""The filter that stands for this operator. No template can name it."""
_WIDE_FORMAT = re.compile(r"%[^%a-zA-Z]*(?:\*|\d{5})")
_CHARS_A_STEP = 16


class BodyError(EventFlowError):
    """A body can't be rendered for this event. Never leaves the sink."""


class Sandbox(ImmutableSandboxedEnvironment):
    """Lets a template read and compute, and counts.

    Args:
        html: What is put in is escaped.
    """

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self, *, html: bool) -> None:
        super().__init__(
            autoescape=html,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            keep_trailing_newline=True,
            finalize=self._weighed,
        )
        self.steps = self.size = 0
        self.globals = {**GLOBALS, "range": self._range}
        for name in _LEFT_OUT:
            del self.filters[name]
        self.filters[_JOINED] = markup_join if html else str_join
        for name, run in self.filters.items():
            self.filters[name] = self._counting(name, run)

    def step(self, count: int = 1) -> None:
        """Count work.

        Raises:
            BodyError: it is too much.
        """
        self.steps += count
        if self.steps > STEPS_MAX:
            raise BodyError(f"expected at most {STEPS_MAX} steps, and it goes on")

    def wrote(self, piece: str) -> None:
        """Count what is written.

        Raises:
            BodyError: it is too much.
        """
        self.step()
        self.size += len(piece)
        _refuse_long(self.size)

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        _Joins().visit(tree)
        return tree

    def getattr(self, obj: Any, attribute: str) -> Any:
        """Return a field; of data its own field before Python's method."""
        if isinstance(obj, dict) and attribute in obj:
            return self._counted(obj[attribute])
        return self._counted(super().getattr(obj, attribute))

    def getitem(self, obj: Any, argument: Any) -> Any:
        """Return a field or an item."""
        return self._counted(super().getitem(obj, argument))

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """Return whether a template may read it: a table of `translate` makes much of little."""
        return attr != "translate" and super().is_safe_attribute(obj, attr, value)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """Refuse the methods `format` and `format_map` of texts, whose widths are out of sight."""
        if super().wrap_str_format(value) is not None:
            raise SecurityError("a text's method format is not allowed: use the filter format")
        return None

    def call(self, context: Context, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Call what the sandbox allows, with numbers and texts that are no bomb."""
        name, owner = getattr(obj, "__name__", ""), getattr(obj, "__self__", None)
        if name in _WIDE_METHODS:
            _refuse_large((*args, *kwargs.values()))
        if isinstance(owner, str | bytes):
            self._weighed((owner, args, kwargs))
            _refuse_grown(name, owner, args, kwargs)
        return self._counted(super().call(context, obj, *args, **kwargs))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Compute, unless little would become much."""
        if operator == "**":
            _refuse_large((left, right))
        if operator == "%" and isinstance(left, str):
            raise SecurityError("% of a text is not allowed: use ~ to join texts")
        if operator == "+" and isinstance(left, str | bytes | list | tuple):
            self._weighed((left, right))
            _refuse_long(len(left) + _length(right))
        if operator == "*" and not (_is_number(left) and _is_number(right)):
            _refuse_large((left, right))
            times, one = (left, right) if _is_number(left) else (right, left)
            _refuse_long(_length(one) * max(0, times) if _is_number(times) else 0)
        return self._counted(super().call_binop(context, operator, left, right))

    def _counted(self, value: Any) -> Any:
        """Count reading a value; what can be gone through counts as if it were."""
        self.step(1 + len(value) if isinstance(value, list | dict | tuple) else 1)
        return value

    def _weighed(self, value: Any) -> Any:
        """Count all that a value holds, however often it holds it."""
        waiting = [value]
        while waiting:
            one = waiting.pop()
            size = _length(one)
            self.step(1 + (size // _CHARS_A_STEP if isinstance(one, str | bytes) else size))
            if isinstance(one, dict):
                waiting += one.values()
            elif isinstance(one, list | tuple):
                waiting += one
        return value

    def _counting(self, name: str, run: Callable[..., Any]) -> Callable[..., Any]:
        """Return a filter that counts, and looks first what it would make."""
        hidden = 1 if hasattr(run, "jinja_pass_arg") else 0  # before the value: Jinja2's own

        @functools.wraps(run)  # with the marks that say what else Jinja2 hands to it
        def counting(*args: Any, **kwargs: Any) -> Any:
            value, *others = args[hidden:]
            if name in _WIDE:
                _refuse_large((*others, *kwargs.values()))
            self._weighed((value, others, kwargs))
            _refuse_grown(name, value, others, kwargs)
            return self._counted(run(*args, **kwargs))

        return counting

    def _range(self, *bounds: int) -> range:
        found = range(*bounds)
        self.step(len(found))
        return found


class _Joins(NodeTransformer):
    """Makes of the operator `~`, which Jinja2 has no hook for, a filter, which it has."""

    def visit_Concat(self, node: nodes.Concat) -> nodes.Filter:  # noqa: N802  # as Jinja2 calls it
        self.generic_visit(node)
        parts = nodes.List(node.nodes, lineno=node.lineno)
        joined = nodes.Filter(parts, _JOINED, [], [], None, None, lineno=node.lineno)
        if node.environment is not None:
            joined.set_environment(node.environment)
        return joined


GLOBALS: dict[str, Any] = {
    name: value
    for name, value in Environment(autoescape=True).globals.items()
    if name in {"cycler", "dict", "joiner", "namespace", "range"}
}
"""What templates know beside what they are given."""


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float)


def _length(value: Any) -> int:
    return len(value) if isinstance(value, str | bytes | list | tuple | dict) else 0


def _refuse_large(values: Iterable[Any]) -> None:
    for value in values:
        if isinstance(value, int | float) and abs(value) > NUMBER_MAX:
            raise SecurityError(f"expected a number up to {NUMBER_MAX}, got {value:g}")


def _refuse_long(length: float) -> None:
    if length > TEXT_MAX:
        raise BodyError(f"expected at most {TEXT_MAX} characters, got more")


def _refuse_grown(name: str, value: Any, others: Any, named: dict[str, Any]) -> None:
    """Refuse what a filter or a method would make longer than `TEXT_MAX`."""
    first, second = [*others, *named.values(), None, None][:2]
    match name:
        case "replace":
            text, new = str(value), str(second)
            _refuse_long(len(text) + text.count(str(first)) * len(new))
        case "indent":
            width = first if isinstance(first, int) else _length(first)
            _refuse_long(str(value).count("\n") * max(4, width))
        case "join" if isinstance(value, str | bytes):  # the method: the text stands in between
            _refuse_long(_total(first) + _length(value) * _length(first))
        case "join" | "~":
            _refuse_long(_total(value) + _length(first) * _length(value))
        case "format" if _WIDE_FORMAT.search(str(value)):
            raise SecurityError("expected a width of at most four digits in a format")


def _total(values: Any) -> int:
    """Return how many characters the texts in a list have."""
    return sum(_length(one) for one in values) if isinstance(values, list | tuple) else 0
