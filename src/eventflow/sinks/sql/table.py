"""The table of a sink: found as the database has it, or made; and the statement that writes rows.

A table is looked at before the first row is written, and again after a failure: what is missing is
said with the names of the columns there are, and is worth another try, since it can be altered.

A table that is made gets its types from the expressions, without a look at any event:

    event.data                     JSON         int(…), size(…)         whole numbers
    event.time, timestamp(…)       a time       double(…)               numbers
    all else                       text         bool(…), has(…)         true or false
    bytes(…)                       bytes
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import sqlalchemy
from sqlalchemy import Column, MetaData, Table, bindparam, inspect, types
from sqlalchemy.dialects import postgresql
from sqlalchemy.schema import CreateTable

from eventflow.errors import did_you_mean
from eventflow.sinks.sql.faults import TableMismatch
from eventflow.sinks.sql.rows import Form

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Connection, Executable
    from sqlalchemy.engine import Inspector
    from sqlalchemy.engine.interfaces import ReflectedIndex

    from eventflow.config import SqlSinkSettings
    from eventflow.sinks.sql.database import Database
    from eventflow.sinks.sql.rows import Mapping

_JSON = types.JSON().with_variant(postgresql.JSONB(), "postgresql")
_BY_EXPRESSION: tuple[tuple[str, types.TypeEngine[Any]], ...] = (
    (r"event\.data", _JSON),
    (r"event\.time|timestamp\(.*\)|delivery\.accepted_at", types.TIMESTAMP(timezone=True)),
    (r"(?:int|size)\(.*\)", types.BigInteger()),
    (r"double\(.*\)", types.Double()),
    (r"(?:bool|has)\(.*\)", types.Boolean()),
    (r"bytes\(.*\)", types.LargeBinary()),
)


@dataclass(frozen=True)
class Target:
    """A table that was looked at."""

    statement: Executable
    """Writes a row; its parameters are named by `parameters`."""
    forms: tuple[Form, ...]
    """How each column holds values."""


def parameters(row: Sequence[Any]) -> dict[str, Any]:
    """Return a row as the parameters of the statement."""
    return {f"c{place}": value for place, value in enumerate(row)}


def found(
    connection: Connection, database: Database, settings: SqlSinkSettings, mapping: Mapping
) -> Target:
    """Look at the table.

    Raises:
        TableMismatch: it is not there, lacks a column, or has no unique index for the key.
    """
    schema, name = _split(settings.table)
    inspector = inspect(connection)
    try:
        columns = inspector.get_columns(name, schema)
    except sqlalchemy.exc.NoSuchTableError:
        raise TableMismatch(
            f"there is no table {settings.table!r}. Make it, or set create = true"
        ) from None
    there = {column["name"]: column["type"] for column in columns}
    if database.is_sqlite:
        there = {_as_written(column, mapping.columns): type_ for column, type_ in there.items()}
    for column in mapping.columns:
        if column not in there:
            raise TableMismatch(
                f"table {settings.table!r} has no column {column!r}; it has "
                f"{', '.join(map(repr, there))}.{did_you_mean(column, there)}"
            )
    _check_key(inspector, settings, name, schema)
    plain = (Column(column, types.NullType()) for column in mapping.columns)
    table = Table(name, MetaData(), *plain, schema=schema)
    forms = tuple(_form(there[column]) for column in mapping.columns)
    return Target(_statement(database, table, settings), forms)


def _form(kind: types.TypeEngine[Any]) -> Form:
    if isinstance(kind, types.JSON):
        return Form.JSON
    return Form.ARRAY if isinstance(kind, types.ARRAY) else Form.PLAIN


def make(connection: Connection, settings: SqlSinkSettings, mapping: Mapping) -> None:
    """Make the table, if it is not there."""
    schema, name = _split(settings.table)
    if inspect(connection).has_table(name, schema):
        return
    columns = [
        Column(column, _type_of(text), primary_key=column in settings.key, autoincrement=False)
        for column, text in zip(mapping.columns, mapping.texts, strict=True)
    ]
    connection.execute(
        CreateTable(Table(name, MetaData(), *columns, schema=schema), if_not_exists=True)
    )


def _type_of(text: str) -> types.TypeEngine[Any]:
    for pattern, type_ in _BY_EXPRESSION:
        if re.fullmatch(pattern, text.strip(), re.DOTALL):
            return type_
    return types.Text()


def _split(table: str) -> tuple[str | None, str]:
    schema, dot, name = table.rpartition(".")
    return (schema if dot else None), name


def _as_written(name: str, columns: Sequence[str]) -> str:
    """Return the name of a column as the settings write it: to SQLite, cases are the same."""
    return next((column for column in columns if column.lower() == name.lower()), name)


def _check_key(
    inspector: Inspector, settings: SqlSinkSettings, name: str, schema: str | None
) -> None:
    """Make sure that the database can tell whether a row is there already."""
    unique: list[Sequence[str | None]] = [
        inspector.get_pk_constraint(name, schema)["constrained_columns"]
    ]
    unique += [one["column_names"] for one in inspector.get_unique_constraints(name, schema)]
    unique += [one["column_names"] for one in inspector.get_indexes(name, schema) if _whole(one)]
    wanted = {column.lower() for column in settings.key}
    if any(wanted == {str(column).lower() for column in columns} for columns in unique):
        return
    key = ", ".join(settings.key)
    raise TableMismatch(
        f"table {settings.table!r} has no primary key or unique index of ({key}), so that a row "
        f"would be written again. Make one: CREATE UNIQUE INDEX ON {settings.table} ({key})"
    )


def _whole(index: ReflectedIndex) -> bool:
    """Return whether an index is unique for all rows, and not for those that fit a condition."""
    options = index.get("dialect_options", {})
    return index["unique"] and not any(name.endswith("_where") for name in options)


def _statement(database: Database, table: Table, settings: SqlSinkSettings) -> Executable:
    values: dict[str, Any] = {
        column.name: bindparam(f"c{place}") for place, column in enumerate(table.columns)
    }
    statement = database.insert(table).values(values)
    others = [column for column in table.columns if column.name not in settings.key]
    if settings.on_conflict == "ignore" or not others:
        written: Executable = statement.on_conflict_do_nothing(index_elements=settings.key)
        return written
    anew = {column.name: statement.excluded[column.name] for column in others}
    updating: Executable = statement.on_conflict_do_update(index_elements=settings.key, set_=anew)
    return updating
