"""Writes batches of events: a batch is a transaction, and a faulty row costs no other.

Rows are written in the order of their keys, so that two nodes which write the same ones wait for
each other instead of locking each other out. A batch that fails from a row is halved, and each
half inserted by itself, until the row stands alone: with 500 rows nine times. All of that is within
one transaction, whose commit is what costs time: a savepoint a half takes back what failed.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from sqlalchemy import exc, make_url

from eventflow.errors import ConfigError
from eventflow.policy.expression import ExpressionError
from eventflow.sinks.sql import table
from eventflow.sinks.sql.database import Database, Deadline
from eventflow.sinks.sql.faults import failure, is_of_the_batch, is_there_already
from eventflow.sinks.sql.rows import Mapping

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Connection

    from eventflow.config import SqlSinkSettings
    from eventflow.delivery import Delivery
    from eventflow.event import Event
    from eventflow.sinks.base import SinkError
    from eventflow.sinks.sql.rows import Row
    from eventflow.sinks.sql.table import Target

WAIT_SHARE = 0.8
"""Of `timeout`: what waits in the database then ends before the attempt does, with its reason."""


class SqlSink:
    """Delivers events as rows of a table.

    Args:
        settings: The topic's `sink` table.
        concurrency: Batches at the same time: connections at most.

    Raises:
        ConfigError: an expression is no CEL, or the driver is not installed.
    """

    def __init__(self, settings: SqlSinkSettings, *, concurrency: int) -> None:
        self._settings = settings
        self._wait_s = settings.timeout_s * WAIT_SHARE
        self._target: Target | None = None
        self._looking = threading.Lock()
        try:
            url = make_url(settings.url.reveal())
        except (exc.ArgumentError, ValueError):  # what it says repeats the URL
            raise ConfigError(
                ["sink.url: expected a URL as SQLAlchemy writes it, got one that can't be read"]
            ) from None
        if url.query and url.get_backend_name() == "sqlite":
            raise ConfigError(["sink.url: expected a path without options, got some behind a ?"])
        self._database = Database(
            url, concurrency=concurrency, create=settings.create, wait_s=self._wait_s
        )
        self.at_once = 1 if self._database.is_sqlite else concurrency
        self._mapping = Mapping(settings, typed=self._database.is_sqlite)

    async def start(self) -> None:
        """Do nothing: a database that is away when a node starts must not keep it from starting."""

    def deliver_batch(
        self, events: Sequence[Event], deliveries: Sequence[Delivery]
    ) -> list[SinkError | None]:
        """Write a row an event; for each, return None or why it could not be written."""
        deadline = Deadline(self._wait_s)
        ended: dict[int, SinkError | None] = {}
        missed = None
        try:
            with self._database.engine.connect() as connection:
                target = self._found(connection, deadline)
                rows = self._rows(events, deliveries, target, ended)
                self._write(connection, target, rows, ended, deadline)
        except Exception as error:  # noqa: BLE001  # each is judged, and none is lost
            self._target = None  # whatever it was, the table is looked at again
            missed = failure(error)
        return [ended.get(place, missed) for place in range(len(events))]

    async def close(self) -> None:
        """Close the connections that are not in use."""
        self._database.close()

    def _found(self, connection: Connection, deadline: Deadline) -> Target:
        if (target := self._target) is not None:
            return target
        with self._looking:
            if self._settings.create:
                self._make(connection, deadline)
            with self._database.transaction(connection, deadline):
                target = table.found(connection, self._database, self._settings, self._mapping)
        self._target = target
        return target

    def _make(self, connection: Connection, deadline: Deadline) -> None:
        """Make the table; what another node makes at the same moment is as good."""
        try:
            with self._database.transaction(connection, deadline):
                table.make(connection, self._settings, self._mapping)
        except exc.DBAPIError as error:
            if not is_there_already(error):
                raise

    def _rows(
        self,
        events: Sequence[Event],
        deliveries: Sequence[Delivery],
        target: Target,
        ended: dict[int, SinkError | None],
    ) -> list[tuple[int, Row]]:
        """Return the rows with their places in the batch, in the order of their keys."""
        rows = []
        for place, (event, delivery) in enumerate(zip(events, deliveries, strict=True)):
            try:
                rows.append((place, self._mapping.row(event, delivery, target.forms)))
            except ExpressionError as error:
                ended[place] = failure(error)
        rows.sort(key=lambda one: self._mapping.key_of(one[1]))
        return rows

    def _write(
        self,
        connection: Connection,
        target: Target,
        rows: Sequence[tuple[int, Row]],
        ended: dict[int, SinkError | None],
        deadline: Deadline,
    ) -> None:
        """Write rows in one transaction, the faulty ones left out."""
        if not rows:
            return
        faulty: dict[int, SinkError] = {}
        with self._database.transaction(connection, deadline):
            _insert(connection, target, rows, faulty)
        ended |= {place: faulty.get(place) for place, _ in rows}


def _insert(
    connection: Connection,
    target: Target,
    rows: Sequence[tuple[int, Row]],
    faulty: dict[int, SinkError],
) -> None:
    """Insert rows; where that fails from one of them, all others, and note why it did."""
    try:
        with connection.begin_nested():
            connection.execute(target.statement, [table.parameters(row) for _, row in rows])
    except Exception as error:
        if is_of_the_batch(error):
            raise
        if len(rows) == 1:
            faulty[rows[0][0]] = failure(error)
            return
        half = len(rows) // 2
        _insert(connection, target, rows[:half], faulty)
        _insert(connection, target, rows[half:], faulty)
