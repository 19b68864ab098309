"""A copy that is made while the engine works: of one moment, whole, and in nobody's way."""

from __future__ import annotations

import asyncio
import resource
from random import Random
from typing import TYPE_CHECKING

import pytest

from eventflow.clock import SystemClock
from eventflow.delivery import COMMON
from eventflow.engine.embedded import EmbeddedEngine, backup, open_engine, open_stopped
from eventflow.engine.protocol import Plan, TopicPlan
from eventflow.errors import BackupRefused
from eventflow.event import Event

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

LOCK = "flow.db.lock"
PLAN = Plan({COMMON: TopicPlan(100_000)})


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[EmbeddedEngine]:
    engine = await open_engine(
        str(tmp_path / "flow.db"),
        clock=SystemClock(),
        draw_bits=Random(1).getrandbits,
        durability="os",
    )
    await engine.apply(PLAN)
    yield engine
    await engine.close()


def events(first: int, count: int) -> list[Event]:
    data = "x" * 2_000
    return [Event(type="a.b", source="/s", id=str(first + n), data=data) for n in range(count)]


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.glob("*")]


async def ids(path: Path) -> set[str]:
    """Return the ids of all events in a file that no node uses."""
    engine = await open_stopped(path, clock=SystemClock())
    try:
        assert (await engine.census(walk=True)).unaccounted == 0
        return {entry.delivery.event.id for entry in engine.state.entries()}
    finally:
        await engine.close()


async def test_nobody_else_may_read_the_events(engine: EmbeddedEngine, tmp_path: Path) -> None:
    """Neither the journal, nor its write-ahead log, nor a copy, whatever the umask."""
    copy = await backup.write_backup(engine.committer, tmp_path / "copy.db")
    assert copy.size_bytes
    names = ("flow.db", "flow.db-wal", "copy.db")
    assert [(tmp_path / name).stat().st_mode & 0o777 for name in names] == [0o600] * 3


async def test_a_journal_keeps_the_rights_it_was_given(tmp_path: Path) -> None:
    path = tmp_path / "shared.db"
    for _start in range(2):
        engine = await open_engine(
            str(path), clock=SystemClock(), draw_bits=Random(1).getrandbits, durability="os"
        )
        await engine.close()
        path.chmod(0o640)
    assert path.stat().st_mode & 0o777 == 0o640


async def test_is_of_one_moment_while_traffic_goes_on(
    engine: EmbeddedEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backup, "SLICE_PAGES", 20)
    await engine.accept(events(0, 1_000))
    copy = tmp_path / "copy.db"
    writing = asyncio.create_task(engine.backup(copy))
    during = 0
    while not writing.done():
        await engine.accept(events(1_000 + during, 1))
        during += 1
    written = await writing
    await engine.accept(events(5_000, 1))

    assert written.size_bytes == copy.stat().st_size
    assert during > 20, "hardly anything was accepted while the copy was made"
    held = await ids(copy)
    # What was accepted before is there, what came after the end is not, and there are no holes.
    assert {str(n) for n in range(1_000)} <= held
    assert "5000" not in held
    new = {int(id) for id in held if int(id) >= 1_000}
    assert new == set(range(1_000, 1_000 + len(new)))
    assert len(new) > 0, "the copy is of the moment it began, not of the one it ended"
    assert sorted(names(tmp_path)) == ["copy.db", "copy.db.lock", "flow.db", "flow.db-wal", LOCK]


async def test_never_writes_over_anything(engine: EmbeddedEngine, tmp_path: Path) -> None:
    there = tmp_path / "there.db"
    there.touch()
    with pytest.raises(BackupRefused, match="there is a file of that name; none was written"):
        await engine.backup(there)
    assert there.stat().st_size == 0


async def test_is_made_one_at_a_time(engine: EmbeddedEngine, tmp_path: Path) -> None:
    first = asyncio.create_task(engine.backup(tmp_path / "1.db"))
    await asyncio.sleep(0)
    with pytest.raises(BackupRefused, match="another one is being written"):
        await engine.backup(tmp_path / "2.db")
    await first


async def test_a_folder_that_takes_nothing(engine: EmbeddedEngine, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(BackupRefused, match="File exists"):
        await engine.backup(tmp_path / "file" / "copy.db")
    await engine.accept(events(0, 1))


async def test_a_disk_that_fails_is_told_by_its_error(
    engine: EmbeddedEngine, tmp_path: Path
) -> None:
    """SQLite calls it "not an error". A bound on files is what a test can have fail a write."""
    await engine.accept(events(0, 400))
    was = resource.getrlimit(resource.RLIMIT_FSIZE)
    path = tmp_path / "copy.db"
    resource.setrlimit(resource.RLIMIT_FSIZE, (16_384, was[1]))
    try:
        with pytest.raises(BackupRefused, match=r"disk I/O error \(File too large\)"):
            await engine.backup(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, was)
    assert not [name for name in names(tmp_path) if "copy" in name]


async def test_a_stop_ends_it_and_leaves_nothing(
    engine: EmbeddedEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backup, "SLICE_PAGES", 1)
    await engine.accept(events(0, 1_000))
    writing = asyncio.create_task(engine.backup(tmp_path / "copies" / "copy.db"))
    while not names(tmp_path / "copies"):  # noqa: ASYNC110  # the file itself is the event
        await asyncio.sleep(0)
    await engine.close()

    with pytest.raises(BackupRefused, match="the node has stopped"):
        await writing
    assert names(tmp_path / "copies") == []


async def test_a_damaged_copy_gets_no_name(
    engine: EmbeddedEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What comes back from the disk is looked at, not what was sent there."""
    await engine.accept(events(0, 100))
    sync = backup._sync  # noqa: SLF001  # the moment between writing and reading back

    def spoil(path: Path) -> None:
        sync(path)
        if path.suffix == ".partial":
            with path.open("r+b") as damaged:
                damaged.seek(4_096 * 2)
                damaged.write(b"\xff" * 4_096)

    monkeypatch.setattr(backup, "_sync", spoil)
    with pytest.raises(BackupRefused):
        await engine.backup(tmp_path / "copy.db")
    assert not (tmp_path / "copy.db").exists()


async def test_memory_has_no_file_to_copy(tmp_path: Path) -> None:
    engine = await open_engine(":memory:", clock=SystemClock(), draw_bits=Random(1).getrandbits)
    with pytest.raises(BackupRefused, match="kept in memory alone"):
        await engine.backup(tmp_path / "copy.db")
    await engine.close()
