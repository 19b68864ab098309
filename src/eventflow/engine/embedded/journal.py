"""The journal's file: opening, one transaction a commit, reading back.

Tables of the engine, beside those of secondary storage (`eventflow.storage.schema`):

    journal  one row a commit, holding that commit's records. Rows leave from the front only,
             when nothing in memory needs them any more
    bodies   one row a batch of events, in any order of leaving
    ledger   the counters that never restart, by topic
    meta     when counting began, whether the last end was a clean one, the audit chain's name

All calls come from one writer (see `writer`), and the file is locked for this process alone:
SQLite's write-ahead log then needs no shared memory, and the range of versions in which two
connections could damage it (3.7.0 to 3.51.2) can't bite.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import apsw
import msgspec

from eventflow.engine.embedded import records
from eventflow.engine.embedded.file import (
    configure,
    connect,
    connect_to_read,
    give_back,
    lock,
    tell_holder,
)
from eventflow.errors import EngineUnavailable, JournalUnreadable, StorageUnavailable
from eventflow.storage import schema
from eventflow.storage.audit import AuditLog
from eventflow.storage.disk import Log, explained, fold
from eventflow.storage.shelf import Shelf

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from eventflow.engine.embedded.records import Record
    from eventflow.event import Event
    from eventflow.storage.protocol import Filter, Kept, Page

VERSION = 2
"""Of the tables below and the records in them. Kept in `user_version`; a greater one is refused.

2 has records of stretches: what 1 holds, 2 reads as it is.
"""
APPLICATION_ID = 0x45764677  # "EvFw": lets `file` and humans tell what this file is

TRIED_BYTES = 2**16
"""What is written to see whether the disk has room again: a small batch of events."""

_TABLES = """
CREATE TABLE journal (
    number INTEGER PRIMARY KEY, next INTEGER NOT NULL, records BLOB NOT NULL
) STRICT;
CREATE TABLE bodies (first INTEGER PRIMARY KEY, events BLOB NOT NULL) STRICT;
CREATE TABLE ledger (
    topic TEXT PRIMARY KEY,
    created INTEGER NOT NULL, delivered INTEGER NOT NULL,
    discarded INTEGER NOT NULL, archived INTEGER NOT NULL
) STRICT;
CREATE TABLE meta (name TEXT PRIMARY KEY, value ANY) STRICT;
"""
_COUNT = """
INSERT INTO ledger (topic, created, delivered, discarded, archived)
SELECT value->>0, value->>1, value->>2, value->>3, value->>4 FROM json_each(?) WHERE true
ON CONFLICT (topic) DO UPDATE SET
    created = created + excluded.created, delivered = delivered + excluded.delivered,
    discarded = discarded + excluded.discarded, archived = archived + excluded.archived
"""
_COMMIT = """
CREATE TEMP VIEW one_commit AS SELECT
    NULL AS first, NULL AS events, NULL AS number, NULL AS next, NULL AS records,
    NULL AS ledger, NULL AS drop_bodies, NULL AS drop_rows_below;
CREATE TEMP TRIGGER do_commit INSTEAD OF INSERT ON one_commit BEGIN
    INSERT INTO bodies SELECT NEW.first, NEW.events WHERE NEW.events IS NOT NULL;
    INSERT INTO journal SELECT NEW.number, NEW.next, NEW.records WHERE NEW.records IS NOT NULL;
    INSERT INTO ledger (topic, created, delivered, discarded, archived)
    SELECT value->>0, value->>1, value->>2, value->>3, value->>4 FROM json_each(NEW.ledger)
    WHERE true ON CONFLICT (topic) DO UPDATE SET
        created = created + excluded.created, delivered = delivered + excluded.delivered,
        discarded = discarded + excluded.discarded, archived = archived + excluded.archived;
    DELETE FROM bodies WHERE first IN (SELECT value FROM json_each(NEW.drop_bodies));
    DELETE FROM journal WHERE number < NEW.drop_rows_below;
