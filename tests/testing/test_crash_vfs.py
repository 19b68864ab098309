"""The disk that loses power, against what is known of SQLite and of disks."""

from __future__ import annotations

import errno
from collections import Counter
from contextlib import closing, suppress
from random import Random
from typing import TYPE_CHECKING

import apsw
import pytest

from eventflow.testing import CrashDisk, PowerCut
from eventflow.testing.disk_model import Directory, File, sectors

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from eventflow.testing import DiskImage

ROWS = 40
WAL = ("locking_mode = EXCLUSIVE", "journal_mode = WAL", "wal_autocheckpoint = 20")
ROLLBACK = ("journal_mode = DELETE",)


def connect(disk: CrashDisk, *pragmas: str) -> apsw.Connection:
    connection = apsw.Connection("journal.db", vfs=disk.name)
    try:
        for pragma in pragmas:
            connection.execute(f"PRAGMA {pragma}").fetchall()
    except apsw.Error:
        with suppress(apsw.Error):
            connection.close()
        raise
    return connection


def write_rows(disk: CrashDisk, *pragmas: str) -> set[int]:
    """Commit rows one by one until all are in or the power is cut; return those acknowledged."""
    acknowledged: set[int] = set()
    try:
        with closing(connect(disk, *pragmas)) as connection:
            connection.execute("CREATE TABLE IF NOT EXISTS row (n INTEGER PRIMARY KEY, body)")
            first = 1 + connection.execute("SELECT coalesce(max(n), 0) FROM row").get
            for n in range(first, first + ROWS):
                connection.execute("INSERT INTO row VALUES (?, ?)", (n, bytes(700)))
                acknowledged.add(n)
    except apsw.Error:
        assert disk.is_cut
    return acknowledged


def read_rows(connection: apsw.Connection) -> set[int]:
    tables = connection.execute("SELECT count(*) FROM sqlite_schema WHERE name = 'row'").get
    return {n for (n,) in connection.execute("SELECT n FROM row")} if tables else set()


def look(image: DiskImage) -> tuple[bool, set[int]]:
    """Start again on what a crash left: whether the file is sound, and the rows in it."""
    with CrashDisk.from_image(image) as disk, closing(connect(disk, WAL[0])) as connection:
        try:
            sound = connection.execute("PRAGMA integrity_check").get == "ok"
            return sound, read_rows(connection)
        except (apsw.CorruptError, apsw.NotADBError):
            return False, set()


def crash_at_random(crashes: int, *pragmas: str) -> Counter[str]:
    """Count crashes that lost acknowledged rows, and crashes that left a damaged file."""
    with CrashDisk() as whole:
        write_rows(whole, *pragmas)
    seen: Counter[str] = Counter()
    for seed in range(crashes):
        chance = Random(seed)
        with CrashDisk() as disk:
            disk.cut_after(chance.randrange(whole.ops))
            acknowledged = write_rows(disk, *pragmas)
            sound, rows = look(disk.crash(chance))
        seen["lost"] += not acknowledged <= rows
        seen["damaged"] += not sound
    return seen


@pytest.fixture
def disk() -> Iterator[CrashDisk]:
    with CrashDisk() as disk:
        yield disk


class TestKnownOfSqlite:
    """What SQLite's manual says of `PRAGMA synchronous`. Fails: the model or SQLite changed."""

    def test_a_wal_with_full_loses_nothing(self) -> None:
        assert crash_at_random(60, *WAL, "synchronous = FULL").total() == 0

    def test_a_wal_with_normal_loses_rows_but_stays_sound(self) -> None:
        seen = crash_at_random(60, *WAL, "synchronous = NORMAL")

        assert seen["lost"] > 20
        assert seen["damaged"] == 0

    def test_a_wal_with_off_is_damaged_at_times(self) -> None:
        """Lost and torn writes reach the file: else the tests above prove nothing."""
        assert crash_at_random(60, *WAL, "synchronous = OFF")["damaged"] > 5

    def test_a_rollback_journal_that_comes_back_undoes_a_commit(self) -> None:
        """FULL does not sync the directory after deleting it; EXTRA does."""
        full = crash_at_random(60, *ROLLBACK, "synchronous = FULL")
        extra = crash_at_random(60, *ROLLBACK, "synchronous = EXTRA")

        assert full["lost"] > 0
        assert full["damaged"] == 0
        assert extra.total() == 0

    def test_without_exclusive_locking_there_is_no_wal(self, disk: CrashDisk) -> None:
        """If this fails, apsw has learned shared memory: drop the rule from the header."""
        with closing(connect(disk)) as connection:
            assert connection.execute("PRAGMA journal_mode = WAL").get == "delete"


