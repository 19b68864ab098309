"""A disk in memory, for SQLite, that loses power.

    xWrite, xTruncate   change what is read at once, and wait in the file's log
    xSync               joins the log to the durable image: this survives
    crash               the durable image, and what chance leaves of the log

SQLite opens its files on a `CrashDisk` as on any other VFS: `Connection(path, vfs=disk.name)`.
All is in memory: a crash, a look at what is left and the next start take milliseconds.

    disk = CrashDisk()
    disk.cut_after(120)                       # the program under test stops at some write
    acknowledged = run_the_program(disk)      # by an apsw.Error; disk.is_cut says it was ours
    after = CrashDisk.from_image(disk.crash(Random(7)))
    assert acknowledged <= found_by_the_program_started_again(after)

The program sees a `PowerCut`, or the `apsw.IOError` that SQLite makes of several. Closing its
connection raises once more. Close it all the same: a connection that is collected open makes
apsw report the cut as an error that nobody handled, where a real disk would stay silent.

A WAL needs `PRAGMA locking_mode = EXCLUSIVE` before `PRAGMA journal_mode = WAL` here: a VFS
written in Python has no shared memory, and without it SQLite stays in its old journal mode.

What a crash does
    Each change that no sync covered is kept (1/2) or lost (1/2), by itself. Of the kept writes
    three in ten are torn: each of their 512-byte sectors is kept or lost by itself. What is kept
    stays in the order it was made in, but a later change may survive an earlier one. A write
    past the end leaves zeros in between.
    Names hold up to some moment and are lost after it, as in journaling file systems: created
    files are gone, deleted ones are back. A sync of a file makes its creation durable (SQLite
    syncs the directory with it) and all that was done to names before; a delete with `syncdir`
    makes all names durable.

What a failed sync does
    Its writes are still read back, and a crash keeps or loses them like others, but a later
    sync that succeeds loses them for good: the kernel has marked their pages clean. A program
    is safe only if it stops and starts again.

What is not modelled
    Room on a filled disk that a deleted file still takes while it is open; holes.
    Directories (of a path only the last part counts), renaming, a directory's sync by itself.
    Bit rot, reads that fail, a disk that lies about a sync, damage beside the bytes written
    (SQLITE_IOCAP_POWERSAFE_OVERWRITE is set, as SQLite does on unix).
    Shared memory, memory maps, other processes. Between connections of one process the usual
    locks hold; the sleep of a busy handler takes no time.
    SQLite draws a WAL's salts from the machine, so bytes differ from run to run; number and
    order of the operations, which is what `cut_after` counts, do not.
"""

# ruff: noqa: N802  # names that begin with x are SQLite's

from __future__ import annotations

import errno
import itertools
import math
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Self, cast

import apsw

from eventflow.testing.disk_model import Directory, DiskImage, File

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping
    from random import Random
    from types import TracebackType

__all__ = ["CrashDisk", "DiskImage", "PowerCut"]

_disk_numbers = itertools.count(1)


class PowerCut(apsw.IOError):
    """The power is off: this operation and every further one on the disk did nothing."""

    def __init__(self, operation: str, ops: int) -> None:
        super().__init__(f"power cut: {operation} refused after {ops} operations")
        self.result = apsw.SQLITE_IOERR
        self.extendedresult = apsw.SQLITE_IOERR


