"""What the machine gives: a disk that keeps what it says, room, time, open files."""

from __future__ import annotations

import ctypes
import os
import resource
import statistics
import tempfile
import time
from typing import TYPE_CHECKING, Final

from eventflow.app.doctor.finding import Finding, bad, doubtful, good

if TYPE_CHECKING:
    from pathlib import Path

FSYNCS: Final = 16
TOO_FAST_S: Final = 10e-6
"""The fastest disks with a battery behind their cache need more; less means nobody waited."""
SLOW_S: Final = 0.05
LEAST_FREE_BYTES: Final = 256 * 2**20
"""Below it SQLite may not find room for its log within a minute of traffic."""
LEAST_FILES: Final = 4096
"""A connection is a file; senders, handlers' targets and the journal need some each."""

_GONE: Final = {"tmpfs", "ramfs"}
_SHARED: Final = {"nfs", "nfs4", "cifs", "smb3", "9p", "ceph", "glusterfs", "fuse.sshfs"}
_UNESCAPED: Final = {"\\040": " ", "\\011": "\t", "\\012": "\n", "\\134": "\\"}
_TIME_ERROR: Final = 5
"""What adjtimex(2) returns for a clock that nothing keeps right."""
_TIMEX_BYTES: Final = 512
"""More than its struct has on any machine."""


def filesystem_of(path: Path, mounts: str) -> tuple[str, str]:
    """Return the type of the file system that `path` is on, and where it is mounted.

    Args:
        path: Absolute, without links.
        mounts: What /proc/self/mountinfo says.
    """
    found = ("", "")
    for line in mounts.splitlines():
        before, _, after = line.partition(" - ")
        fields, kind = before.split(" "), after.partition(" ")[0]
        if len(fields) < 5:
            continue
        point = fields[4]
        for code, char in _UNESCAPED.items():
            point = point.replace(code, char)
        if path.is_relative_to(point) and len(point) >= len(found[1]):
            found = (kind, point)  # a later mount on the same point hides the earlier one
    return found


def filesystem(kind: str, point: str) -> Finding:
    """Judge what kind of file system the journal is on."""
    what, where = "file system", f"{kind or 'an unknown kind'}, mounted at {point or '/'}"
    if kind in _GONE:
        return bad(
            what,
            f"{where}: memory, which a power cut or a restart of the machine empties",
            "Set [engine] url to a file on a disk.",
        )
    if kind in _SHARED:
        return doubtful(
            what,
            f"{where}: over a network, where locks and fsync may not do what they say",
            "Set [engine] url to a file on a disk of this machine.",
        )
    if kind == "overlay":
        return doubtful(
            what,
            f"{where}: the layer of a container, which is removed with it",
            "Mount a volume, and set [engine] url to a file in it.",
        )
    return good(what, where)


def syncing(median_s: float) -> Finding:
    """Judge how long an fsync took."""
    what, found = "fsync", f"takes {median_s * 1000:.3g} ms"
    if median_s < TOO_FAST_S:
        return doubtful(
            what,
            f"{found}: no disk is so fast, so something only says that it has synced",
            "Look for libeatmydata in LD_PRELOAD, or a mount or disk that ignores fsync.",
        )
    if median_s > SLOW_S:
        return doubtful(
            what,
            f"{found}: each batch of events waits for one",
            "Use a faster disk, or one that is not busy with other things.",
        )
    return good(what, found)


def fsync_s(folder: Path) -> float:
    """Return the median time of an fsync in a folder, by a file that is removed again.

    Raises:
        OSError: nothing can be written there.
    """
    took = []
    with tempfile.TemporaryFile(dir=folder) as probe:
        for _ in range(FSYNCS):
            probe.write(bytes(4096))
            probe.flush()
            began = time.perf_counter()
            os.fsync(probe.fileno())
            took.append(time.perf_counter() - began)
    return statistics.median(took)


def room(free_bytes: int, wanted_bytes: int, folder: str) -> Finding:
    """Judge the room on a disk.

    Args:
        free_bytes: What this user may still write.
        wanted_bytes: How much secondary storage may still grow.
        folder: Where.
    """
    what, found = "disk space", f"{_size(free_bytes)} free in {folder}"
    if free_bytes < LEAST_FREE_BYTES:
        return bad(what, found, f"Make room: a node needs {_size(LEAST_FREE_BYTES)} to run at all.")
    if free_bytes < wanted_bytes:
        return doubtful(
            what,
            f"{found}, while storage may still grow by {_size(wanted_bytes)}",
            "Make room, or lower [storage] max_size: then the node says no before the disk does.",
        )
    return good(what, found)


def open_files(limit: int) -> Finding:
    """Judge how many files this user's processes may have open."""
    what = "open files"
    if limit != resource.RLIM_INFINITY and limit < LEAST_FILES:
        return doubtful(
            what,
            f"at most {limit:,}",
            f"Raise it to {LEAST_FILES:,} or more: `ulimit -n`, or LimitNOFILE= of the service.",
        )
    unlimited = limit == resource.RLIM_INFINITY
    return good(what, "any number" if unlimited else f"at most {limit:,}")


def files_limit() -> int:
    """Return how many files a process of this user may have open."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def clock(*, kept_right: bool | None, ahead_s: float) -> Finding:
    """Judge the clock.

    Args:
        kept_right: Whether the kernel says that something keeps it right; None: it does not say.
        ahead_s: How far the newest time that the node has written is ahead of it.
    """
    what = "clock"
    if ahead_s > 60.0:
        return bad(
            what,
            f"the journal was written {ahead_s:.0f} s ahead of now: the clock was set back",
            "Set it right before the node starts: due times and retention go by it.",
        )
    if kept_right is None:
        return good(what, "not behind the journal; whether something keeps it right is not known")
    if not kept_right:
        return doubtful(
            what,
            "nothing keeps it right, as the kernel says",
            "Run chrony or systemd-timesyncd: due times, signatures and the audit trail go by it.",
        )
    return good(what, "kept right, and not behind the journal")


def clock_kept_right() -> bool | None:
    """Return whether the kernel takes the clock for synchronised; None where it can't be asked."""
    try:
        adjtimex = ctypes.CDLL(None).adjtimex
    except (OSError, AttributeError):  # not Linux
        return None
    # All zero asks and sets nothing.
    state = int(adjtimex(ctypes.create_string_buffer(_TIMEX_BYTES)))
    return None if state < 0 else state != _TIME_ERROR


def _size(count: int) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"
