"""The doors of two nodes on one server: what one has let in the other has to find out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.engine.test_jetstream import OnOneServer

from eventflow.delivery import COMMON
from eventflow.engine.jetstream.wire import Full
from eventflow.engine.protocol import Plan, TopicPlan
from eventflow.errors import EngineUnavailable, QueueFull
from eventflow.testing.engine_bench import COMMON_QUEUE, EngineBench, events, walk

if TYPE_CHECKING:
    from collections.abc import Sequence

    from eventflow.engine.jetstream.wire import Item, Stored

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

    @pytest.mark.parametrize("room", [True, False])
    async def test_a_server_that_is_full_and_shows_room_refuses_nothing_for_sure(
        self, monkeypatch: pytest.MonkeyPatch, *, room: bool
    ) -> None:
        """One that others have left behind says "full", while their leader stores it."""
        one = await self.start(PLAN)
        if not room:
            await one.accept(events(18))
        wire = one._desk.wire  # noqa: SLF001  # the only seam
        put_all, left_behind = wire.put_all, [True] * 2

        async def put_all_but(items: Sequence[Item]) -> Stored:
            if left_behind:
                left_behind.pop()
                raise Full(10077, 503, "maximum messages exceeded")
            return await put_all(items)

        monkeypatch.setattr(wire, "put_all", put_all_but)
        urgent = events(3, "high", "u")
        with pytest.raises(EngineUnavailable if room else QueueFull):
            await one.accept(urgent)
        left_behind[:] = [True]
        if room:
            assert [one.duplicate for one in await one.accept(urgent)] == [False] * 3
        await one.close()

    async def test_what_the_leader_stored_meanwhile_is_not_refused(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """With it the queue is full: so no room is shown, though the "full" was another's."""
        one = await self.start(PLAN)
        await one.accept(events(18, "high"))
        wire = one._desk.wire  # noqa: SLF001  # the only seam
        put_all = wire.put_all

        async def put_all_behind(items: Sequence[Item]) -> Stored:
            await put_all(items)
            raise Full(10077, 503, "maximum messages exceeded")

        monkeypatch.setattr(wire, "put_all", put_all_behind)
        receipts = await one.accept(events(2, "high", "u"))
        assert [receipt.duplicate for receipt in receipts] == [False] * 2
        assert len(await walk(one, COMMON_QUEUE)) == 20
        await one.close()
