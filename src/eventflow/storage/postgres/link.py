"""The way to the database: a few connections, and an end to every wait.

Four things bound a call, so that a database that is down is said to be down, and soon:

    all are busy    `WAIT_S` for one of them
    no connection   `CONNECT_S` for a new one
    no answer       `ANSWER_S` for the whole transaction; then its line is cut from this side, since
                    a server that stands still, or a network that swallows all, ends no statement
    a lock          `statement_timeout`, a little earlier: then the server says why

A connection that the server has closed meanwhile is found before it is used, without asking the
server: an idle line that has something to read has its end to read. So a server that was away costs
no call once it is back. No password is in any message: those of the server and the library have
none, and a URL that can't be read is not quoted.
"""

from __future__ import annotations

import asyncio
import os
import select
import socket
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, Final

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.pq import TransactionStatus

from eventflow.errors import ConfigError, StorageUnanswered, StorageUnavailable
from eventflow.storage.postgres.schema import migrate

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from eventflow.config.secret import Secret

WAIT_S: Final = 1.0
CONNECT_S: Final = 2
"""The least that libpq knows."""
ANSWER_S: Final = 2.5
STATEMENT_MS: Final = 2_200
"""All together: a little more than the 5 s after which a settlement takes storage to be down."""
CONNECTIONS: Final = 4

_SHUT_DOWN = "57P"
"""How the codes of an operator's intervention begin."""

Connection = psycopg.AsyncConnection[Any]


class Link:
    """Transactions on one database. Made by `connect`."""

    def __init__(self, conninfo: str, place: str) -> None:
        self.place = place
        """Where it is, without user and password: for messages."""
        self._conninfo = conninfo
        self._idle: list[Connection] = []
        self._free = asyncio.Semaphore(CONNECTIONS)
        self._closed = False

    async def open(self, *, durable: bool) -> None:
        """Look at the database and its tables; make them if need be.

        Raises:
            StorageUnavailable: it can't be reached, or its tables are of a later release.
            ConfigError: it does not keep what it has acknowledged, and `durable` asks for that.
        """
        async with self.transaction() as connection:
            await _examine(connection, self.place, durable=durable)
            await migrate(connection)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        """Commit what is done within, or none of it.

        Raises:
            StorageUnanswered: the line ended while it was committed.
            StorageUnavailable: nothing was done.
        """
        commits = False
        try:
            async with (
                self._connection() as connection,
                self._bounded(connection),
                connection.transaction(),
            ):
                yield connection
                commits = True
        except psycopg.Error as error:
            unavailable = self._unavailable(error)
            # A server that says why has not committed, unless it is being shut down.
            if commits and (error.sqlstate or _SHUT_DOWN).startswith(_SHUT_DOWN):
                raise StorageUnanswered(unavailable.reason) from None
            raise unavailable from None

    async def close(self) -> None:
        """Close all connections; those in use are closed by whoever uses them."""
        self._closed = True
        while self._idle:
            await self._idle.pop().close()

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[Connection]:
        """Lend a connection that is alive as far as this side can tell."""
        if self._closed:
            raise StorageUnavailable(f"{self.place} is closed")
        try:
            async with asyncio.timeout(WAIT_S):
                await self._free.acquire()
        except TimeoutError:
            raise StorageUnavailable(
                f"{self.place}: its {CONNECTIONS} connections were busy for {WAIT_S:g} s"
            ) from None
        try:
            connection = await self._taken()
            try:
                yield connection
            finally:
                at_rest = connection.info.transaction_status == TransactionStatus.IDLE
                if at_rest and not self._closed:
                    self._idle.append(connection)
                else:
                    await connection.close()
        finally:
            self._free.release()

    async def _taken(self) -> Connection:
        while self._idle:
            connection = self._idle.pop()
            if not _ended(connection):
                return connection
            await connection.close()
        return await psycopg.AsyncConnection.connect(self._conninfo, autocommit=True)

    @asynccontextmanager
    async def _bounded(self, connection: Connection) -> AsyncIterator[None]:
        """Cut the line of a connection that is still busy after `ANSWER_S`."""
        alarm = asyncio.get_running_loop().call_later(ANSWER_S, _cut, connection)
        try:
            yield
        finally:
            alarm.cancel()

    def _unavailable(self, error: Exception) -> StorageUnavailable:
        # `from None`, and the first line alone: what follows may quote the values of a row.
        said = str(error).strip().partition("\n")[0] or type(error).__name__
        return StorageUnavailable(f"{self.place}: {said}")


