"""What SQLite keeps to itself about the disk under a file: which error it was, and its log.

SQLite folds its write-ahead log into the file after a commit and keeps errors of that to itself:
beside a file that can't be written the log would grow until it has filled the disk. So who writes a
file has a `Log`, and folds it where errors are heard.
"""

from __future__ import annotations

import contextlib
import errno
import os
from typing import TYPE_CHECKING

import apsw

if TYPE_CHECKING:
    from collections.abc import Iterator

FOLD_PAGES = 1_000
"""Pages in the write-ahead log from which it is folded into the file."""


class QuotaUsedUp(apsw.FullError):
    """The disk has room, but none that the node's user may take."""


class Log:
    """The write-ahead log of a connection that writes. From its making nobody else folds it."""

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection
        self._pages = 0
        """How many it held after the last commit, those of other processes included."""
        connection.set_wal_hook(self._grown)

    def _grown(self, _connection: apsw.Connection, _database: str, pages: int) -> int:
        self._pages = pages
        return apsw.SQLITE_OK

    def fold_if_long(self) -> None:
        """Fold it from `FOLD_PAGES` on, and again at the next call if that fails.

        Raises:
            apsw.Error: see `fold`.
        """
        if self._pages >= FOLD_PAGES:
            fold(self._connection)
            self._pages = 0  # it is the next commit that says how many are left


def fold(connection: apsw.Connection) -> None:
    """Fold the write-ahead log into the file, if the file has room for it.

    If not, all of it stays in the log, which grows on beside it, and the room there was is the
    file's all the same. So does all of it while something is being read. After a fold the next
    commit writes over the log from its beginning, and needs no room.

    Raises:
        apsw.Error: the file did not take it, for another reason. The log holds all of it.
    """
    later = contextlib.suppress(apsw.FullError, apsw.BusyError, apsw.LockedError)
    with later, explained(connection):
        connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)


@contextlib.contextmanager
def explained(connection: apsw.Connection) -> Iterator[None]:
    """Let I/O errors say what the system calls them: SQLite calls all of them "disk I/O error".

    Raises:
        QuotaUsedUp: a write had no room within the user's quota, which to SQLite is any I/O error.
            Like one that finds the disk full, it has changed nothing.
        apsw.IOError: all others.
    """
    try:
        yield
    except apsw.IOError as error:
        number = connection.system_errno
        kind = getattr(error, "extendedresult", None)  # apsw sets it; its types say nothing of it
        if number == errno.EDQUOT and kind == apsw.SQLITE_IOERR_WRITE:
            raise QuotaUsedUp("the disk quota of the node's user is used up") from error
        if number:
            error.args = (f"{error} ({os.strerror(number)})",)
        raise


def no_room(error: BaseException) -> str | None:
    """Return why a write found no room; None: that is not why it failed."""
    if isinstance(error, QuotaUsedUp):
        return str(error)
    return "the disk is full" if isinstance(error, apsw.FullError) else None
