"""A batch handler says for each event what became of it; each goes its own way from there."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from typing import Any

import pytest

from eventflow import Batch, Delivery, Event, EventFlow, Permanent, RetryLater
from eventflow.testing import on_virtual_time, settle, trial

COUNT = 40


def events(count: int = COUNT) -> list[Event]:
    return [Event(type="row.new", source="/s", id=str(n), data=n) for n in range(count)]


def flow_of(handler: Any, **settings: Any) -> EventFlow:
    flow = EventFlow(engine="memory:")
    batch = Batch(max=16)
    retry = {"max_attempts": 3, "base": "1s"}
    flow.topic("rows", match="row.*", batch=batch, retry=retry, **settings)(handler)
    return flow


def verdict(n: int, attempt: int, postponed: int) -> Exception | None:
    """Return what the handler below says of an event: every kind there is, by its number."""
    match n % 5:
        case 1:
            return OSError("gone") if attempt < 3 else None
        case 2:
            return RetryLater(600, count=False) if postponed < 2 else None
        case 3:
            return Permanent("no such row")
        case 4:
            return KeyError("column")
        case _:
            return None


@on_virtual_time(seed=11)
async def test_each_event_has_its_own_end() -> None:
    runs: Counter[int] = Counter()
    times: defaultdict[int, list[float]] = defaultdict(list)

    async def store(events: list[Event], deliveries: list[Delivery]) -> list[Exception | None]:
        assert [one.event for one in deliveries] == events
        await asyncio.sleep(0.1)
        for event in events:
            runs[event.data] += 1
            times[event.data].append(asyncio.get_running_loop().time())
        return [verdict(one.event.data, one.attempt, one.tally.postponed) for one in deliveries]

    async with trial(flow_of(store)) as node:
        await node.publish_many(events())
        rows = (await settle(node)).topics["rows"]

    expected = {0: 1, 1: 3, 2: 3, 3: 1, 4: 1}
    assert runs == {n: expected[n % 5] for n in range(COUNT)}
    assert (rows.delivered, rows.dead) == (COUNT * 3 // 5, COUNT * 2 // 5)
    for n in range(2, COUNT, 5):
        waits = [later - earlier for earlier, later in zip(times[n], times[n][1:], strict=False)]
        assert min(waits) >= 600, "no event comes back before it asked to"


@on_virtual_time(seed=12)
async def test_what_gather_returns_can_be_returned() -> None:
    """The natural way to handle a batch of calls: exceptions are outcomes, None is well."""
    tries: Counter[int] = Counter()

    async def call(event: Event) -> None:
        tries[event.data] += 1
        if event.data % 4 == 0 and tries[event.data] == 1:
            raise ConnectionError("one call failed")

    async def store(events: list[Event]) -> list[BaseException | None]:
        return await asyncio.gather(*map(call, events), return_exceptions=True)

    async with trial(flow_of(store)) as node:
        await node.publish_many(events())
        rows = (await settle(node)).topics["rows"]

    assert rows.delivered == COUNT
    assert tries == {n: 2 if n % 4 == 0 else 1 for n in range(COUNT)}


@on_virtual_time(seed=13)
async def test_an_exception_that_is_raised_is_that_of_all() -> None:
    lengths: list[int] = []

    def store(events: list[Event]) -> None:
        lengths.append(len(events))
        if len(lengths) == 1:
            raise ConnectionError("no database")

    async with trial(flow_of(store, concurrency=1)) as node:
        await node.publish_many(events())
        rows = (await settle(node)).topics["rows"]

    assert rows.delivered == COUNT
    assert lengths[0] > 1
    assert sum(lengths[1:]) == COUNT, "those of the first list, and the others, once each"


@pytest.mark.parametrize("returned", [[None], ["ok"] * 4, 4, {}])
def test_an_answer_that_says_nothing_sure_costs_no_second_run(returned: Any) -> None:
    """Dead with the reason, to be replayed once the code is mended: a retry would do it again."""
    runs: list[int] = []

    def store(events: list[Event]) -> Any:
        runs.append(len(events))
        return returned

    @on_virtual_time(seed=14)
    async def story() -> int:
        async with trial(flow_of(store, concurrency=1)) as node:
            await node.publish_many(events(4))
            return (await settle(node)).topics["rows"].dead

    assert story() == 4
    assert runs == [4]
