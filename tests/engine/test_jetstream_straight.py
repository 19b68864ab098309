"""Events of one route skip common on JetStream: one write, and still counted and known there.

Two nodes on one server, since what one of them knows the other has to find out.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from tests.engine.test_jetstream import OnOneServer

from eventflow.delivery import DELIVERED
from eventflow.engine.protocol import Plan, Receipt, TopicPlan, Way
from eventflow.errors import QueueFull
from eventflow.testing.engine_bench import (
    COMMON_QUEUE,
    QUEUED,
    EngineBench,
    event,
    events,
    ids,
    lease_one,
    route,
    settle,
    topic,
    walk,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from eventflow.engine.jetstream import JetStreamEngine
    from eventflow.event import Event

pytestmark = pytest.mark.slow  # a real server

PLAN = Plan(topics={"common": TopicPlan(100), "a": TopicPlan(10), "b": TopicPlan(10)})


async def to_a(engine: JetStreamEngine, given: Sequence[Event]) -> list[Receipt]:
    return list(await engine.accept(given, [Way(("a",), range(len(given)), 2)]))


class TestStraight(OnOneServer, EngineBench):
    async def nodes(self) -> tuple[JetStreamEngine, JetStreamEngine]:
        return await self.start(PLAN), await self.start(PLAN, node="n2")

    async def counted(self, engine: JetStreamEngine) -> tuple[int, int, int]:
        """Return created and delivered of common, and created of the topic."""
        await engine.refresh()
        census = await engine.census(walk=True)
        assert census.unaccounted == 0, census
        common, a = census.topics["common"], census.topics["a"]
        assert (common.queued, common.running) == (0, 0)
        return common.created, common.delivered, a.created

    async def test_they_are_in_their_topic_and_counted_in_common(self) -> None:
        one, other = await self.nodes()
        receipts = await to_a(one, events(3))

        found = await walk(other, topic("a"))
        assert [(f.event.id, f.ref, f.hop) for f in found] == [
            (f"e{n}", receipt.ref, 0) for n, receipt in enumerate(receipts)
        ]
        assert await walk(other, COMMON_QUEUE) == []
        assert await self.counted(one) == await self.counted(other) == (3, 3, 3)
        await self.end(one, other)

    async def test_their_ids_are_known_to_all_also_when_they_have_gone(self) -> None:
        one, other = await self.nodes()
        (first,) = await to_a(one, [event("1")])

        assert await to_a(other, [event("1")]) == [Receipt(first.ref, duplicate=True)]
        await settle(one, await lease_one(one, topic("a")), DELIVERED)
        fresh = await self.start(PLAN, node="n3")
        assert await to_a(fresh, [event("1")]) == [Receipt(None, duplicate=True)]
        known, new = await to_a(fresh, [event("1"), event("2")])
        assert (known.duplicate, new.duplicate) == (True, False)
        assert ids(await walk(one, topic("a"))) == ["2"]
        assert await self.counted(other) == (2, 2, 2)
        await self.end(one, other, fresh)

    async def test_without_room_they_go_through_common(self) -> None:
        one, other = await self.nodes()
        for n in range(9):  # the last tenth is for those of a higher priority
            await to_a(one, [event(f"e{n}")])
        (late,) = await to_a(one, [event("late")])

        (found,) = await walk(other, COMMON_QUEUE)
        assert (found.event.id, found.ref) == ("late", late.ref)
        census = await one.census(walk=True)
        assert (census.unaccounted, census.topics["common"].created) == (0, 10)
        await self.end(one, other)

    async def test_a_detour_makes_no_second_one_of_it(self) -> None:
        """Sent again when there is room, to another node: it is known in common's stream only."""
        one, other = await self.nodes()
        for n in range(9):
            await to_a(one, [event(f"e{n}")])
        (late,) = await to_a(one, [event("late")])
        in_common = await lease_one(one, COMMON_QUEUE)
        await settle(one, await lease_one(one, topic("a")), DELIVERED)
        await one.refresh()
        await other.refresh()

        assert await to_a(other, [event("late")]) == [Receipt(late.ref, duplicate=True)]
        await route(one, in_common, {"a": [QUEUED]})
        fresh = await self.start(PLAN, node="n3")
        assert await to_a(fresh, [event("late")]) == [Receipt(None, duplicate=True)]
        assert ids(await walk(one, topic("a"))).count("late") == 1
        await self.end(one, other, fresh)

    async def test_full_is_said_of_common(self) -> None:
        one, other = await self.nodes()
        for n in range(9):
            await to_a(one, [event(f"e{n}")])
        await one.accept([event(f"c{n}") for n in range(90)])

        with pytest.raises(QueueFull) as full:
            await to_a(one, [event("late")])
        assert full.value.queue == "common"
        assert await to_a(other, [event("e3")]) != []  # known: it needs no room
        await self.end(one, other)

    async def test_those_of_several_topics_go_through_common(self) -> None:
        one, other = await self.nodes()
        ways = [Way(("a",), [0], 2), Way(("b",), [1], 2)]
        await one.accept(events(2), ways)
        await one.accept([event("x"), event("y")], [Way(("a",), [0], 2)])

        assert ids(await walk(other, COMMON_QUEUE)) == ["e0", "e1", "x", "y"]
        await self.end(one, other)

    async def test_what_a_node_that_died_had_accepted_is_counted(self) -> None:
        one, other = await self.nodes()
        await asyncio.gather(*(to_a(one, [event(f"e{n}")]) for n in range(5)))
        await one.cut_off()

        assert await self.counted(other) == (5, 5, 5)
        await self.end(other)

    async def end(self, *engines: JetStreamEngine) -> None:
        for engine in engines:
            await engine.close()
