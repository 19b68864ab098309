"""A file whose content goes elsewhere: the mark that says so, and what a glance at a file tells.

    (no mark)   a node's file
    begun       a move has begun: some of it may be elsewhere already. No node starts on it
    done        all of it is elsewhere. No node starts on it; it can be read as before

The mark is a fact of the table `meta`, so it is as durable as the rest, and whoever takes over the
file to run a node on it finds it (`Journal.begin`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import apsw
import msgspec

from eventflow.clock import rfc3339
from eventflow.engine.embedded.journal import APPLICATION_ID, Journal
from eventflow.errors import EngineUnavailable, JournalMoved

if TYPE_CHECKING:
    from pathlib import Path

_APPLICATION_ID = slice(68, 72)
"""Where SQLite's header has it."""


class Mark(msgspec.Struct, frozen=True):
    """What a move has written into the file that it comes from."""

    to: str
    """The servers, without user and password."""
    storage: str
    """The secondary storage, without user and password."""
    begun_at: float
    """Seconds since 1970."""
    done_at: float | None = None
    """When all was there; None: not yet."""
    told: dict[str, Any] = {}
    """What the move said at its end."""


class Glance(NamedTuple):
    """What a file says of itself without being read back."""

    chain: str
    """Name of its audit chain: no other file has it, unless it is a copy."""
    live: int
    """Deliveries that are queued, retrying, parked or dead, by its ledger."""
    clean: bool
    """Whether its last node ended by closing it: else deliveries may have been running."""
    mark: Mark | None


def is_journal(path: Path) -> bool:
    """Return whether a file is a journal, without opening it: nobody who has it open notices."""
    try:
        with path.open("rb") as file:
            header = file.read(_APPLICATION_ID.stop)
    except OSError:
        return False
    return header[_APPLICATION_ID] == APPLICATION_ID.to_bytes(4, "big")


def glance(path: Path) -> Glance:
    """Look at the file of a node that is not running; nothing is changed.

    Raises:
        JournalInUse: a node has it open.
        JournalUnreadable: damaged, not a journal, of a newer version, or not there.
    """
    journal = Journal(str(path), now_s=0.0, chain="", read_only=True)
    try:
        contents = journal.contents()
        live = sum(line[0] - sum(line[1:]) for line in contents.ledger.values())
        return Glance(journal.meta("chain"), live, contents.clean, mark_of(journal))
    finally:
        journal.close(clean=False)


def set_mark(path: Path, mark: Mark | None) -> None:
    """Put the mark into the file, or take it away; durable when this returns.

    Raises:
        JournalInUse: a node has it open.
        JournalUnreadable: damaged, not a journal, or of a newer version.
        EngineUnavailable: it can't be written.
    """
    journal = Journal(str(path), now_s=0.0, chain="")
    try:
        text = None if mark is None else msgspec.json.encode(mark).decode()
        journal.set_meta("moved", text)
        journal.tidy()  # what is kept is one file, not a file and its log
    except apsw.Error as error:
        raise EngineUnavailable(f"journal {path} can't be marked: {error}") from error
    finally:
        journal.close(clean=False)


def mark_of(journal: Journal) -> Mark | None:
    """Return the mark of an open file."""
    text = journal.meta("moved", otherwise=None)
    return None if text is None else msgspec.json.decode(text, type=Mark)


def refuse_moved(journal: Journal) -> None:
    """Let no node be started on a file that was moved, or is being moved.

    Raises:
        JournalMoved: it has a mark.
    """
    mark = mark_of(journal)
    if mark is not None:
        at = rfc3339(mark.begun_at if mark.done_at is None else mark.done_at)
        raise JournalMoved(journal.path, mark.to, mark.storage, at, done=mark.done_at is not None)
