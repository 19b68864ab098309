"""From an event to the values of its row, in the order of the columns.

What CEL gives becomes what databases take: bytes and null as they are, lists and objects as JSON
text, times as RFC 3339 text. Numbers and booleans stay such in SQLite, where a column may hold any
of them; PostgreSQL gets them as texts as well, and reads those as its columns say, so that one
expression serves a `TEXT`, an `INTEGER`, a `TIMESTAMPTZ` and a `UUID`. In a column for JSON
everything is written as JSON, in one for an array lists as such.
"""

from __future__ import annotations

import re
from enum import Enum
from typing import TYPE_CHECKING, Any

import msgspec

from eventflow.config.sinks.sql import EVENT_KEY
from eventflow.errors import ConfigError
from eventflow.policy.expression import Expression, ExpressionError, Names, compile_expression
from eventflow.policy.template import text_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from eventflow.config import SqlSinkSettings
    from eventflow.delivery import Delivery
    from eventflow.event import Event

Row = tuple[Any, ...]


_PLAINEST = {f"event.{name}": name for name in ("key", "id", "source", "type")}
"""Attributes that every event has, as they are written."""


class Form(Enum):
    """How a column holds lists, objects and what else is no plain value."""

    PLAIN = "plain"
    JSON = "json"
    ARRAY = "array"


class Mapping:
    """Which column holds what.

    Args:
        settings: The topic's `sink` table.
        typed: Whether the database takes numbers as such.

    Raises:
        ConfigError: an expression is no CEL; all of them at once.
    """

    def __init__(self, settings: SqlSinkSettings, *, typed: bool) -> None:
        values = {column.name: column.value for column in settings.columns}
        if EVENT_KEY in settings.key:
            values = {EVENT_KEY: "event.key", **values}
        self.columns = tuple(values)
        self.texts = tuple(values.values())
        """The expressions as they were written."""
        self.key = tuple(self.columns.index(name) for name in settings.key)
        """The places of the columns that tell rows apart."""
        self._reads = tuple(map(_reader, _compiled(values)))
        self._typed = typed

    def row(self, event: Event, delivery: Delivery, forms: Sequence[Form]) -> Row:
        """Return the row of an event.

        Args:
            event: The event.
            delivery: Its delivery.
            forms: How each column holds values.

        Raises:
            ExpressionError: a value can't be computed, or one that tells rows apart is null.
        """
        names = Names(event, delivery)
        found = []
        for place, read in enumerate(self._reads):
            value = read(event, names)
            if value is None and place in self.key:
                column = self.columns[place]
                raise ExpressionError(
                    f"{column}: expected a value, for it tells rows apart, got null from "
                    f"{self.texts[place]}"
                )
            found.append(written(value, forms[place], typed=self._typed))
        return tuple(found)

    def key_of(self, row: Row) -> tuple[str, ...]:
        """Return what tells a row apart, as something that can be sorted."""
        return tuple(str(row[place]) for place in self.key)


def written(value: Any, form: Form, *, typed: bool) -> Any:
    """Return a value of CEL as a database takes it."""
    if value is None:
        return None
    if form is Form.JSON:
        return msgspec.json.encode(value).decode()
    if form is Form.ARRAY and isinstance(value, list):
        return _array(value)
    if isinstance(value, bytes | str) or (typed and isinstance(value, int | float)):
        return value
    return text_of(value)


def _reader(expression: Expression) -> Callable[[Event, Names], Any]:
    """Return what computes an expression; the plainest ones, met in every table, without CEL."""
    attribute = _PLAINEST.get(expression.text)
    if attribute is None:
        return lambda _, names: expression.value(names)
    return lambda event, _: getattr(event, attribute)


def _array(values: list[Any]) -> str:
    """Return a list as PostgreSQL writes arrays (its manual, 8.15.2), nested ones included."""
    return f"{{{','.join(map(_element, values))}}}"


def _element(value: Any) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, list):
        return _array(value)
    return '"' + re.sub(r'(["\\])', r"\\\1", text_of(value)) + '"'


def _compiled(values: dict[str, str]) -> Sequence[Expression]:
    expressions, problems = [], []
    for name, text in values.items():
        try:
            expression = compile_expression(text)
        except ConfigError as error:
            problems += [f"sink.columns.{name}: {problem}" for problem in error.problems]
            continue
        expressions.append(expression)
        if "header" in expression.variables:
            problems.append(
                f"sink.columns.{name}: expected CEL over event and delivery, got {text!r}: the "
                "headers of a request are known to its door only"
            )
    if problems:
        raise ConfigError(problems)
    return expressions
