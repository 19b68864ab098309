"""The embedded engine keeps the engine contract, and what only a file can promise."""

from __future__ import annotations

import asyncio
import shutil
from contextlib import asynccontextmanager, contextmanager, suppress
from random import Random
from typing import TYPE_CHECKING, Any, ClassVar

import pytest

from eventflow.engine.embedded import EmbeddedEngine, open_engine
from eventflow.engine.embedded.writer import InlineWriter, ThreadWriter
from eventflow.errors import StorageUnavailable
from eventflow.storage.shelf import Shelf
from eventflow.testing import ManualClock, VirtualClock
from eventflow.testing.engine_bench import STRAIGHT
from eventflow.testing.engine_contract import (
    Capacities,
    Durability,
    DurableEngineContract,
    EngineContract,
    Memory,
    Moves,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence
    from pathlib import Path

    from eventflow.clock import Clock
    from eventflow.engine.protocol import Engine, Plan
    from eventflow.storage.protocol import Kept, Storage


class FaultyShelf(Shelf):
    """Refuses what comes and goes while `down`."""

    down: ClassVar[bool] = False

    def keep(self, items: Sequence[Kept]) -> None:
        self._check()
        super().keep(items)

    def forget(self, pairs: Sequence[tuple[str, int]]) -> list[bool]:
        self._check()
        return super().forget(pairs)

    @classmethod
    def _check(cls) -> None:
        if cls.down:
            raise StorageUnavailable("a test has switched it off")


class EmbeddedBench:
    """What all variants of the embedded engine have in common."""

    virtual_loop = True
    clock: Clock = VirtualClock()
    writer: Any = InlineWriter
    durability = "fsync"

    async def open(self, path: str, plan: Plan, **more: Any) -> EmbeddedEngine:
        more = {"shelf": FaultyShelf, "writer": self.writer, "durability": self.durability} | more
        engine = await open_engine(path, clock=self.clock, draw_bits=Random(1).getrandbits, **more)
        await engine.apply(plan)
        return engine

    async def let_pass(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    def now_s(self) -> float:
        return self.clock.now_s()

    def storage(self, engine: Engine) -> Storage:
        assert isinstance(engine, EmbeddedEngine)
        return engine.storage

    @contextmanager
    def storage_refuses(self) -> Iterator[None]:
        FaultyShelf.down = True
        try:
            yield
        finally:
            FaultyShelf.down = False


class InMemory(EmbeddedBench):
    @asynccontextmanager
    async def open_engine(self, plan: Plan) -> AsyncIterator[Engine]:
        engine = await self.open(":memory:", plan)
        try:
            yield engine
        finally:
            await engine.close()


class InFile(EmbeddedBench):
    """In a file. A crash is a copy of what it wrote, opened anew; the old one is left alone."""

    PLAN: ClassVar[Plan]

    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path) -> None:
        self.folder = tmp_path
        self.opened: list[EmbeddedEngine] = []

    @property
    def path(self) -> Path:
        return self.folder / f"{len(self.opened)}.db"

    async def start(self, plan: Plan) -> EmbeddedEngine:
        engine = await self.open(str(self.path), plan)
        self.opened.append(engine)
        return engine

    @asynccontextmanager
    async def open_engine(self, plan: Plan) -> AsyncIterator[Engine]:
        engine = await self.start(plan)
        try:
            yield engine
        finally:
            for one in self.opened:
                await one.close()

    async def crash(self, engine: Engine) -> Engine:
        assert isinstance(engine, EmbeddedEngine)
        for suffix in ("", "-wal"):
            with suppress(FileNotFoundError):
                shutil.copy(f"{engine.journal.path}{suffix}", f"{self.path}{suffix}")
        return await self.start(self.PLAN)

    async def reopen(self, engine: Engine) -> Engine:
        assert isinstance(engine, EmbeddedEngine)
        await engine.close()
        return await self.crash(engine)


class TestMemory(InMemory, EngineContract, Memory):
    pass


class TestFile(InFile, DurableEngineContract, Memory):
    """Without fsync, which a crash of a process does not need: see TestFileWithThread."""

    durability = "os"


class TestFileStraight(InFile, DurableEngineContract, Memory):
    """Where nothing waits in common, events are accepted and routed in one write, and stay runs."""

    durability = "os"

    async def open(self, path: str, plan: Plan, **more: Any) -> EmbeddedEngine:
        engine = await super().open(path, plan, **more)
        STRAIGHT.add(engine)
        return engine


class TestFileWithThread(InFile, Capacities, Moves, Durability):
    """On a real loop, with the writer's own thread and fsync; the clock is turned by hand."""

    virtual_loop = False
    writer: Any = ThreadWriter

    @pytest.fixture(autouse=True)
    def _clock(self) -> None:
        self.hands = ManualClock()
        self.clock = self.hands

    async def let_pass(self, seconds: float) -> None:
        self.hands.advance(seconds)
        await asyncio.sleep(0.02)  # for the writer's thread
