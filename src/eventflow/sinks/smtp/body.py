"""The bodies of mails: Jinja2 in a sandbox, with the names of every expression.

    event       event.type, event.data.name, event.key, ...      delivery    delivery.attempt, ...

A field of the data comes before a method of Python's dict with its name: `event.data.items` is the
order's items, as in CEL. What is not there is an error; `{% if event.subject is defined %}` asks.

A template is its operator's, its data anybody's. So the work of one rendering is bounded: by a
count of steps, not by time, for a busy machine must not make a mail dead that a quiet one sends.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, StrictUndefined, TemplateError, meta
from jinja2.exceptions import SecurityError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from eventflow.errors import ConfigError, EventFlowError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from jinja2 import nodes
    from jinja2.runtime import Context

OUTPUT_MAX = 1_048_576
"""Characters of a body. Ten times what a mail ever is, and what an event may hold."""
STEPS_MAX = 1_000_000
"""Fields read, calls, items gone through and pieces written: about a second's work."""
NUMBER_MAX = 10_000
"""The largest number that may say how wide, how often or how many."""
NAMES = ("event", "delivery")

_WIDE = ("batch", "center", "indent", "slice", "truncate", "wordwrap")
"""Filters that make much of little if a number says so."""
_WIDE_METHODS = frozenset({"center", "expandtabs", "ljust", "rjust", "zfill"})
_LEFT_OUT = ("pprint", "random", "xmlattr")
"""Filters that show Python's side, differ at every attempt, or have been a way around escaping."""


class BodyError(EventFlowError):
    """A body can't be rendered for this event. Never leaves the sink."""


class Body:
    """A compiled body: see `compile_body`."""

    def __init__(self, text: str, sandbox: _Sandbox) -> None:
        self._sandbox = sandbox
        self._template = sandbox.from_string(text)

    def render(self, values: Mapping[str, Any]) -> str:
        """Return the text for these values of `event` and `delivery`.

        Raises:
            BodyError: it can't be computed, or grows too large.
        """
        sandbox = self._sandbox
        sandbox.steps = 0
        sandbox.size = 0
        pieces: list[str] = []
        try:
            for piece in self._template.generate(**values):
                sandbox.wrote(piece)
                pieces.append(piece)
        except BodyError:
            raise
        except Exception as error:  # a template can raise whatever Python can
            raise BodyError(f"{type(error).__name__}: {error}") from error
        return "".join(pieces)


def compile_body(text: str, *, html: bool = False) -> Body:
    """Return the body that `text` writes down; in HTML what is put in is escaped.

    Raises:
        ConfigError: it is no Jinja2, speaks of a name that does not exist, or of another template.
    """
    sandbox = _Sandbox(
        autoescape=html,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    try:
        tree = sandbox.parse(text)
        body = Body(text, sandbox)
    except TemplateError as error:
        line = getattr(error, "lineno", None)
        where = "" if line is None else f"line {line}: "
        raise ConfigError([f"expected a Jinja2 template: {where}{error}"]) from error
    problems = [*_unknown(tree)]
    if problems:
        raise ConfigError(problems)
    return body


def _unknown(tree: nodes.Template) -> list[str]:
    known = {*NAMES, *_GLOBALS}
    problems = [
        f"it speaks of {name!r}; there are {' and '.join(NAMES)}.{did_you_mean(name, NAMES)}"
        for name in sorted(meta.find_undeclared_variables(tree) - known)
    ]
    if [*meta.find_referenced_templates(tree)]:
        problems.append("it speaks of another template; a body stands alone")
    return problems


class _Sandbox(ImmutableSandboxedEnvironment):
    """Lets a template read and compute, and counts."""

    intercepted_binops = frozenset({"*", "**", "%"})

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.steps = self.size = 0
        self.globals = {**_GLOBALS, "range": self._range}
        for name in _LEFT_OUT:
            del self.filters[name]
        for name in _WIDE:
            self.filters[name] = _narrow(self.filters[name])

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
        if self.size > OUTPUT_MAX:
            raise BodyError(f"expected at most {OUTPUT_MAX} characters, got more")

    def getattr(self, obj: Any, attribute: str) -> Any:
        """Return a field; of data its own field before Python's method."""
        if isinstance(obj, dict) and attribute in obj:
            return self._counted(obj[attribute])
        return self._counted(super().getattr(obj, attribute))

    def getitem(self, obj: Any, argument: Any) -> Any:
        """Return a field or an item."""
        return self._counted(super().getitem(obj, argument))

    def call(self, context: Context, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Call what the sandbox allows, with numbers that are no bomb."""
        if getattr(obj, "__name__", "") in _WIDE_METHODS:
            _refuse_large(args)
        return self._counted(super().call(context, obj, *args, **kwargs))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Compute, unless little would become much."""
        if operator == "**":
            _refuse_large((left, right))
        if operator == "%" and isinstance(left, str):
            raise SecurityError("% of a text is not allowed: use ~ to join texts")
        if operator == "*" and not (_is_number(left) and _is_number(right)):
            _refuse_large((left, right))
        return super().call_binop(context, operator, left, right)

    def _counted(self, value: Any) -> Any:
        """Count reading a value; what can be gone through counts as if it were."""
        self.step(1 + len(value) if isinstance(value, list | dict) else 1)
        return value

    def _range(self, *bounds: int) -> range:
        found = range(*bounds)
        self.step(len(found))
        return found


_GLOBALS: dict[str, Any] = {
    name: value
    for name, value in Environment(autoescape=True).globals.items()
    if name in {"cycler", "dict", "joiner", "namespace", "range"}
}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float)


def _refuse_large(values: tuple[Any, ...]) -> None:
    for value in values:
        if isinstance(value, int | float) and abs(value) > NUMBER_MAX:
            raise SecurityError(f"expected a number up to {NUMBER_MAX}, got {value:g}")


def _narrow(run: Callable[..., Any]) -> Callable[..., Any]:
    """Return a filter that refuses large numbers."""

    @functools.wraps(run)  # with the marks that say what else Jinja2 hands to it
    def narrow(*args: Any, **kwargs: Any) -> Any:
        _refuse_large((*args, *kwargs.values()))
        return run(*args, **kwargs)

    return narrow
