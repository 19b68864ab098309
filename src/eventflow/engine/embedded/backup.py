"""A copy of the journal's file while it is in use: traffic goes on, and the copy is one moment's.

The writer copies some pages, lets go, commits what has come meanwhile, copies on. SQLite's backup
reads through the very connection that commits, so whatever a commit changes in a page that was
copied already is changed in the copy as well: nothing begins anew, and when the last page is there
the copy is the file as it was at that moment.

It is written beside its name, synced, read back by SQLite's own check, and only then named: what
has the name of a backup is one.
"""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote

import apsw
import msgspec

from eventflow.engine.embedded.file import make_private
from eventflow.errors import BackupRefused
from eventflow.storage.disk import explained, no_room

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from eventflow.engine.embedded.committer import Committer
    from eventflow.engine.embedded.writer import Writer

    T = TypeVar("T")

SLICE_PAGES = 1_000
"""Pages copied between two commits: 4 MiB, some milliseconds."""
SYNC_BYTES = 64 * 2**20
"""How much may wait for the disk: more at once would hold up the journal's own syncs."""
_QUICK = (
    ("journal_mode", "OFF"),  # a copy that breaks off is thrown away
    ("synchronous", "OFF"),  # synced here, outside of the writer
    ("locking_mode", "EXCLUSIVE"),
    ("cache_size", -4_000),
)


class Written(msgspec.Struct, frozen=True, gc=False):
    """A backup that was written and read back."""

    path: str
    """Where it is, on the node's machine."""
    size_bytes: int


class Copying:
    """A copy on its way. Every method is called by the journal's writer."""

    def __init__(self, source: apsw.Connection, path: Path) -> None:
        make_private(str(path))
        self._target = apsw.Connection(str(path))
        for name, value in _QUICK:
            self._target.pragma(name, value)
        self._page_bytes = source.pragma("page_size")
        self._backup = self._target.backup("main", source, "main")

    def step(self) -> bool:
        """Copy some more; return whether that was all."""
        try:
            self._backup.step(SLICE_PAGES)
        except apsw.IOError:  # it says "not an error": only the end knows what the system calls it
            self.finish()
            raise
        return bool(self._backup.done)

    @property
    def copied_bytes(self) -> int:
        """How much has been copied."""
        return int(self._page_bytes) * (self._backup.page_count - self._backup.remaining)

    def finish(self) -> None:
        """End it: the file is whole, though not yet synced."""
        with explained(self._target):
            self._backup.finish()
            self._target.close()

    def abandon(self) -> None:
        """End it wherever it is."""
        self._backup.close(True)  # noqa: FBT003  # apsw's own
        self._target.close(True)  # noqa: FBT003  # apsw's own


async def write_backup(committer: Committer, path: Path) -> Written:
    """Copy the journal's file to `path` while commits go on.

    Raises:
        BackupRefused: there is something of that name, or it can't be written. Nothing is there.
    """
    partial = _beside(path)
    try:
        _make_way(partial)
        await _copy(committer, partial)
        await asyncio.to_thread(_name, partial, path)
    except (OSError, apsw.Error) as error:
        raise _failed(path, error) from error
    finally:
        with suppress(OSError):  # it stands in no folder, or on a disk that has failed
            partial.unlink(missing_ok=True)
    return _written(path)


async def _copy(committer: Committer, partial: Path) -> None:
    loop = asyncio.get_running_loop()
    writer, source = committer.writer, committer.journal.connection
    copying = await _by(writer, lambda: Copying(source, partial))
    synced = 0
    try:
        while True:
            began = loop.time()
            if await _by(writer, copying.step):
                break
            if copying.copied_bytes - synced > SYNC_BYTES:
                synced = copying.copied_bytes
                await asyncio.to_thread(_sync, partial)
            # As long a rest as the piece took: traffic keeps at least half of the writer.
            await asyncio.sleep(loop.time() - began)
        await _by(writer, copying.finish)
    except BaseException:
        await _by(writer, copying.abandon)
        raise


async def _by(writer: Writer, work: Callable[[], T]) -> T:
    """Have the writer do something between commits; it is waited for whoever hangs up."""
    done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    def told(result: Any, error: BaseException | None) -> None:
        if done.cancelled():
            return
        if error is None:
            done.set_result(result)
        else:
            done.set_exception(error)

    writer.run(work, told)
    try:
        result: T = await asyncio.shield(done)
    except asyncio.CancelledError:
        await asyncio.wait([done])
        raise
    return result


def copy_stopped(source: apsw.Connection, path: Path) -> Written:
    """Copy a file that no node uses, in one go.

    Raises:
        BackupRefused: as `write_backup`.
    """
    partial = _beside(path)
    try:
        _make_way(partial)
        copying = Copying(source, partial)
        try:
            while not copying.step():
                pass
            copying.finish()
        except BaseException:
            copying.abandon()
            raise
        _name(partial, path)
    except (OSError, apsw.Error) as error:
        raise _failed(path, error) from error
    finally:
        with suppress(OSError):  # it stands in no folder, or on a disk that has failed
            partial.unlink(missing_ok=True)
    return _written(path)


def _beside(path: Path) -> Path:
    """Return where a copy is written until it is whole."""
    if path.exists():
        raise BackupRefused(str(path), "there is a file of that name", "Choose another name.")
    return path.with_name(f"{path.name}.partial")


def _make_way(partial: Path) -> None:
    partial.parent.mkdir(parents=True, exist_ok=True)
    partial.unlink(missing_ok=True)


def _written(path: Path) -> Written:
    return Written(str(path), path.stat().st_size)


def _name(partial: Path, path: Path) -> None:
    """Let the copy have its name, once it is on the disk and SQLite finds nothing wrong in it."""
    _sync(partial)
    check(partial)
    partial.rename(path)
    _sync(path.parent)


def check(path: Path) -> None:
    """Have SQLite look at every page of a file that nobody writes to.

    Raises:
        apsw.CorruptError: something is wrong in it.
    """
    uri = f"file:{quote(str(path.absolute()))}?immutable=1"
    connection = apsw.Connection(uri, flags=apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI)
    try:
        said = connection.pragma("quick_check")
    finally:
        connection.close()
    if said != "ok":
        raise apsw.CorruptError(str(said).splitlines()[0])


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _failed(path: Path, error: Exception) -> BackupRefused:
    full = no_room(error)
    if full is not None:
        return BackupRefused(str(path), full, "Make room, or write it elsewhere.")
    why = getattr(error, "strerror", None) or str(error)
    return BackupRefused(str(path), why, "Check the folder, its permissions and its disk.")