END;
"""
"""The everyday commit as one statement: a thread that steps SQLite waits for the GIL after each."""

ALREADY = "already"
"""Outcome of a unit whose delivery storage did not hold any more at that hop."""


@dataclass(slots=True)
class Change:
    """What one transaction changes in journal and ledger."""

    records: list[Record] = field(default_factory=list)
    bodies: list[tuple[int, Sequence[Event | None]]] = field(default_factory=list)
    """First number and events of each new row; None: a number that has no event."""
    ledger: dict[str, list[int]] = field(default_factory=dict)
    """By topic: created, delivered, discarded, archived, each to be added."""
    audit: list[Mapping[str, Any]] = field(default_factory=list)

    @property
    def is_empty(self) -> bool:
        """Whether it changes nothing."""
        return not (self.records or self.bodies or self.ledger or self.audit)

    def count(
        self, topic: str, *, created: int = 0, delivered: int = 0, discarded: int = 0
    ) -> None:
        """Add to a topic's line of the ledger."""
        line = self.ledger.setdefault(topic, [0, 0, 0, 0])
        line[0] += created
        line[1] += delivered
        line[2] += discarded

    def join(self, other: Change) -> None:
        """Take over all that `other` changes."""
        self.records += other.records
        self.bodies += other.bodies
        self.audit += other.audit
        for topic, deltas in other.ledger.items():
            line = self.ledger.setdefault(topic, [0, 0, 0, 0])
            for index, delta in enumerate(deltas):
                line[index] += delta


@dataclass(slots=True)
class StorageUnit:
    """Deliveries that enter or leave storage together: all of it happens, or none (`refused`)."""

    change: Change
    keep: list[Kept] = field(default_factory=list)
    forget: tuple[str, int] | None = None
    """Delivery id and hop."""
    refused: str | None = None
    """Set by the commit: why storage would not, or `ALREADY`."""


@dataclass(slots=True)
class Desk:
    """What a piece of work for storage may use inside the writer's transaction."""

    shelf: Shelf
    audit: AuditLog
    change: Change


@dataclass(slots=True)
class Work:
    """A function to run inside the transaction. If it raises, what it did is undone alone."""

    call: Callable[[Desk], Any]
    reads: bool = False
    """Whether it only reads: then there is nothing to undo."""
    result: Any = None
    error: BaseException | None = None


@dataclass(slots=True)
class Commit:
    """All that one transaction does."""

    number: int
    next_number: int
    """The next entry's number, so that numbers never come back."""
    change: Change
    units: list[StorageUnit]
    work: list[Work]
    drop_rows_below: int
    drop_bodies: list[int]


@dataclass(frozen=True, slots=True)
class Contents:
    """What an opened journal holds."""

    since: float
    clean: bool
    """Whether its last process ended by closing it."""
    ledger: dict[str, tuple[int, int, int, int]]
    kept: dict[tuple[str, str], tuple[int, int]]
    """By topic and state: deliveries in storage, and their bytes."""
    next_number: int
    last_commit: int


