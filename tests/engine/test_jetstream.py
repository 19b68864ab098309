"""The JetStream engine keeps the engine contract on a real server, one replica.

Time can't be virtual here: the server has its own. Instead the clock runs `RATE` times as fast, and
the engine asks the server for leases, delays and windows that are as much shorter.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager, contextmanager
from random import Random
from typing import TYPE_CHECKING, Any, ClassVar

import pytest
from tests.engine.jetstream_server import Server

from eventflow.engine.jetstream import JetStreamEngine, open_engine
from eventflow.errors import StorageUnavailable
from eventflow.storage.sqlite import SqliteStorage, open_storage
from eventflow.testing.engine_bench import LEASE_S
from eventflow.testing.engine_contract import DurableEngineContract

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from eventflow.engine.protocol import Engine, Plan
    from eventflow.storage.protocol import Storage

# A real server, and its real time: margins are some 50 ms, which a machine that shares its cores
# takes away now and then. In CI `tests/app/test_jetstream_node.py` speaks to a server.
pytestmark = pytest.mark.prove

RATE = 20.0
EPOCH_S = 1_767_225_600.0
WRITTEN_S = 0.3
"""In real seconds: the server writes down a little later what it has delivered (see the ADR)."""


class FastClock:
    """A clock whose seconds are shorter."""

    def __init__(self) -> None:
        self._began = time.monotonic()

    def now_s(self) -> float:
        return EPOCH_S + (time.monotonic() - self._began) * RATE


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

    @classmethod
    def _check(cls) -> None:
        if cls.down:
            raise StorageUnavailable("a test has switched it off")


class OnOneServer:
    """One server with one replica, and one node."""

    PLAN: ClassVar[Plan]

    @pytest.fixture(autouse=True)
    def _server(self, tmp_path: Path) -> Iterator[None]:
        self.folder = tmp_path
        self.clock = FastClock()
        self.server = Server(tmp_path)
        self.server.start()
        self.opened: list[JetStreamEngine] = []
        yield
        self.server.kill()

    async def start(self, plan: Plan) -> JetStreamEngine:
        storage = await open_storage(
            str(self.folder / "storage.db"), clock=self.clock, chain="n1", kind=FaultyStorage
        )
        engine = await open_engine(
            self.server.url,
            storage=storage,
            clock=self.clock,
            node="n1",
            rate=RATE,
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
        await asyncio.sleep(seconds / RATE)

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
