"""The embedded engine's file: who may open it, what disks do to it, and how it stays small."""

from __future__ import annotations

import asyncio
import errno
import os
import subprocess
import sys
from contextlib import closing, suppress
from functools import partial
from random import Random
from typing import TYPE_CHECKING, Any

import apsw
import msgspec
import pytest

from eventflow.delivery import (
    COMMON,
    DELIVERED,
    RELEASED,
    Attempt,
    Parked,
    Place,
    Queued,
    Reason,
    Retrying,
    Row,
    Tally,
)
from eventflow.engine.embedded import EmbeddedEngine, cleaning, file, open_engine
from eventflow.engine.embedded.committer import SOON_S, STILL_S
from eventflow.engine.embedded.writer import InlineWriter
from eventflow.engine.protocol import Note, Placing, Plan, Route, Settle, Target, TopicPlan
from eventflow.errors import (
    EngineUnanswered,
    EngineUnavailable,
    JournalInUse,
    JournalUnreadable,
    StorageUnavailable,
)
from eventflow.event import Event
from eventflow.storage.protocol import Filter
from eventflow.storage.shelf import Shelf
from eventflow.testing import CrashDisk, VirtualClock, run
from eventflow.testing.engine_bench import (
    COMMON_QUEUE,
    QUEUED,
    bring,
    bring_one,
    dead_place,
    event,
    events,
    ids,
    kept,
    lane,
    lease,
    lease_one,
    settle,
    topic,
    true_census,
    walk,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from eventflow.storage.protocol import Kept

PLAN = Plan({COMMON: TopicPlan(5_000), "a": TopicPlan(5_000, 5_000), "b": TopicPlan(10)})
CLOCK = VirtualClock()
OPENED: list[EmbeddedEngine] = []
NOTE = Note({"attempts": 1}, Attempt(1.0, 2.0, "failed", "http 503", "no", "f1"), "Traceback: no")


async def start(path: str | Path, **more: Any) -> EmbeddedEngine:
    more.setdefault("writer", InlineWriter)
    engine = await open_engine(str(path), clock=CLOCK, draw_bits=Random(1).getrandbits, **more)
    OPENED.append(engine)
    await engine.apply(PLAN)
    return engine


@pytest.fixture(autouse=True)
def _nothing_stays_open() -> Iterator[None]:
    """Close what a failed test left open.

    Collected open, a connection calls into a disk that is half gone: an error of its own, in some
    later test, in place of the one that matters.
    """
    yield
    while OPENED:
        OPENED.pop().journal.close(clean=False)


def big_events(count: int, name: str = "e") -> list[Event]:
    """Return events of 20 KB."""
    return [
        Event(type="a.b", source="/s", id=f"{name}{n}", data="x" * 20_000) for n in range(count)
    ]


def in_lane(wait_s: float = 1e6) -> Retrying:
    return Retrying(Row.RETRY, Tally(attempts=1), CLOCK.now_s() + wait_s, Reason.HANDLER_ERROR)


def parked() -> Parked:
    return Parked(Row.RETRY_FULL, Tally(attempts=1), CLOCK.now_s() + 60, Reason.RETRY_FULL)


async def everything(engine: EmbeddedEngine) -> object:
    """Return all the engine holds, leased or not, found to be accounted for."""
    census = await true_census(engine, engine.storage)
    ledger = {
        name: msgspec.structs.replace(counts, queued=counts.queued + counts.running, running=0)
        for name, counts in census.topics.items()
    }
    queues = [await walk(engine, queue) for queue in (COMMON_QUEUE, topic("a"), lane("a"))]
    return ledger, queues, await kept(engine.storage)


class KeepsNoneOfB(Shelf):
    """Refuses what is of topic b, so that it is owed."""

    def keep(self, items: Sequence[Kept]) -> None:
        if any(kept.delivery.topic == "b" for kept in items):
            raise StorageUnavailable("nothing of b")
        super().keep(items)


def let_go_of_locks(disk: CrashDisk) -> None:
    for one in disk._directory.files.values():  # noqa: SLF001  # there is no process to end
        one.locks.clear()


@pytest.fixture
def disk() -> Iterator[CrashDisk]:
    with CrashDisk() as disk:
        yield disk


class TestOpening:
    """Who may open which file."""

    def test_a_second_opening_names_the_holder(self, tmp_path: Path) -> None:
        async def story() -> None:
            engine = await start(tmp_path / "j.db")
            with pytest.raises(JournalInUse, match=f"process {os.getpid()} on "):
                await start(tmp_path / "j.db")
            await engine.close()
            await (await start(tmp_path / "j.db")).close()

        run(story())

    @pytest.mark.slow
    def test_a_second_process_is_refused(self, tmp_path: Path) -> None:
        program = (
            "import fcntl, os, sys; f = os.open(sys.argv[1], os.O_RDWR);"
            "fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)"
        )

        def lock() -> int:
            command = [sys.executable, "-c", program, f"{tmp_path}/j.db.lock"]
            return subprocess.run(command, check=False, capture_output=True).returncode

        async def story() -> None:
            engine = await start(tmp_path / "j.db")
            assert lock() != 0
            await engine.close()
            assert lock() == 0

        run(story())

    def test_who_holds_it_in_sqlite_is_respected(self, tmp_path: Path) -> None:
        run(self._end(tmp_path / "j.db"))
        with closing(apsw.Connection(str(tmp_path / "j.db"))) as other:
            other.execute("PRAGMA locking_mode = EXCLUSIVE; BEGIN IMMEDIATE; COMMIT").fetchall()
            with pytest.raises(JournalInUse, match="another program"):
                run(start(tmp_path / "j.db"))

    def test_another_programs_file_is_refused_and_left_alone(self, tmp_path: Path) -> None:
        path = tmp_path / "theirs.db"
        with closing(apsw.Connection(str(path))) as theirs:
            theirs.execute("CREATE TABLE t (x); INSERT INTO t VALUES (1)")
        before = path.read_bytes()

        with pytest.raises(JournalUnreadable, match="another program"):
            run(start(path))
        assert path.read_bytes() == before

    def test_an_empty_file_marked_by_another_program_is_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "theirs.db"
        with closing(apsw.Connection(str(path))) as theirs:
            theirs.execute("PRAGMA application_id = 77")

        with pytest.raises(JournalUnreadable, match="another program"):
            run(start(path))

    def test_a_newer_version_is_refused_and_left_alone(self, tmp_path: Path) -> None:
        path = tmp_path / "j.db"
        run(self._end(path))
        with closing(apsw.Connection(str(path))) as newer:
            newer.execute("PRAGMA user_version = 1000")
        before = path.read_bytes()

        with pytest.raises(JournalUnreadable, match="version 1000, this EventFlow reads up to"):
            run(start(path))
        assert path.read_bytes() == before

    def test_what_is_no_sqlite_file_is_refused_and_left_alone(self, tmp_path: Path) -> None:
        path = tmp_path / "notes.txt"
        path.write_text("these are my notes, not a journal\n" * 100)
        before = path.read_bytes()

        with pytest.raises(JournalUnreadable, match="no SQLite file"):
            run(start(path))
        assert path.read_bytes() == before

    @pytest.mark.parametrize("sql", [
        "UPDATE journal SET records = x'c1'",
        "UPDATE bodies SET events = x'c1'",
        "DELETE FROM bodies",
        "DELETE FROM journal",
        "UPDATE ledger SET created = created + 1 WHERE topic = 'common'",
        "DELETE FROM meta",
        "DROP TABLE ledger",
    ])  # fmt: skip
    def test_a_damaged_journal_is_refused_and_left_alone(self, tmp_path: Path, sql: str) -> None:
        path = tmp_path / "j.db"
        run(self._end(path))
        with closing(apsw.Connection(str(path))) as vandal:
            vandal.execute(sql)
        before = path.read_bytes()

        with pytest.raises(JournalUnreadable, match="left as it is"):
            run(start(path))
        assert path.read_bytes() == before

    def test_damaged_pages_are_refused_and_left_alone(self, tmp_path: Path) -> None:
        path = tmp_path / "j.db"
        run(self._end(path))
        whole = path.read_bytes()
        path.write_bytes(whole[:4096] + b"\xff" * (len(whole) - 4096))
        before = path.read_bytes()

        with pytest.raises(JournalUnreadable, match="left as it is"):
            run(start(path))
        assert path.read_bytes() == before

    def test_a_refused_file_is_let_go(self, tmp_path: Path) -> None:
        path = tmp_path / "j.db"
        run(self._end(path))
        with closing(apsw.Connection(str(path))) as newer:
            newer.execute("PRAGMA user_version = 1000")
        for _ in range(2):
            with pytest.raises(JournalUnreadable):
                run(start(path))

    async def _end(self, path: Path) -> None:
        engine = await start(path)
        await bring(engine, "a", *events(5))
        await settle(engine, await lease_one(engine, topic("a")), parked(), note=NOTE)
        await engine.accept(events(5, name="f"))
        await engine.close()


class TestDiskFull:
    """A disk without room: nothing is stored, nothing is lost, and it heals."""

    def test_nothing_is_stored_and_afterwards_all_goes_on(self, disk: CrashDisk) -> None:
        async def story() -> None:
            engine = await start("j.db", vfs=disk.name)
            await engine.accept(events(3))
            before = await everything(engine)
            disk.fail_write()
            with pytest.raises(EngineUnavailable, match="the disk is full"):
                await engine.accept(events(3, name="f"))
            assert (engine.fault, engine.broken) == ("the disk is full", False)
            assert await everything(engine) == before
            disk.heal()
            receipts = await engine.accept(events(3, name="f"))
            assert not any(receipt.duplicate for receipt in receipts)
            await asyncio.sleep(STILL_S)  # a small commit may fit on a disk that is still full
            await engine.accept(events(1, name="g"))
            assert engine.fault is None
            await engine.close()

        run(story())

    def test_the_log_is_folded_into_the_file_where_that_makes_room(self, disk: CrashDisk) -> None:
        """The log can't grow any more, but unused pages of the file have room for what it holds."""

        async def story() -> None:
            engine = await start("j.db", vfs=disk.name)
            await bring(engine, "a", *big_events(30))
            for one in await lease(engine, topic("a")):
                await settle(engine, one, DELIVERED)
            await engine.accept(big_events(1, name="drops-what-is-done"))
            await engine.close()
            engine = await start("j.db", vfs=disk.name)
            await engine.accept(big_events(10, name="f"))
            disk.fill()
            with pytest.raises(EngineUnavailable, match="the disk is full"):
                await engine.accept(big_events(10, name="g"))
            await asyncio.sleep(2 * STILL_S + 0.1)
            assert engine.fault is None
            await engine.accept(big_events(10, name="g"))
            assert engine.fault is None
            assert len(await walk(engine, COMMON_QUEUE)) == 21
            await engine.close()

        run(story())

    def test_room_for_the_log_to_go_on_is_not_spent_on_folding_it(self, disk: CrashDisk) -> None:
        """A fold that does not fit leaves the file longer, and nothing folded."""

        async def story() -> None:
            engine = await start("j.db", vfs=disk.name)
            for n in range(6):
                await engine.accept(big_events(20, name=f"{n}-"))
            disk.fill()
            with pytest.raises(EngineUnavailable, match="the disk is full"):
                await engine.accept(big_events(1, name="f"))
            disk.fill(1_000_000)  # less than half of the log
            await asyncio.sleep(2 * STILL_S + 0.1)
            assert engine.fault is None
            await engine.accept(big_events(20, name="f"))
            await engine.close()

        run(story())

    def test_a_log_that_finds_no_room_in_the_file_grows_on_beside_it(self, disk: CrashDisk) -> None:
        """To fold it is to write all it holds once more: that it can't is no failure yet."""

        async def story() -> None:
            engine = await start("j.db", vfs=disk.name)
            disk.fill(5 * 2**20)
            for n in range(10):  # 4.2 MB of log, 100 KB more than it is folded from
                await engine.accept(big_events(20, name=f"{n}-"))
            assert engine.fault is None
            with pytest.raises(EngineUnavailable, match="the disk is full"):
                await engine.accept(big_events(40, name="f"))
            disk.heal()
            await asyncio.sleep(2 * STILL_S + 0.1)
            assert engine.fault is None
            await engine.accept(big_events(40, name="f"))
            assert len(await walk(engine, COMMON_QUEUE)) == 240
            await engine.close()

        run(story())

    def test_room_is_found_though_nobody_sends_anything(self, disk: CrashDisk) -> None:
        """Who is not ready gets no requests: it has to look by itself."""

        async def story() -> None:
            engine = await start("j.db", vfs=disk.name)
            disk.fail_write()
            with pytest.raises(EngineUnavailable):
                await engine.accept(events(3))
            disk.heal()
            await engine.accept(events(3))
            assert engine.fault == "the disk is full"  # what is small may still fit
            await asyncio.sleep(2 * STILL_S + 0.1)
            assert engine.fault is None
            await engine.close()

        run(story())

    def test_no_room_is_found_where_there_is_none(self, disk: CrashDisk) -> None:
        async def story() -> None:
            engine = await start("j.db", vfs=disk.name)
            disk.fail_write()
            with pytest.raises(EngineUnavailable):
                await engine.accept(events(3))
            await asyncio.sleep(60)
            assert (engine.fault, engine.broken) == ("the disk is full", False)
            disk.heal()
            await asyncio.sleep(2 * STILL_S + 0.1)
            assert engine.fault is None
            before = await everything(engine)
            await engine.close()
            engine = await start("j.db", vfs=disk.name)
            assert await everything(engine) == before
            await engine.close()

        run(story())

    @pytest.mark.parametrize("parks", [False, True])
    def test_a_quota_that_is_used_up_is_a_disk_without_room(
        self,
        disk: CrashDisk,
        parks: bool,  # noqa: FBT001
    ) -> None:
        """SQLite calls it an I/O error, after which a node would have to be started anew."""

        async def story() -> None:
            engine = await start("j.db", vfs=disk.name)
            one = await bring_one(engine, "a")
            before = await everything(engine)
            disk.fail_write(apsw.SQLITE_IOERR_WRITE, number=errno.EDQUOT)
            parking = settle(engine, one, parked(), note=NOTE)
            refused = parking if parks else engine.accept(events(3, name="f"))
            with pytest.raises(EngineUnavailable, match="the disk quota of the node's user"):
                await refused
            parking.close()
            await asyncio.sleep(60)
            assert engine.fault == "the disk quota of the node's user is used up"
            assert not engine.broken
            assert await everything(engine) == before
            disk.heal()
            await asyncio.sleep(2 * STILL_S + 0.1)
            assert engine.fault is None
            await settle(engine, one, parked(), note=NOTE)
            await engine.close()

        run(story())

    def test_reading_goes_on(self, disk: CrashDisk) -> None:
        """Though there is something to clean up, and something to be told."""

        async def story() -> None:
            engine = await start("j.db", vfs=disk.name)
            await bring(engine, "a", *events(5))
            await settle(engine, await lease_one(engine, topic("a")), parked(), note=NOTE)
            await settle(engine, await lease_one(engine, topic("a")), DELIVERED)
            disk.fail_write()
            await lease_one(engine, topic("a"))
            page = await engine.storage.page(Filter(topic="a"))
            assert len(page.items) == 1
            reading = asyncio.ensure_future(engine.storage.page(Filter(topic="a")))
            with pytest.raises(EngineUnavailable):  # in one commit with that
                await engine.accept(events(1, name="f"))
            assert len((await reading).items) == 1
            assert len((await engine.storage.page(Filter(topic="a"))).items) == 1
            disk.heal()
            await everything(engine)
            await engine.close()

        run(story())

    def test_who_reads_without_a_pause_holds_nobody_up(self, disk: CrashDisk) -> None:
        async def story() -> None:
            engine = await start("j.db", vfs=disk.name)
            disk.fail_write()
            with pytest.raises(EngineUnavailable):
                await engine.accept(events(1))

            async def read() -> None:
                while True:
                    await engine.storage.page(Filter())

            reading = asyncio.ensure_future(read())
            for _ in range(3):
                async with asyncio.timeout(0.1):
                    with pytest.raises(EngineUnavailable, match="the disk is full"):
                        await engine.accept(events(1))
            assert not reading.done()
            disk.heal()
            async with asyncio.timeout(0.1):
                await engine.accept(events(1))
            reading.cancel()
            await engine.close()

        run(story())

    @pytest.mark.parametrize("times", [1, 1_000])
    def test_that_something_runs_is_told_though_somebody_reads(
        self, disk: CrashDisk, times: int
    ) -> None:
        """While a fault is shown reading goes apart, without what is to be told."""

        async def read(engine: EmbeddedEngine) -> None:
            for _ in range(times):
                await engine.storage.page(Filter())

        async def story() -> None:
            slow = partial(InlineWriter, lambda: SOON_S / 3)
            engine = await start("j.db", vfs=disk.name, writer=slow)
            await bring(engine, "a", *events(1))
            disk.fail_write(times=1)
            with pytest.raises(EngineUnavailable):
                await engine.accept(events(1, name="f"))
            await lease_one(engine, topic("a"))
            reading = [asyncio.ensure_future(read(engine)) for _ in range(2)]
            await asyncio.sleep(5 * SOON_S)
            assert engine.fault == "the disk is full"
            assert all(one.done() == (times == 1) for one in reading)
            for one in reading:
                one.cancel()
            with CrashDisk.from_image(disk.killed()) as left:
                again = await start("j.db", vfs=left.name)
                (found,) = await walk(again, topic("a"))
                assert found.tally.crashes == 1
                await again.close()
            await engine.close()

        run(story())

    def test_who_reads_goes_on_where_nothing_wants_to_ride_any_more(self, disk: CrashDisk) -> None:
        async def story() -> None:
            slow = partial(InlineWriter, lambda: 2 * SOON_S)
            engine = await start("j.db", vfs=disk.name, writer=slow)
            disk.fail_write(times=1)
            with pytest.raises(EngineUnavailable):
                await engine.accept(events(1))
            engine.committer.kick_soon()
            for _ in range(5):
                async with asyncio.timeout(10 * SOON_S):
                    await asyncio.gather(*(engine.storage.page(Filter()) for _ in range(2)))
            await engine.close()

        run(story())

    def test_what_could_not_be_told_is_told_when_there_is_room(self, disk: CrashDisk) -> None:
        async def story() -> None:
            engine = await start("j.db", vfs=disk.name)
            await bring(engine, "a", event("1"))
            disk.fail_write()
            await lease_one(engine, topic("a"))
            await asyncio.sleep(2)
            disk.heal()
            await asyncio.sleep(3)
            with CrashDisk.from_image(disk.killed()) as left:
                after = await start("j.db", vfs=left.name)
                (one,) = await lease(after, topic("a"))
                assert one.delivery.tally.crashes == 1
                await after.close()
            await engine.close()

        run(story())

    def test_every_kind_of_settling_can_be_tried_again(self, disk: CrashDisk) -> None:
        async def story() -> None:
            engine = await start("j.db", vfs=disk.name)
            await bring(engine, "a", *events(5))
            await engine.accept([event("routed")])
            leases = await lease(engine, topic("a"))
            ends: list[Place] = [DELIVERED, RELEASED, in_lane(), parked(), dead_place()]
            acts: list[Any] = [
                Settle(one, (end,), NOTE) for one, end in zip(leases, ends, strict=True)
            ]
            common = await lease_one(engine, COMMON_QUEUE)
            acts.append(Route(common, (Target("a", (QUEUED,)),)))
            before = await everything(engine)
            disk.fail_write()
            with pytest.raises(EngineUnavailable):
                await engine.settle(acts)
            assert await everything(engine) == before
            disk.heal()
            answers = await engine.settle(acts)
            assert not any(answer.lost or answer.refused for answer in answers)
            await everything(engine)
            await engine.close()

        run(story())

    def test_a_duplicate_of_what_could_not_be_stored_is_not_acknowledged(self) -> None:
        """Its answer stands on the first one's commit: where that fails, so does this."""

        async def story(disk: CrashDisk) -> tuple[int, int]:
            engine = await start("j.db", vfs=disk.name)
            disk.fail_write(times=1)
            tries = []
            for _ in range(6):  # some come while the first is on its way
                tries.append(asyncio.ensure_future(engine.accept([event("1")])))
                await asyncio.sleep(0)
            answers = await asyncio.gather(*tries, return_exceptions=True)
            given = [one[0].ref for one in answers if not isinstance(one, BaseException)]
            stored = [one.ref for one in await walk(engine, COMMON_QUEUE)]
            assert set(given) == set(stored)
            await engine.close()
            return 6 - len(given), len(given)

        seen = []
        for seed in range(20):
            with CrashDisk() as disk:
                seen.append(run(story(disk), seed=seed))
        assert min(failed for failed, _ in seen) > 0
        assert max(failed for failed, _ in seen) > 1
        assert max(acknowledged for _, acknowledged in seen) > 0

    def test_a_start_that_could_not_be_recorded_is_not_counted(self, disk: CrashDisk) -> None:
        async def story() -> None:
            engine = await start("j.db", vfs=disk.name)
            one = await bring_one(engine, "a")
            await asyncio.sleep(1)
            await settle(engine, one, RELEASED)
            disk.fail_write()
            one = await lease_one(engine, topic("a"))
            with pytest.raises(EngineUnavailable):
                await engine.start([one])
            await asyncio.sleep(31)
            disk.heal()
            again = await lease_one(engine, topic("a"))
            assert again.delivery.tally.crashes == 0
            await engine.close()

        run(story())

    def test_a_crash_that_could_not_be_told_is_told_later(self, disk: CrashDisk) -> None:
        async def story() -> None:
            engine = await start("j.db", vfs=disk.name)
            await bring_one(engine, "a")
            await asyncio.sleep(31)
            disk.fail_write()
            one = await lease_one(engine, topic("a"))
            await asyncio.sleep(1)
            disk.heal()
            await settle(engine, one, RELEASED)
            await engine.accept([event("any")])
            before = await everything(engine)
            with CrashDisk.from_image(disk.killed()) as later:
                again = await start("j.db", vfs=later.name)
                assert await everything(again) == before
                assert (await walk(again, topic("a")))[0].tally.crashes == 1
                await again.close()
            await engine.close()

        run(story())

    def test_it_can_be_closed(self, disk: CrashDisk) -> None:
        async def story() -> None:
            engine = await start("j.db", vfs=disk.name)
            await engine.accept(events(3))
            disk.fail_write()
            with pytest.raises(EngineUnavailable):
                await engine.accept(events(3, name="f"))
            await engine.close()
            disk.heal()
            again = await start("j.db", vfs=disk.name)
            assert ids(await walk(again, COMMON_QUEUE)) == ["e0", "e1", "e2"]
            await again.close()

        run(story())

    def test_opening_says_so(self, disk: CrashDisk) -> None:
        async def story() -> None:
            await (await start("j.db", vfs=disk.name)).close()
            disk.fail_write()
            with pytest.raises(EngineUnavailable, match="can't be written"):
                await start("j.db", vfs=disk.name)
            disk.heal()
            await (await start("j.db", vfs=disk.name)).close()

        run(story())


class TestWriteFails:
    def test_it_is_said_what_the_system_calls_it(self, disk: CrashDisk) -> None:
        async def story() -> None:
            engine = await start("j.db", vfs=disk.name)
            disk.fail_write(apsw.SQLITE_IOERR_WRITE, number=errno.ESTALE)
            with pytest.raises(EngineUnanswered, match=r"file failed: .* \(Stale file handle\)$"):
                await engine.accept(events(3))
            assert engine.broken
            await engine.close()
            with pytest.raises(EngineUnavailable, match=r"written: .* \(Stale file handle\)$"):
                await start("j.db", vfs=disk.name)

        run(story())


class TestFsyncFails:
    """After it nobody knows what the disk holds: nothing is acknowledged until reopened."""

    def test_nothing_is_acknowledged_any_more(self, disk: CrashDisk) -> None:
        async def story() -> None:
            engine = await start("j.db", vfs=disk.name)
            one = await bring_one(engine, "a")
            disk.fail_sync(times=1)
            with pytest.raises(EngineUnanswered, match="journal's file failed"):  # it may be there
                await engine.accept([event("2")])
            for _ in range(3):
                with pytest.raises(EngineUnavailable, match="journal's file failed"):
                    await engine.accept([event("2")])
                with pytest.raises(EngineUnavailable, match="journal's file failed"):
                    await settle(engine, one, DELIVERED)
            assert engine.broken
            await engine.close()

        run(story())

    def test_a_log_that_can_not_be_folded_ends_it_too(self, disk: CrashDisk) -> None:
        """SQLite keeps such errors to itself, and the log grows until the disk is full."""

        async def story() -> None:
            engine = await start("j.db", vfs=disk.name)
            for n in range(9):
                await engine.accept(big_events(20, name=f"{n}-"))
            disk.fail_sync(name="j.db")
            with pytest.raises(EngineUnanswered, match="journal's file failed"):
                await engine.accept(big_events(20, name="g"))
            assert engine.broken
            disk.heal()
            let_go_of_locks(disk)
            again = await start("j.db", vfs=disk.name)
            assert len(await walk(again, COMMON_QUEUE)) == 200  # it was stored
            await again.close()

        run(story())

    def test_all_are_told_who_come_afterwards(self, disk: CrashDisk) -> None:
        """Also who comes together with one who only reads."""

        async def story() -> None:
            engine = await start("j.db", vfs=disk.name)
            disk.fail_sync(times=1)
            with pytest.raises(EngineUnanswered):
                await engine.accept([event("1")])
            async with asyncio.timeout(1):
                told = await asyncio.gather(
                    engine.accept([event("2")]),
                    engine.storage.page(Filter()),
                    engine.accept([event("3")]),
                    return_exceptions=True,
                )
                assert all(isinstance(one, EngineUnavailable) for one in told), told
                await engine.close()

        run(story())

    @pytest.mark.parametrize("closed", [True, False])
    def test_reopened_it_keeps_its_promise(self, closed: bool) -> None:  # noqa: FBT001
        """What stands behind the lost pages in the log must not be lost with them."""

        async def story(disk: CrashDisk, seed: int) -> None:
            engine = await start("j.db", vfs=disk.name)
            await engine.accept(events(3))
            disk.fail_sync(times=1)
            with pytest.raises(EngineUnavailable):
                await engine.accept(events(30, name="lost"))
            if closed:
                await engine.close()
            else:
                let_go_of_locks(disk)  # as the end of a process does
            again = await start("j.db", vfs=disk.name)
            await again.accept(events(3, name="f"))
            with CrashDisk.from_image(disk.crash(Random(seed))) as later:
                last = await start("j.db", vfs=later.name)
                found = set(ids(await walk(last, COMMON_QUEUE)))
                await last.close()
            assert {"e0", "e1", "e2", "f0", "f1", "f2"} <= found
            for one in (engine, again):
                with suppress(apsw.Error):  # the power is off
                    await one.close()

        for seed in range(20):
            with CrashDisk() as disk:
                run(story(disk, seed))


class TestSpace:
    """What is not needed any more goes back to the disk."""

    @pytest.fixture(autouse=True)
    def _soon(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(file, "MANY_PAGES", 64)
        monkeypatch.setattr(file, "KEEP_PAGES", 16)

    def test_a_backlog_leaves_no_file_behind(self, disk: CrashDisk) -> None:
        async def story() -> tuple[int, int, object, object]:
            engine = await start("j.db", vfs=disk.name)
            for first in range(0, 400, 50):
                await engine.accept(
                    [event(f"e{n}", filler="x" * 4_000) for n in range(first, first + 50)]
                )
            engine.journal.tidy()
            full = len(disk.killed()["j.db"])
            leases = await lease(engine, COMMON_QUEUE, 1_000)
            await engine.settle([Settle(one, (DELIVERED,)) for one in leases[:-1]])
            await engine.accept([event("last")])  # drops what is not needed any more
            await asyncio.sleep(3)
            before = await everything(engine)
            await engine.close()
            left = len(disk.killed()["j.db"])
            let_go_of_locks(disk)
            again = await start("j.db", vfs=disk.name)
            after = await everything(again)
            await again.close()
            return full, left, before, after

        full, left, before, after = run(story())
        assert full > 1_500_000
        assert left < 400_000
        assert after == before

    def test_a_full_disk_gives_back_later(self, disk: CrashDisk) -> None:
        async def story() -> int:
            engine = await start("j.db", vfs=disk.name)
            for first in range(0, 400, 50):
                await engine.accept(
                    [event(f"e{n}", filler="x" * 4_000) for n in range(first, first + 50)]
                )
            leases = await lease(engine, COMMON_QUEUE, 1_000)
            await engine.settle([Settle(one, (DELIVERED,)) for one in leases])
            await engine.accept([event("last")])
            disk.fail_write()
            await asyncio.sleep(3)
            assert not engine.broken
            disk.heal()
            await engine.accept([event("more")])
            await asyncio.sleep(3)
            await engine.close()
            return len(disk.killed()["j.db"])

        assert run(story()) < 400_000


class TestCleaning:
    """The journal stays small, and says the same."""

    @pytest.fixture(autouse=True)
    def _small(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(cleaning, "JOURNAL_LIMIT_BYTES", 2_000)
        monkeypatch.setattr(cleaning, "BYTES_A_LIVE_ENTRY", 10)
        monkeypatch.setattr(cleaning, "BATCH", 7)

    def test_what_waits_long_does_not_keep_the_journal(self, disk: CrashDisk) -> None:
        async def story() -> None:
            engine = await start("j.db", vfs=disk.name)
            await settle(engine, await bring_one(engine, "a", "long"), in_lane())
            await self._pass_through(engine, 300)
            rows = self._count(engine, "journal")
            assert rows < 60, rows
            assert engine.committer.journal_bytes < 3 * cleaning.JOURNAL_LIMIT_BYTES
            await engine.close()

        run(story())

    def test_bodies_go_with_the_last_that_needs_them(self, disk: CrashDisk) -> None:
        async def story() -> None:
            engine = await start("j.db", vfs=disk.name)
            await self._pass_through(engine, 50)
            assert self._count(engine, "bodies") <= 1
            await engine.close()

        run(story())

    def test_one_that_waits_long_lets_its_batch_of_bodies_go(self, disk: CrashDisk) -> None:
        async def story() -> None:
            engine = await start("j.db", vfs=disk.name)
            await bring(engine, "a", *events(100))
            leases = await lease(engine, topic("a"))
            await settle(engine, leases[50], in_lane())
            await engine.settle(
                [Settle(one, (DELIVERED,)) for one in leases if one is not leases[50]]
            )
            await self._pass_through(engine, 300)
            stored = engine.journal.connection.execute("SELECT max(length(events)) FROM bodies").get
            assert stored < 200
            (found,) = await walk(engine, lane("a"))
            assert found.event == event("e50")
            await engine.close()

        run(story())

    def test_many_long_states_are_not_written_over_and_over(self, disk: CrashDisk) -> None:
        async def story() -> None:
            engine = await start("j.db", vfs=disk.name)
            await bring(engine, "a", *events(60))
            for one in await lease(engine, topic("a")):
                await settle(engine, one, in_lane(), note=NOTE)
            for _ in range(100):  # until nothing is left to be told again
                await engine.accept([event(f"x{engine.committer.next_number}")])
                await settle_common(engine)
            last = engine.journal.connection.execute("SELECT max(number) FROM journal").get
            for _ in range(20):
                await engine.accept([event(f"x{engine.committer.next_number}")])
                await settle_common(engine)
            written = engine.journal.connection.execute(
                "SELECT sum(length(records)) FROM journal WHERE number > ?", (last,)
            ).get
            assert written < 20 * 600, written
            await engine.close()

        async def settle_common(engine: EmbeddedEngine) -> None:
            await settle(engine, await lease_one(engine, COMMON_QUEUE), DELIVERED)

        run(story())

    @pytest.mark.parametrize("seed", range(4))
    def test_reopened_at_every_commit_it_is_the_same(self, disk: CrashDisk, seed: int) -> None:
        async def story() -> None:
            chance = Random(seed)
            engine = await start("j.db", vfs=disk.name, shelf=KeepsNoneOfB)
            for step in range(70):
                await self._step(engine, chance, step)
                await engine.committer.idle()
                with CrashDisk.from_image(disk.killed()) as later:
                    again = await self._look(later)
                    assert again == await everything(engine), step
            await engine.close()

        run(story(), seed=seed)

    def test_ids_in_common_stay_known_when_their_rows_are_gone(self, disk: CrashDisk) -> None:
        async def story() -> None:
            engine = await start("j.db", vfs=disk.name)
            await engine.accept([event("waits", "low")])
            waiting = await lease_one(engine, COMMON_QUEUE)
            for n in range(300):
                await engine.extend([waiting])
                await engine.accept([event(f"e{n}")])
                await settle(engine, await lease_one(engine, COMMON_QUEUE), DELIVERED)
            assert engine.journal.connection.execute("SELECT min(number) FROM journal").get > 2
            with CrashDisk.from_image(disk.killed()) as later:
                again = await start("j.db", vfs=later.name)
                (receipt,) = await again.accept([event("waits", "low")])
                assert receipt.duplicate
                await again.close()
            await engine.close()

        run(story())

    async def _look(self, disk: CrashDisk) -> object:
        engine = await start("j.db", vfs=disk.name)
        try:
            return await everything(engine)
        finally:
            await engine.close()

    async def _step(self, engine: EmbeddedEngine, chance: Random, step: int) -> None:
        """Do several things at once; in the end nothing is leased, so no crash is counted."""
        await engine.accept(events(chance.randint(1, 6), chance.choice([None, "low"]), f"s{step}-"))
        ways = [self._end, self._route, self._owe, self._end, self._lane, self._place]
        await asyncio.gather(*(chance.choice(ways)(engine, chance) for _ in range(4)))

    async def _route(self, engine: EmbeddedEngine, chance: Random) -> None:
        leases = await lease(engine, COMMON_QUEUE, chance.randint(1, 9))
        ways: list[Place] = [QUEUED, in_lane(chance.randint(0, 9))]
        acts = []
        for one in leases:
            names = one.delivery.owed or ("a",)  # what a has already must not come again
            targets = {"a": Target("a", (chance.choice(ways),)), "b": Target("b", (parked(),))}
            acts.append(Route(one, tuple(targets[name] for name in names)))
        await engine.settle(acts)

    async def _owe(self, engine: EmbeddedEngine, chance: Random) -> None:
        leases = await lease(engine, COMMON_QUEUE, chance.randint(1, 3))
        acts = []
        for one in leases:
            targets = {"a": Target("a", (QUEUED,)), "b": Target("b", (parked(),))}
            names = one.delivery.owed or ("a", "b")
            acts.append(Route(one, tuple(targets[name] for name in names)))
        await engine.settle(acts)

    async def _end(self, engine: EmbeddedEngine, chance: Random) -> None:
        leases = await lease(engine, topic("a"), chance.randint(1, 9))
        await asyncio.sleep(chance.choice([0, 0.5]))
        ends: list[Place] = [
            DELIVERED,
            DELIVERED,
            RELEASED,
            in_lane(5),
            in_lane(),
            parked(),
            dead_place(),
        ]
        await engine.settle([Settle(one, (chance.choice(ends),), NOTE) for one in leases])

    async def _lane(self, engine: EmbeddedEngine, chance: Random) -> None:
        await asyncio.sleep(chance.choice([0, 3]))
        leases = await lease(engine, lane("a"), chance.randint(1, 9))
        ends: list[Place] = [in_lane(1), in_lane(), Queued(Row.DUE, Tally(attempts=1)), DELIVERED]
        await engine.settle([Settle(one, (chance.choice(ends),)) for one in leases])

    async def _place(self, engine: EmbeddedEngine, chance: Random) -> None:
        stored = await kept(engine.storage, state="parked")
        chosen = [one.delivery for one in stored if chance.random() < 0.5]
        await engine.place([Placing(one, Queued(Row.RECOVERED_DUE)) for one in chosen])

    async def _pass_through(self, engine: EmbeddedEngine, count: int) -> None:
        for n in range(count):
            one = await bring_one(engine, "a", f"passes{n}")
            await settle(engine, one, DELIVERED)

    @staticmethod
    def _count(engine: EmbeddedEngine, table: str) -> int:
        sql = f"SELECT count(*) FROM {table}"  # noqa: S608  # a name of ours
        found: int = engine.journal.connection.execute(sql).get
        return found
