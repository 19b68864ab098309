"""The expression language: CEL over `event`, `delivery` and `header`, alone or in `{{ }}`.

    event.data.country == 'FR'                   a filter
    Welcome, {{ event.data.name }}!              a template

    event       its attributes and extensions as CloudEvents names them, `event.data` (JSON decoded,
                text as text), `event.key` (the idempotency key) and `event.priority`
    delivery    id, ref, topic, attempt, round, replays, accepted_at (RFC 3339 text)
    header      the request's headers, names in lower case: header['x-github-event']

An attribute that the event does not have is not there, which is an error; `has(event.subject)` asks
first. Functions are CEL's own and the extension libraries for strings, math, sets, lists and
encoders (https://github.com/google/cel-go/tree/master/ext), without `contains` for lists: that is
`x in list`.

CEL has no loops, no names but these and no effects, so an expression from a configuration file can
do nothing but compute. What it reads is found in its text when it is compiled, so that only that
is decoded and converted: an event's data is a thousand times larger than its type.
"""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING, Any

import msgspec

from eventflow.clock import rfc3339
from eventflow.errors import ConfigError, EventFlowError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    import cel

    from eventflow.delivery import Delivery
    from eventflow.event import Event

VARIABLES = ("event", "delivery", "header")

_TYPES = {"bool", "bytes", "double", "int", "list", "map", "null_type", "string", "type", "uint"}
_BUILT_IN = {
    *("bytes", "contains", "double", "duration", "dyn", "endsWith", "int", "matches", "size"),
    *("startsWith", "string", "timestamp", "type", "uint"),
    *("getDate", "getDayOfMonth", "getDayOfWeek", "getDayOfYear", "getFullYear", "getHours"),
    *("getMilliseconds", "getMinutes", "getMonth", "getSeconds"),
}
_SYNTAX_ERROR = re.compile(r"ERROR: <input>:(\d+):(\d+): (.*)")
_BOUND = re.compile(r"\.\s*(?:all|exists|exists_one|map|filter)\s*\(\s*(\w+)\s*,")
_READS = re.compile(
    r"\bevent\b (?: \s*\.\s* (\w+) (?!\w|\s*\() (?: \s*\.\s* (\w+) (?!\w|\s*\() )? )?", re.VERBOSE
)
_ALL = "*"


class _Language:
    """CEL's library, loaded where the first expression is compiled: not by nodes that have none.

    It brings its own command line, whose terminal takes longer to load than half of EventFlow.
    """

    def __init__(self) -> None:
        import cel  # noqa: PLC0415  # see above
        from cel.stdlib import STDLIB_FUNCTIONS  # noqa: PLC0415

        self.compile: Callable[[str], cel.Program] = cel.compile
        self.context: Callable[[], cel.Context] = cel.Context
        self.extensions = {
            name: run for name, run in STDLIB_FUNCTIONS.items() if name != "contains"
        }
        self.namespaces = {name.partition(".")[0] for name in self.extensions if "." in name}
        self.plain = {name for name in self.extensions if "." not in name}
        self.functions = _BUILT_IN | {name.rpartition(".")[2] for name in self.extensions}


_language = cache(_Language)


class ExpressionError(EventFlowError):
    """An expression that can't be computed for this event: what it reads is not there or differs.

    Never leaves EventFlow: a filter counts it as no match, a sink as a permanent failure.
    """


class Names:
    """What expressions can speak of, made ready no further than they do.

    One for each event and batch of expressions. Not for two threads at once.
    """

    __slots__ = ("_context", "_data", "_event", "_extended", "_given", "_others")

    def __init__(
        self,
        event: Event | None = None,
        delivery: Delivery | None = None,
        header: Mapping[str, str] | None = None,
    ) -> None:
        self._event = event
        self._others: dict[str, Any] = {}
        if delivery is not None:
            self._others["delivery"] = delivery
        if header is not None:
            self._others["header"] = header
        self._context: cel.Context | None = None
        self._given: set[str] = set()
        self._extended = False
        self._data: Any = msgspec.UNSET

    def context(self, expression: Expression) -> cel.Context:
        """Return a context that holds all that `expression` reads.

        Raises:
            InvalidEvent: it reads the data, which is not what `datacontenttype` says.
        """
        if self._context is None:
            self._context = _language().context()
        context = self._context
        if expression.extended and not self._extended:
            self._extended = True
            for name, function in _language().extensions.items():
                context.add_function(name, function)
        if self._event is not None and not expression.reads <= self._given:
            self._given |= expression.reads
            context.add_variable("event", self._event_values(self._event))
        for name in expression.variables & self._others.keys():
            value = self._others.pop(name)
            context.add_variable(name, delivery_values(value) if name == "delivery" else value)
        return context

    def _event_values(self, event: Event) -> dict[str, Any]:
        wanted = self._given
        values: dict[str, Any] = {"priority": str(event.priority), **event.attributes()}
        if _ALL not in wanted:
            values = {name: value for name, value in values.items() if name in wanted}
        if not wanted.isdisjoint({_ALL, "key"}):
            values["key"] = event.key
        if not wanted.isdisjoint({_ALL, "data"}):
            values["data"] = self._decoded(event)
        elif fields := {name[5:] for name in wanted if name.startswith("data.")}:
            values["data"] = _only(self._decoded(event), fields)
        return values

    def _decoded(self, event: Event) -> Any:
        if self._data is msgspec.UNSET:
            self._data = event.data
        return self._data