class TestCut:
    def test_every_run_takes_the_same_operations(self) -> None:
        """So that a crash point can be named by its number."""
        counts = set()
        for _ in range(3):
            with CrashDisk() as disk:
                write_rows(disk, *WAL)
                counts.add(disk.ops)

        assert len(counts) == 1
        assert counts.pop() > 2 * ROWS

    def test_it_comes_after_as_many_operations_as_asked_for(self, disk: CrashDisk) -> None:
        disk.cut_after(33)
        write_rows(disk, *WAL)

        assert disk.is_cut
        assert disk.ops == 33

    def test_after_it_nothing_can_be_read_or_written(self, disk: CrashDisk) -> None:
        connection = connect(disk, *WAL, "cache_size = 0")
        connection.execute("CREATE TABLE row (n)")
        before = disk.killed()

        disk.cut_after(0)
        with pytest.raises(PowerCut, match=r"refused after 1\d operations"):
            connection.execute("INSERT INTO row VALUES (1)")
        with pytest.raises(PowerCut, match="read refused"):
            connection.execute("PRAGMA integrity_check")
        with pytest.raises(PowerCut):
            connection.close()
        with pytest.raises(PowerCut, match="open refused"):
            connect(disk)
        assert disk.killed() == before

    def test_sqlite_sees_an_io_error(self, disk: CrashDisk) -> None:
        with closing(connect(disk)) as connection:
            connection.execute("CREATE TABLE row (n)")
        disk.cut_after(0)

        with pytest.raises(apsw.IOError) as cut, closing(connect(disk)) as connection:
            connection.execute("SELECT * FROM row")
        assert vars(cut.value)["result"] == apsw.SQLITE_IOERR

    def test_it_is_asked_for_once_and_ahead(self, disk: CrashDisk) -> None:
        with pytest.raises(ValueError, match="expected 0 or more operations, got -1"):
            disk.cut_after(-1)
        disk.crash(Random(0))
        with pytest.raises(ValueError, match="off already"):
            disk.cut_after(5)


class TestImages:
    def test_a_crash_cuts_the_power(self, disk: CrashDisk) -> None:
        with closing(connect(disk)) as connection:
            connection.execute("CREATE TABLE row (n)")
            disk.crash(Random(0))

            with pytest.raises(PowerCut):
                connection.execute("INSERT INTO row VALUES (1)")

    def test_the_same_chance_leaves_the_same_image(self, disk: CrashDisk) -> None:
        disk.cut_after(100)
        write_rows(disk, *WAL, "synchronous = OFF")

        images = [disk.crash(Random(seed)) for seed in (1, 1, 2)]
        assert images[0] == images[1] != images[2]

    def test_a_crash_during_recovery_loses_nothing_either(self) -> None:
        image: DiskImage = {}
        acknowledged: set[int] = set()
        for seed in range(30):
            chance = Random(seed)
            with CrashDisk.from_image(image) as disk:
                disk.cut_after(chance.randrange(12 if seed % 2 else 100))
                acknowledged |= write_rows(disk, *WAL, "synchronous = FULL")
                image = disk.crash(chance)

        sound, rows = look(image)
        assert sound
        assert acknowledged <= rows
        assert len(acknowledged) > 3 * ROWS

    def test_a_killed_program_loses_nothing_that_it_wrote(self, disk: CrashDisk) -> None:
        """What `durability = "os"` gives: the machine went on."""
        disk.cut_after(130)
        acknowledged = write_rows(disk, *WAL, "synchronous = OFF")

        assert acknowledged
        assert look(disk.killed()) == (True, acknowledged)

    def test_restored_files_open_with_the_usual_vfs(self, disk: CrashDisk, tmp_path: Path) -> None:
        disk.cut_after(130)
        acknowledged = write_rows(disk, *WAL, "synchronous = FULL")
        image = disk.crash(Random(4))
        assert set(image) == {"journal.db", "journal.db-wal"}

        CrashDisk.restore(tmp_path, image)
        with closing(apsw.Connection(str(tmp_path / "journal.db"))) as connection:
            assert acknowledged <= read_rows(connection)

    def test_of_a_path_only_its_last_part_counts(self, disk: CrashDisk) -> None:
        with closing(apsw.Connection("/var/lib/eventflow.db", vfs=disk.name)) as connection:
            connection.execute("CREATE TABLE row (n)")

        assert set(disk.killed()) == {"eventflow.db"}