async def connect(url: Secret, *, durable: bool = True) -> Link:
    """Open the way to a database and bring its tables up to date.

    Args:
        url: `postgresql://user:password@host/database`, with libpq's parameters.
        durable: Whether a database that forgets what it acknowledged is refused.

    Raises:
        ConfigError, StorageUnavailable: as `Link.open`; or the URL can't be read.
    """
    link = _link(url)
    try:
        await link.open(durable=durable)
    except BaseException:
        await link.close()
        raise
    return link


async def examine(url: Secret, *, durable: bool = True) -> str:
    """Return what the database is called, if a node could use it. Nothing is changed there.

    Raises:
        ConfigError, StorageUnavailable: as `connect`, but for its tables: they are not looked at.
    """
    link = _link(url)
    try:
        async with link.transaction() as connection:
            await _examine(connection, link.place, durable=durable)
    finally:
        await link.close()
    return link.place


def _link(url: Secret) -> Link:
    try:
        given = conninfo_to_dict(url.reveal())
    except psycopg.ProgrammingError:
        raise ConfigError(
            ["[storage] url: expected postgresql://user:password@host:port/database; not started"]
        ) from None
    options = " ".join(
        (
            str(given.get("options") or ""),
            f"-c statement_timeout={STATEMENT_MS} -c lock_timeout={STATEMENT_MS}",
            "-c client_min_messages=warning",
        )
    )
    settings = {
        "connect_timeout": str(CONNECT_S),
        "application_name": "eventflow",
        "keepalives_idle": "10",
        "keepalives_interval": "5",
        "keepalives_count": "3",
        "client_encoding": "UTF8",
        **{name: value for name, value in given.items() if value is not None},
        "options": options.strip(),
    }
    host, port = given.get("host") or given.get("hostaddr") or "local", given.get("port") or 5432
    place = f"PostgreSQL {host}:{port}/{given.get('dbname') or ''}"
    return Link(make_conninfo("", **settings), place)


async def _examine(connection: Connection, place: str, *, durable: bool) -> None:
    """Refuse a database that would break what storage promises."""
    found = await connection.execute(
        "SELECT current_setting('synchronous_commit'), current_setting('fsync'), "
        "current_setting('full_page_writes'), current_setting('server_encoding'), "
        "pg_is_in_recovery()"
    )
    row = await found.fetchone()
    assert row is not None  # noqa: S101  # a SELECT of settings has one row
    names = ("synchronous_commit", "fsync", "full_page_writes")
    off = [name for name, value in zip(names, row[:3], strict=True) if value == "off"]
    problems = []
    if off and durable:
        problems.append(
            f"{place}: expected {', '.join(off)} to be on, got off: what it has acknowledged may "
            f"be gone after a power cut. Nothing was started; switch on what is off, or for "
            f"synchronous_commit alone: ALTER ROLE … SET synchronous_commit = on"
        )
    if row[3] != "UTF8":
        problems.append(
            f"{place}: expected a database with encoding UTF8, got {row[3]}; nothing was started. "
            f"Make one: CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0"
        )
    if row[4]:
        problems.append(
            f"{place}: expected a server that can be written to, got a standby; nothing was "
            f"started. Name the primary, or several hosts with target_session_attrs=read-write"
        )
    if problems:
        raise ConfigError(problems)


def _ended(connection: Connection) -> bool:
    """Return whether the server has ended this idle connection, without asking it."""
    if connection.closed:
        return True
    watch = select.poll()
    watch.register(connection.fileno(), select.POLLIN)
    return bool(watch.poll(0))


def _cut(connection: Connection) -> None:
    """End a connection from this side: what waits for its answer sees the end at once."""
    with (
        suppress(OSError, psycopg.Error),  # it has ended already
        socket.socket(fileno=os.dup(connection.fileno())) as line,
    ):
        line.shutdown(socket.SHUT_RDWR)
