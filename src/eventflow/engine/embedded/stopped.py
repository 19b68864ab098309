"""The file of a node that is not running: read, copied or checked, and left as it is."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import apsw

from eventflow.engine.embedded.backup import Written, copy_stopped
from eventflow.engine.embedded.engine import EmbeddedEngine
from eventflow.engine.embedded.journal import Journal
from eventflow.engine.embedded.writer import InlineWriter

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from eventflow.clock import Clock


async def open_stopped(path: Path, *, clock: Clock) -> EmbeddedEngine:
    """Open the file to read what it holds. Nothing is recovered, counted or run.

    Whatever would change something fails.

    Raises:
        JournalInUse: a node has it open.
        JournalUnreadable: damaged, not a journal, of a newer version, or not there.
    """
    journal = Journal(str(path), now_s=clock.now_s(), chain="", read_only=True)
    try:
        return EmbeddedEngine(journal, InlineWriter(), clock, _no_chance)
    except BaseException:
        journal.close(clean=False)
        raise


def _no_chance(_bits: int) -> int:
    raise RuntimeError("nothing is accepted into a file that is only read")


def backup_stopped(path: Path, to: Path) -> Written:
    """Copy the file to `to`, and read the copy back.

    Raises:
        BackupRefused: it can't be written there. None was written.
        JournalInUse, JournalUnreadable: as `open_stopped`.
    """
    with _opened(path) as journal:
        return copy_stopped(journal.connection, to)


def fault_of(path: Path) -> str | None:
    """Return what SQLite finds wrong in any page of the file, None if nothing is.

    Raises:
        JournalInUse, JournalUnreadable: as `open_stopped`.
    """
    with _opened(path) as journal:
        try:
            said = str(journal.connection.pragma("quick_check"))
        except apsw.CorruptError as error:
            return str(error)
    return None if said == "ok" else said.splitlines()[0]


def sqlite_version() -> str:
    """Return which SQLite reads and writes the file: apsw brings its own."""
    return apsw.sqlite_lib_version()


@contextmanager
def _opened(path: Path) -> Iterator[Journal]:
    journal = Journal(str(path), now_s=0.0, chain="", read_only=True)
    try:
        yield journal
    finally:
        journal.close(clean=False)