class Journal:
    """An open journal. Every method is called by one writer, one call after the other."""

    def __init__(  # noqa: PLR0913  # what a file needs to be opened with
        self,
        path: str,
        *,
        now_s: float,
        chain: str,
        durability: str = "fsync",
        vfs: str | None = None,
        audit_key: bytes | None = None,
        shelf: Callable[[apsw.Connection], Shelf] = Shelf,
        read_only: bool = False,
    ) -> None:
        """Open the file, or make it.

        Args:
            path: The file; ":memory:" keeps nothing.
            now_s: Seconds since 1970: when counting begins, if the file is new.
            chain: Name of this node's audit chain, if the file is new.
            durability: "fsync": a commit survives a power cut; "os": only a crash of the process.
            vfs: SQLite VFS to use: for crash tests.
            audit_key: HMAC key of the audit chain.
            shelf: Makes the storage's table access: for tests that let it fail.
            read_only: Change nothing: neither the file nor its write-ahead log. It has to be
                there.

        Raises:
            JournalInUse: another process has it open.
            JournalUnreadable: damaged, not a journal, or of a newer version; not there.
            EngineUnavailable: the file can't be written.
        """
        self.path = path
        self.in_memory = path == ":memory:"
        self.read_only = read_only
        # Taking SQLite's write lock is a change to a connection that must not change anything.
        self._begin = "BEGIN" if read_only else "BEGIN IMMEDIATE"
        self._lock = None if self.in_memory or vfs else lock(path, read_only=read_only)
        try:
            self.connection = connect_to_read(path) if read_only else connect(path, vfs)
        except BaseException:
            self._unlock()
            raise
        try:
            self.durability = durability
            self._prepare(now_s, chain, durability)
            if not read_only:
                self.connection.execute(_COMMIT)
            self._log = Log(self.connection)
            self.shelf = shelf(self.connection)
            self.audit = AuditLog(self.connection, self.meta("chain"), audit_key)
        except BaseException:
            self.close(clean=False)
            raise

    def begin(self) -> None:
        """Take over the file: all that is read so far becomes durable, and the end unclean.

        A process that could not sync may have left pages which this machine reads back and its
        disk does not hold. What follows them in the write-ahead log would be lost with them, so
        that log is folded into the file before anything new is written.

        Raises:
            EngineUnavailable: the file can't be written.
        """
        with self._writing():
            self.tidy()
            self.set_meta("clean", 0)
            self.connection.pragma("user_version", VERSION)  # from here on it can hold more
        self.connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 0)

    # reading back ------------------------------------------------------------

    def contents(self) -> Contents:
        """Return what the file holds beside records and bodies."""
        with self._reading():
            last, following = self._one(
                "SELECT coalesce(max(number), 0), coalesce(max(next), 1) FROM journal"
            )
            return Contents(
                since=self.meta("since"),
                clean=bool(self.meta("clean")),
                ledger={row[0]: row[1:] for row in self.connection.execute("SELECT * FROM ledger")},
                kept=self.shelf.totals(),
                next_number=following,
                last_commit=last,
            )

    def rows(self) -> Iterator[tuple[int, list[Record], int]]:
        """Yield each commit's number, records and size in bytes, oldest first."""
        sql = "SELECT number, records FROM journal ORDER BY number"
        for number, blob in self._read(sql):
            yield number, self._decode(records.decode_records, blob, f"commit {number}"), len(blob)

    def bodies(self) -> Iterator[tuple[int, list[Event | None], int]]:
        """Yield each batch's first number, its events, and its size in bytes."""
        for first, blob in self._read("SELECT first, events FROM bodies ORDER BY first"):
            yield first, self._decode(records.decode_events, blob, f"bodies {first}"), len(blob)

    def kept(self, which: Filter, after: str | None, limit: int) -> Page:
        """Return a page of what storage keeps."""
        with self._reading():
            return self.shelf.page(which, after, limit)

    def _read(self, sql: str) -> Iterator[tuple[int, bytes]]:
        with self._reading():
            yield from self.connection.execute(sql)

    def meta(self, name: str, **otherwise: Any) -> Any:
        """Return a fact about the file; `otherwise=...` is for those that not every file has."""
        with self._reading():
            found = self._one("SELECT value FROM meta WHERE name = ?", (name,))
        if found is not None:
            return found[0]
        if otherwise:
            return otherwise["otherwise"]
        raise self._damaged(f"it does not say {name!r}")

    def set_meta(self, name: str, value: Any) -> None:
        """Keep a fact about the file, at once."""
        self.connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (name, value))

    # writing -----------------------------------------------------------------

    def commit(self, commit: Commit) -> int:
        """Do everything in one transaction; return the bytes its records take.

        Units and work that storage refuses are undone alone and say so.

        Raises:
            apsw.FullError: nothing of it happened.
            apsw.Error: nothing of it happened or all of it, such as where the log can't be folded.
        """
        with explained(self.connection):
            everyday = self._is_everyday(commit)
            size = self._commit_at_once(commit) if everyday else self._commit(commit)
        self._log.fold_if_long()
        return size

    def _commit(self, commit: Commit) -> int:
        connection = self.connection
        if self._only_reads(commit):
            for work in commit.work:
                self._do_work(work, commit.change)
            return 0
        connection.execute(self._begin)
        try:
            change = commit.change
            self._do_units(commit.units, change)
            for work in commit.work:
                self._do_work(work, change)
            size = self._write(commit, change)
            connection.execute("COMMIT")
        except BaseException:
            with contextlib.suppress(apsw.Error):
                connection.execute("ROLLBACK")
            raise
        return size

    def _is_everyday(self, commit: Commit) -> bool:
        change = commit.change
        more = commit.units or commit.work or change.audit or len(change.bodies) > 1
        return not (more or self.read_only)

    def _only_reads(self, commit: Commit) -> bool:
        """Whether no transaction is needed: nobody else writes, unless the file is only read."""
        if self.read_only or commit.units or commit.drop_bodies or commit.drop_rows_below:
            return False
        return commit.change.is_empty and all(work.reads for work in commit.work)

    def _commit_at_once(self, commit: Commit) -> int:
        """Do an everyday commit: one statement, which is its own transaction."""
        change = commit.change
        blob = records.encode(change.records) if change.records else None
        first, events = change.bodies[0] if change.bodies else (None, None)
        lines = [[topic, *line] for topic, line in change.ledger.items()]
        self.connection.execute(
            "INSERT INTO one_commit VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (
                first,
                None if events is None else records.encode(events),
                commit.number,
                commit.next_number,
                blob,
                msgspec.json.encode(lines).decode(),
                msgspec.json.encode(commit.drop_bodies).decode(),
                commit.drop_rows_below,
            ),
        )
        return 0 if blob is None else len(blob)

    def _write(self, commit: Commit, change: Change) -> int:
        run = self.connection.execute
        size = 0
        for first, events in change.bodies:
            run("INSERT INTO bodies VALUES (?, ?)", (first, records.encode(events)))
        if change.records:
            blob = records.encode(change.records)
            size = len(blob)
            run("INSERT INTO journal VALUES (?, ?, ?)", (commit.number, commit.next_number, blob))
        if change.ledger:
            lines = [[topic, *line] for topic, line in change.ledger.items()]
            run(_COUNT, (msgspec.json.encode(lines).decode(),))
        if change.audit:
            self.audit.append(change.audit)
        if commit.drop_bodies:
            numbers = msgspec.json.encode(commit.drop_bodies).decode()
            run("DELETE FROM bodies WHERE first IN (SELECT value FROM json_each(?))", (numbers,))
        if commit.drop_rows_below:
            run("DELETE FROM journal WHERE number < ?", (commit.drop_rows_below,))
        return size

    def _do_units(self, units: list[StorageUnit], change: Change) -> None:
        """Move deliveries in and out of storage: all at once, or if that fails one by one."""
        if not units:
            return
        try:
            with self.connection:  # a savepoint
                self._do_together(units)
        except StorageUnavailable as error:
            if len(units) == 1:
                units[0].refused = str(error)
                return
            for unit in units:
                self._do_units([unit], change)
            return
        for unit in units:
            if unit.refused is None:
                change.join(unit.change)

    def _do_together(self, units: list[StorageUnit]) -> None:
        for unit in units:
            unit.refused = None
        leaving = {unit.forget[0]: unit for unit in reversed(units) if unit.forget is not None}
        if leaving:
            existed = self.shelf.forget([unit.forget for unit in leaving.values() if unit.forget])
            there = dict(zip(leaving, existed, strict=True))
            for unit in units:
                # Of several that want the same delivery the first has it.
                if unit.forget is not None and not there.pop(unit.forget[0], False):
                    unit.refused = ALREADY
        coming = [kept for unit in units if unit.refused is None for kept in unit.keep]
        if coming:
            self.shelf.keep(coming)

    def _do_work(self, work: Work, change: Change) -> None:
        desk = Desk(self.shelf, self.audit, Change())
        work.error = None  # it may be tried again
        try:
            if work.reads:
                work.result = work.call(desk)
            else:
                with self.connection:  # a savepoint
                    work.result = work.call(desk)
        except (apsw.IOError, apsw.FullError, apsw.CorruptError):
            raise
        except apsw.ReadOnlyError as error:
            work.error = EngineUnavailable("the file is only read here; start its node for that")
            work.error.__cause__ = error
        except Exception as error:  # noqa: BLE001  # told to whoever gave the work
            work.error = error
        else:
            change.join(desk.change)

    def try_room(self) -> None:
        """Write something that is of no use, and take it away again. Between commits.

        Raises:
            apsw.Error: the disk did not take it.
        """
        if self.read_only:
            return
        try:
            self._try_log()
        except apsw.FullError:
            # The file may have room for what the log holds, and the log none to go on in: once
            # folded it is written over from its beginning, by the next commit too. Not before:
            # a fold that does not fit takes all the room there is, and nothing is folded.
            fold(self.connection)
            self._try_log()
            fold(self.connection)
        self._log.fold_if_long()

    def _try_log(self) -> None:
        with explained(self.connection):
            self.set_meta("tried", bytes(TRIED_BYTES))
            self.connection.execute("DELETE FROM meta WHERE name = 'tried'")

    def tidy(self) -> None:
        """Fold the write-ahead log into the file. Between commits."""
        if not self.in_memory:
            self.connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)

    def give_back(self, *, begun: bool) -> bool:
        """Return a piece of what is unused to the disk; return whether there is more. See `file`.

        Raises:
            apsw.Error: nothing of it happened.
        """
        if self.in_memory or self.read_only:
            return False
        more = give_back(self.connection, begun=begun)
        self._log.fold_if_long()
        return more

    def close(self, *, clean: bool = True) -> None:
        """Close the file; `clean` says that nothing was running.

        A disk that fails now takes nothing away: the end is then an unclean one.
        """
        disk_failed = contextlib.suppress(apsw.FullError, apsw.IOError)
        try:
            with disk_failed:
                if clean and not self.read_only:
                    self.set_meta("clean", 1)
                    self.tidy()
            with disk_failed:
                self.connection.close()
        finally:
            self._unlock()

    def announce(self, url: str) -> None:
        """Let those who find the file in use know where its node can be asked."""
        if self._lock is not None:
            tell_holder(self._lock, url)

    # inside ------------------------------------------------------------------

    def _prepare(self, now_s: float, chain: str, durability: str) -> None:
        """Look at what the file is, and only then change anything in it."""
        with self._reading():
            version = self.connection.pragma("user_version")
            program = self.connection.pragma("application_id")
            tables = {name for (name,) in self.connection.execute("SELECT name FROM sqlite_schema")}
        empty = not tables
        if {"kept", "fence", "audit"} <= tables:
            raise JournalUnreadable(
                self.path,
                "it is the secondary storage of a node whose queues are on NATS servers",
                "Ask that node with --url; it has no file that can be read without it.",
            )
        if program != APPLICATION_ID and not (empty and program == 0):
            raise JournalUnreadable(
                self.path, "it is an SQLite file of another program", "Name another file."
            )
        if version > VERSION:
            raise JournalUnreadable(
                self.path,
                f"it has version {version}, this EventFlow reads up to {VERSION}",
                "Run the newer EventFlow that wrote it.",
            )
        if self.read_only and empty:
            raise JournalUnreadable(self.path, "it is empty", "Name the file of a node.")
        if self.read_only:
            return
        with self._writing():
            configure(self.connection, durability)
            if empty:
                self._create(now_s, chain)

    @contextlib.contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except (apsw.NotADBError, apsw.CorruptError, apsw.SQLError) as error:
            raise self._damaged(str(error)) from error

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            with explained(self.connection):
                yield
        except apsw.Error as error:
            raise EngineUnavailable(f"journal {self.path} can't be written: {error}") from error

    def _create(self, now_s: float, chain: str) -> None:
        with self.connection:
            self.connection.execute(_TABLES)
            schema.create(self.connection)
            self.connection.execute(
                "INSERT INTO meta VALUES ('since', ?), ('chain', ?), ('clean', 1)", (now_s, chain)
            )
            self.connection.pragma("application_id", APPLICATION_ID)
            self.connection.pragma("user_version", VERSION)

    def _decode(self, decode: Callable[[bytes], Any], blob: bytes, what: str) -> Any:
        try:
            return decode(blob)
        except msgspec.MsgspecError as error:
            raise self._damaged(f"{what}: {error}") from error

    def _damaged(self, reason: str) -> JournalUnreadable:
        return JournalUnreadable(
            self.path,
            f"it is damaged ({reason})",
            "Keep a copy, restore a backup, or rescue what is left with `sqlite3 FILE .recover`.",
        )

    def _one(self, sql: str, values: tuple[Any, ...] = ()) -> Any:
        return self.connection.execute(sql, values).fetchone()

    def _unlock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None
