"""The file under the journal: who may have it open, and how SQLite is told to treat it.

One process at a time, by two locks: `<path>.lock`, whose text names the holder to people, and
SQLite's own exclusive one, which also keeps out programs that know nothing of the first.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
from pathlib import Path
from urllib.parse import quote

import apsw

from eventflow.errors import JournalInUse, JournalUnreadable
from eventflow.storage.disk import explained, fold

WAL_LIMIT_BYTES = 64 * 2**20
MANY_PAGES = 4_096
"""Unused pages of 4 KiB, 16 MiB, from which some are given back to the disk."""
KEEP_PAGES = 1_024
PIECE_PAGES = 256


def connect(path: str, vfs: str | None) -> apsw.Connection:
    """Open the file, or make it, for this process alone.

    Raises:
        JournalInUse: another program has it open.
        JournalUnreadable: it is no SQLite file.
    """
    if not vfs and path != ":memory:":
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        make_private(path)
    connection = apsw.Connection(path, vfs=vfs) if vfs else apsw.Connection(path)
    try:
        connection.set_busy_timeout(0)
        # A file that can't be read is left as it is, its write-ahead log too; see `begin`.
        connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
        # EXCLUSIVE before WAL: no shared memory is used, and no second process gets in.
        connection.pragma("locking_mode", "EXCLUSIVE")
        connection.pragma("schema_version")
    except (apsw.NotADBError, apsw.CorruptError) as error:
        connection.close()
        raise _no_sqlite(path, error) from error
    except apsw.BusyError as error:
        connection.close()
        raise JournalInUse(path, "another program that has it open in SQLite") from error
    except BaseException:
        connection.close()
        raise
    return connection


def make_private(path: str) -> None:
    """Make an empty file for this user alone (0600) if none is there: it will hold events.

    SQLite gives its write-ahead log the same rights. A file that is there keeps those it has.
    """
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))


def configure(connection: apsw.Connection, durability: str) -> None:
    """Set what a connection that writes needs: "fsync" or "os", see G1."""
    connection.pragma("auto_vacuum", "INCREMENTAL")
    connection.pragma("journal_mode", "WAL")
    connection.pragma("synchronous", "FULL" if durability == "fsync" else "NORMAL")
    connection.pragma("journal_size_limit", WAL_LIMIT_BYTES)
    connection.pragma("temp_store", "MEMORY")
    connection.pragma("trusted_schema", "OFF")
    connection.pragma("cache_size", -32000)


def _no_sqlite(path: str, error: apsw.Error) -> JournalUnreadable:
    return JournalUnreadable(path, f"it is no SQLite file ({error})", "Name another file.")


def give_back(connection: apsw.Connection, *, begun: bool) -> bool:
    """Return a piece of the file's unused pages to the disk; return whether there is more.

    Begins only where much of the file is unused: some of it will be needed again soon. A piece
    takes the writer a few milliseconds, since its last pages move into the unused ones.

    Args:
        connection: Between two transactions.
        begun: Whether the piece before said that there is more.

    Raises:
        apsw.Error: nothing of it happened.
    """
    with explained(connection):
        free = int(connection.pragma("freelist_count"))
        pages = int(connection.pragma("page_count"))
        more = free > (KEEP_PAGES if begun else max(MANY_PAGES, pages // 2))
        if more:
            for _ in connection.execute(f"PRAGMA incremental_vacuum({min(PIECE_PAGES, free)})"):
                continue  # each step of the statement frees a page
    if begun and not more:  # the file is cut when the log is folded into it
        fold(connection)
    return more


def connect_to_read(path: str) -> apsw.Connection:
    """Open a file that is there so that nothing changes it, and read its write-ahead log too."""
    log = Path(f"{path}-wal")
    if not log.exists() or log.stat().st_size == 0:
        # What is all in one file can be read as if nobody ever wrote it: nothing is made beside it.
        uri = f"file:{quote(str(Path(path).absolute()))}?immutable=1"
        flags = apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI
        try:
            connection = apsw.Connection(uri, flags=flags)
            connection.pragma("schema_version")
        except apsw.NotADBError as error:
            raise _no_sqlite(path, error) from error
        except apsw.CantOpenError as error:
            raise JournalUnreadable(
                path, "it may not be read", "Read it as the user that its node runs as."
            ) from error
    elif os.access(path, os.W_OK):
        # The log of a node that was killed: with SQLite's READONLY files would be made beside it.
        connection = connect(path, None)
    else:
        why = "its write-ahead log can only be read by who may write the file"
        raise JournalUnreadable(path, why, "Read it as the user that its node runs as.")
    connection.pragma("query_only", 1)
    return connection


def lock(path: str, *, read_only: bool = False) -> int | None:
    """Hold `<path>.lock` for this process; its text names the holder to others.

    None where the file is to be read from a place that can't be written: no node runs there.
    """
    if not read_only:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
    elif not Path(path).is_file():
        raise JournalUnreadable(path, "there is no such file", "Name the file of a node.")
    try:
        handle = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError:
        if read_only:
            return None
        raise
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        holder = os.read(handle, 200).decode(errors="replace").strip() or "another process"
        os.close(handle)
        raise JournalInUse(path, holder) from error
    tell_holder(handle)
    return handle


def tell_holder(handle: int, url: str = "") -> None:
    """Write who holds the file, and where it can be asked."""
    where = f", {url}" if url else ""
    os.ftruncate(handle, 0)
    os.pwrite(handle, f"process {os.getpid()} on {socket.gethostname()}{where}\n".encode(), 0)
