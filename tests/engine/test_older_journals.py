"""A journal that an earlier version wrote opens with all that is in it, and goes on."""

from __future__ import annotations

import json
from contextlib import closing
from typing import TYPE_CHECKING, Any

import apsw
import pytest
from tests.engine.older_journal import FOLDER, found, opened

from eventflow.delivery import DELIVERED
from eventflow.engine.embedded.journal import VERSION
from eventflow.engine.protocol import Kind, Queue, Settle
from eventflow.event import Event
from eventflow.testing import VirtualClock, run

if TYPE_CHECKING:
    from pathlib import Path

VERSIONS = sorted(int(path.stem) for path in FOLDER.glob("*.sql"))


@pytest.fixture(params=VERSIONS)
def version(request: pytest.FixtureRequest) -> int:
    """Each version that there is a sample of."""
    found: int = request.param
    return found


@pytest.fixture
def path(tmp_path: Path, version: int) -> Path:
    """A file of that version."""
    path = tmp_path / "journal.db"
    with closing(apsw.Connection(str(path))) as connection:
        connection.execute((FOLDER / f"{version}.sql").read_text())
    return path


def test_there_is_a_sample_of_the_present_version() -> None:
    """Else nobody will know whether the next one can still read it: see `older_journal`."""
    assert VERSION in VERSIONS


def test_all_that_was_in_it_is_found(path: Path, version: int) -> None:
    async def told() -> dict[str, Any]:
        return await found(await opened(path, VirtualClock()))

    wanted = json.loads((FOLDER / f"{version}.json").read_text())
    assert json.loads(json.dumps(run(told()))) == wanted


def test_it_goes_on_as_a_file_of_today(path: Path) -> None:
    async def story() -> None:
        engine = await opened(path, VirtualClock())
        again = await engine.accept([Event(type="order.last", source="/shop", id="last")])
        assert again[0].duplicate
        leases = await engine.lease(Queue(Kind.TOPIC, "a"), limit=100, wait_s=0)
        await engine.settle([Settle(lease, (DELIVERED,)) for lease in leases])
        before = await found(engine)
        assert (await engine.storage.verify()).ok
        await engine.close()
        engine = await opened(path, VirtualClock())
        assert await found(engine) == before
        await engine.close()

    run(story())
    with closing(apsw.Connection(str(path))) as connection:
        assert connection.pragma("user_version") == VERSION
