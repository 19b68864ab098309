"""All of an examination: measures, and has each measure judged."""

from __future__ import annotations

import os
import shutil
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Final

from eventflow.app.doctor import file, machine
from eventflow.app.doctor.finding import Finding, bad, good
from eventflow.app.doctor.servers import servers
from eventflow.app.stopped import stopped
from eventflow.engine.embedded.stopped import fault_of, sqlite_version
from eventflow.errors import (
    EngineUnavailable,
    JournalInUse,
    JournalUnreadable,
    StorageUnavailable,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from eventflow.config import Settings

MOUNTS: Final = Path("/proc/self/mountinfo")


async def examine(
    settings: Settings, *, now_s: float, thorough: bool = False
) -> AsyncIterator[Finding]:
    """Yield what is found, good or not. Nothing is changed, nothing is started.

    Args:
        settings: Of the node.
        now_s: Seconds since 1970.
        thorough: Also read every page of the journal, and check every row of the audit trail.
    """
    engine, journal = settings.engine, settings.engine.path
    yield file.durability(engine.url, engine.durability)
    for finding in _machine(settings, journal, now_s):
        yield finding
    async for finding in servers(settings):
        yield finding
    holder = None
    if journal is not None and not journal.exists():
        yield good("journal", f"{journal} is not there yet; the node makes it")
    elif journal is not None:
        yield _rights(journal)
        try:
            async for finding in _contents(settings, journal, now_s, thorough=thorough):
                yield finding
        except JournalInUse as error:
            holder = error.holder
            yield good("journal", f"{journal} is in use by {holder}: ask that node what it holds")
        except JournalUnreadable as error:
            yield bad("journal", str(error), "")
        except (EngineUnavailable, StorageUnavailable) as error:
            yield file.pages(str(error))
    yield _door(settings.server.host, settings.server.port, holder)


def _machine(settings: Settings, journal: Path | None, now_s: float) -> Iterator[Finding]:
    yield good("SQLite", f"{sqlite_version()}, of EventFlow's own")
    if journal is not None:
        folder = _nearest(journal.absolute().parent)
        if MOUNTS.exists():
            yield machine.filesystem(*machine.filesystem_of(folder.resolve(), MOUNTS.read_text()))
        yield from _disk(settings, journal, folder)
    yield machine.open_files(machine.files_limit())
    yield machine.clock(
        kept_right=machine.clock_kept_right(), ahead_s=_written_at(journal, now_s) - now_s
    )


def _disk(settings: Settings, journal: Path, folder: Path) -> Iterator[Finding]:
    used = journal.stat().st_size if journal.exists() else 0
    free = shutil.disk_usage(folder).free
    yield machine.room(free, max(0, settings.storage.max_size_bytes - used), str(folder))
    if not os.access(folder, os.W_OK | os.X_OK):
        yield bad(
            "permissions",
            f"nothing can be written in {folder} by this user",
            "Run this as the user that the node runs as, or give the folder to it with chown.",
        )
        return
    if settings.engine.durability == "fsync":
        yield machine.syncing(machine.fsync_s(folder))


def _nearest(folder: Path) -> Path:
    """Return the folder, or the first one above it that is there: a node makes the rest."""
    return next(one for one in (folder, *folder.parents) if one.is_dir())


def _written_at(journal: Path | None, now_s: float) -> float:
    """Return when anything was last written, seconds since 1970; now where nothing was."""
    if journal is None:
        return now_s
    times = [one.stat().st_mtime for one in (journal, Path(f"{journal}-wal")) if one.exists()]
    return max(times, default=now_s)


def _log_bytes(journal: Path) -> int:
    log = Path(f"{journal}-wal")
    return log.stat().st_size if log.exists() else 0


def _rights(journal: Path) -> Finding:
    found = journal.stat()
    return file.rights(
        str(journal),
        found.st_mode,
        readable=os.access(journal, os.R_OK),
        writable=os.access(journal, os.W_OK),
        owner=found.st_uid == os.geteuid(),
    )


async def _contents(
    settings: Settings, journal: Path, now_s: float, *, thorough: bool
) -> AsyncIterator[Finding]:
    """Judge a journal that is not in use.

    Raises:
        JournalInUse: it is.
        JournalUnreadable: it can't be opened.
    """
    # Both before it is opened: that may touch them.
    log_bytes, written_at = _log_bytes(journal), _written_at(journal, now_s)
    async with stopped(journal) as door:
        yield good("journal", f"{journal} can be opened")
        yield file.log_size(str(journal), log_bytes)
        yield file.age(max(0.0, now_s - written_at))
        for finding in file.ledger(await door.stats(), settings.storage.max_size_bytes):
            yield finding
    if not thorough:
        return
    fault = fault_of(journal)
    yield file.pages(fault)
    if fault is None:
        async with stopped(journal) as door:
            verdict = await door.verify()
        yield file.trail(verdict.faults, verdict.rows)


def _door(host: str, port: int, holder: str | None) -> Finding:
    what, where = "door", f"{host}:{port}"
    if holder is not None:
        return good(what, f"the node runs: {holder}")
    if port == 0:
        return good(what, f"{host}, any free port")
    try:
        with socket.create_server((host, port), family=_family(host)):
            return good(what, f"{where} is free")
    except OSError as error:
        number = error.errno or 0
        why = os.strerror(number) if number > 0 else error.strerror  # below 0: no such host
        return bad(
            what,
            f"{where} can't be listened on: {why}",
            "Stop what holds it, or set [server] host and port to others.",
        )


def _family(host: str) -> socket.AddressFamily:
    return socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0][0]
