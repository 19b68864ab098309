"""The JetStream engine keeps the engine contract on real servers, with one replica and with three.

Time can't be virtual here: the server has its own. Instead the clock runs `rate` times as fast, and
the engine asks the server for leases, delays and windows that are as much shorter.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager, contextmanager
from random import Random
from typing import TYPE_CHECKING, Any, ClassVar

import pytest
from tests.engine.jetstream_server import Cluster, Server, clear

from eventflow.delivery import COMMON
from eventflow.engine.jetstream import JetStreamEngine, open_engine
from eventflow.engine.protocol import Plan, TopicPlan
from eventflow.errors import StorageUnavailable
from eventflow.storage.sqlite import SqliteStorage, open_storage
from eventflow.testing.engine_bench import COMMON_QUEUE, LEASE_S, STRAIGHT, event, walk
from eventflow.testing.engine_contract import DurableEngineContract

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from eventflow.engine.protocol import Engine, Queue
    from eventflow.engine.runs import Leases
    from eventflow.storage.protocol import Keeper, Storage

# A real server, and its real time: margins are some 50 ms, which a machine that shares its cores
# takes away now and then. In CI `tests/app/test_jetstream_node.py` speaks to a server.
pytestmark = pytest.mark.prove

EPOCH_S = 1_767_225_600.0
WRITTEN_S = 0.3
"""In real seconds: the server writes down a little later what it has delivered (see the ADR)."""


class FastClock:
    """A clock of which so many seconds pass in a real one."""

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._began = time.monotonic()

    def now_s(self) -> float:
        return EPOCH_S + (time.monotonic() - self._began) * self._rate


class FaultyStorage(SqliteStorage):
    """Refuses what comes and goes while `down`."""

    down: ClassVar[bool] = False

    async def keep(self, *args: Any, **more: Any) -> Any:
        self._check()
        return await super().keep(*args, **more)

    async def holds(self, *args: Any) -> Any:
        self._check()
        return await super().holds(*args)

    async def forget(self, *args: Any) -> Any:
        self._check()
        return await super().forget(*args)

    async def note(self, *args: Any) -> None:
        self._check()
        await super().note(*args)

    @classmethod
    def _check(cls) -> None:
        if cls.down:
            raise StorageUnavailable("a test has switched it off")


class OnOneServer:
    """One server with one replica, and one node."""

    PLAN: ClassVar[Plan]
    replicas = 1
    rate = 20.0

    @pytest.fixture(autouse=True)
    def _server(self, tmp_path: Path) -> Iterator[None]:
        self.folder = tmp_path
        self.clock = FastClock(self.rate)
        self.server: Server | Cluster = Server(tmp_path)
        self.server.start()
        self.opened: list[JetStreamEngine] = []
        yield
        self.server.kill()

    async def stored(self, node: str) -> Keeper:
        file = "storage.db" if node == "n1" else f"{node}.db"
        return await open_storage(
            str(self.folder / file), clock=self.clock, chain=node, kind=FaultyStorage
        )

    async def start(self, plan: Plan, node: str = "n1") -> JetStreamEngine:
        engine = await open_engine(
            self.server.url,
            storage=await self.stored(node),
            clock=self.clock,
            node=node,
            replicas=self.replicas,
            rate=self.rate,
            draw_bits=Random(1).getrandbits,
        )
        self.opened.append(engine)
        await engine.apply(plan)
        return engine

    @asynccontextmanager
    async def open_engine(self, plan: Plan) -> AsyncIterator[Engine]:
        engine = await self.start(plan)
        try:
            yield engine
        finally:
            for one in self.opened:
                await one.close()

    async def let_pass(self, seconds: float) -> None:
        await asyncio.sleep(seconds / self.rate)

    def now_s(self) -> float:
        return self.clock.now_s()

    def storage(self, engine: Engine) -> Storage:
        assert isinstance(engine, JetStreamEngine)
        return engine.storage

    @contextmanager
    def storage_refuses(self) -> Iterator[None]:
        FaultyStorage.down = True
        try:
            yield
        finally:
            FaultyStorage.down = False

    async def crash(self, engine: Engine) -> Engine:
        """Kill the server, and cut the node off; until its leases are over nobody has them."""
        assert isinstance(engine, JetStreamEngine)
        await asyncio.sleep(WRITTEN_S)
        self.server.kill()
        await engine.cut_off()
        self.server.start()
        again = await self.start(self.PLAN)
        await self.let_pass(LEASE_S + 1)
        return again

    async def reopen(self, engine: Engine) -> Engine:
        await engine.close()
        return await self.start(self.PLAN)


class TestOneServer(OnOneServer, DurableEngineContract):
    pass


class TestOneServerStraight(OnOneServer, DurableEngineContract):
    """Events of one route go into their topic without a stay in common: see ADR 0013."""

    async def start(self, plan: Plan, node: str = "n1") -> JetStreamEngine:
        engine = await super().start(plan, node)
        STRAIGHT.add(engine)
        return engine


class OnThreeServers(OnOneServer):
    """Three servers with three replicas, and one node. They serve all tests: to agree takes 5 s."""

    replicas = 3
    rate = 4.0
    behind_s = 0.05
    """In real seconds: who hands out a queue hears so much later of what came and went back."""

    async def start(self, plan: Plan, node: str = "n1") -> JetStreamEngine:
        engine = await super().start(plan, node)
        lease = engine.lease

        async def lease_later(queue: Queue, *, limit: int, wait_s: float) -> Leases:
            await asyncio.sleep(self.behind_s)
            return await lease(queue, limit=limit, wait_s=wait_s)

        engine.lease = lease_later  # type: ignore[method-assign]  # tests ask what is there at once
        return engine

    @pytest.fixture(scope="class")
    @staticmethod
    def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
        cluster = Cluster(tmp_path_factory.mktemp("servers"))
        cluster.start()
        yield cluster
        cluster.kill()

    @pytest.fixture(autouse=True)
    def _server(self, tmp_path: Path, cluster: Cluster) -> Iterator[None]:
        self.folder = tmp_path
        self.clock = FastClock(self.rate)
        self.server = cluster
        self.opened: list[JetStreamEngine] = []
        yield
        asyncio.run(clear(cluster))


@pytest.mark.timeout(180)  # three that were killed take some 5 s to agree on a leader
class TestThreeServers(OnThreeServers, DurableEngineContract):
    async def test_what_was_accepted_is_walked_at_once(self) -> None:
        """Any of the servers may answer, and two of them are a little behind."""
        engine = await self.start(Plan({COMMON: TopicPlan(200)}))
        walked = []
        for number in range(150):
            await engine.accept([event(f"e{number}")])
            walked.append(len(await walk(engine, COMMON_QUEUE)))
        await engine.close()

        assert walked == [*range(1, 151)]
