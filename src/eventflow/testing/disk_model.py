"""What is on a disk after power came back: pure, without SQLite.

    File        content as written, content as durable, and the changes between the two
    Directory   the same for names: which file has which

A write changes what is read at once and waits in a log; a sync joins the log to what is durable;
a crash takes what is durable and lets chance decide about the log. `crash_vfs` puts SQLite on it
and says what is modelled and what is not.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from random import Random

DiskImage: TypeAlias = dict[str, bytes]
"""The files of a disk: name to content."""

SECTOR_BYTES = 512
"""What a disk writes whole or not at all."""

KEPT = 0.5
"""How likely a change that no sync covered survives a crash."""

TORN = 0.3
"""How likely a write that survives does so only in part."""


Change: TypeAlias = tuple[int, bytes | None]
"""A write of bytes at an offset, or, without any, a truncation to so many."""

_SYNCED_MAX = 4_096
"""Synced changes of a file that wait to be joined to what is durable."""


@dataclass(eq=False, slots=True)
class File:
    """A file's content, as reads see it and as a crash is sure to leave it."""

    written: bytearray = field(default_factory=bytearray)
    _durable: bytearray = field(default_factory=bytearray)
    log: list[Change] = field(default_factory=list)
    """What separates `durable` from `written`, oldest first."""
    _synced: list[Change] = field(default_factory=list)
    """What separates `_durable` from `durable`: joined to it when somebody looks, as few do."""
    doubtful: int = 0
    """Of how many in the log a sync has failed, the oldest: no later one makes them durable."""
    locks: dict[object, int] = field(default_factory=dict)
    """Who holds which lock level; for whoever opens it to keep. A crash frees all."""

    @classmethod
    def holding(cls, data: bytes) -> File:
        """Return a file with this content, all of it durable."""
        return cls(bytearray(data), bytearray(data))

    @property
    def durable(self) -> bytearray:
        """The content that a crash is sure to leave."""
        for offset, data in self._synced:
            _apply(self._durable, offset, data)
        self._synced.clear()
        return self._durable

    def change(self, offset: int, data: bytes | None) -> None:
        """Write `data` at `offset`, or truncate to `offset` bytes if it is None."""
        written = self.written
        if data is not None and offset <= len(written):  # as `_apply`, and nearly always
            written[offset : offset + len(data)] = data
        else:
            _apply(written, offset, data)
        self.log.append((offset, data))

    def sync(self) -> None:
        """Make all changes durable, but for those of a sync that failed: they are lost."""
        self._synced += self.log[self.doubtful :] if self.doubtful else self.log
        if len(self._synced) > _SYNCED_MAX:
            _ = self.durable
        self.log.clear()
        self.doubtful = 0

    def fail_sync(self) -> None:
        """Leave all changes so far in doubt: only chance can make them durable."""
        self.doubtful = len(self.log)

    def after_crash(self, chance: Random) -> bytes:
        """Return the durable content with what chance leaves of the changes."""
        image = bytearray(self.durable)
        for change in self.log:
            for offset, data in _survivors(change, chance):
                _apply(image, offset, data)
        return bytes(image)


@dataclass(frozen=True, slots=True)
class Entry:
    """A change of the directory: `name` is `file` from now on, or nothing."""

    name: str
    file: File | None


class Directory:
    """The names of a disk's files, as lookups see them and as a crash is sure to leave them.

    Args:
        image: The files there are at first, all of it durable.
    """

    def __init__(self, image: Mapping[str, bytes]) -> None:
        self.files = {name: File.holding(data) for name, data in image.items()}
        self._durable = dict(self.files)
        self._log: list[Entry] = []

    def create(self, name: str) -> File:
        """Return a new, empty file that has this name from now on."""
        file = File()
        self._enter(Entry(name, file))
        return file

    def delete(self, name: str) -> None:
        """Forget a name; who has its file open still reads and writes it."""
        self._enter(Entry(name, None))

    def sync(self) -> None:
        """Make all names durable."""
        self._sync_first(len(self._log))

    def sync_with(self, file: File) -> None:
        """Make the creation of `file` durable, and all that was done to names before it."""
        if not self._log:  # nearly always
            return
        created = (n for n, entry in enumerate(self._log, 1) if entry.file is file)
        self._sync_first(max(created, default=0))

    def after_crash(self, chance: Random) -> DiskImage:
        """Return the files under the names that hold up to a moment that chance picks."""
        kept = chance.randint(0, len(self._log))
        files = _with_entries(self._durable, self._log[:kept])
        return {name: file.after_crash(chance) for name, file in files.items()}

    def _enter(self, entry: Entry) -> None:
        self._log.append(entry)
        self.files = _with_entries(self.files, [entry])

    def _sync_first(self, count: int) -> None:
        self._durable = _with_entries(self._durable, self._log[:count])
        del self._log[:count]


def _with_entries(files: Mapping[str, File], entries: Iterable[Entry]) -> dict[str, File]:
    """Return the directory after these changes."""
    after = dict(files)
    for entry in entries:
        if entry.file is None:
            after.pop(entry.name, None)
        else:
            after[entry.name] = entry.file
    return after


def _apply(image: bytearray, offset: int, data: bytes | None) -> None:
    """Write or truncate; a gap before `offset` becomes zeros."""
    if offset > len(image):
        image.extend(bytes(offset - len(image)))
    if data is None:
        del image[offset:]
    else:
        image[offset : offset + len(data)] = data


def _survivors(change: Change, chance: Random) -> Iterator[Change]:
    """Yield what a crash leaves of a change that no sync covered: all, some sectors, nothing."""
    if chance.random() >= KEPT:
        return
    offset, data = change
    if data is None or chance.random() >= TORN:
        yield change
        return
    for start, part in sectors(offset, data):
        if chance.random() < KEPT:
            yield start, part


def sectors(offset: int, data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield offset and bytes of each sector that a write of `data` at `offset` touches."""
    end = offset + len(data)
    start = offset
    while start < end:
        stop = min(end, (start // SECTOR_BYTES + 1) * SECTOR_BYTES)
        yield start, data[start - offset : stop - offset]
        start = stop
