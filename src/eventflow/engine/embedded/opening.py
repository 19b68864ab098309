"""Opening the engine on a file: read back, taken over, and what was running counted."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

from eventflow.engine.embedded.engine import EmbeddedEngine
from eventflow.engine.embedded.journal import Journal
from eventflow.engine.embedded.leaving import refuse_moved
from eventflow.engine.embedded.writer import ThreadWriter, Writer
from eventflow.storage.shelf import Shelf

if TYPE_CHECKING:
    from collections.abc import Callable

    import apsw

    from eventflow.clock import Clock


async def open_engine(  # noqa: PLR0913  # what an engine needs to be opened with
    path: str,
    *,
    clock: Clock,
    draw_bits: Callable[[int], int],
    durability: str = "fsync",
    audit_key: bytes | None = None,
    writer: Callable[[], Writer] = ThreadWriter,
    vfs: str | None = None,
    shelf: Callable[[apsw.Connection], Shelf] = Shelf,
) -> EmbeddedEngine:
    """Open the journal at `path` (":memory:" keeps nothing) and read it back.

    Args:
        path: The file; made if it is not there.
        clock: Tells the time of day.
        draw_bits: Draws so many random bits: for refs. `random.Random.getrandbits`.
        durability: "fsync" or "os", see G1.
        audit_key: HMAC key of the audit chain.
        writer: Makes what runs the journal: `InlineWriter` in a simulation.
        vfs: SQLite VFS: for crash tests.
        shelf: Makes the storage's table access: for tests that let it fail.

    Raises:
        JournalInUse: another process has it open.
        JournalMoved: what it held was moved elsewhere, or is being moved.
        JournalUnreadable: damaged, not a journal, or of a newer version.
    """
    chain = str(uuid.UUID(int=draw_bits(128), version=4))
    journal = Journal(
        path,
        now_s=clock.now_s(),
        chain=chain,
        durability=durability,
        vfs=vfs,
        audit_key=audit_key,
        shelf=shelf,
    )
    try:
        refuse_moved(journal)
        engine = EmbeddedEngine(journal, writer(), clock, draw_bits)
        journal.begin()
    except BaseException:
        journal.close(clean=False)
        raise
    try:
        await engine.recover_crashed()
    except BaseException:
        await engine.close()
        raise
    return engine
