"""The `file` sink: each event is a line, a CloudEvent in JSON; a batch is one write and one fsync.

    events.ndjson                            the file that is written to
    events-20261126T000000Z.ndjson           one that was full, or old: when it was put aside

A file never ends within a line for longer than a write lasts. What a failed write left is cut off
at once; what a crash left, before the next write. Its events were not delivered then, and come
again. So an event can stand in the file twice, and is told by its `source` and `id`.

Every write holds a lock (`flock`), so that several nodes can write to one file, and looks at what
stands under its name now: a file that was moved away by others is not written to any more.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import threading
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from eventflow.clock import SystemClock
from eventflow.cloudevents import encode_lines
from eventflow.policy import causes
from eventflow.policy.outcome import Failed
from eventflow.sinks.base import SinkError
from eventflow.telemetry import names
from eventflow.telemetry.logging import log

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from eventflow.clock import Clock
    from eventflow.config import FileSinkSettings
    from eventflow.delivery import Delivery
    from eventflow.event import Event

_OURS = b'{"specversion":"1.0"'
"""How each of our lines begins: what begins so and has no end is ours to cut off."""
_BLOCK_BYTES = 65_536


class FileSink:
    """Delivers events as lines of a file.

    Args:
        settings: The topic's `sink` table.
        clock: What time it is, for `rotate_every` and the names of files put aside.
    """

    def __init__(self, settings: FileSinkSettings, *, clock: Clock | None = None) -> None:
        self._settings = settings
        self._path = settings.path.absolute()
        self._clock = SystemClock() if clock is None else clock
        self.at_once = 1
        self._writing = threading.Lock()
        self._file: int | None = None

    async def start(self) -> None:
        """Do nothing: a disk that is away when a node starts must not keep it from starting."""

    def deliver_batch(
        self, events: Sequence[Event], deliveries: Sequence[Delivery]
    ) -> list[SinkError | None]:
        """Append a line an event. All are written, or none is."""
        del deliveries
        lines = encode_lines(events)
        try:
            with self._writing, self._ready(len(lines)) as file:
                self._append(file, lines)
        except OSError as error:
            return [self._failure(error)] * len(events)
        return [None] * len(events)

    async def close(self) -> None:
        """Close the file."""
        self._leave()

    @contextmanager
    def _ready(self, more_bytes: int) -> Iterator[int]:
        """Give the file that stands under its name now, locked, whole, with room for a batch."""
        while True:
            file = self._opened()
            fcntl.flock(file, fcntl.LOCK_EX)
            try:
                if not self._is_current(file):
                    self._leave()
                    continue
                _repair(file, self._path)
                if self._is_full(file, more_bytes):
                    self._put_aside(file)
                    self._leave()
                    continue
                yield file
            finally:
                if self._file == file:  # else it was closed, and another may have its number
                    fcntl.flock(file, fcntl.LOCK_UN)
            return

    def _opened(self) -> int:
        if self._file is None:
            flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK
            self._file = os.open(self._path, flags, 0o666)
            if not stat.S_ISREG(os.fstat(self._file).st_mode):
                self._leave()
                raise OSError(errno.EINVAL, "expected a file, got something else of that name")
            if self._settings.fsync:
                self._sync_folder()
        return self._file

    def _leave(self) -> None:
        if self._file is not None:
            file, self._file = self._file, None
            os.close(file)

    def _is_current(self, file: int) -> bool:
        try:
            there = self._path.stat()
        except FileNotFoundError:
            return False
        return os.path.samestat(there, os.fstat(file))

    def _is_full(self, file: int, more_bytes: int) -> bool:
        now = os.fstat(file)
        if not now.st_size:
            return False
        every_s = self._settings.rotate_every_s
        if every_s is not None and self._clock.now_s() // every_s > now.st_mtime // every_s:
            return True
        return now.st_size + more_bytes > self._settings.rotate_bytes

    def _put_aside(self, file: int) -> None:
        """Rename the file, to a name that is not taken."""
        moment = datetime.fromtimestamp(self._clock.now_s(), UTC).strftime("%Y%m%dT%H%M%SZ")
        path = self._path
        name = f"{path.stem}-{moment}"
        number = 1
        while True:
            aside = path.with_name(f"{name}{'' if number == 1 else f'-{number}'}{path.suffix}")
            if not aside.exists():  # who writes here has the lock
                break
            number += 1
        path.rename(aside)
        if self._settings.fsync:
            os.fsync(file)
            self._sync_folder()

    def _sync_folder(self) -> None:
        """Make sure that a file that is new, or renamed, is found after a power cut."""
        folder = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def _append(self, file: int, lines: bytes) -> None:
        size = os.fstat(file).st_size
        try:
            _write(file, lines)
            if self._settings.fsync:
                os.fsync(file)
        except OSError:
            # After a failed fsync nobody knows what is on the disk: all of it is written anew.
            with suppress(OSError):  # the next batch finds it and cuts it off
                os.ftruncate(file, size)
            self._leave()
            raise

    def _failure(self, error: OSError) -> SinkError:
        cause = f"file {errno.errorcode.get(error.errno or 0, 'error')}"
        message = f"{self._settings.path}: {error.strerror or error}"
        return SinkError(Failed(cause, message, fingerprint=causes.fingerprint(cause, message)))


def _write(file: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(file, rest) :]


def _repair(file: int, path: Path) -> None:
    """Let a file end with a whole line: cut off what a crash left of one of ours."""
    size = os.fstat(file).st_size
    if not size or os.pread(file, 1, size - 1) == b"\n":
        return
    start = _start_of_last_line(file, size)
    head = os.pread(file, len(_OURS), start)
    if _OURS.startswith(head) or head == _OURS:
        os.ftruncate(file, start)
        log(names.FILE_REPAIRED, path=str(path), cut_bytes=size - start)
    else:  # somebody else's line, which only lacks its end
        _write(file, b"\n")


def _start_of_last_line(file: int, size: int) -> int:
    at = size
    while at > 0:
        start = max(0, at - _BLOCK_BYTES)
        found = os.pread(file, at - start, start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        at = start
    return 0
