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
from eventflow.engine.jetstream.names import stream
from eventflow.engine.jetstream.wire import Wire
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

    async def test_a_second_one_that_meets_the_first_is_one_with_it(self) -> None:
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
        assert (counts.created, counts.retrying, counts.discarded) == (1, 1, 0)
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

        self.monkeypatch.setattr(other.storage, "turnover", hang)
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

    async def put_and_never_counted(self, place: Place) -> JetStreamEngine:
        """Return a node: one has died when the next place had a delivery, but not the ledger."""
        one = await self.start(self.PLAN)
        await one.accept([event("1")], [Way(("a",), [0], 2)])
        lease = await lease_one(one, topic("a"))

        async def die(*_: object) -> None:
            raise Dying

        self.monkeypatch.setattr(one._desk.ledger, "commit", die)  # noqa: SLF001  # the only seam
        with pytest.raises(Dying):
            await one.settle([Settle(lease, (place,), None)])
        await one.cut_off()
        self.monkeypatch.undo()
        other = await self.start(self.PLAN)  # the same, since each has a storage of its own
        await self.let_pass(LEASE_S + 1)
        return other

    async def test_what_a_dead_node_put_into_a_lane_is_accounted_for(self) -> None:
        """Another node decides otherwise: it delivers what the lane holds, too."""
        other = await self.put_and_never_counted(self.lane_place(0.0))
        await settle(other, await lease_one(other, topic("a")), DELIVERED)
        counts = await self.counted(other)
        assert (counts.created, counts.delivered, counts.retrying) == (2, 1, 1)

        await settle(other, await lease_one(other, lane("a")), DELIVERED)
        counts = await self.counted(other)
        assert (counts.created, counts.delivered, counts.retrying) == (2, 2, 0)
        await other.close()

    async def test_what_a_dead_node_put_into_storage_is_accounted_for(self) -> None:
        other = await self.put_and_never_counted(self.parked_place(0.0))
        await settle(other, await lease_one(other, topic("a")), DELIVERED)
        counts = await self.counted(other)
        assert (counts.created, counts.delivered, counts.parked) == (2, 1, 1)

        (parked,) = await kept(self.storage(other))
        await other.place([self.back(parked)])
        await settle(other, await lease_one(other, topic("a")), DELIVERED)
        counts = await self.counted(other)
        assert (counts.created, counts.delivered, counts.parked) == (2, 2, 0)
        await other.close()

    @pytest.mark.parametrize("where", ["lane", "storage"])
    async def test_what_a_dead_node_put_there_is_put_there_once(self, where: str) -> None:
        far = LEASE_S * 10
        place = self.lane_place(far) if where == "lane" else self.parked_place(far)
        other = await self.put_and_never_counted(place)
        await settle(other, await lease_one(other, topic("a")), place)
        counts = await self.counted(other)
        assert (counts.created, counts.live, counts.queued) == (1, 1, 0)
        await other.close()

    async def test_an_end_that_two_nodes_count_is_counted_once(self) -> None:
        """A server that was killed gives one's message to another, while one writes its record."""
        one = await self.start(self.PLAN)
        other = await self.start(self.PLAN, node="n2")
        await one.accept([event("1")], [Way(("a",), [0], 2)])
        lease = await lease_one(one, topic("a"))
        written, may_go_on = one._desk.ledger._put, asyncio.Event()  # noqa: SLF001  # as above

        async def late() -> None:
            await may_go_on.wait()
            await written()

        self.monkeypatch.setattr(one._desk.ledger, "_put", late)  # noqa: SLF001
        settling = asyncio.ensure_future(one.settle([Settle(lease, (DELIVERED,), None)]))
        await self.let_pass(LEASE_S + 1)
        await settle(other, await lease_one(other, topic("a")), DELIVERED)
        may_go_on.set()
        await settling

        for node in (other, one):  # the one of the greater name has seen the other's record then
            async with asyncio.timeout(5.0):
                while (await node.census()).moving or node.counts("a").delivered != 1:  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
            counts = await self.counted(node)
            assert (counts.created, counts.delivered) == (1, 1)
            await node.close()

    async def test_a_storage_put_back_from_its_backup_is_missing_what_came_since(self) -> None:
        one = await self.start(self.PLAN)
        await one.accept([event("1"), event("2")], [Way(("a",), [0, 1], 2)])
        await settle(one, await lease_one(one, topic("a")), self.parked_place())
        await self.counted(one)
        await one.close()
        backup = (self.folder / "storage.db").read_bytes()
        again = await self.start(self.PLAN)
        await settle(again, await lease_one(again, topic("a")), self.parked_place())
        assert (await self.counted(again)).parked == 2
        await again.close()
        (self.folder / "storage.db").write_bytes(backup)
        last = await self.start(self.PLAN)

        counts = (await last.census()).topics["a"]
        assert (counts.created, counts.parked, counts.unaccounted) == (2, 1, 1)
        await last.close()

    async def test_a_stream_made_anew_is_missing_what_the_old_one_held(self) -> None:
        one = await self.start(self.PLAN)
        await one.accept([event("1"), event("2")], [Way(("a",), [0, 1], 2)])
        await settle(one, await lease_one(one, topic("a")), DELIVERED)
        await self.counted(one)
        await one.close()
        wire = await Wire.connect(self.server.url, 1)
        await wire.ask(f"STREAM.DELETE.{stream(topic('a'))}")
        await wire.close()
        again = await self.start(self.PLAN)
        await again.accept([event("3")], [Way(("a",), [0], 1)])

        counts = (await again.census()).topics["a"]
        assert (counts.delivered, counts.queued, counts.unaccounted) == (1, 1, 1)
        await again.close()

    async def at_hop(self, engine: JetStreamEngine, hop: int) -> Lease:
        (found,) = await engine.lease(topic("a"), limit=10, wait_s=0)
        assert found.delivery.hop == hop
        return found


class Dying(Exception):
    """A node dies at this moment."""