class CrashDisk(apsw.VFS):
    """A disk that keeps what was synced and leaves the rest to chance when power fails.

    The module's header says what is modelled and what is not. Any number of disks stand side
    by side. Threads may use one as SQLite does; `crash` is for when they have stopped. Leaving
    it as a context manager unregisters it.

    Args:
        name: What to give to `Connection(..., vfs=name)`. None: one that is new in this process.
        image: What the disk holds at first, all of it durable.
    """

    def __init__(
        self, name: str | None = None, *, image: Mapping[str, bytes] | None = None
    ) -> None:
        self.name = name or f"crash-disk-{next(_disk_numbers)}"
        self._power = _Power()
        self._directory = Directory(image or {})
        super().__init__(self.name, base="")

    @classmethod
    def from_image(cls, image: Mapping[str, bytes], name: str | None = None) -> Self:
        """Return a disk that holds `image`, all of it durable."""
        return cls(name, image=image)

    @staticmethod
    def restore(directory: str | os.PathLike[str], image: Mapping[str, bytes]) -> None:
        """Write the files of `image` into `directory`, for SQLite's usual VFS to open."""
        for name, data in image.items():
            Path(directory, name).write_bytes(data)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.unregister()

    @property
    def ops(self) -> int:
        """Writes, truncations, syncs and deletions so far, failed ones included."""
        return self._power.ops

    @property
    def is_cut(self) -> bool:
        """Whether the power is off."""
        return self._power.ops >= self._power.cut_at

    def cut_after(self, n_ops: int) -> None:
        """Let `n_ops` more operations through, then raise `PowerCut` from everything.

        Writes, truncations, syncs and deletions count; the last of them is done in full. To
        visit every crash point, count `ops` in a run without a cut first.

        Args:
            n_ops: How many more, from now on. 0 cuts at once.

        Raises:
            ValueError: `n_ops` is negative, or the power is off already.
        """
        if n_ops < 0:
            raise ValueError(f"cut_after: expected 0 or more operations, got {n_ops}")
        if self.is_cut:
            raise ValueError("cut_after: the power is off already; go on with from_image")
        self._power.cut_at = self.ops + n_ops

    def crash(self, chance: Random) -> DiskImage:
        """Cut the power, if it is still on, and return what the disk holds when it is back.

        Asked again, it draws another outcome of the same crash.

        Args:
            chance: Draws which changes survive that no sync covered.
        """
        self._power.cut_at = min(self._power.cut_at, self.ops)
        return self._directory.after_crash(chance)

    def killed(self) -> DiskImage:
        """Return what a program finds that was killed while the machine went on: every write."""
        return {name: bytes(file.written) for name, file in self._directory.files.items()}

    def fail_sync(
        self,
        times: int | None = None,
        error: int = apsw.SQLITE_IOERR_FSYNC,
        *,
        name: str | None = None,
    ) -> None:
        """Let syncs fail; what they were to make durable never will be.

        Args:
            times: How many syncs. None: every one until `heal`.
            error: The SQLite result code, extended ones included.
            name: Of which file, one that is there. None: of any.

        Raises:
            apsw.CantOpenError: there is no file of that name.
            ValueError: `times` is below 1.
        """
        fault = _Fault("fail_sync", times, error)
        path = None if name is None else self.xFullPathname(name)
        self._power.sync_fault_of = None if path is None else self._find(path, create=0)
        self._power.sync_fault = fault

    def fail_write(
        self,
        error: int = apsw.SQLITE_FULL,
        times: int | None = None,
        number: int = errno.EIO,
    ) -> None:
        """Let writes fail and change nothing; SQLITE_FULL is a disk without room.

        Args:
            error: The SQLite result code, extended ones included.
            times: How many writes. None: every one until `heal`.
            number: What the system calls it, for `Connection.system_errno`; see `errno`.

        Raises:
            ValueError: `times` is below 1.
        """
        self._power.write_fault = _Fault("fail_write", times, error, number)

    def fill(self, room_bytes: int = 0) -> None:
        """Leave so much room: files together grow by no more, and others get SQLITE_FULL.

        What is there may be written over, as on a real disk. Deleting and cutting files make room.

        Args:
            room_bytes: How many bytes. 0: none.

        Raises:
            ValueError: `room_bytes` is negative.
        """
        if room_bytes < 0:
            raise ValueError(f"fill: expected 0 or more bytes, got {room_bytes}")
        self._power.room_bytes = room_bytes

    def heal(self) -> None:
        """End `fail_sync`, `fail_write` and `fill`. What a failed sync left in doubt stays so."""
        self._power.sync_fault = self._power.write_fault = None
        self._power.room_bytes = math.inf

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> apsw.VFSFile:
        """Open a file, which SQLite may want created; one without a name is on no disk."""
        self._power.need("open")
        wanted = flags[1] = flags[0]
        path = name.filename() if isinstance(name, apsw.URIFilename) else name
        file = File() if path is None else self._find(path, create=wanted & apsw.SQLITE_OPEN_CREATE)
        handle = _Handle(self._power, self._directory, file)
        if path is not None and wanted & apsw.SQLITE_OPEN_DELETEONCLOSE:
            self._directory.delete(path)  # as unix does: gone by name, there while it is open
        # apsw takes any object with these methods; a VFSFile would open a real file.
        return cast("apsw.VFSFile", handle)

    def xDelete(self, filename: str, syncdir: bool) -> None:  # noqa: FBT001  # SQLite calls it
        """Delete a file, durably if `syncdir`."""
        self._power.count("delete")
        if filename not in self._directory.files:
            raise apsw.exception_for(apsw.SQLITE_IOERR_DELETE_NOENT)
        self._power.room_bytes += len(self._directory.files[filename].written)
        self._directory.delete(filename)
        if syncdir:
            self._directory.sync()

    def xAccess(self, pathname: str, _flags: int) -> bool:
        """Say whether a file is there; all may be read and written."""
        self._power.need("access")
        return pathname in self._directory.files

    def xFullPathname(self, name: str) -> str:
        """Return the last part of a path: the disk has one directory."""
        return PurePath(name).name

    def xSleep(self, microseconds: int) -> int:
        """Return at once."""
        return microseconds

    def xGetLastError(self) -> tuple[int, str]:
        """Return the system's number of the latest error, 0 once the power is off, and no text."""
        return 0 if self.is_cut else self._power.error_number, ""

    def excepthook(
        self,
        etype: type[BaseException] | None,
        evalue: BaseException | None,
        etraceback: TracebackType | None,
    ) -> bool:
        """Keep quiet about a `PowerCut` that has no caller left to be raised to."""
        return isinstance(evalue, PowerCut) or super().excepthook(etype, evalue, etraceback)

    def _find(self, path: str, *, create: int) -> File:
        file = self._directory.files.get(path)
        if file is not None:
            return file
        if not create:
            raise apsw.CantOpenError(f"there is no file {path!r} on {self.name}")
        return self._directory.create(path)


