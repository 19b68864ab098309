"""Storage in a file of its own: what an engine beside it may say twice, or late."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import apsw
import pytest

from eventflow.errors import StorageUnavailable
from eventflow.storage.protocol import Actor
from eventflow.storage.sqlite import SqliteStorage, open_storage
from eventflow.testing import ManualClock

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from eventflow.storage.protocol import Kept

    Make = Callable[..., Kept]

DAY_S = 24 * 3600.0
SOMEBODY = Actor("somebody", "a test")


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def opening(tmp_path: Path, clock: ManualClock) -> Callable[..., Any]:
    @asynccontextmanager
    async def opened(**more: Any) -> AsyncIterator[SqliteStorage]:
        path = str(tmp_path / "storage.db")
        storage = await open_storage(path, clock=clock, chain="n1", **more)
        try:
            yield storage
        finally:
            await storage.close()

    return opened


def row(kept: Kept) -> list[dict[str, Any]]:
    return [{"at": 1.0, "what": "delivery.parked", "ref": kept.delivery.ref}]


async def keep(storage: SqliteStorage, *items: Kept, **more: Any) -> list[str | None]:
    return list(await storage.keep(items, [row(one) for one in items], **more))


async def hops(storage: SqliteStorage, *ids: str) -> list[int]:
    return [kept.delivery.hop for kept in await storage.get(ids)]


async def test_what_was_kept_is_there_after_a_restart(opening: Any, make: Make) -> None:
    first = make("r1")
    async with opening() as storage:
        assert await keep(storage, first) == [None]
        used = storage.usage().used_bytes
    async with opening() as storage:
        assert await storage.get(["r1.email"]) == [first]
        assert storage.usage().used_bytes == used == first.size_bytes


async def test_said_twice_it_is_kept_and_told_once(opening: Any, make: Make) -> None:
    async with opening() as storage:
        await keep(storage, make("r1"))
        assert await keep(storage, make("r1")) == [None]

        assert len(await storage.trail("r1")) == 1
        assert await storage.totals() == {("email", "parked"): (1, make("r1").size_bytes)}


@pytest.mark.parametrize("hop", [2, 3])
async def test_what_has_gone_on_does_not_come_back(opening: Any, make: Make, hop: int) -> None:
    """Not even after a restart: a put without an answer may arrive late."""
    async with opening() as storage:
        await keep(storage, make(hop=3))
        assert await storage.forget([("r1.email", 3)]) == [True]
    async with opening() as storage:
        assert await keep(storage, make(hop=hop)) == [None]
        assert await hops(storage, "r1.email") == []
        assert len(await storage.trail("r1")) == 1


async def test_a_greater_hop_comes_back(opening: Any, make: Make) -> None:
    async with opening() as storage:
        await keep(storage, make(hop=3))
        await storage.forget([("r1.email", 3)])
        await keep(storage, make(hop=5))

        assert await hops(storage, "r1.email") == [5]


async def test_the_fence_stands_for_a_day(opening: Any, make: Make, clock: ManualClock) -> None:
    async with opening() as storage:
        await storage.forget([("r1.email", 3)])
        clock.advance(DAY_S - 1)
        await storage.forget([("r2.email", 1)])
        await keep(storage, make(hop=3))
        assert await hops(storage, "r1.email") == []

        clock.advance(2)
        await storage.forget([("r2.email", 1)])
        await keep(storage, make(hop=3))
        assert await hops(storage, "r1.email") == [3]


async def test_only_the_hop_that_was_told_is_forgotten(opening: Any, make: Make) -> None:
    async with opening() as storage:
        await keep(storage, make(hop=4))

        assert await storage.forget([("r1.email", 3)]) == [False]
        assert await storage.holds([("r1.email", 3), ("r1.email", 4)]) == [False, True]


async def test_what_has_no_room_is_refused_alone(opening: Any, make: Make) -> None:
    size = make().size_bytes
    async with opening(max_bytes=2 * size) as storage:
        answers = await keep(storage, *(make(f"r{n}") for n in range(3)))

        assert answers[:2] == [None, None]
        assert answers[2] is not None
        assert str(2 * size) in answers[2]
        assert await hops(storage, "r0.email", "r1.email", "r2.email") == [3, 3]


async def test_together_it_is_all_or_none(opening: Any, make: Make) -> None:
    size = make().size_bytes
    async with opening(max_bytes=2 * size) as storage:
        answers = await keep(storage, *(make(f"r{n}") for n in range(3)), together=True)

        assert None not in answers
        assert await storage.totals() == {}
        assert await storage.trail("r0") == []


async def test_a_second_state_of_the_same_delivery_counts_once(opening: Any, make: Make) -> None:
    size = make().size_bytes
    async with opening(max_bytes=size) as storage:
        await keep(storage, make(hop=3))

        assert await keep(storage, make(hop=4, state="dead")) == [None]
        assert storage.usage().used_bytes <= size


async def test_what_is_discarded_is_counted_for_ever(opening: Any, make: Make) -> None:
    async with opening() as storage:
        await keep(storage, make("r1"), make("r2"))
        answers = await storage.discard(["r1.email", "r1.email", "no.email"], SOMEBODY)
        assert answers == {"r1.email": "discarded", "no.email": "unknown"}
    async with opening() as storage:
        assert await storage.discarded() == {"email": 1}
        await keep(storage, make("r1"))
        assert await hops(storage, "r1.email", "r2.email") == [3]


async def test_replaying_twice_changes_nothing(opening: Any, make: Make) -> None:
    async with opening() as storage:
        await keep(storage, make(state="dead"))
        first = await storage.replay(["r1.email"], SOMEBODY)
        second = await storage.replay(["r1.email"], SOMEBODY)

        assert [*first.values(), *second.values()] == ["replayed", "already"]
        assert await hops(storage, "r1.email") == [4]


async def test_two_nodes_of_a_machine_share_the_file(
    tmp_path: Path, clock: ManualClock, make: Make
) -> None:
    path = str(tmp_path / "shared.db")
    nodes = [await open_storage(path, clock=clock, chain=f"n{n}") for n in range(2)]
    for n, node in enumerate(nodes):
        await keep(node, *(make(f"r{n}-{i}") for i in range(5)))
    await asyncio.gather(*(node.note([{"at": 1.0, "what": "x"}]) for node in nodes for _ in "123"))

    verdict = await nodes[0].verify()
    assert (verdict.ok, verdict.rows) == (True, 16)
    assert sum(count for count, _ in (await nodes[1].totals()).values()) == 10
    for node in nodes:
        await node.close()


async def test_a_file_of_a_later_release_is_left_alone(opening: Any, tmp_path: Path) -> None:
    async with opening():
        pass
    connection = apsw.Connection(str(tmp_path / "storage.db"))
    connection.execute("UPDATE meta SET value = 99 WHERE name = 'steps'")
    connection.close()
    with pytest.raises(StorageUnavailable, match="later EventFlow"):
        async with opening():
            pass


async def test_once_closed_it_says_so(opening: Any, make: Make) -> None:
    async with opening() as storage:
        pass
    with pytest.raises(StorageUnavailable, match="closed"):
        await keep(storage, make())