class TestFaults:
    def test_a_failed_sync_is_no_commit(self, disk: CrashDisk) -> None:
        with closing(connect(disk, *WAL, "synchronous = FULL")) as connection:
            connection.execute("CREATE TABLE row (n)")
            disk.fail_sync(times=1)

            with pytest.raises(apsw.IOError) as failed:
                connection.execute("INSERT INTO row VALUES (1)")
            assert vars(failed.value)["extendedresult"] == apsw.SQLITE_IOERR_FSYNC
            connection.execute("INSERT INTO row VALUES (2)")
            assert read_rows(connection) == {2}

    def test_syncs_fail_until_healed(self, disk: CrashDisk) -> None:
        with closing(connect(disk, *WAL, "synchronous = FULL")) as connection:
            connection.execute("CREATE TABLE row (n)")
            disk.fail_sync()
            for n in (1, 2, 3):
                with pytest.raises(apsw.IOError):
                    connection.execute("INSERT INTO row VALUES (?)", (n,))

            disk.heal()
            connection.execute("INSERT INTO row VALUES (4)")
            assert read_rows(connection) == {4}

    def test_a_full_disk_refuses_and_harms_nothing(self, disk: CrashDisk) -> None:
        with closing(connect(disk, *WAL, "synchronous = FULL")) as connection:
            connection.execute("CREATE TABLE row (n)")
            connection.execute("INSERT INTO row VALUES (1)")
            disk.fail_write()
            for n in (2, 3):
                with pytest.raises(apsw.FullError):
                    connection.execute("INSERT INTO row VALUES (?)", (n,))
            assert read_rows(connection) == {1}

            disk.heal()
            connection.execute("INSERT INTO row VALUES (4)")
        assert look(disk.crash(Random(0))) == (True, {1, 4})

    def test_of_one_file_alone(self, disk: CrashDisk) -> None:
        with closing(connect(disk, *WAL, "synchronous = FULL")) as connection:
            connection.execute("CREATE TABLE row (n)")
            disk.fail_sync(name="journal.db")
            connection.execute("INSERT INTO row VALUES (1)")  # syncs the log
            with pytest.raises(apsw.IOError):
                connection.wal_checkpoint()

            disk.heal()
            connection.wal_checkpoint()

    def test_a_filled_disk_lets_what_is_there_be_written_over(self, disk: CrashDisk) -> None:
        with closing(connect(disk, *WAL)) as connection:
            connection.execute("CREATE TABLE row (n)")
            connection.execute("INSERT INTO row VALUES (zeroblob(100000))")
            connection.wal_checkpoint()
            disk.fill()
            connection.execute("UPDATE row SET n = 1")  # in a log that begins anew
            with pytest.raises(apsw.FullError):
                connection.execute("INSERT INTO row VALUES (zeroblob(200000))")

            disk.fill(200_000 + 10_000)
            connection.execute("INSERT INTO row VALUES (zeroblob(200000))")
            with pytest.raises(apsw.FullError):
                connection.execute("INSERT INTO row VALUES (zeroblob(200000))")
            disk.heal()
            connection.execute("INSERT INTO row VALUES (zeroblob(200000))")

    def test_what_is_deleted_and_cut_makes_room(self, disk: CrashDisk) -> None:
        with closing(connect(disk, *WAL, "wal_autocheckpoint = 0")) as connection:
            connection.execute("CREATE TABLE row (n)")
            connection.execute("INSERT INTO row VALUES (zeroblob(100000))")
            disk.fill()
            with pytest.raises(apsw.FullError):
                connection.execute("INSERT INTO row VALUES (zeroblob(50000))")
            disk.fill(110_000)
            connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)  # cuts the log
            connection.execute("INSERT INTO row VALUES (zeroblob(50000))")
            disk.heal()

    def test_another_error_as_often_as_asked_for(self, disk: CrashDisk) -> None:
        with closing(connect(disk, *WAL)) as connection:
            connection.execute("CREATE TABLE row (n)")
            disk.fail_write(apsw.SQLITE_IOERR_WRITE, times=1, number=errno.EDQUOT)

            with pytest.raises(apsw.IOError):
                connection.execute("INSERT INTO row VALUES (1)")
            assert connection.system_errno == errno.EDQUOT
            connection.execute("INSERT INTO row VALUES (2)")
            assert read_rows(connection) == {2}

    def test_never_is_not_a_number_of_times(self, disk: CrashDisk) -> None:
        with pytest.raises(ValueError, match="fail_sync: expected 1 or more times, or None, got 0"):
            disk.fail_sync(times=0)
        with pytest.raises(ValueError, match="fail_write: expected"):
            disk.fail_write(times=-1)
        with pytest.raises(ValueError, match="fill: expected 0 or more bytes, got -1"):
            disk.fill(-1)


