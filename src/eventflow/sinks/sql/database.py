"""The database of a sink: how it is opened, and how long it may keep a batch waiting.

    SQLite        a file is opened anew for each batch: one that was moved away or put in its place
                  meanwhile is not written to unseen. One batch at a time, since one can write.
    PostgreSQL    connections are kept, one a batch at the same time at most, and tried before use:
                  a server that was away costs no attempt once it is back.

The dialects differ in nothing else: what SQLAlchemy evens out is not told apart here.
"""

from __future__ import annotations

import sqlite3
import time
import warnings
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import sqlalchemy
from sqlalchemy import exc
from sqlalchemy.dialects import postgresql, sqlite

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Connection, Engine, Table
    from sqlalchemy.engine import URL

# Of tables that are looked at: columns of types, and indexes, that the sink does not write to.
warnings.filterwarnings("ignore", "Did not recognize type|Skipped unsupported", exc.SAWarning)

LEAST_WAIT_S = 0.001
"""A wait of 0 would be none at all to SQLite, and one without an end to PostgreSQL."""
_KEEPALIVE = {"keepalives_idle": 30, "keepalives_interval": 10, "keepalives_count": 3}
"""Seconds, after which a server that says nothing at all is taken for gone: a minute."""


class Deadline:
    """How long a batch may still take."""

    def __init__(self, wait_s: float) -> None:
        self._at = time.monotonic() + wait_s

    @property
    def left_s(self) -> float:
        """Seconds, a little where it is over."""
        return max(LEAST_WAIT_S, self._at - time.monotonic())


class Database:
    """Where a sink writes.

    Args:
        url: As in the settings.
        concurrency: Batches at the same time, at most.
        create: Whether an SQLite file may be made that is not there.
        wait_s: How long to wait for a connection.
    """

    def __init__(self, url: URL, *, concurrency: int, create: bool, wait_s: float) -> None:
        self.is_sqlite = url.get_backend_name() == "sqlite"
        if self.is_sqlite:
            self.engine: Engine = _file(url, create=create)
        else:
            self.engine = _server(url, concurrency, wait_s)

    def insert(self, table: Table) -> Any:
        """Return an INSERT that may say ON CONFLICT."""
        return sqlite.insert(table) if self.is_sqlite else postgresql.insert(table)

    @contextmanager
    def transaction(self, connection: Connection, deadline: Deadline) -> Iterator[None]:
        """Commit what is done within, or none of it; waits in it end by the deadline."""
        left_ms = int(deadline.left_s * 1_000) or 1
        with connection.begin():
            if self.is_sqlite:
                connection.exec_driver_sql(f"PRAGMA busy_timeout = {left_ms}")
                # IMMEDIATE: the lock is waited for at the beginning, where waiting helps.
                connection.exec_driver_sql("BEGIN IMMEDIATE")
            else:
                # What would be checked by the commit is checked by each statement: by each row.
                connection.exec_driver_sql(
                    f"SET LOCAL statement_timeout = {left_ms}; SET CONSTRAINTS ALL IMMEDIATE"
                )
            yield

    def close(self) -> None:
        """Close what is open and not in use."""
        self.engine.dispose()


def _file(url: URL, *, create: bool) -> Engine:
    path = Path(url.database or "").absolute()
    uri = f"file:{quote(str(path))}?mode={'rwc' if create else 'rw'}"

    def connect() -> sqlite3.Connection:
        # No isolation level: Python would begin transactions by itself, and not for savepoints.
        return sqlite3.connect(
            uri, uri=True, isolation_level=None, timeout=0, check_same_thread=False
        )

    return sqlalchemy.create_engine(
        "sqlite://", creator=connect, poolclass=sqlalchemy.NullPool, hide_parameters=True
    )


def _server(url: URL, concurrency: int, wait_s: float) -> Engine:
    import psycopg  # noqa: F401, PLC0415  # said at the start if it is missing, not by each batch

    given = {**_KEEPALIVE, "connect_timeout": max(2, int(wait_s)), "application_name": "eventflow"}
    return sqlalchemy.create_engine(
        url.set(drivername="postgresql+psycopg"),
        pool_size=concurrency,
        max_overflow=0,
        pool_timeout=wait_s,
        pool_pre_ping=True,
        connect_args={name: value for name, value in given.items() if name not in url.query},
        hide_parameters=True,
    )
