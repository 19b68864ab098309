"""The node that test_disks gives bad disks to: like kill_app, and its syncs fail on demand.

    python -m tests.crash.disk_app JOURNAL RUNS PORT FLAG

While the file FLAG is there, every sync of the journal fails with an I/O error.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import apsw
from tests.crash.kill_app import node

from eventflow.app.eventflow import Surroundings
from eventflow.app.serving import run
from eventflow.engine.embedded import open_engine

if TYPE_CHECKING:
    from eventflow.app.eventflow import EventFlow


class BadDisk(apsw.VFS):
    """The machine's own files, but for syncs that fail while a flag is up."""

    def __init__(self, flag: Path) -> None:
        self.name = "bad-disk"
        self.flag = flag
        super().__init__(self.name, base="")

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> apsw.VFSFile:  # noqa: N802  # SQLite's name
        """Open a file as ever."""
        return BadFile(self.flag, name, flags)


class SyncError(apsw.IOError):
    """EIO from fsync."""

    def __init__(self) -> None:
        super().__init__("the disk is gone")
        self.result = apsw.SQLITE_IOERR
        self.extendedresult = apsw.SQLITE_IOERR_FSYNC


class BadFile(apsw.VFSFile):
    """One of its files."""

    def __init__(self, flag: Path, name: str | apsw.URIFilename | None, flags: list[int]) -> None:
        self._flag = flag
        super().__init__("", name, flags)

    def xSync(self, flags: int) -> None:  # noqa: N802  # SQLite's name
        """Sync, or fail as a disk does."""
        if self._flag.exists():
            raise SyncError
        super().xSync(flags)


def on_a_bad_disk(flow: EventFlow, flag: Path) -> EventFlow:
    """Let the node's engine open its file on such a disk."""
    disk = BadDisk(flag)

    async def opened(settings: Any, clock: Any, draw_bits: Any, writer: Any) -> Any:
        return await open_engine(
            str(settings.engine.path),
            clock=clock,
            draw_bits=draw_bits,
            durability=settings.engine.durability,
            writer=writer,
            vfs=disk.name,
        )

    flow._around = Surroundings(engine=opened)  # noqa: SLF001  # the app of kill_app, as it is
    return flow


if __name__ == "__main__":
    journal, runs, port, flag = sys.argv[1:]
    sys.exit(run(on_a_bad_disk(node(journal, runs, int(port)), Path(flag))))
