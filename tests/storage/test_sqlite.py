"""Storage in a file of its own keeps the storage contract."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import apsw
import pytest

from eventflow.errors import StorageUnavailable
from eventflow.storage.protocol import Actor, Turnover
from eventflow.storage.sqlite import SqliteStorage, open_storage
from eventflow.testing import ManualClock
from eventflow.testing.crash_vfs import CrashDisk
from eventflow.testing.storage_contract import StorageContract, a_kept, keep

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from eventflow.storage.protocol import Kept
    from eventflow.testing.storage_contract import Opening


class TestContract(StorageContract):
    """The storage contract, on a file that nodes of one machine share."""

    @pytest.fixture
    def opening(self, tmp_path: Path, clock: ManualClock) -> Opening:
        @asynccontextmanager
        async def opened(chain: str = "n1", **more: Any) -> AsyncIterator[SqliteStorage]:
            path = str(tmp_path / "storage.db")
            storage = await open_storage(path, clock=clock, chain=chain, **more)
            try:
                yield storage
            finally:
                await storage.close()

        return opened

    async def test_a_file_of_an_earlier_release_is_brought_up_to_date(
        self, opening: Opening, tmp_path: Path
    ) -> None:
        async with opening() as storage:
            await keep(storage, *(a_kept(f"r{n}") for n in range(3)), a_kept("r9", topic="db"))
            await storage.discard(["r0.email"], Actor("somebody"))
        connection = apsw.Connection(str(tmp_path / "storage.db"))
        connection.execute("DELETE FROM counted WHERE topic = 'db'")
        for column in ("arrived", "forgotten"):
            connection.execute(f"ALTER TABLE counted DROP COLUMN {column}")
        connection.execute("UPDATE meta SET value = 1 WHERE name = 'own_steps'")
        connection.close()

        async with opening() as storage:
            assert await storage.turnover() == {
                "email": Turnover(parked=2, arrived=3, discarded=1),
                "db": Turnover(parked=1, arrived=1),
            }

    async def test_a_file_of_a_later_release_is_left_alone(
        self, opening: Opening, tmp_path: Path
    ) -> None:
        async with opening():
            pass
        connection = apsw.Connection(str(tmp_path / "storage.db"))
        connection.execute("UPDATE meta SET value = 99 WHERE name = 'steps'")
        connection.close()
        with pytest.raises(StorageUnavailable, match="later EventFlow"):
            async with opening():
                pass


class TestDisk:
    """A disk without room, and one that takes the log and not the file."""

    @pytest.fixture
    def disk(self) -> Iterator[CrashDisk]:
        with CrashDisk() as disk:
            yield disk

    @staticmethod
    @asynccontextmanager
    async def opened(disk: CrashDisk) -> AsyncIterator[SqliteStorage]:
        class OnDisk(SqliteStorage):
            def _connect(self) -> apsw.Connection:
                connection = apsw.Connection(self.path, vfs=disk.name)
                connection.pragma("locking_mode", "EXCLUSIVE")  # it has no shared memory
                return connection

        storage = await open_storage("s.db", clock=ManualClock(), chain="n1", kind=OnDisk)
        try:
            yield storage
        finally:
            await storage.close()

    async def test_a_log_that_can_not_be_folded_is_told_and_heals(self, disk: CrashDisk) -> None:
        """SQLite keeps it to itself: the log would grow until the disk is full."""
        big = [a_big(f"r{n}") for n in range(60)]
        kept = 0

        async def keep_all() -> None:
            nonlocal kept
            for one in big:
                await keep(storage, one)
                kept += 1

        async with self.opened(disk) as storage:
            disk.fail_sync(name="s.db")
            with pytest.raises(StorageUnavailable, match="Input/output error"):
                await keep_all()
            with pytest.raises(StorageUnavailable):  # at each try, not just at one
                await keep(storage, big[kept])
            assert 10 < kept < 40  # 4 MiB of log, not all of it
            disk.heal()

            await keep(storage, *big[kept:])
            assert (await storage.totals())["email", "parked"][0] == len(big)

    async def test_the_log_is_folded_into_the_file_where_that_makes_room(
        self, disk: CrashDisk
    ) -> None:
        """The log can't grow any more, but unused pages of the file have room for what it holds."""
        gone = [a_big(f"r{n}") for n in range(40)]
        async with self.opened(disk) as storage:
            await keep(storage, *gone)
            await storage.forget([(one.delivery.id, one.delivery.hop) for one in gone])
        async with self.opened(disk) as storage:
            await keep(storage, *(a_big(f"s{n}") for n in range(10)))
            disk.fill()
            with pytest.raises(StorageUnavailable, match="full"):
                await keep(storage, *(a_big(f"t{n}") for n in range(5)))

            await keep(storage, *(a_big(f"t{n}") for n in range(5)))
            assert (await storage.totals())["email", "parked"][0] == 15


def a_big(ref: str) -> Kept:
    return a_kept(ref, data=b"x" * 200_000)
