"""That something runs is told soon, whatever else goes on: else a process that it kills forgets."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from functools import partial
from random import Random
from typing import TYPE_CHECKING

from eventflow.delivery import COMMON, Reason, Retrying, Row, Tally
from eventflow.engine.embedded import open_engine
from eventflow.engine.embedded.writer import InlineWriter
from eventflow.engine.protocol import Plan, Settle, TopicPlan
from eventflow.testing import CrashDisk, VirtualClock, run
from eventflow.testing.engine_bench import bring, event, lease, topic

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from eventflow.engine.embedded import EmbeddedEngine

COMMIT_S = 0.5
RETRY = Retrying(Row.RETRY, Tally(1), 0.0, Reason.HANDLER_ERROR)


@asynccontextmanager
async def opened(disk: CrashDisk) -> AsyncIterator[EmbeddedEngine]:
    engine = await open_engine(
        "j.db",
        clock=VirtualClock(),
        draw_bits=Random(1).getrandbits,
        writer=partial(InlineWriter, lambda: COMMIT_S),
        vfs=disk.name,
    )
    await engine.apply(Plan({COMMON: TopicPlan(100), "a": TopicPlan(100, 0), "b": TopicPlan(100)}))
    try:
        yield engine
    finally:
        await engine.close()


async def crashes_after_a_kill(disk: CrashDisk, name: str) -> int:
    """Return how many crashes the first delivery of a topic has when its process is killed now."""
    with CrashDisk.from_image(disk.killed()) as left:
        async with opened(left) as engine:
            (one,) = await lease(engine, topic(name))
            return one.delivery.tally.crashes


def test_what_is_leased_while_a_commit_is_under_way() -> None:
    async def story() -> tuple[int, int]:
        with CrashDisk() as disk:
            async with opened(disk) as engine:
                await bring(engine, "a", event("1"))
                await asyncio.sleep(10)
                accepting = asyncio.ensure_future(engine.accept([event("2")]))
                await asyncio.sleep(COMMIT_S / 2)
                await lease(engine, topic("a"))
                before = await crashes_after_a_kill(disk, "a")
                await accepting
                await asyncio.sleep(10)
                return before, await crashes_after_a_kill(disk, "a")

    assert run(story()) == (0, 1)


def test_what_found_no_place_runs_on() -> None:
    """Leased and settled in one breath, and refused: its lane has no room."""

    async def story() -> int:
        with CrashDisk() as disk:
            async with opened(disk) as engine:
                await bring(engine, "a", event("1"))
                await asyncio.sleep(10)
                (one,) = await lease(engine, topic("a"))
                (answer,) = await engine.settle([Settle(one, (RETRY,))])
                assert answer.refused == "full"
                await asyncio.sleep(10)
                assert not engine._riders._fresh  # noqa: SLF001  # nothing is kept for ever
                return await crashes_after_a_kill(disk, "a")

    assert run(story()) == 1


def test_what_nobody_took_is_told_soon() -> None:
    async def story() -> int:
        with CrashDisk() as disk:
            async with opened(disk) as engine:
                await bring(engine, "a", event("1"))
                await asyncio.sleep(10)
                (one,) = await lease(engine, topic("a"))
                await asyncio.sleep(10)  # it is on record that it runs
                engine._take_back([one])  # noqa: SLF001  # as where whoever asked has gone away
                await asyncio.sleep(10)
                return await crashes_after_a_kill(disk, "a")

    assert run(story()) == 0
