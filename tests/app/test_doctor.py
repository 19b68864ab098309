"""The doctor: each judgement by its measures, and whole examinations of files with faults."""

from __future__ import annotations

import os
import socket
import stat
import time
from pathlib import Path
from typing import Any

import pytest
from tests.app.test_stopped import lived

from eventflow import EventFlow
from eventflow.app.doctor import BAD, DOUBTFUL, GOOD, Finding, examine, file, machine
from eventflow.config import parse

GIB = 2**30
MOUNTS = """\
22 28 0:20 / /proc rw - proc proc rw
28 1 259:1 / / rw,relatime - ext4 /dev/root rw
31 28 0:27 / /run rw - tmpfs tmpfs rw
40 28 0:33 / /srv/event\\040flow rw - nfs4 host:/x rw
41 28 0:34 / /srv rw - ext4 /dev/sdb rw
42 28 0:35 / /srv rw - xfs /dev/sdc rw
cut off
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/var/lib/flow", "ext4"),
        ("/run/flow", "tmpfs"),
        ("/running/flow", "ext4"),
        ("/srv/event flow/x", "nfs4"),
        ("/srv/other", "xfs"),
    ],
)
def test_the_file_system_is_that_of_the_deepest_and_last_mount(path: str, kind: str) -> None:
    assert machine.filesystem_of(Path(path), MOUNTS)[0] == kind


def ledger(**changed: Any) -> list[Finding]:
    topic = {"queued": 0, "retrying": 0, "parked": 0, "dead": 0, "paused": False}
    stats = {"accepted": 5, "unaccounted": 0, "storage": {"used_bytes": 10}}
    topics = {"email": topic | changed.pop("email", {})}
    return file.ledger(stats | changed | {"topics": topics}, 100)


JUDGED = {
    "ext4": (machine.filesystem("ext4", "/"), GOOD, "ext4, mounted at /"),
    "tmpfs": (machine.filesystem("tmpfs", "/run"), BAD, "a power cut"),
    "nfs": (machine.filesystem("nfs4", "/srv"), DOUBTFUL, "over a network"),
    "overlay": (machine.filesystem("overlay", "/"), DOUBTFUL, "the layer of a container"),
    "fsync": (machine.syncing(0.0003), GOOD, "takes 0.3 ms"),
    "fsync that does nothing": (machine.syncing(2e-6), DOUBTFUL, "no disk is so fast"),
    "slow fsync": (machine.syncing(0.2), DOUBTFUL, "takes 200 ms"),
    "room": (machine.room(20 * GIB, 10 * GIB, "/srv"), GOOD, "20.0 GiB free in /srv"),
    "little room": (machine.room(5 * GIB, 10 * GIB, "/srv"), DOUBTFUL, "still grow by 10.0 GiB"),
    "no room": (machine.room(10**6, 10 * GIB, "/srv"), BAD, "1 MiB free in /srv"),
    "files": (machine.open_files(65_536), GOOD, "at most 65,536"),
    "any files": (machine.open_files(-1), GOOD, "any number"),
    "few files": (machine.open_files(1024), DOUBTFUL, "at most 1,024"),
    "clock": (machine.clock(kept_right=True, ahead_s=-5.0), GOOD, "kept right"),
    "clock nobody keeps": (machine.clock(kept_right=False, ahead_s=0.0), DOUBTFUL, "nothing keeps"),
    "clock nobody knows": (machine.clock(kept_right=None, ahead_s=0.0), GOOD, "is not known"),
    "clock set back": (machine.clock(kept_right=True, ahead_s=3600.0), BAD, "3600 s ahead of now"),
    "durable": (file.durability("sqlite:x.db", "fsync"), GOOD, "survive a power cut"),
    "os": (file.durability("sqlite:x.db", "os"), DOUBTFUL, "not a power cut"),
    "memory": (file.durability("memory:", "fsync"), DOUBTFUL, "lost with the process"),
    "log": (file.log_size("x.db", 64 * 2**20), GOOD, "64.0 MiB beside x.db"),
    "large log": (file.log_size("x.db", GIB), DOUBTFUL, "left by a node that was killed"),
    "new": (file.age(60.0), GOOD, "within a day"),
    "old": (file.age(90 * 86_400.0), DOUBTFUL, "90 days ago"),
    "adds up": (ledger()[0], GOOD, "accepted 5, unaccounted 0"),
    "does not": (ledger(unaccounted=1)[0], BAD, "unaccounted 1"),
    "roomy storage": (ledger()[1], GOOD, "10%"),
    "full storage": (ledger(storage={"used_bytes": 90})[1], DOUBTFUL, "90%"),
    "paused": (
        ledger(email={"paused": True, "parked": 2})[2],
        DOUBTFUL,
        "2 of its deliveries wait",
    ),
    "dead": (ledger(email={"dead": 3})[2], DOUBTFUL, "3 deliveries are dead"),
    "trail": (file.trail((), 7), GOOD, "7 rows"),
    "changed trail": (file.trail(("row 3 was edited",), 7), BAD, "row 3 was edited"),
    "pages": (file.pages(None), GOOD, "nothing wrong"),
    "damaged page": (file.pages("page 4 is never used"), BAD, "page 4 is never used"),
}


@pytest.mark.parametrize(("finding", "state", "said"), JUDGED.values(), ids=JUDGED)
def test_a_measure_is_judged(finding: Finding, state: str, said: str) -> None:
    assert finding.state == state
    assert said in finding.found
    assert bool(finding.advice) == (state != GOOD)


@pytest.mark.parametrize(
    ("mode", "can", "state"),
    [
        (0o640, (True, True), GOOD),
        (0o644, (True, True), DOUBTFUL),
        (0o640, (False, False), BAD),
        (0o640, (True, False), BAD),
    ],
)
def test_rights_are_judged(mode: int, can: tuple[bool, bool], state: str) -> None:
    readable, writable = can
    mode |= stat.S_IFREG
    found = file.rights("x.db", mode, readable=readable, writable=writable, owner=False)
    assert (found.state, "belongs to somebody else" in found.found) == (state, state == BAD)


async def examined(path: Path, *, thorough: bool = False, port: int = 0) -> dict[str, Finding]:
    text = f'[engine]\nurl = "sqlite:{path}"\n[server]\nport = {port}\n'
    settings = parse(text, name="eventflow.toml", environ={})
    found = examine(settings, now_s=time.time(), thorough=thorough)
    return {one.what: one async for one in found}


async def test_a_file_that_is_well(tmp_path: Path) -> None:
    path = tmp_path / "flow.db"
    await lived(path)
    path.chmod(0o600)
    before = path.read_bytes()

    found = await examined(path, thorough=True)

    assert [what for what, one in found.items() if one.state == BAD] == []
    for what in ("permissions", "journal", "write-ahead log", "ledger", "pages", "audit trail"):
        assert found[what].state == GOOD, what
    assert found["paused topic"].advice == "eventflow resume email"
    assert path.read_bytes() == before


async def test_no_file_yet(tmp_path: Path) -> None:
    found = await examined(tmp_path / "not" / "yet" / "flow.db")
    assert "is not there yet" in found["journal"].found
    assert [*tmp_path.glob("*")] == []  # noqa: ASYNC240  # nobody waits here


async def test_a_file_that_is_none(tmp_path: Path) -> None:
    path = tmp_path / "flow.db"
    path.write_bytes(b"x" * 5_000)
    found = await examined(path)
    assert (found["journal"].state, "no SQLite file" in found["journal"].found) == (BAD, True)


async def test_a_damaged_page(tmp_path: Path) -> None:
    path = tmp_path / "flow.db"
    await lived(path)
    with path.open("r+b") as damaged:
        damaged.seek(path.stat().st_size - 4_096)
        damaged.write(b"\xff" * 4_096)

    assert (await examined(path, thorough=True))["pages"].state == BAD


async def test_a_clock_that_was_set_back(tmp_path: Path) -> None:
    path = tmp_path / "flow.db"
    await lived(path)
    settings = parse(f'[engine]\nurl = "sqlite:{path}"\n', name="x", environ={})
    now_s = path.stat().st_mtime - 3_600
    (clock,) = [one async for one in examine(settings, now_s=now_s) if one.what == "clock"]
    assert clock.state == BAD


async def test_a_node_that_runs_is_named(tmp_path: Path) -> None:
    path = tmp_path / "flow.db"
    async with EventFlow(engine=f"sqlite:{path}") as flow:
        flow.announce("http://127.0.0.1:8080")
        found = await examined(path)
    assert f"process {os.getpid()}" in found["journal"].found
    assert (found["door"].state, "8080" in found["door"].found) == (GOOD, True)


async def test_a_door_that_somebody_holds(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        door = (await examined(tmp_path / "flow.db", port=port))["door"]
    assert (door.state, door.found) == (
        BAD,
        f"127.0.0.1:{port} can't be listened on: Address already in use",
    )


def test_the_machine_can_be_asked(tmp_path: Path) -> None:
    assert machine.fsync_s(tmp_path) > 0
    assert list(tmp_path.iterdir()) == []
    assert machine.files_limit() > 0
    assert machine.clock_kept_right() in {True, False, None}
