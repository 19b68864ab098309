"""The doors of two nodes on one server: what one has let in the other has to find out."""

from __future__ import annotations

import pytest
from tests.engine.test_jetstream import OnOneServer

from eventflow.delivery import COMMON
from eventflow.engine.protocol import Plan, TopicPlan
from eventflow.errors import QueueFull
from eventflow.testing.engine_bench import COMMON_QUEUE, EngineBench, events, walk

pytestmark = pytest.mark.slow  # a real server

PLAN = Plan(topics={COMMON: TopicPlan(20)})


class TestDoors(OnOneServer, EngineBench):
    async def test_only_what_is_new_needs_room(self) -> None:
        """A batch comes again, with some more, to a node that has not seen it."""
        one, other = await self.start(PLAN), await self.start(PLAN, node="n2")
        first = await one.accept(events(10))

        await other.refresh()  # how full common is
        receipts = await other.accept(events(18))
        assert [receipt.duplicate for receipt in receipts] == [True] * 10 + [False] * 8
        assert [receipt.ref for receipt in receipts[:10]] == [receipt.ref for receipt in first]
        assert len(await walk(one, COMMON_QUEUE)) == 18

        await one.refresh()
        with pytest.raises(QueueFull):  # the last two places are for what is urgent
            await one.accept(events(19))
        assert len(await walk(one, COMMON_QUEUE)) == 18
        for engine in self.opened:
            await engine.close()