class TestSideBySide:
    def test_disks_know_nothing_of_each_other(self) -> None:
        with CrashDisk() as one, CrashDisk() as other:
            with closing(connect(one)) as connection:
                connection.execute("CREATE TABLE row (n)")
            assert set(one.killed()) == {"journal.db"}
            assert other.killed() == {}

    def test_a_disk_is_gone_after_use(self) -> None:
        with CrashDisk() as disk:
            assert disk.name in apsw.vfs_names()
        assert disk.name not in apsw.vfs_names()

    def test_a_disk_may_have_a_name_of_its_own(self) -> None:
        with CrashDisk("left"), CrashDisk.from_image({}, "right"):
            assert {"left", "right"} <= set(apsw.vfs_names())

    def test_a_second_owner_is_refused(self, disk: CrashDisk) -> None:
        with closing(connect(disk, *WAL)) as owner, closing(connect(disk)) as second:
            owner.execute("CREATE TABLE row (n)")

            with pytest.raises(apsw.BusyError):
                second.execute("SELECT * FROM row")

    def test_connections_that_share_a_file_keep_its_locks(self, disk: CrashDisk) -> None:
        with closing(connect(disk)) as one, closing(connect(disk)) as other:
            one.execute("CREATE TABLE row (n)")
            one.execute("BEGIN IMMEDIATE; INSERT INTO row VALUES (1)")

            assert read_rows(other) == set()
            with pytest.raises(apsw.BusyError):
                other.execute("BEGIN IMMEDIATE")
            reading = other.execute("SELECT name FROM sqlite_schema")
            assert next(reading) == ("row",)
            with pytest.raises(apsw.BusyError):
                one.execute("COMMIT")
            with closing(connect(disk)) as newcomer, pytest.raises(apsw.BusyError):
                read_rows(newcomer)

            reading.close()
            one.execute("COMMIT")
            assert read_rows(other) == {1}

    def test_waiting_for_a_lock_takes_no_time(self, disk: CrashDisk) -> None:
        with closing(connect(disk, *WAL)) as owner, closing(connect(disk)) as second:
            owner.execute("CREATE TABLE row (n)")
            second.set_busy_timeout(3_600_000)

            with pytest.raises(apsw.BusyError):
                second.execute("SELECT * FROM row")

    def test_temporary_files_are_not_on_the_disk(self, disk: CrashDisk) -> None:
        with closing(connect(disk, "temp_store = FILE", "temp.cache_size = 1")) as connection:
            connection.execute("CREATE TEMP TABLE row (n)")
            connection.executemany("INSERT INTO temp.row VALUES (?)", [(bytes(5000),)] * 50)
            assert disk.ops > 50
            assert disk.killed() == {"journal.db": b""}