@dataclass(slots=True)
class _Fault:
    """An error that `left` operations get, or all of them."""

    caller: str
    left: int | None
    code: int
    number: int = errno.EIO

    def __post_init__(self) -> None:
        if self.left is not None and self.left < 1:
            raise ValueError(f"{self.caller}: expected 1 or more times, or None, got {self.left}")

    def next_error(self) -> Exception | None:
        """Return the error of the next operation, or None once enough have had it."""
        if self.left == 0:
            return None
        if self.left is not None:
            self.left -= 1
        error = apsw.exception_for(self.code)
        error.args = (f"{self.caller}: SQLite result code {self.code}",)
        return error


@dataclass(slots=True)
class _Power:
    """Whether the next operation goes through."""

    ops: int = 0
    cut_at: float = math.inf
    write_fault: _Fault | None = None
    sync_fault: _Fault | None = None
    sync_fault_of: File | None = None
    """Whose syncs fail; None: those of any file."""
    error_number: int = 0
    """Of the latest error."""
    room_bytes: float = math.inf
    """How much files may still grow."""

    @property
    def is_cut(self) -> bool:
        return self.ops >= self.cut_at

    def need(self, operation: str) -> None:
        if self.is_cut:
            raise PowerCut(operation, self.ops)

    def count(self, operation: str) -> None:
        self.need(operation)
        self.ops += 1

    def take(self, grown_bytes: int) -> None:
        if grown_bytes > self.room_bytes:
            self.error_number = errno.ENOSPC
            raise apsw.FullError("the disk is full")
        self.room_bytes -= max(0, grown_bytes)

    def sync_error(self, file: File) -> Exception | None:
        self.count("sync")
        spared = self.sync_fault_of is not None and self.sync_fault_of is not file
        return self.error_of(None if spared else self.sync_fault)

    def error_of(self, fault: _Fault | None) -> Exception | None:
        error = None if fault is None else fault.next_error()
        if fault is not None and error is not None:
            self.error_number = fault.number
        return error


