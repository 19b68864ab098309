"""Runs of plain deliveries in the embedded engine, where something comes between."""

from __future__ import annotations

import asyncio
from random import Random
from typing import TYPE_CHECKING, Any, ClassVar

import pytest

from eventflow.delivery import COMMON
from eventflow.engine.embedded import EmbeddedEngine, cleaning, open_engine
from eventflow.engine.embedded.committer import SOON_S
from eventflow.engine.embedded.writer import InlineWriter
from eventflow.engine.protocol import Finish, Plan, TopicPlan
from eventflow.errors import EngineUnavailable
from eventflow.testing import CrashDisk, VirtualClock, run
from eventflow.testing.engine_bench import LEASE_S, STRAIGHT, bring, event, events, topic, walk

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from eventflow.engine.protocol import Run


class SlowWriter(InlineWriter):
    """Takes its time, so that others go on while a commit is under way."""

    commit_s: ClassVar[float] = 0.01

    def run(self, work: Callable[[], Any], told: Callable[..., None]) -> None:
        def later(*done: Any) -> None:
            asyncio.get_running_loop().call_later(self.commit_s, told, *done)

        super().run(work, later)


@pytest.fixture
def disk() -> Iterator[CrashDisk]:
    disk = CrashDisk()
    yield disk
    disk.unregister()


async def start(disk: CrashDisk) -> EmbeddedEngine:
    engine = await open_engine(
        "j.db",
        clock=VirtualClock(),
        draw_bits=Random(1).getrandbits,
        writer=SlowWriter,
        vfs=disk.name,
    )
    await engine.apply(
        Plan({COMMON: TopicPlan(500), "a": TopicPlan(500, 9), "b": TopicPlan(500, 9)})
    )
    STRAIGHT.add(engine)
    return engine


async def leased(engine: EmbeddedEngine, count: int) -> Run:
    (found,) = (await engine.lease(topic("a"), limit=count, wait_s=0)).parts
    return found  # type: ignore[return-value]  # all of it came as a run


@pytest.mark.parametrize("cut", [5, 12])
def test_a_run_leased_while_it_is_told_again_is_found_again(
    disk: CrashDisk, monkeypatch: pytest.MonkeyPatch, cut: int
) -> None:
    """The batch that its events were written anew to goes, when nothing in memory needs it."""
    monkeypatch.setattr(cleaning, "JOURNAL_LIMIT_BYTES", 1)
    monkeypatch.setattr(cleaning, "BYTES_A_LIVE_ENTRY", 0)

    async def story() -> list[str]:
        engine = await start(disk)
        await bring(engine, "a", *events(100))
        await engine.settle([Finish(await leased(engine, 88), [(0, 88)])])
        n = 0
        told = engine._cleaner._restate_run  # noqa: SLF001  # to know when
        seen = asyncio.Event()

        def tell(*given: Any) -> Any:
            seen.set()
            return told(*given)

        monkeypatch.setattr(engine._cleaner, "_restate_run", tell)  # noqa: SLF001
        telling = asyncio.ensure_future(seen.wait())
        while not telling.done():
            bringing = asyncio.ensure_future(bring(engine, "b", event(f"x{n}")))
            await asyncio.wait([bringing, telling], return_when=asyncio.FIRST_COMPLETED)
            n += 1
            assert n < 100, "it is never told again"
        await leased(engine, cut)
        if cut < 12:
            rest = await leased(engine, 12 - cut)
            await engine.settle([Finish(rest, [(0, 12 - cut)])])
        for n in range(10):
            await bring(engine, "b", event(f"y{n}"))
        await engine.committer.idle()
        image = disk.killed()
        await engine.close()
        after = CrashDisk.from_image(image)
        engine = await start(after)
        held = [one.event.id for one in await walk(engine, topic("a"))]
        await engine.close()
        after.unregister()
        return held

    assert run(story()) == [f"e{n}" for n in range(88, 88 + cut)]


def test_what_is_taken_out_while_its_start_is_not_written_is_told_of_with_the_next(
    disk: CrashDisk,
) -> None:
    """The commit that was to tell of the run fails: nothing of the run may count as told."""

    async def story() -> list[int]:
        engine = await start(disk)
        await bring(engine, "a", *events(3))
        disk.fail_write()
        part = await leased(engine, 3)
        await asyncio.sleep(2 * SOON_S)  # its start is on its way to the disk
        part.lease(1)
        await asyncio.sleep(2 * SlowWriter.commit_s)
        disk.heal()
        await bring(engine, "b", event("next"))
        image = disk.killed()
        await engine.close()
        with CrashDisk.from_image(image) as after:
            engine = await start(after)
            crashes = [one.tally.crashes for one in await walk(engine, topic("a"))]
            await engine.close()
        return crashes

    assert run(story()) == [1, 1, 1]


def test_a_run_that_ran_out_while_it_was_settled_is_leased_again(
    disk: CrashDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though its lease was extended meanwhile, and the settlement failed."""

    async def story() -> tuple[list[bool], int]:
        engine = await start(disk)
        await bring(engine, "a", *events(3))
        part = await leased(engine, 3)
        await asyncio.sleep(1)
        disk.fail_write()
        monkeypatch.setattr(SlowWriter, "commit_s", LEASE_S + 10)
        settling = asyncio.ensure_future(engine.settle([Finish(part, [(0, 3)])]))
        await asyncio.sleep(LEASE_S + 1)
        assert not await engine.lease(topic("a"), limit=9, wait_s=0)
        extended = await engine.extend([part])
        with pytest.raises(EngineUnavailable):
            await settling
        disk.heal()
        monkeypatch.setattr(SlowWriter, "commit_s", 0.01)
        await asyncio.sleep(LEASE_S)
        again = await engine.lease(topic("a"), limit=9, wait_s=0)
        await engine.close()
        return list(extended), len(again)

    assert run(story()) == ([True], 3)
