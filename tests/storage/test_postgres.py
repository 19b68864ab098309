"""Storage in PostgreSQL keeps the storage contract, and what only a server can promise."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from tests.postgres_server import PASSWORD, Database, Server, running

from eventflow.config.secret import Secret
from eventflow.errors import ConfigError, StorageUnanswered, StorageUnavailable
from eventflow.storage.postgres import PostgresStorage, open_postgres
from eventflow.storage.postgres.link import _cut, connect
from eventflow.storage.postgres.schema import STEPS
from eventflow.storage.protocol import Actor, Filter, Turnover
from eventflow.testing import ManualClock
from eventflow.testing.storage_contract import StorageContract, a_kept, hops, keep, refs

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from eventflow.testing.storage_contract import Opening

pytestmark = pytest.mark.slow

AT_ONCE_S = 7.0
"""What a caller waits at most where the database does not answer, and a little."""


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running() as one:
        yield one


@pytest.fixture
def database(server: Server) -> Iterator[Database]:
    with server.database() as one:
        yield one


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


def opener(url: str, clock: ManualClock) -> Opening:
    @asynccontextmanager
    async def opened(chain: str = "n1", **more: Any) -> AsyncIterator[PostgresStorage]:
        storage = await open_postgres(Secret(url), clock=clock, chain=chain, **more)
        try:
            yield storage
        finally:
            await storage.close()

    return opened


@pytest.fixture
def opening(database: Database, clock: ManualClock) -> Opening:
    return opener(database.url, clock)


class TestContract(StorageContract):
    """The storage contract, on a real server."""


class TestNodes:
    async def test_what_one_recovers_the_other_leaves_alone(self, opening: Opening) -> None:
        async with opening("n1") as one, opening("n2") as two:
            await keep(one, *(a_kept(f"r{n}", due_at=float(n)) for n in range(6)))

            first = refs(await one.due("email", now=10.0, limit=3))
            second = refs(await two.due("email", now=10.0, limit=9))

            assert (first, second) == (["r0", "r1", "r2"], ["r3", "r4", "r5"])
            assert refs(await one.due("email", now=10.0, limit=9)) == first

    async def test_a_node_that_is_gone_keeps_none_for_long(
        self, opening: Opening, clock: ManualClock
    ) -> None:
        async with opening("n1") as one, opening("n2") as two:
            await keep(one, a_kept(due_at=1.0))
            began = clock.now_s()
            await one.due("email", now=began, limit=9)

            assert await two.due("email", now=began, limit=9) == []
            assert await two.next_due("email") == began + 30.0
            clock.advance(31)
            assert refs(await two.due("email", now=clock.now_s(), limit=9)) == ["r1"]

    async def test_side_by_side_each_is_handed_out_once(self, opening: Opening) -> None:
        async with opening("n1") as one, opening("n2") as two:
            await keep(one, *(a_kept(f"r{n:03}", due_at=1.0) for n in range(200)))

            async def recover(node: PostgresStorage) -> list[str]:
                found = []
                while batch := await node.due("email", now=10.0, limit=7):
                    found += refs(batch)
                    await node.forget([(k.delivery.id, k.delivery.hop) for k in batch])
                return found

            shares = await asyncio.gather(recover(one), recover(two))

            assert sorted(shares[0] + shares[1]) == [f"r{n:03}" for n in range(200)]
            assert min(map(len, shares)) > 0
            assert await one.totals() == {}

    async def test_late_puts_and_forgets_from_everywhere_leave_the_right_hop(
        self, opening: Opening
    ) -> None:
        """Whoever comes first: what was told to be forgotten is gone, and stays gone."""
        async with opening("n1") as one, opening("n2") as two:
            for _ in range(20):
                names = [f"r{n}" for n in range(10)]
                pairs = [(f"{name}.email", 3) for name in names]
                await asyncio.gather(
                    keep(one, *(a_kept(name, hop=3) for name in names)),
                    two.forget(list(reversed(pairs))),
                    keep(two, *(a_kept(name, hop=2) for name in reversed(names))),
                )

            assert await one.count(Filter()) == 0
            assert await two.totals() == {}

    async def test_a_chain_written_by_two_at_once_is_one_chain(self, opening: Opening) -> None:
        async with opening("n1") as one, opening("n1") as two:
            noted = {"at": 1.0, "what": "x"}
            await asyncio.gather(*(node.note([noted]) for node in (one, two) for _ in range(10)))

            verdict = await one.verify()
            assert (verdict.ok, verdict.rows) == (True, 20)


class TestTampering:
    @pytest.mark.parametrize(
        ("statement", "fault"),
        [
            ("UPDATE eventflow.audit SET row = replace(convert_from(row,'UTF8'),'x','y')::bytea",
             "is not what was hashed"),
            ("DELETE FROM eventflow.audit WHERE seq = 2", "rows 2 to 2 before it are missing"),
            ("UPDATE eventflow.audit SET ref = 'other'", "filed under another ref"),
        ],
    )  # fmt: skip
    async def test_is_found(
        self, opening: Opening, database: Database, statement: str, fault: str
    ) -> None:
        async with opening() as storage:
            await storage.note([{"at": 1.0, "what": "x"}] * 3)
            database.execute(statement)

            assert fault in (await storage.verify()).faults[0]


class TestTables:
    async def test_nodes_that_start_together_make_them_once(
        self, opening: Opening, database: Database
    ) -> None:
        async def start(name: str) -> None:
            async with opening(name):
                pass

        await asyncio.gather(*(start(f"n{n}") for n in range(5)))

        found = database.execute("SELECT number FROM eventflow.step ORDER BY number")
        assert found == [(number,) for number, _ in enumerate(STEPS, 1)]

    async def test_of_an_earlier_release_they_are_brought_up_to_date(
        self, opening: Opening, database: Database
    ) -> None:
        async with opening() as storage:
            await keep(storage, *(a_kept(f"r{n}") for n in range(3)))
            await storage.discard(["r0.email"], Actor("somebody"))
        database.execute("DELETE FROM eventflow.tally WHERE state IN ('arrived', 'forgotten')")
        database.execute("DELETE FROM eventflow.step WHERE number > 1")

        async with opening() as storage:
            assert await storage.turnover() == {"email": Turnover(parked=2, arrived=3, discarded=1)}

    async def test_of_a_later_release_they_are_left_alone(
        self, opening: Opening, database: Database
    ) -> None:
        async with opening():
            pass
        database.execute(
            "INSERT INTO eventflow.step (number) SELECT generate_series(%s, 99)", (len(STEPS) + 1,)
        )

        with pytest.raises(StorageUnavailable, match="99 steps, this EventFlow knows"):
            async with opening():
                pass


class TestExamination:
    async def test_a_database_that_forgets_is_refused(
        self, opening: Opening, database: Database
    ) -> None:
        database.execute(f"ALTER DATABASE {database.name} SET synchronous_commit = off")

        with pytest.raises(ConfigError, match="expected synchronous_commit to be on, got off"):
            async with opening():
                pass
        assert database.execute("SELECT to_regnamespace('eventflow')") == [(None,)]
        async with opening(durable=False) as storage:
            assert await keep(storage, a_kept()) == [None]

    @pytest.mark.parametrize(
        "url",
        [
            f"postgresql://eventflow:{PASSWORD}@127.0.0.1:1/x",
            f"postgresql://eventflow:{PASSWORD}@127.0.0.1:1/x?no_such={PASSWORD}",
            f"postgresql://eventflow:{PASSWORD}@[::1:1/x",
        ],
    )
    async def test_no_message_has_the_password(self, url: str, clock: ManualClock) -> None:
        with pytest.raises((ConfigError, StorageUnavailable)) as caught:
            async with opener(url, clock)():
                pass

        assert PASSWORD not in repr(caught.value) + str(caught.value)
        assert caught.value.__cause__ is None

    async def test_a_wrong_password_is_said_without_it(
        self, database: Database, clock: ManualClock
    ) -> None:
        url = database.server.url_of(database.name, password="five-tall-ships")

        with pytest.raises(StorageUnavailable, match="password authentication failed") as caught:
            async with opener(url, clock)():
                pass
        assert "five-tall-ships" not in str(caught.value)


class TestOutages:
    async def test_down_is_said_soon_and_it_comes_back_by_itself(self, clock: ManualClock) -> None:
        with running() as server, server.database() as database:
            async with opener(database.url, clock)() as storage:
                await keep(storage, a_kept("r1"))
                await asyncio.to_thread(server.kill)
                began = time.monotonic()
                with pytest.raises(StorageUnavailable):
                    await keep(storage, a_kept("r2"))
                assert time.monotonic() - began < AT_ONCE_S

                await asyncio.to_thread(server.start)
                await until_kept(storage, "r2")
                assert await hops(storage, "r1.email", "r2.email") == [3, 3]
                assert (await storage.verify()).ok

    async def test_a_restart_between_two_calls_costs_none(self, clock: ManualClock) -> None:
        with running() as server, server.database() as database:
            async with opener(database.url, clock)() as storage:
                await asyncio.gather(*(storage.count(Filter()) for _ in range(8)))
                await asyncio.to_thread(server.stop)
                await asyncio.to_thread(server.start)

                assert await keep(storage, a_kept("r1")) == [None]

    @pytest.mark.timeout(60)
    async def test_one_that_stands_still_is_down(self, clock: ManualClock) -> None:
        """No statement ends, no connection is refused: the time limit is ours."""
        with running() as server, server.database() as database:
            async with opener(database.url, clock)() as storage:
                await keep(storage, a_kept("r1"))
                with server.frozen():
                    for ref in ("r2", "r3"):
                        began = time.monotonic()
                        with pytest.raises(StorageUnavailable):
                            await keep(storage, a_kept(ref))
                        assert time.monotonic() - began < AT_ONCE_S

                await until_kept(storage, "r2", "r3")
                assert await hops(storage, "r1.email", "r2.email", "r3.email") == [3, 3, 3]
                assert len(await storage.trail("r2")) == 1

    async def test_a_line_that_ends_at_the_commit_tells_nothing(self, database: Database) -> None:
        link = await connect(Secret(database.url))

        async def ended(*, before: bool) -> None:
            async with link.transaction() as connection:
                if before:
                    _cut(connection)
                await connection.execute("SELECT 1")
                _cut(connection)

        with pytest.raises(StorageUnanswered):
            await ended(before=False)
        with pytest.raises(StorageUnavailable) as found:
            await ended(before=True)
        assert not isinstance(found.value, StorageUnanswered)
        await link.close()


async def until_kept(storage: PostgresStorage, *names: str, limit_s: float = 15.0) -> None:
    """Say it again until it is taken, as an engine does."""
    give_up_at = time.monotonic() + limit_s
    while True:
        try:
            await keep(storage, *map(a_kept, names))
        except StorageUnavailable:
            if time.monotonic() > give_up_at:
                raise
            await asyncio.sleep(0.2)
        else:
            return