class _Handle:
    """A file as one connection has it open: what SQLite calls a VFS file."""

    def __init__(self, power: _Power, directory: Directory, file: File) -> None:
        self._power = power
        self._directory = directory
        self._file = file

    def xRead(self, amount: int, offset: int) -> bytes:
        if self._power.ops >= self._power.cut_at:
            raise PowerCut("read", self._power.ops)
        return bytes(self._file.written[offset : offset + amount])

    def xWrite(self, data: bytes | memoryview, offset: int) -> None:
        power = self._power
        if power.ops >= power.cut_at:  # as `count`, with fewer calls: of these there are many
            raise PowerCut("write", power.ops)
        power.ops += 1
        if power.write_fault is not None:
            error = power.error_of(power.write_fault)
            if error is not None:
                raise error
        if power.room_bytes != math.inf:
            power.take(offset + len(data) - len(self._file.written))
        self._file.change(offset, bytes(data))

    def xTruncate(self, size: int) -> None:
        self._power.count("truncate")
        self._power.room_bytes += max(0, len(self._file.written) - size)
        self._file.change(size, None)

    def xSync(self, _flags: int) -> None:
        error = self._power.sync_error(self._file)
        if error is not None:
            self._file.fail_sync()
            raise error
        self._file.sync()
        self._directory.sync_with(self._file)

    def xFileSize(self) -> int:
        self._power.need("file size")
        return len(self._file.written)

    def xClose(self) -> None:
        self._file.locks.pop(self, None)

    def xLock(self, level: int) -> None:
        """Take a lock as https://sqlite.org/lockingv3.html has it, or raise BusyError."""
        locks = self._file.locks
        others = max((held for owner, held in locks.items() if owner is not self), default=0)
        if level == apsw.SQLITE_LOCK_EXCLUSIVE and others == apsw.SQLITE_LOCK_SHARED:
            locks[self] = apsw.SQLITE_LOCK_PENDING  # readers may leave, none may come
        if others > _HIGHEST_BESIDE[level]:
            raise apsw.BusyError(f"another connection holds lock level {others}")
        locks[self] = level

    def xUnlock(self, level: int) -> None:
        self._file.locks[self] = level

    def xCheckReservedLock(self) -> bool:
        return max(self._file.locks.values(), default=0) >= apsw.SQLITE_LOCK_RESERVED

    def xFileControl(self, _op: int, _pointer: int) -> bool:
        return False

    def xSectorSize(self) -> int:
        return 4096  # as SQLite on unix

    def xDeviceCharacteristics(self) -> int:
        return apsw.SQLITE_IOCAP_POWERSAFE_OVERWRITE  # as SQLite on unix

    def excepthook(
        self,
        _etype: type[BaseException] | None,
        evalue: BaseException | None,
        _etraceback: TracebackType | None,
    ) -> bool:
        return isinstance(evalue, PowerCut)


_HIGHEST_BESIDE = {
    apsw.SQLITE_LOCK_SHARED: apsw.SQLITE_LOCK_RESERVED,
    apsw.SQLITE_LOCK_RESERVED: apsw.SQLITE_LOCK_SHARED,
    apsw.SQLITE_LOCK_EXCLUSIVE: apsw.SQLITE_LOCK_NONE,
}
"""The highest level that another connection may hold when a lock is given."""
