"""A node starts, pauses, drains, stops, and starts again on what it left."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from eventflow import Batch, Event, EventFlow, QueueFull, RetryLater
from eventflow.clock import rfc3339
from eventflow.engine.protocol import Kind, Queue
from eventflow.errors import EngineUnavailable, EventFlowError, UnknownName
from eventflow.storage.protocol import Actor
from eventflow.testing.clock import EPOCH_S
from eventflow.testing.harness import census, settle, started, virtual
from eventflow.testing.loop import run

if TYPE_CHECKING:
    from pathlib import Path

WHO = Actor("a tester", "to see it")


def event(id: str, **attributes: Any) -> Event:
    return Event(type="work.x", source="/test", id=id, **attributes)


def node(engine: str, handler: Any, seed: int = 1, **settings: Any) -> EventFlow:
    flow = EventFlow(engine=engine, surroundings=virtual(seed))
    flow.topic("work", match="work.*", **settings)(handler)
    return flow


def test_leaving_drains() -> None:
    seen: list[str] = []

    async def work(event: Event) -> None:
        await asyncio.sleep(1)
        seen.append(event.id)

    async def story() -> None:
        async with node("memory:", work) as flow:
            await flow.publish_many([event(str(n)) for n in range(100)])

    run(story())
    assert sorted(seen, key=int) == [str(n) for n in range(100)]


def test_what_runs_may_finish_and_the_rest_is_released(tmp_path: Path) -> None:
    """After the drain time a run is cut off: no attempt, no crash; the next start runs it."""
    ended: list[str] = []
    engine = f"sqlite:{tmp_path}/e.db"

    async def work(event: Event) -> None:
        await asyncio.sleep(1 if event.id == "short" else 100)
        ended.append(event.id)

    async def first() -> None:
        flow = node(engine, work, timeout="10m")
        await flow.start()
        await flow.publish_many([event("short"), event("long")])
        await asyncio.sleep(0.5)
        assert await flow.stop(drain_s=5) == 1
        assert ended == ["short"]

    async def second() -> None:
        flow = node(engine, work, timeout="10m")
        async with started(flow):
            (found,) = await flow.flow.tools.engine.walk(Queue(Kind.TOPIC, "work"))
            assert found.delivery.tally.attempts == 0
            assert found.delivery.tally.crashes == 0
            assert (await settle(flow)).topics["work"].delivered == 2

    run(first())
    run(second())
    assert ended == ["short", "long"]


def test_a_batch_that_died_with_its_node_comes_back_as_lists_of_one(tmp_path: Path) -> None:
    """What was there at a crash is run alone: a batch handler has it as a list all the same."""
    engine = f"sqlite:{tmp_path}/e.db"
    came: list[list[str]] = []

    async def work(events: list[Event]) -> None:
        came.append([event.id for event in events])
        if len(came) == 1:
            await asyncio.sleep(100)

    async def dies() -> None:
        flow = node(engine, work, batch=Batch(max=10), timeout="10m")
        await flow.start()
        await flow.publish_many([event(str(n)) for n in range(3)])
        await asyncio.sleep(0.5)
        dying: Any = flow.flow.tools.engine
        dying.committer.shut("its process is gone")
        dying.journal.close(clean=False)

    async def comes_back() -> None:
        flow = node(engine, work, batch=Batch(max=10), timeout="10m")
        async with started(flow):
            line = (await settle(flow)).topics["work"]
            assert (line.delivered, line.dead) == (3, 0)

    run(dies())
    run(comes_back())
    assert came == [["0", "1", "2"], ["0"], ["1"], ["2"]]


def test_what_expires_while_its_batch_is_gathered_is_not_run() -> None:
    ran: list[str] = []

    async def work(events: list[Event]) -> None:
        ran.extend(event.id for event in events)

    async def story() -> None:
        flow = node("memory:", work, batch=Batch(max=10, linger="30s"))
        async with started(flow):
            soon = rfc3339(EPOCH_S + 5)
            await flow.publish_many([event("1"), event("2", expirytime=soon), event("3")])
            line = (await settle(flow)).topics["work"]
            assert (line.delivered, line.dead) == (2, 1)

    run(story())
    assert ran == ["1", "3"]


def test_a_stopping_node_refuses() -> None:
    async def work(event: Event) -> None:
        await asyncio.sleep(3)

    async def story() -> None:
        flow = node("memory:", work)
        await flow.start()
        await flow.publish(event("1"))
        await asyncio.sleep(0.1)
        stopping = asyncio.create_task(flow.stop())
        await asyncio.sleep(0.1)
        with pytest.raises(EngineUnavailable, match="the node is stopping"):
            await flow.publish(event("2"))
        assert flow.flow.unready() == ["the node is stopping"]
        assert await stopping == 0

    run(story())


def test_hurry_releases_at_once() -> None:
    async def work(event: Event) -> None:
        await asyncio.sleep(1000)

    async def story() -> None:
        flow = node("memory:", work, timeout="1h")
        await flow.start()
        await flow.publish(event("1"))
        await asyncio.sleep(0.1)
        flow.flow.hurry.set()
        began = asyncio.get_running_loop().time()
        assert await flow.stop(drain_s=500) == 1
        assert asyncio.get_running_loop().time() - began < 1

    run(story())


def test_a_paused_topic_waits_over_a_restart(tmp_path: Path) -> None:
    seen: list[str] = []
    engine = f"sqlite:{tmp_path}/e.db"

    async def work(event: Event) -> None:
        seen.append(event.id)

    async def first() -> None:
        async with started(node(engine, work)) as flow:
            await flow.flow.pause("work", WHO)
            await flow.flow.pause("work", WHO)
            await flow.publish(event("1"))
            await asyncio.sleep(60)
            assert (await census(flow)).topics["work"].queued == 1

    async def second() -> None:
        async with started(node(engine, work)) as flow:
            await asyncio.sleep(60)
            assert seen == []
            await flow.flow.resume("work", WHO)
            await settle(flow)
            with pytest.raises(UnknownName, match="Did you mean 'work'"):
                await flow.flow.pause("wrok", WHO)

    run(first())
    run(second())
    assert seen == ["1"]


def test_an_orphan_is_kept(tmp_path: Path) -> None:
    """A topic gone from the configuration that still holds deliveries stays, paused."""
    engine = f"sqlite:{tmp_path}/e.db"

    async def fails(event: Event) -> None:
        raise ConnectionError("down")

    async def first() -> None:
        async with started(node(engine, fails)) as flow:
            await flow.publish(event("1"))
            await asyncio.sleep(0.1)

    async def second() -> None:
        flow = EventFlow(engine=engine, surroundings=virtual())
        async with started(flow):
            assert flow.flow.topics["work"].orphan
            await asyncio.sleep(10_000)
            counts = (await census(flow)).topics["work"]
            assert counts.retrying + counts.parked + counts.queued == 1

    run(first())
    run(second())


def test_publish_waits_for_room() -> None:
    async def work(event: Event) -> None:
        await asyncio.sleep(1)

    async def story() -> None:
        flow = node("memory:", work, concurrency=1, capacity=10, retry={"capacity": 1})
        flow.override({"common": {"capacity": 10}})
        async with started(flow):
            await flow.flow.pause("work", WHO)
            with pytest.raises(QueueFull, match="queue 'common' is full"):
                await flow.publish_many([event(str(n)) for n in range(10)])
            await flow.publish_many([event(str(n)) for n in range(9)], wait_s=1)

    run(story())


def test_an_urgent_event_overtakes() -> None:
    order: list[str] = []

    async def work(event: Event) -> None:
        order.append(event.priority)
        await asyncio.sleep(1)

    async def story() -> None:
        flow = node("memory:", work, concurrency=1)
        async with started(flow):
            for priority in ("low", "normal", "critical"):
                events = [event(f"{priority}{n}", priority=priority) for n in range(85)]
                await flow.publish_many(events)
            await settle(flow)

    run(story())
    first = order[1:86]
    assert first.count("critical") >= 60
    assert first.count("low") >= 1


def test_nothing_works_before_it_is_started() -> None:
    flow = EventFlow(engine="memory:", surroundings=virtual())

    async def story() -> None:
        with pytest.raises(EventFlowError, match="not running: use `async with flow:`"):
            await flow.publish(event("1"))

    run(story())


def test_a_message_that_is_no_text_does_not_stop_the_node() -> None:
    """A lone surrogate in what a handler raised failed the commit, and the engine with it."""

    async def fails(event: Event) -> None:
        if event.id == "later":
            raise RetryLater(1, why="half \ud800")
        raise ValueError("half \ud800")

    async def story() -> None:
        flow = node("memory:", fails, retry={"max_attempts": 2})
        async with started(flow):
            await flow.publish_many([event("fails"), event("later")])
            ledger = await settle(flow)
            assert ledger.topics["work"].dead == 2
            assert flow.flow.unready() == []

    run(story())
