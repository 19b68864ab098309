"""Where servers forget ids, and a message is there again, two of one delivery are both counted.

A node that dies before its acks stands for a server that forgets them; a server that was killed
knows no ids of what has gone on (`test_jetstream_probe.py`).
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from tests.engine.test_jetstream import OnOneServer

from eventflow.delivery import DELIVERED
from eventflow.engine.protocol import Route, Settle, Target, Way
from eventflow.errors import StorageUnanswered
from eventflow.testing.engine_bench import (
    COMMON_QUEUE,
    LEASE_S,
    QUEUED,
    EngineBench,
    dead_place,
    event,
    kept,
    lane,
    lease_one,
    settle,
    topic,
    walk,
)

if TYPE_CHECKING:
    from typing import Any

    from eventflow.delivery import Place
    from eventflow.engine.jetstream import JetStreamEngine
    from eventflow.engine.protocol import Counts, Lease

pytestmark = pytest.mark.slow  # a real server


class TestTwice(OnOneServer, EngineBench):
    @pytest.fixture(autouse=True)
    def _patching(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.monkeypatch = monkeypatch

    async def ended_without_ack(self, engine: JetStreamEngine, act: Any) -> None:
        """Carry out an act up to its record, and be dead then."""

        async def never(*_: object) -> None:
            raise Dying

        self.monkeypatch.setattr(engine._desk, "acked", never)  # noqa: SLF001  # the only seam
        with pytest.raises(Dying):
            await engine.settle([act])
        await engine.cut_off()

    async def forget_ids(self, engine: JetStreamEngine) -> JetStreamEngine:
        """Kill the server with the node, and return another node when all leases are over."""
        await engine.cut_off()
        self.server.kill()
        self.server.start()
        await self.let_pass(LEASE_S + 1)
        return await self.start(self.PLAN, node="n3")

    async def counted(self, engine: JetStreamEngine) -> Counts:
        await engine.refresh()
        census = await engine.census(walk=True)
        assert census.unaccounted == 0, census
        assert (await engine.census()).unaccounted == 0
        return census.topics["a"]

    async def moved_without_ack(self, place: Place) -> JetStreamEngine:
        """Return another node: an event is still in its topic, though it has gone to a place."""
        one = await self.start(self.PLAN)
        await one.accept([event("1")], [Way(("a",), [0], 2)])
        await self.ended_without_ack(one, Settle(await lease_one(one, topic("a")), (place,), None))
        return await self.start(self.PLAN, node="n2")

    async def test_a_move_is_taken_again_where_its_id_is_forgotten(self) -> None:
        retry = self.lane_place(0.0)
        other = await self.moved_without_ack(retry)
        await settle(other, await lease_one(other, lane("a")), DELIVERED)
        other = await self.forget_ids(other)

        await settle(other, await lease_one(other, topic("a")), retry)
        await settle(other, await lease_one(other, lane("a")), DELIVERED)
        counts = await self.counted(other)
        assert (counts.created, counts.delivered, counts.retrying) == (2, 2, 0)
        assert (await other.census()).repeats == 1
        await other.close()

    async def test_it_is_no_second_one_where_its_id_is_known(self) -> None:
        retry = self.lane_place(0.0)
        other = await self.moved_without_ack(retry)
        await self.let_pass(LEASE_S + 1)

        await settle(other, await lease_one(other, topic("a")), retry)
        assert len(await walk(other, lane("a"))) == 1
        counts = await self.counted(other)
        assert (counts.created, counts.retrying, counts.discarded) == (1, 1, 0)
        assert (await other.census()).repeats == 0
        await other.close()

    async def test_a_second_one_that_meets_the_first_is_discarded(self) -> None:
        """There are two in common's topic, since the id of the route was forgotten."""
        one = await self.start(self.PLAN)
        await one.accept([event("1")])
        act = Route(await lease_one(one, COMMON_QUEUE), (Target("a", (QUEUED,)),))
        await self.ended_without_ack(one, act)
        other = await self.start(self.PLAN, node="n2")
        first = await lease_one(other, topic("a"))
        retry = self.lane_place(LEASE_S * 10)
        await settle(other, first, retry)
        other = await self.forget_ids(other)
        (again,) = await other.lease(COMMON_QUEUE, limit=1, wait_s=0)
        await other.settle([Route(again, (Target("a", (QUEUED,)),))])

        await settle(other, await lease_one(other, topic("a")), retry)
        assert len(await walk(other, lane("a"))) == 1
        counts = await self.counted(other)
        assert (counts.created, counts.retrying, counts.discarded) == (2, 1, 1)
        await other.close()

    async def test_one_that_is_dead_already_is_dead_once(self) -> None:
        one = await self.start(self.PLAN)
        await one.accept([event("1")], [Way(("a",), [0], 2)])
        lease = await lease_one(one, topic("a"))
        await self.ended_without_ack(one, Settle(lease, (dead_place(),), None))
        other = await self.start(self.PLAN)
        await self.let_pass(LEASE_S + 1)

        await settle(other, await lease_one(other, topic("a")), dead_place())
        counts = await self.counted(other)
        assert (counts.created, counts.dead, counts.discarded) == (1, 1, 0)
        await other.close()

    async def test_one_that_is_dead_at_a_greater_hop_is_dead_once(self) -> None:
        other = await self.moved_without_ack(self.lane_place(0.0))
        await settle(other, await lease_one(other, lane("a")), dead_place())
        await self.let_pass(LEASE_S + 1)

        await settle(other, await lease_one(other, topic("a")), dead_place())
        counts = await self.counted(other)
        assert (counts.created, counts.dead, counts.discarded) == (1, 1, 0)
        await other.close()

    async def test_one_that_storage_has_let_go_is_not_there_again(self) -> None:
        other = await self.moved_without_ack(self.lane_place(0.0))
        await settle(other, await lease_one(other, lane("a")), self.parked_place(0.0))
        (parked,) = await kept(self.storage(other))
        await other.place([self.back(parked)])
        back = await self.at_hop(other, parked.delivery.hop + 1)
        await settle(other, back, DELIVERED)
        await self.let_pass(LEASE_S + 1)

        await settle(other, await lease_one(other, topic("a")), self.parked_place())
        counts = await self.counted(other)
        assert (counts.created, counts.delivered, counts.parked) == (1, 1, 0)
        await other.close()

    async def test_what_others_end_is_known_also_while_storage_hangs(self) -> None:
        """Records name the latest ends only: whoever reads them seldom misses some."""
        one = await self.start(self.PLAN)
        other = await self.start(self.PLAN, node="n2")
        asked = asyncio.Event()

        async def hang() -> None:
            asked.set()
            await asyncio.Event().wait()

        self.monkeypatch.setattr(other.storage, "totals", hang)
        await asyncio.wait_for(asked.wait(), 5.0)
        await one.accept([event("1")], [Way(("a",), [0], 2)])
        await settle(one, await lease_one(one, topic("a")), DELIVERED)

        async with asyncio.timeout(5.0):
            while other.counts("a").delivered == 0:  # noqa: ASYNC110  # nobody tells
                await asyncio.sleep(0.05)
        await one.close()
        await other.close()

    async def test_what_took_longer_than_its_lease_is_counted_by_who_has_it_now(self) -> None:
        """One of a batch waits for a storage that hangs; the other's lease runs out with it."""
        one = await self.start(self.PLAN)
        other = await self.start(self.PLAN, node="n2")
        await one.accept([event("1"), event("2")], [Way(("a",), [0, 1], 2)])
        first, second = await one.lease(topic("a"), limit=2, wait_s=0)
        go_on = asyncio.Event()

        async def hang(*_: object, **__: object) -> list[str]:
            await go_on.wait()
            return ["a test has switched it off"]

        self.monkeypatch.setattr(one.storage, "keep", hang)
        acts = [Settle(first, (dead_place(),), None), Settle(second, (DELIVERED,), None)]
        settling = asyncio.ensure_future(one.settle(acts))
        await self.let_pass(LEASE_S + 1)
        for again in await other.lease(topic("a"), limit=2, wait_s=0):
            await settle(other, again, DELIVERED)
        go_on.set()

        assert [answer.lost for answer in await settling] == [True, True]
        counts = await self.counted(other)
        assert (counts.created, counts.delivered, counts.queued, counts.running) == (2, 2, 0, 0)
        await one.close()
        await other.close()

    async def test_what_storage_took_without_an_answer_goes_nowhere_else(self) -> None:
        one = await self.start(self.PLAN)
        await one.accept([event("1")], [Way(("a",), [0], 2)])
        keep = one.storage.keep

        async def lose_the_answer(*args: Any) -> list[str | None]:
            await keep(*args)
            raise StorageUnanswered("the line ended")

        self.monkeypatch.setattr(one.storage, "keep", lose_the_answer)
        tries = (dead_place(), self.lane_place(0.0))
        (answer,) = await one.settle([Settle(await lease_one(one, topic("a")), tries, None)])
        assert answer.lost
        assert await walk(one, lane("a")) == []
        self.monkeypatch.undo()
        await self.let_pass(LEASE_S + 1)

        await settle(one, await lease_one(one, topic("a")), dead_place())
        counts = await self.counted(one)
        assert (counts.created, counts.dead, counts.discarded) == (1, 1, 0)
        await one.close()

    async def at_hop(self, engine: JetStreamEngine, hop: int) -> Lease:
        (found,) = await engine.lease(topic("a"), limit=10, wait_s=0)
        assert found.delivery.hop == hop
        return found


class Dying(Exception):
    """A node dies at this moment."""
