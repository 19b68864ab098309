"""The journal: who may read it, how old it is, what it holds."""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING, Any, Final

from eventflow.app.doctor.finding import Finding, bad, doubtful, good

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

DAY_S: Final = 86_400.0
OLD_S: Final = 30 * DAY_S
LARGE_LOG_BYTES: Final = 256 * 2**20
"""Four times what the journal's log is cut back to."""
FULL: Final = 0.8
"""Of what storage may hold: doors close at 0.95."""


def durability(engine_url: str, claimed: str) -> Finding:
    """Judge what the configuration says is kept."""
    what = "durability"
    if engine_url.startswith("memory:"):
        return doubtful(
            what,
            "memory: whatever is accepted is lost with the process",
            'Set [engine] url to "sqlite:PATH", unless this is a test.',
        )
    if engine_url.startswith(("nats:", "tls:")):
        return good(what, f"{claimed}, kept by NATS servers: see sync and replicas")
    if claimed == "os":
        return doubtful(
            what,
            "os: accepted events survive a crash of the process, not a power cut",
            'Set [engine] durability to "fsync", unless somebody else holds the events too.',
        )
    return good(what, "fsync: accepted events survive a power cut, if the disk does what it says")


def rights(path: str, mode: int, *, readable: bool, writable: bool, owner: bool) -> Finding:
    """Judge who may read and write a file.

    Args:
        path: Its name.
        mode: Its permissions.
        readable: Whether this user may read it.
        writable: Whether this user may write it.
        owner: Whether it is this user's.
    """
    what, found = "permissions", f"{path} is {stat.filemode(mode)}"
    if not readable or not writable:
        can = "read" if not readable else "written"
        whose = "" if owner else " and belongs to somebody else"
        return bad(
            what,
            f"{found}{whose}: it can't be {can} by this user",
            "Run this as the user that the node runs as, or give the file to it with chown.",
        )
    if mode & stat.S_IRWXO:
        return doubtful(
            what,
            f"{found}: any user of this machine may read the events in it",
            f"chmod o-rwx {path}; the node makes its own files with 0600.",
        )
    return good(what, found)


def log_size(path: str, log_bytes: int) -> Finding:
    """Judge the write-ahead log beside a journal that nobody has open."""
    what, found = "write-ahead log", f"{log_bytes / 2**20:.1f} MiB beside {path}"
    if log_bytes > LARGE_LOG_BYTES:
        return doubtful(
            what,
            f"{found}: left by a node that was killed; it belongs to the journal",
            "Start the node: it takes it in. Never delete it, never move the journal without it.",
        )
    return good(what, found)


def age(last_written_s: float) -> Finding:
    """Judge how long ago anything was written."""
    what, found = "last written", f"{last_written_s / DAY_S:.0f} days ago"
    if last_written_s > OLD_S:
        return doubtful(
            what,
            f"{found}: what is due in it is delivered at once when the node starts",
            "Look with `eventflow stats --db` first, or set the file aside and begin a new one.",
        )
    return good(what, found if last_written_s >= DAY_S else "within a day")


def ledger(stats: Mapping[str, Any], max_bytes: int) -> list[Finding]:
    """Judge what a journal holds, by its ledger."""
    unaccounted, used = stats["unaccounted"], stats["storage"]["used_bytes"]
    accepted = f"accepted {stats['accepted']:,}"
    if unaccounted:
        first = bad(
            "ledger",
            f"{accepted}, unaccounted {unaccounted:,}: it does not add up",
            "Keep a copy of the file, and report it as a bug.",
        )
    else:
        first = good("ledger", f"{accepted}, unaccounted 0")
    return [first, _fill(used, max_bytes), *_waiting(stats["topics"])]


def trail(faults: Sequence[str], rows: int) -> Finding:
    """Judge what a check of the audit trail found."""
    if not faults:
        return good("audit trail", f"{rows:,} rows, nothing was changed")
    return bad(
        "audit trail",
        f"it was changed: {faults[0]}",
        "Keep a copy of the file; `eventflow audit --verify --db` names every fault.",
    )


def pages(fault: str | None) -> Finding:
    """Judge what SQLite found in the pages of the file."""
    if fault is None:
        return good("pages", "SQLite finds nothing wrong in any of them")
    return bad(
        "pages",
        f"damaged: {fault}",
        "Keep a copy, restore a backup, or rescue what is left with `sqlite3 FILE .recover`.",
    )


def _fill(used_bytes: int, max_bytes: int) -> Finding:
    what, found = "storage", f"{used_bytes / max_bytes:.0%} of [storage] max_size is used"
    if used_bytes > FULL * max_bytes:
        return doubtful(
            what,
            f"{found}; from 95% on no event is let in",
            "Replay or discard what is dead (`eventflow groups`), or raise [storage] max_size.",
        )
    return good(what, found)


def _waiting(topics: Mapping[str, Mapping[str, Any]]) -> list[Finding]:
    """Return what a person has to see to: paused topics that hold something, and the dead."""
    found = []
    for name, topic in topics.items():
        held = topic["queued"] + topic["retrying"] + topic["parked"]
        if topic.get("paused") and held:
            found.append(
                doubtful(
                    "paused topic",
                    f"{name} is paused, and {held:,} of its deliveries wait",
                    f"eventflow resume {name}",
                )
            )
    dead = sum(topic["dead"] for topic in topics.values())
    if dead:
        found.append(doubtful("dead", f"{dead:,} deliveries are dead", "eventflow groups"))
    return found