class Expression:
    """A compiled CEL expression: see `compile_expression`."""

    __slots__ = ("_program", "extended", "reads", "text", "variables")

    def __init__(self, text: str, program: cel.Program) -> None:
        self.text = text
        self._program = program
        language = _language()
        self.variables = frozenset(program.variables())
        """Names it speaks of, those bound by its own macros included."""
        self.extended = not (
            language.plain.isdisjoint(program.functions())
            and language.namespaces.isdisjoint(self.variables)
        )
        """Whether it calls a function of the extension libraries."""
        self.reads = _reads(text) if "event" in self.variables else frozenset()
        """What it reads of the event: attributes, "data.<field>", "data" (all), "*" (everything).
        It may name more than it reads, never less."""

    def value(self, names: Names) -> Any:
        """Return what it says: str, int, float, bool, None, bytes, list, dict, time or duration.

        Raises:
            ExpressionError: it can't be computed; the message says what is missing or wrong.
        """
        try:
            return self._program.execute(names.context(self))
        except KeyError as error:
            raise ExpressionError(f"{self.text}: there is no {error.args[0]!r}") from error
        except _FAULTS as error:
            raise ExpressionError(f"{self.text}: {error}") from error

    def test(self, names: Names) -> bool:
        """Return whether it holds.

        Raises:
            ExpressionError: it can't be computed, or says something else than true or false.
        """
        found = self.value(names)
        if not isinstance(found, bool):
            raise ExpressionError(f"{self.text}: expected true or false, got {found!r:.80}")
        return found

    def __repr__(self) -> str:
        return f"Expression({self.text!r})"


# What the library raises, and what its functions do, which are written in Python.
_FAULTS = (
    *(ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError),
    EventFlowError,
)


def compile_expression(text: str) -> Expression:
    """Return the expression that `text` writes down.

    Raises:
        ConfigError: it is not CEL, or speaks of a name or function that does not exist; the
            message says at which line and column.
    """
    try:
        program = _language().compile(text)
    except ValueError as error:
        fault = _SYNTAX_ERROR.search(str(error))
        what = f"line {fault[1]}, column {fault[2]}: {fault[3]}" if fault else str(error)[:200]
        raise ConfigError([f"expected a CEL expression, got {text!r}: {what}"]) from error
    problems = list(_unknown(text, program))
    if problems:
        raise ConfigError(problems)
    return Expression(text, program)


def _unknown(text: str, program: cel.Program) -> Iterator[str]:
    language = _language()
    known = {*VARIABLES, *_TYPES, *language.namespaces, *_BOUND.findall(text)}
    for name in program.variables():
        if name not in known:
            yield (
                f"{text!r} speaks of {name!r} ({_position(text, name)}); there are"
                f" {', '.join(VARIABLES)}.{did_you_mean(name, VARIABLES)}"
            )
    for name in program.functions():
        if name.isidentifier() and name not in language.functions:  # operators are named like _+_
            yield (
                f"{text!r} calls {name!r} ({_position(text, name)}), which does not exist."
                f"{did_you_mean(name, language.functions)}"
            )


def _position(text: str, name: str) -> str:
    found = re.search(rf"(?<!\w){re.escape(name)}(?!\w)", text)
    before = text[: found.start()] if found else ""
    return f"line {before.count(chr(10)) + 1}, column {len(before) - before.rfind(chr(10))}"


def _reads(text: str) -> frozenset[str]:
    """Return which attributes of `event` an expression may read; too much rather than too little.

    A text that only says `event.type` can read nothing else of it. Wherever `event` or `event.data`
    stands without a field behind it, as in `event[x]` or `event.data.size()`, all is read.
    """
    found = set()
    for attribute, field in _READS.findall(text):
        if attribute == "data":
            found.add(f"data.{field}" if field else "data")
        else:
            found.add(attribute or _ALL)
    return frozenset(found)


def _only(data: Any, fields: set[str]) -> Any:
    if not isinstance(data, dict):
        return data
    return {name: data[name] for name in fields if name in data}


def event_values(event: Event) -> dict[str, Any]:
    """Return all that `event` can say, for templates of another language.

    Raises:
        InvalidEvent: the data is not what `datacontenttype` says.
    """
    values: dict[str, Any] = {"priority": str(event.priority), **event.attributes()}
    return values | {"key": event.key, "data": event.data}


def delivery_values(delivery: Delivery) -> dict[str, Any]:
    """Return all that `delivery` can say."""
    return {
        "id": delivery.id,
        "ref": delivery.ref,
        "topic": delivery.topic,
        "attempt": delivery.attempt,
        "round": delivery.tally.rounds,
        "replays": delivery.tally.replays,
        "accepted_at": rfc3339(delivery.accepted_at),
    }
