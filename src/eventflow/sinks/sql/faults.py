"""What an error of a database means: for the deliveries, and for how far it reaches.

    of the connection, a lock, a timeout, a full disk    the batch failed      tried again
    of the table: missing, another column, no rights     the batch failed      tried again
    of a row: a constraint, a value that does not fit    this row alone        dead
    any other                                            this row alone        tried again

The first two say nothing about a row, so no row is looked for. The others may be of one row among
five hundred, which must not fail with it.
"""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING

from sqlalchemy import exc

from eventflow.policy import causes
from eventflow.policy.outcome import Failed
from eventflow.sinks.base import SinkError

if TYPE_CHECKING:
    from collections.abc import Iterator

ERROR_MAX = 1_000
"""Characters of an error's message that are kept."""

_OF_THE_BATCH = (
    "08",  # connection exception
    "25",  # invalid transaction state, such as a server that only reads
    "28",  # invalid authorization
    "40",  # transaction rollback: deadlocks, serialization
    "53",  # insufficient resources: disk full, too many connections
    "55",  # object not in prerequisite state: locked
    "57",  # operator intervention: shut down, canceled by its timeout
    "58",  # system error
    "3D",  # no such database
    "3F",  # no such schema
    "42",  # no such table, column or unique index, no rights
)
"""SQLSTATEs of PostgreSQL, or their beginnings (its manual, appendix A)."""

_OF_A_ROW = "42804"
"""A type that its column does not take: bytes among texts."""

_ROW_IS_WRONG = ("54",)
"""A program limit, such as a value too long for its index: an OperationalError that stays."""

_OF_A_VALUE = (OverflowError, UnicodeError, ValueError, TypeError)
"""What drivers raise of a value before a statement is run."""


_THERE_ALREADY = (
    "42P07",  # the table
    "42710",  # its row type
    "23505",  # the same, seen by an index of the catalogue
)


class TableMismatch(Exception):
    """The table is not as the sink's settings have it. Worth another try: it can be altered."""


class DataError(Exception):
    """A value that the database's driver could not take. Named as drivers name it (PEP 249)."""


def is_of_the_batch(error: Exception) -> bool:
    """Return whether an error would meet any row, so that none needs to be looked for."""
    if isinstance(error, TableMismatch):
        return True
    if isinstance(error, exc.TimeoutError):  # no connection of the pool was free
        return True
    if isinstance(error, exc.DBAPIError) and error.connection_invalidated:
        return True
    cause = _cause(error)
    if isinstance(cause, sqlite3.Error):
        # Its OperationalErrors are of the file or the statement; DatabaseError: it is no database.
        return isinstance(cause, sqlite3.OperationalError) or type(cause) is sqlite3.DatabaseError
    state = getattr(cause, "sqlstate", None)
    if state is None:  # it did not come from the server
        return "OperationalError" in _names(cause) or "InterfaceError" in _names(cause)
    return state != _OF_A_ROW and str(state).startswith(_OF_THE_BATCH)


def is_there_already(error: Exception) -> bool:
    """Return whether what was to be made is there: PostgreSQL's IF NOT EXISTS looks too early."""
    return getattr(_cause(error), "sqlstate", None) in _THERE_ALREADY


def failure(error: Exception) -> SinkError:
    """Return what an error means for a delivery that met it."""
    cause = _cause(error)
    if isinstance(cause, _OF_A_VALUE):
        cause = DataError(f"{type(cause).__name__}: {cause}")
    known = causes.of_exception([*_names(cause)])
    permanent = known.permanent or (getattr(cause, "sqlstate", None) or "").startswith(
        _ROW_IS_WRONG
    )
    message = _message(cause)
    fingerprint = causes.fingerprint(known.name, message)
    return SinkError(Failed(known.name, message, permanent=permanent, fingerprint=fingerprint))


def _cause(error: Exception) -> BaseException:
    """Return the driver's own error: SQLAlchemy's repeats the statement with all its values."""
    if isinstance(error, exc.StatementError) and error.orig is not None:
        return error.orig
    return error


def _names(error: BaseException) -> Iterator[str]:
    for kind in type(error).__mro__[:-1]:
        yield f"{kind.__module__}.{kind.__qualname__}"
        yield kind.__name__


def _message(error: BaseException) -> str:
    """Return what it says on one line; without the context, which repeats the whole row."""
    said = getattr(error, "diag", None)
    parts = [said.message_primary, said.message_detail] if said and said.message_primary else []
    text = ". ".join(part for part in parts if part) or str(error) or type(error).__name__
    return " ".join(text.split())[:ERROR_MAX]