class TestFile:
    """The model below SQLite: one file."""

    @staticmethod
    def outcomes(file: File) -> Counter[bytes]:
        return Counter(file.after_crash(Random(seed)) for seed in range(1_000))

    def test_what_was_synced_survives(self) -> None:
        file = File()
        file.change(0, b"old")
        file.sync()

        assert self.outcomes(file) == {b"old": 1_000}

    def test_half_of_the_small_writes_since_then_are_lost(self) -> None:
        """Of those kept, torn ones of one sector are lost half the time: 0.5 x 0.85 remain."""
        file = File()
        file.change(0, b"old")
        file.sync()
        file.change(0, b"new")

        seen = self.outcomes(file)
        assert set(seen) == {b"old", b"new"}
        assert 375 < seen[b"new"] < 475

    def test_a_later_write_may_survive_an_earlier_one(self) -> None:
        file = File()
        file.change(0, b"a")
        file.change(1, b"b")

        assert set(self.outcomes(file)) == {b"", b"a", b"ab", b"\0b"}

    def test_what_survives_stays_in_its_order(self) -> None:
        file = File()
        file.change(0, b"aa")
        file.change(0, b"b")

        assert set(self.outcomes(file)) == {b"", b"aa", b"b", b"ba"}

    def test_writes_tear_at_sectors_and_nowhere_else(self) -> None:
        file = File()
        file.change(0, b"." * 1_100)
        file.sync()
        file.change(500, b"x" * 560)

        parts = [(slice(500, 512), 12), (slice(512, 1024), 512), (slice(1024, 1060), 36)]
        seen: set[tuple[bool, ...]] = set()
        for image in self.outcomes(file):
            assert [set(image[part]) for part, _ in parts] <= [set(b".x")] * 3
            assert all(image[part].count(b"x") in {0, size} for part, size in parts)
            assert image.count(b".") + image.count(b"x") == len(image) == 1_100
            seen.add(tuple(b"x" in image[part] for part, _ in parts))
        assert len(seen) == 8

    def test_a_truncation_is_lost_or_kept(self) -> None:
        file = File()
        file.change(0, b"long")
        file.sync()
        file.change(1, None)

        assert file.written == b"l"
        assert set(self.outcomes(file)) == {b"long", b"l"}

    def test_a_failed_sync_leaves_its_writes_to_chance(self) -> None:
        file = File()
        file.change(0, b"a")
        file.fail_sync()

        assert file.written == b"a"
        assert set(self.outcomes(file)) == {b"", b"a"}

    def test_the_next_sync_does_not_make_up_for_a_failed_one(self) -> None:
        """Seen with Linux: the second fsync says yes, the pages of the first were forgotten."""
        file = File()
        file.change(0, b"a")
        file.fail_sync()
        file.change(1, b"b")
        file.sync()

        assert file.written == b"ab"
        assert set(self.outcomes(file)) == {b"\0b"}

    def test_sectors_cover_a_write_once(self) -> None:
        assert list(sectors(510, b"abcd")) == [(510, b"ab"), (512, b"cd")]
        assert [start for start, _ in sectors(0, bytes(1_536))] == [0, 512, 1_024]
        assert list(sectors(7, b"")) == []


class TestDirectory:
    """The model below SQLite: the names of files."""

    @staticmethod
    def outcomes(directory: Directory) -> set[frozenset[str]]:
        return {frozenset(directory.after_crash(Random(seed))) for seed in range(100)}

    def test_names_hold_up_to_some_moment(self) -> None:
        directory = Directory({})
        directory.create("a")
        directory.create("b")
        directory.delete("a")

        assert set(directory.files) == {"b"}
        assert self.outcomes(directory) == {
            frozenset(names) for names in ((), ("a",), ("a", "b"), ("b",))
        }

    def test_a_files_sync_makes_its_name_durable_and_all_before_it(self) -> None:
        directory = Directory({})
        directory.create("a")
        file = directory.create("b")
        directory.delete("a")
        directory.sync_with(file)

        assert self.outcomes(directory) == {frozenset("ab"), frozenset("b")}

    def test_a_deleted_file_comes_back_with_what_was_in_it(self) -> None:
        directory = Directory({"a": b"kept"})
        directory.delete("a")
        assert self.outcomes(directory) == {frozenset("a"), frozenset()}
        assert directory.after_crash(Random(1)) in ({"a": b"kept"}, {})

        directory.sync()
        assert self.outcomes(directory) == {frozenset()}

    def test_a_name_used_again_means_the_new_file(self) -> None:
        directory = Directory({"a": b"old"})
        directory.delete("a")
        file = directory.create("a")
        file.change(0, b"new")
        file.sync()
        directory.sync_with(file)

        assert directory.after_crash(Random(0)) == {"a": b"new"}
