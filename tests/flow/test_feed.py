"""Runs on their way through the slots, where something comes between."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import apsw
import pytest

from eventflow import Event, EventFlow
from eventflow.testing.harness import started, virtual
from eventflow.testing.loop import run


def made(count: int) -> list[Event]:
    return [Event(type="a.made", source="/s", id=str(n)) for n in range(count)]


@pytest.mark.parametrize("concurrency", [1, 8])
def test_a_disk_full_in_the_middle_of_a_run_repeats_and_loses_nothing(concurrency: int) -> None:
    """Settlements that could not be written are tried again, beside what ended meanwhile."""
    handled: Counter[str] = Counter()

    async def main() -> Any:
        flow = EventFlow(engine="memory:", surroundings=virtual())

        @flow.topic("a", match="a.*", concurrency=concurrency)
        async def handle(event: Event) -> None:
            await asyncio.sleep(0.3 * (1 + int(event.id) % 5))
            handled[event.id] += 1

        async with started(flow):
            engine: Any = flow.flow.tools.engine
            commit = engine.journal.commit

            def full(_: Any) -> Any:
                raise apsw.FullError("the disk is full")

            await flow.publish_many(made(40))
            await asyncio.sleep(0.1)
            engine.journal.commit = full
            await asyncio.sleep(2.5)
            engine.journal.commit = commit
            await asyncio.sleep(60)
            return engine.counts("a")

    counts = run(main())

    assert set(handled.values()) == {1}
    assert (counts.delivered, counts.running, counts.queued) == (40, 0, 0)
    assert counts.unaccounted == 0


def test_a_handler_that_ends_the_process_gives_back_what_it_ran_and_no_other() -> None:
    handled: list[str] = []
    queues: list[Any] = []

    async def main() -> None:
        flow = EventFlow(engine="memory:", surroundings=virtual())

        @flow.topic("a", match="a.*", concurrency=1)
        async def handle(event: Event) -> None:
            handled.append(event.id)
            if event.id == "5":
                raise SystemExit(3)

        async with started(flow):
            engine: Any = flow.flow.tools.engine
            queues.append(engine.state.topics["a"])
            await flow.publish_many(made(20))
            await asyncio.sleep(1)

    with pytest.raises(SystemExit):
        run(main())

    assert handled == [str(n) for n in range(6)]
    given_back = sorted(int(entry.delivery.event.id) for entry in queues[0].running.values())
    assert given_back == [*range(5, 20)]  # those of the run that are on their way back


def test_nothing_more_of_a_run_is_started_once_its_lease_is_lost() -> None:
    """After a standstill of its process, say: the rest of it is leased again, and run then."""
    handled: Counter[str] = Counter()

    async def main() -> Any:
        flow = EventFlow(engine="memory:", surroundings=virtual())

        @flow.topic("a", match="a.*", concurrency=1)
        async def handle(event: Event) -> None:
            handled[event.id] += 1
            await asyncio.sleep(4 if int(event.id) >= 20 else 0)

        async with started(flow):
            await flow.publish_many(made(20))
            await asyncio.sleep(1)  # it is known to be quick, so much is fetched ahead
            await flow.publish_many(made(40)[20:])
            await asyncio.sleep(1)
            engine: Any = flow.flow.tools.engine
            queue = engine.state.topics["a"]
            (run_,) = queue.runs.values()
            assert run_.left == 20
            run_.until = queue.next_expiry = 0.0
            await asyncio.sleep(600)
            return engine.counts("a")

    counts = run(main())

    assert counts.delivered == 40
    repeated = [id for id, times in handled.items() if times > 1]
    assert 1 <= len(repeated) <= 4, "only what ran until the loss was noticed"
