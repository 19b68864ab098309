"""Storage in a file of its own keeps the storage contract."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import apsw
import pytest

from eventflow.errors import StorageUnavailable
from eventflow.storage.sqlite import SqliteStorage, open_storage
from eventflow.testing.storage_contract import StorageContract

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from eventflow.testing import ManualClock
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
