"""The engine contract as tests: several for each promise of `Engine`, one behaviour each.

An engine subclasses `EngineContract`, or `DurableEngineContract` if it outlives its process, and
says how to make one engine, how to let time pass, and how it dies. Everything else is shared.
The promises stand in classes of their own, so that a slow variant can run some of them.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from itertools import pairwise
from random import Random
from typing import TYPE_CHECKING

import msgspec
import pytest

from eventflow.delivery import (
    CLEAN,
    COMMON,
    DELIVERED,
    RELEASED,
    Attempt,
    Dead,
    Parked,
    Place,
    Queued,
    Reason,
    Row,
    Tally,
)
from eventflow.engine.protocol import (
    Note,
    Placed,
    Placing,
    Plan,
    Receipt,
    Route,
    Settle,
    Target,
    TopicPlan,
)
from eventflow.errors import EngineUnavailable, QueueFull
from eventflow.storage.protocol import Actor
from eventflow.testing.engine_bench import (
    COMMON_QUEUE,
    LEASE_S,
    QUEUED,
    DurableBench,
    EngineBench,
    bring,
    bring_one,
    dead_place,
    event,
    events,
    fill_common,
    ids,
    kept,
    lane,
    lease,
    lease_one,
    places,
    route,
    settle,
    topic,
    true_census,
    walk,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from eventflow.engine.protocol import Act, Engine, Lease

SOMEBODY = Actor("somebody", "a test")
_FAILED = Attempt(1.0, 2.0, "failed", "http 503", "no", "f1")
_NOTE = Note({"attempts": 1}, _FAILED, traceback="Traceback: no")


class Durability(DurableBench):
    """G1: what was acknowledged survives."""

    async def test_g1_accepted_events_survive_a_crash_in_their_order(self, engine: Engine) -> None:
        receipts = [*await engine.accept(events(5)), *await engine.accept([event("last")])]
        engine = await self.crash(engine)

        found = await walk(engine, COMMON_QUEUE)
        assert ids(found) == ["e0", "e1", "e2", "e3", "e4", "last"]
        assert [one.ref for one in found] == [receipt.ref for receipt in receipts]

    async def test_g1_every_attribute_of_an_event_survives(self, engine: Engine) -> None:
        whole = event("1", "high", subject="s", time="2026-01-01T00:00:00Z", partitionkey="k")
        await engine.accept([whole])
        engine = await self.crash(engine)

        assert (await lease_one(engine, COMMON_QUEUE)).delivery.event == whole

    async def test_g1_queued_deliveries_survive_as_they_were(self, engine: Engine) -> None:
        await bring(engine, "a", *events(3), event("urgent", "critical"))
        before = await walk(engine, topic("a"))
        engine = await self.crash(engine)

        assert await walk(engine, topic("a")) == before
        assert ids(await lease(engine, topic("a")))[0] == "urgent"

    async def test_g1_retrying_deliveries_survive_as_they_were(self, engine: Engine) -> None:
        one = await bring_one(engine, "a")
        await settle(engine, one, self.lane_place(60), note=_NOTE)
        (before,) = await walk(engine, lane("a"))
        engine = await self.crash(engine)

        assert await walk(engine, lane("a")) == [before]
        assert before.history == (_FAILED,)
        assert (before.hop, before.traceback) == (1, "Traceback: no")
        assert before.tally.attempts == 1

    @pytest.mark.parametrize("state", ["parked", "dead"])
    async def test_g1_kept_deliveries_survive_as_they_were(
        self, engine: Engine, state: str
    ) -> None:
        one = await bring_one(engine, "a")
        place = self.parked_place() if state == "parked" else dead_place()
        await settle(engine, one, place, note=_NOTE)
        before = await kept(self.storage(engine))
        engine = await self.crash(engine)

        assert await kept(self.storage(engine)) == before
        assert [(one.state, one.delivery.hop) for one in before] == [(state, 1)]

    async def test_g1_what_common_still_owes_survives(self, engine: Engine) -> None:
        await engine.accept([event("1")])
        one = await lease_one(engine, COMMON_QUEUE)
        with self.storage_refuses():
            await route(engine, one, {"a": [QUEUED], "b": [self.parked_place()]})
        engine = await self.crash(engine)

        again = (await lease_one(engine, COMMON_QUEUE)).delivery
        assert (again.owed, again.hop) == (("b",), 1)
        assert ids(await walk(engine, topic("a"))) == ["1"]

    async def test_g1_what_was_delivered_stays_delivered(self, engine: Engine) -> None:
        one = await bring_one(engine, "a")
        await settle(engine, one, DELIVERED)
        engine = await self.crash(engine)

        assert await places(engine, self.storage(engine), one.delivery.ref) == []

    async def test_g1_counters_never_restart(self, engine: Engine) -> None:
        await self._some_of_everything(engine)
        before = await engine.census()
        engine = await self.crash(engine)

        assert await true_census(engine, self.storage(engine)) == before

    async def test_g1_all_of_it_survives_a_clean_end_too(self, engine: Engine) -> None:
        await self._some_of_everything(engine)
        before = await self._everything(engine)
        engine = await self.reopen(engine)

        assert await self._everything(engine) == before

    async def test_g1_all_of_it_survives_three_crashes_in_a_row(self, engine: Engine) -> None:
        await self._some_of_everything(engine)
        before = await self._everything(engine)
        for _ in range(3):
            engine = await self.crash(engine)

        assert await self._everything(engine) == before

    async def test_g1_life_goes_on_after_a_crash(self, engine: Engine) -> None:
        await self._some_of_everything(engine)
        engine = await self.crash(engine)
        await bring(engine, "b", event("new", "critical"))
        await settle(engine, await lease_one(engine, topic("b")), self.lane_place(5))
        engine = await self.crash(engine)

        assert "new" in ids(await walk(engine, lane("b")))
        await true_census(engine, self.storage(engine))

    async def test_g1_hops_go_on_after_a_crash(self, engine: Engine) -> None:
        await settle(engine, await bring_one(engine, "a"), self.parked_place())
        engine = await self.crash(engine)
        (one,) = await kept(self.storage(engine))
        await engine.place([Placing(one.delivery, Queued(Row.RECOVERED_DUE))])
        engine = await self.crash(engine)

        (found,) = await walk(engine, topic("a"))
        assert found.hop == 2
        assert await kept(self.storage(engine)) == []

    async def test_g2_what_is_in_common_is_a_duplicate_after_a_crash(self, engine: Engine) -> None:
        (first,) = await engine.accept([event("1")])
        engine = await self.crash(engine)

        assert await engine.accept([event("1")]) == [Receipt(first.ref, duplicate=True)]
        assert engine.depth(COMMON).queued == 1

    async def test_g5_a_run_that_a_crash_ended_counts_a_crash(self, engine: Engine) -> None:
        await bring_one(engine, "a")
        await self.let_pass(0.1)  # its start is recorded with the next commit
        engine = await self.crash(engine)

        found = (await lease_one(engine, topic("a"))).delivery
        assert found.tally == Tally(crashes=1)
        assert [attempt.outcome for attempt in found.history] == ["crashed"]

    async def test_g5_every_crash_counts_once(self, engine: Engine) -> None:
        await bring_one(engine, "a")
        for _ in range(3):
            await self.let_pass(0.1)
            engine = await self.crash(engine)
            assert await engine.start([await lease_one(engine, topic("a"))]) == [True]
        await self.let_pass(0.1)
        engine = await self.crash(engine)

        assert (await lease_one(engine, topic("a"))).delivery.tally.crashes == 4

    async def test_g5_after_a_crash_a_lease_is_no_start(self, engine: Engine) -> None:
        """It may wait for its turn to run alone: only `start` puts it on record."""
        await bring_one(engine, "a")
        await self.let_pass(0.1)
        engine = await self.crash(engine)
        before = (await lease_one(engine, topic("a"))).delivery.tally.crashes
        await self.let_pass(0.1)
        engine = await self.crash(engine)

        assert (await lease_one(engine, topic("a"))).delivery.tally.crashes == before == 1

    async def test_g5_what_only_waited_counts_no_crash(self, engine: Engine) -> None:
        await bring(engine, "a", *events(2))
        await engine.accept([event("3")])
        await lease_one(engine, COMMON_QUEUE)
        await lease_one(engine, topic("a"))
        await self.let_pass(0.1)
        engine = await self.crash(engine)

        crashes = [one.delivery.tally.crashes for one in await lease(engine, topic("a"))]
        assert crashes == [1, 0]
        assert (await lease_one(engine, COMMON_QUEUE)).delivery.tally.crashes == 0

    async def test_g5_what_was_given_back_counts_no_crash(self, engine: Engine) -> None:
        one = await bring_one(engine, "a")
        await self.let_pass(0.1)
        await settle(engine, one, RELEASED)
        engine = await self.crash(engine)

        assert (await lease_one(engine, topic("a"))).delivery.tally == CLEAN

    async def test_g5_a_start_after_a_crash_is_recorded_before_it_is_given(
        self, engine: Engine
    ) -> None:
        """Else a handler that kills its process at once would never be found out."""
        await bring(engine, "a", *events(2))
        engine = await self.crash(engine)
        await lease_one(engine, topic("a"))
        engine = await self.crash(engine)

        leases = await lease(engine, topic("a"))
        assert [one.delivery.tally.crashes for one in leases] == [1, 0]

    async def test_g5_what_nobody_took_counts_no_crash(self, engine: Engine) -> None:
        """Whoever asked went away while the start was being recorded."""
        await bring(engine, "a", *events(6))
        engine = await self.crash(engine)
        for turns in range(1, 7):
            asking = asyncio.ensure_future(engine.lease(topic("a"), limit=1, wait_s=0))
            for _ in range(turns):
                await asyncio.sleep(0)
            asking.cancel()
            (answer,) = await asyncio.gather(asking, return_exceptions=True)
            if not isinstance(answer, BaseException):
                await engine.settle([Settle(one, (RELEASED,)) for one in answer])
        await self.let_pass(0.1)
        engine = await self.crash(engine)

        assert [one.delivery.tally for one in await lease(engine, topic("a"))] == [CLEAN] * 6

    async def test_g5_what_was_started_and_given_back_counts_no_crash(self, engine: Engine) -> None:
        one = await bring_one(engine, "a")
        await engine.start([one])
        await settle(engine, one, RELEASED)
        engine = await self.crash(engine)

        assert (await lease_one(engine, topic("a"))).delivery.tally == CLEAN

    async def _some_of_everything(self, engine: Engine) -> None:
        await bring(engine, "a", *events(6))
        leases = await lease(engine, topic("a"))
        ends: list[Place] = [DELIVERED, self.lane_place(60), self.lane_place(3)]
        ends += [self.parked_place(), dead_place(), RELEASED]
        await engine.settle(
            [Settle(one, (end,), _NOTE) for one, end in zip(leases, ends, strict=True)]
        )
        await engine.accept(events(3, "low", "waits"))

    async def _everything(self, engine: Engine) -> object:
        census = await true_census(engine, self.storage(engine))
        queues = [await walk(engine, queue) for queue in (COMMON_QUEUE, topic("a"), lane("a"))]
        return census, queues, await kept(self.storage(engine))

    async def test_g1_what_was_parked_at_the_door_survives(self, engine: Engine) -> None:
        await fill_common(engine)
        await engine.accept(events(3, name="p"), fallback=self.fallback())
        before = await kept(self.storage(engine))
        engine = await self.crash(engine)

        assert await kept(self.storage(engine)) == before
        counts = (await true_census(engine, self.storage(engine))).topics[COMMON]
        assert (counts.created, counts.parked) == (93, 3)

    async def test_g2_what_was_parked_at_the_door_is_a_duplicate_after_a_crash(
        self, engine: Engine
    ) -> None:
        await fill_common(engine)
        (first,) = await engine.accept([event("p")], fallback=self.fallback())
        engine = await self.crash(engine)
        for one in await lease(engine, COMMON_QUEUE):
            await route(engine, one, {"a": [dead_place()]})

        assert await engine.accept([event("p")]) == [Receipt(first.ref, duplicate=True)]
        assert engine.depth(COMMON).queued == 0

    async def test_g1_what_came_back_from_the_door_survives(self, engine: Engine) -> None:
        await fill_common(engine)
        (first,) = await engine.accept([event("p")], fallback=self.fallback())
        for one in await lease(engine, COMMON_QUEUE):
            await route(engine, one, {"a": [dead_place()]})
        await engine.place(
            [self.back(one) for one in await kept(self.storage(engine), topic=COMMON)]
        )
        engine = await self.crash(engine)

        (found,) = await walk(engine, COMMON_QUEUE)
        assert (found.event.id, found.ref, found.hop) == ("p", first.ref, 1)
        assert await engine.accept([event("p")]) == [Receipt(first.ref, duplicate=True)]
        await route(engine, await lease_one(engine, COMMON_QUEUE), {"a": [QUEUED]})
        engine = await self.crash(engine)
        assert ids(await walk(engine, topic("a"))) == ["p"]
        await true_census(engine, self.storage(engine))


class Duplicates(EngineBench):
    """G2: the same (source, id) is stored once, for a time."""

    async def test_g2_the_second_is_answered_with_the_ref_of_the_first(
        self, engine: Engine
    ) -> None:
        (first,) = await engine.accept([event("1")])
        (second,) = await engine.accept([event("1")])

        assert first.ref is not None
        assert second == Receipt(first.ref, duplicate=True)
        assert engine.depth(COMMON).queued == 1

    async def test_g2_twice_in_one_batch_is_stored_once(self, engine: Engine) -> None:
        first, other, second = await engine.accept([event("1"), event("2"), event("1")])

        assert (first.duplicate, other.duplicate, second.duplicate) == (False, False, True)
        assert second.ref == first.ref != other.ref
        assert ids(await walk(engine, COMMON_QUEUE)) == ["1", "2"]

    async def test_g2_twice_at_once_is_stored_once(self, engine: Engine) -> None:
        answers = await asyncio.gather(*(engine.accept([event("1")]) for _ in range(5)))

        receipts = [receipt for (receipt,) in answers]
        assert sum(not receipt.duplicate for receipt in receipts) == 1
        assert len({receipt.ref for receipt in receipts}) == 1
        assert engine.depth(COMMON).queued == 1

    async def test_g2_receipts_keep_the_order_sent(self, engine: Engine) -> None:
        known = await engine.accept(events(3))
        receipts = await engine.accept([event("new"), *reversed(events(3)), event("newer")])

        assert [receipt.duplicate for receipt in receipts] == [False, True, True, True, False]
        assert [receipt.ref for receipt in receipts[1:4]] == [one.ref for one in reversed(known)]

    async def test_g2_the_same_id_of_another_source_is_another_event(self, engine: Engine) -> None:
        other = msgspec.structs.replace(event("1"), source="/other")
        await engine.accept([event("1"), other])

        assert engine.depth(COMMON).queued == 2

    async def test_g2_holds_after_the_first_was_delivered(self, engine: Engine) -> None:
        one = await bring_one(engine, "a", "1")
        await settle(engine, one, DELIVERED)

        assert await engine.accept([event("1")]) == [Receipt(one.delivery.ref, duplicate=True)]

    async def test_g2_ends_with_the_window(self, engine: Engine) -> None:
        await engine.accept([event("1")])
        await self.let_pass(self.PLAN.dedup_window_s - 1)
        (inside,) = await engine.accept([event("1")])
        await self.let_pass(2)
        (outside,) = await engine.accept([event("1")])

        assert (inside.duplicate, outside.duplicate) == (True, False)

    async def test_g2_a_batch_larger_than_the_limit_leaves_its_last_ids(
        self, engine: Engine
    ) -> None:
        await engine.apply(msgspec.structs.replace(self.PLAN, dedup_max=3))
        await engine.accept(events(5))
        receipts = await engine.accept(events(5)[2:])

        assert all(receipt.duplicate for receipt in receipts)

    async def test_g2_what_was_refused_may_come_again(self, engine: Engine) -> None:
        await engine.apply(Plan({COMMON: TopicPlan(1)}))
        with pytest.raises(QueueFull):
            await engine.accept(events(2))
        receipts = await engine.accept(events(1))

        assert [receipt.duplicate for receipt in receipts] == [False]

    async def test_g2_a_duplicate_needs_no_room(self, engine: Engine) -> None:
        await engine.apply(Plan({COMMON: TopicPlan(1)}))
        await engine.accept(events(1))
        (again,) = await engine.accept(events(1))

        assert again.duplicate


class Capacities(EngineBench):
    """G3: never more than the capacity; its last tenth is for critical and high."""

    async def test_g3_common_takes_exactly_its_capacity(self, engine: Engine) -> None:
        await engine.accept(events(90))
        with pytest.raises(QueueFull, match="nothing was stored"):
            await engine.accept([event("ordinary")])
        await engine.accept(events(5, "critical", "c"))
        await engine.accept(events(5, "high", "h"))
        with pytest.raises(QueueFull, match="nothing was stored"):
            await engine.accept([event("urgent", "critical")])

        assert engine.depth(COMMON).queued == 100

    async def test_g3_a_batch_is_all_or_nothing(self, engine: Engine) -> None:
        await engine.accept(events(80))
        before = await engine.census()
        with pytest.raises(QueueFull):
            await engine.accept(events(11, name="f"))

        assert await true_census(engine, self.storage(engine)) == before
        await engine.accept(events(10, name="f"))

    async def test_g3_urgent_events_of_a_batch_use_the_reserve(self, engine: Engine) -> None:
        await engine.accept(events(85))
        await engine.accept([*events(10, "high", "h"), *events(5, name="f")])

        assert engine.depth(COMMON).queued == 100

    async def test_g3_leased_deliveries_take_their_place(self, engine: Engine) -> None:
        await engine.accept(events(90))
        await lease(engine, COMMON_QUEUE)
        with pytest.raises(QueueFull):
            await engine.accept([event("more")])

    async def test_g3_a_delivery_that_leaves_makes_room(self, engine: Engine) -> None:
        await engine.accept(events(90))
        await route(engine, await lease_one(engine, COMMON_QUEUE), {"a": [QUEUED]})
        await engine.accept([event("more")])

        assert engine.depth(COMMON).queued == 90

    async def test_g3_holds_for_many_who_accept_at_once(self, engine: Engine) -> None:
        answers = await asyncio.gather(
            *(engine.accept(events(10, name=f"n{n}-")) for n in range(20)), return_exceptions=True
        )

        refused = [answer for answer in answers if isinstance(answer, QueueFull)]
        assert (len(answers) - len(refused), len(refused)) == (9, 11)
        assert engine.depth(COMMON).queued == 90
        await true_census(engine, self.storage(engine))

    async def test_g3_a_topic_takes_exactly_its_capacity(self, engine: Engine) -> None:
        await engine.accept([*events(20), *events(4, "critical", "c")])
        leases = await lease(engine, COMMON_QUEUE)
        await engine.settle([self._to_a(one) for one in leases])

        urgent = sum(one.event.rank == 0 for one in await walk(engine, topic("a")))
        assert (engine.depth("a").queued, urgent) == (18, 4)
        assert engine.depth("a").retrying == 6

    async def test_g3_the_reserve_of_a_topic_is_for_urgent_deliveries(self, engine: Engine) -> None:
        await engine.accept(events(19))
        await engine.settle([self._to_a(one) for one in await lease(engine, COMMON_QUEUE)])
        assert (engine.depth("a").queued, engine.depth("a").retrying) == (18, 1)

        await engine.accept(events(3, "high", "h"))
        await engine.settle([self._to_a(one) for one in await lease(engine, COMMON_QUEUE)])
        assert (engine.depth("a").queued, engine.depth("a").retrying) == (20, 2)

    async def test_g3_many_who_route_at_once_never_overfill(self, engine: Engine) -> None:
        await engine.accept(events(30))
        leases = await lease(engine, COMMON_QUEUE)
        await asyncio.gather(*(engine.settle([self._to_a(one)]) for one in leases))

        depth = engine.depth("a")
        stored = await kept(self.storage(engine))
        assert (depth.queued, depth.retrying, len(stored)) == (18, 9, 3)
        await true_census(engine, self.storage(engine))

    async def test_g3_leased_deliveries_of_a_lane_take_their_place(self, engine: Engine) -> None:
        await bring(engine, "a", *events(18))
        leases = await lease(engine, topic("a"))
        await engine.settle([Settle(one, (self.lane_place(0),)) for one in leases[:9]])
        await lease(engine, lane("a"))
        answer = await settle(engine, leases[9], self.lane_place(0), self.parked_place())

        assert isinstance(answer.taken, Parked)

    async def test_g3_a_lowered_capacity_drops_nothing(self, engine: Engine) -> None:
        await engine.accept(events(50))
        await engine.apply(Plan({COMMON: TopicPlan(10)}))
        with pytest.raises(QueueFull):
            await engine.accept([event("more")])

        assert len(await lease(engine, COMMON_QUEUE)) == 50

    async def test_g3_a_topic_gone_from_the_plan_keeps_what_it_holds(self, engine: Engine) -> None:
        await bring(engine, "a", *events(2))
        plan = Plan({name: self.PLAN.topics[name] for name in (COMMON, "b")})
        applied = await engine.apply(plan)

        assert applied.orphans == ("a",)
        assert engine.depth("a").queued == 2

    def _to_a(self, one: Lease) -> Route:
        return Route(one, (Target("a", (QUEUED, self.lane_place(60), self.parked_place())),))


class Fallbacks(EngineBench):
    """G1, G2, G3 for events whose door parks them where common is full."""

    async def test_g3_with_room_they_come_to_common(self, engine: Engine) -> None:
        receipts = await engine.accept(events(3), fallback=self.fallback())

        assert [receipt.parked for receipt in receipts] == [False] * 3
        assert engine.depth(COMMON).queued == 3
        assert await kept(self.storage(engine)) == []

    async def test_g3_without_room_they_take_the_fallback(self, engine: Engine) -> None:
        await fill_common(engine)
        fallback = self.fallback()
        receipts = await engine.accept(events(2, name="p"), fallback=fallback)

        found = await kept(self.storage(engine))
        assert [(one.ref, one.duplicate, one.parked) for one in receipts] == [
            (one.delivery.ref, False, True) for one in found
        ]
        assert ids([one.delivery for one in found]) == ["p0", "p1"]
        for one in found:
            delivery = one.delivery
            assert (one.state, delivery.topic, delivery.hop) == ("parked", COMMON, 0)
            assert (delivery.tally, delivery.due_at, delivery.reason) == (
                fallback.place.tally,
                fallback.place.due_at,
                Reason.COMMON_FULL,
            )
        assert engine.depth(COMMON).queued == 90

    async def test_g3_a_batch_takes_it_as_a_whole(self, engine: Engine) -> None:
        """Two fit, three came: those that fit don't overtake the one that doesn't."""
        await engine.accept(events(88))
        receipts = await engine.accept(events(3, name="p"), fallback=self.fallback())

        assert [receipt.parked for receipt in receipts] == [True] * 3
        assert engine.depth(COMMON).queued == 88

    async def test_g8_they_count_as_created_and_as_parked(self, engine: Engine) -> None:
        await fill_common(engine)
        await engine.accept(events(2, name="p"), fallback=self.fallback())

        counts = (await true_census(engine, self.storage(engine))).topics[COMMON]
        assert (counts.created, counts.queued, counts.parked) == (92, 90, 2)

    async def test_g2_their_ids_are_remembered(self, engine: Engine) -> None:
        await fill_common(engine)
        first, again = await engine.accept([event("p"), event("p")], fallback=self.fallback())
        (later,) = await engine.accept([event("p")], fallback=self.fallback())
        (plain,) = await engine.accept([event("p")])

        assert (first.duplicate, first.parked) == (False, True)
        assert [again, later, plain] == [Receipt(first.ref, duplicate=True)] * 3
        assert len(await kept(self.storage(engine))) == 1

    async def test_g2_twice_at_once_is_parked_once(self, engine: Engine) -> None:
        await fill_common(engine)
        ways = (engine.accept([event("p")], fallback=self.fallback()) for _ in range(5))
        receipts = [receipt for (receipt,) in await asyncio.gather(*ways)]

        assert sorted(receipt.duplicate for receipt in receipts) == [False] + [True] * 4
        assert len({receipt.ref for receipt in receipts}) == 1
        assert len(await kept(self.storage(engine))) == 1

    async def test_g2_where_storage_refuses_nobody_is_told_duplicate(self, engine: Engine) -> None:
        """Else the second would rely on a first that is nowhere."""
        await fill_common(engine)
        with self.storage_refuses():
            ways = (engine.accept([event("p")], fallback=self.fallback()) for _ in range(3))
            answers = await asyncio.gather(*ways, return_exceptions=True)
        (receipt,) = await engine.accept([event("p")], fallback=self.fallback())

        assert [type(answer) for answer in answers] == [QueueFull] * 3
        assert (receipt.duplicate, receipt.parked) == (False, True)
        await true_census(engine, self.storage(engine))

    async def test_g3_where_storage_is_full_they_are_refused(self, engine: Engine) -> None:
        await fill_common(engine)
        await engine.apply(msgspec.structs.replace(self.PLAN, storage_max_bytes=250))
        await engine.accept([event("p0")], fallback=self.fallback())
        before = await engine.census()
        with pytest.raises(QueueFull, match="storage"):
            await engine.accept(events(3, name="q"), fallback=self.fallback())

        assert await true_census(engine, self.storage(engine)) == before

    async def test_g7_they_come_back_once_and_go_on(self, engine: Engine) -> None:
        await fill_common(engine)
        await engine.accept([event("p")], fallback=self.fallback())
        (stored,) = await kept(self.storage(engine))
        assert list(await engine.place([self.back(stored)])) == [Placed.FULL]
        for one in await lease(engine, COMMON_QUEUE, limit=2):
            await route(engine, one, {"a": [QUEUED]})

        answers = [
            *await engine.place([self.back(stored)]),
            *await engine.place([self.back(stored)]),
        ]
        assert answers == [Placed.PLACED, Placed.ALREADY]
        assert (await walk(engine, COMMON_QUEUE))[-1].hop == 1
        leases = await lease(engine, COMMON_QUEUE)
        await route(engine, leases[-1], {"b": [QUEUED]})
        assert ids(await walk(engine, topic("b"))) == ["p"]
        await true_census(engine, self.storage(engine))

    async def test_they_are_in_the_audit_trail(self, engine: Engine) -> None:
        await fill_common(engine)
        (receipt,) = await engine.accept([event("p")], fallback=self.fallback())

        assert receipt.ref is not None
        (row,) = await self.storage(engine).trail(receipt.ref)
        told = msgspec.json.decode(row.row)
        assert (told["what"], told["from"], told["to"]) == (
            "delivery.common_full",
            "door",
            "parked",
        )
        assert told["because"] == {"capacity": 100}


class Memory(EngineBench):
    """G2, G3 where queues and ids are in the node's memory: it is bounded, too."""

    async def test_g2_the_last_ids_are_remembered_and_no_more(self, engine: Engine) -> None:
        await engine.apply(msgspec.structs.replace(self.PLAN, dedup_max=5))
        await engine.accept(events(4))
        await engine.accept(events(3, name="f"))

        receipts = await engine.accept([*events(4), *events(3, name="f")])
        assert [receipt.duplicate for receipt in receipts] == [False] * 2 + [True] * 5

    async def test_g3_past_the_memory_limit_events_are_refused(self, engine: Engine) -> None:
        await engine.apply(msgspec.structs.replace(self.PLAN, memory_limit_bytes=10_000))
        big = [msgspec.structs.replace(one, body=bytes(2_000)) for one in events(10)]
        for one in big[:4]:
            await engine.accept([one])
        with pytest.raises(QueueFull, match="memory_limit"):
            await engine.accept(big[4:5])

        assert engine.depth(COMMON).queued == 4

    async def test_g3_attributes_count_towards_the_memory_limit(self, engine: Engine) -> None:
        await engine.apply(msgspec.structs.replace(self.PLAN, memory_limit_bytes=10_000))
        for n in range(4):
            await engine.accept([event(f"e{n}", subject="s" * 1_000, tenant="t" * 1_000)])
        with pytest.raises(QueueFull, match="memory_limit"):
            await engine.accept([event("e4", subject="s" * 1_000, tenant="t" * 1_000)])

        assert engine.depth(COMMON).queued == 4

    async def test_g3_past_the_memory_limit_moves_go_on_and_recovery_rests(
        self, engine: Engine
    ) -> None:
        await settle(engine, await bring_one(engine, "a", "old"), self.parked_place())
        (old,) = await kept(self.storage(engine))
        await engine.accept([msgspec.structs.replace(event("1"), body=bytes(2_000))])
        await engine.apply(msgspec.structs.replace(self.PLAN, memory_limit_bytes=1_000))

        moved = await route(engine, await lease_one(engine, COMMON_QUEUE), {"a": [QUEUED]})
        placed = await engine.place([Placing(old.delivery, Queued(Row.RECOVERED_DUE))])
        assert moved.routed == (QUEUED,)
        assert list(placed) == [Placed.FULL]

    async def test_g3_past_the_memory_limit_they_take_it_too(self, engine: Engine) -> None:
        await engine.apply(msgspec.structs.replace(self.PLAN, memory_limit_bytes=500))
        await engine.accept([event("1")])
        first, second = [
            await engine.accept([event(id)], fallback=self.fallback()) for id in ("2", "3")
        ]

        assert (first[0].parked, second[0].parked) == (False, True)


class Priorities(EngineBench):
    """G4: 64 : 16 : 4 : 1 among what is startable; first in, first out within a priority."""

    ROOMY = Plan({COMMON: TopicPlan(1_000), "a": TopicPlan(1_000)}, dedup_max=10_000)
    NAMES = ("critical", "high", "normal", "low")

    async def test_g4_a_round_of_starts_is_shared_by_weight(self, engine: Engine) -> None:
        await self._fill(engine)
        leases = await engine.lease(COMMON_QUEUE, limit=85, wait_s=0)

        assert self._shares(leases) == {"critical": 64, "high": 16, "normal": 4, "low": 1}

    async def test_g4_starts_one_by_one_are_shared_just_so(self, engine: Engine) -> None:
        await self._fill(engine)
        leases = [await lease_one(engine, COMMON_QUEUE) for _ in range(85)]

        assert self._shares(leases) == {"critical": 64, "high": 16, "normal": 4, "low": 1}

    async def test_g4_low_starts_in_any_85(self, engine: Engine) -> None:
        await self._fill(engine)
        leases: list[Lease] = []
        while len(leases) < 200:
            leases += await engine.lease(COMMON_QUEUE, limit=7, wait_s=0)

        low = [n for n, one in enumerate(leases) if one.delivery.event.priority == "low"]
        assert low[0] < 85
        assert all(after - before <= 85 for before, after in pairwise(low))

    async def test_g4_first_in_first_out_within_a_priority(self, engine: Engine) -> None:
        await self._fill(engine)
        leases = await engine.lease(COMMON_QUEUE, limit=170, wait_s=0)

        for name in self.NAMES:
            found = [int(id.removeprefix(name)) for id in ids(leases) if id.startswith(name)]
            assert found == sorted(found)

    async def test_g4_a_priority_alone_has_every_start(self, engine: Engine) -> None:
        await engine.apply(self.ROOMY)
        await engine.accept(events(10, "low"))

        assert ids(await lease(engine, COMMON_QUEUE)) == [f"e{n}" for n in range(10)]

    async def test_g4_weights_can_be_changed(self, engine: Engine) -> None:
        await self._fill(engine)
        await engine.apply(msgspec.structs.replace(self.ROOMY, weights=(1, 1, 1, 1)))
        leases = await engine.lease(COMMON_QUEUE, limit=40, wait_s=0)

        assert set(self._shares(leases).values()) == {10}

    async def test_g4_entry_into_this_queue_is_what_counts(self, engine: Engine) -> None:
        await engine.accept(events(2))
        first, second = await lease(engine, COMMON_QUEUE)
        await route(engine, second, {"a": [QUEUED]})
        await route(engine, first, {"a": [QUEUED]})

        assert ids(await lease(engine, topic("a"))) == ["e1", "e0"]

    async def _fill(self, engine: Engine) -> None:
        await engine.apply(self.ROOMY)
        for name in reversed(self.NAMES):
            await engine.accept(events(200 if name == "critical" else 100, name, name))

    @staticmethod
    def _shares(leases: Sequence[Lease]) -> dict[str, int]:
        return dict(Counter(one.delivery.event.priority.value for one in leases))


class Leases(EngineBench):
    """G5: a lease lasts for a time, unless extended."""

    async def test_g5_what_is_leased_is_leased_to_nobody_else(self, engine: Engine) -> None:
        await bring_one(engine, "a")

        assert await lease(engine, topic("a")) == []

    async def test_g5_a_lease_that_ran_out_is_given_again(self, engine: Engine) -> None:
        one = await bring_one(engine, "a")
        await self.let_pass(LEASE_S - 1)
        assert await lease(engine, topic("a")) == []
        await self.let_pass(1.5)

        again = await lease_one(engine, topic("a"))
        assert (again.delivery.id, again.delivery.hop) == (one.delivery.id, one.delivery.hop)

    async def test_g5_it_counts_a_crash_and_no_attempt(self, engine: Engine) -> None:
        await bring_one(engine, "a")
        await self.let_pass(LEASE_S + 1)
        again = await lease_one(engine, topic("a"))

        assert again.delivery.tally == Tally(crashes=1)

    async def test_g5_after_a_crash_it_counts_only_once_it_was_started(
        self, engine: Engine
    ) -> None:
        await bring_one(engine, "a")
        crashes = []
        for starts in (False, False, True, False):
            await self.let_pass(LEASE_S + 1)
            one = await lease_one(engine, topic("a"))
            crashes.append(one.delivery.tally.crashes)
            if starts:
                await engine.start([one])
        await self.let_pass(LEASE_S + 1)
        crashes.append((await lease_one(engine, topic("a"))).delivery.tally.crashes)

        assert crashes == [1, 1, 1, 2, 2]

    async def test_g5_what_was_lost_is_not_started(self, engine: Engine) -> None:
        one = await bring_one(engine, "a")
        await self.let_pass(LEASE_S + 1)

        assert list(await engine.start([one])) == [False]
        again = await lease_one(engine, topic("a"))
        assert list(await engine.start([one, again])) == [False, True]

    async def test_g5_in_common_it_counts_nothing(self, engine: Engine) -> None:
        await engine.accept([event("1")])
        await lease_one(engine, COMMON_QUEUE)
        await self.let_pass(LEASE_S + 1)

        assert (await lease_one(engine, COMMON_QUEUE)).delivery.tally == CLEAN

    async def test_g5_in_a_lane_it_counts_nothing(self, engine: Engine) -> None:
        await settle(engine, await bring_one(engine, "a"), self.lane_place(0))
        await lease_one(engine, lane("a"))
        await self.let_pass(LEASE_S + 1)

        assert (await lease_one(engine, lane("a"))).delivery.tally == Tally(attempts=1)

    async def test_g5_an_extended_lease_lasts(self, engine: Engine) -> None:
        one = await bring_one(engine, "a")
        for _ in range(3):
            await self.let_pass(LEASE_S - 1)
            assert list(await engine.extend([one])) == [True]

        assert await lease(engine, topic("a")) == []
        assert (await settle(engine, one, DELIVERED)).taken == DELIVERED

    async def test_g5_a_lost_lease_is_not_extended(self, engine: Engine) -> None:
        one = await bring_one(engine, "a")
        await self.let_pass(LEASE_S + 1)
        again = await lease_one(engine, topic("a"))

        assert list(await engine.extend([one, again])) == [False, True]

    async def test_g5_it_comes_back_before_what_came_later(self, engine: Engine) -> None:
        await bring(engine, "a", *events(3))
        await lease_one(engine, topic("a"))
        await self.let_pass(LEASE_S + 1)

        assert ids(await lease(engine, topic("a"))) == ["e0", "e1", "e2"]

    async def test_g5_whoever_waits_gets_it(self, engine: Engine) -> None:
        await bring_one(engine, "a")
        waiting = asyncio.ensure_future(engine.lease(topic("a"), limit=5, wait_s=100))
        await self.let_pass(LEASE_S + 1)

        assert len(await waiting) == 1

    async def test_g5_a_lease_that_was_not_awaited_is_given_again(self, engine: Engine) -> None:
        """Whoever asked is gone: nothing may stay leased to nobody, nor count as a run."""
        await bring_one(engine, "a")
        await self.let_pass(LEASE_S + 1)
        asking = asyncio.ensure_future(engine.lease(topic("a"), limit=1, wait_s=100))
        await _a_turn_for_all()
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        await self.let_pass(LEASE_S + 1)

        again = await lease_one(engine, topic("a"))
        assert again.delivery.tally.crashes <= 2


class LateSettling(EngineBench):
    """G6: settling late ends the delivery or says that the lease was lost."""

    KINDS = ("delivered", "released", "retrying", "parked", "dead")

    @pytest.mark.parametrize("kind", KINDS)
    async def test_g6_settling_late_loses_and_doubles_nothing(
        self, engine: Engine, kind: str
    ) -> None:
        late = await bring_one(engine, "a")
        await self.let_pass(LEASE_S + 1)
        current = await lease_one(engine, topic("a"))
        first = await settle(engine, late, self._place(kind))
        second = await settle(engine, current, DELIVERED)

        assert first.lost != second.lost
        await true_census(engine, self.storage(engine))

    @pytest.mark.parametrize("kind", KINDS)
    async def test_g6_settling_late_before_anybody_else_has_it(
        self, engine: Engine, kind: str
    ) -> None:
        late = await bring_one(engine, "a")
        await self.let_pass(LEASE_S + 1)
        answer = await settle(engine, late, self._place(kind))

        found = await places(engine, self.storage(engine), late.delivery.ref)
        assert len(found) == (0 if answer.taken == DELIVERED else 1)
        await true_census(engine, self.storage(engine))

    @pytest.mark.parametrize("kind", KINDS)
    async def test_g6_settling_twice_says_lost(self, engine: Engine, kind: str) -> None:
        one = await bring_one(engine, "a")
        await settle(engine, one, self._place(kind))
        before = await engine.census()

        assert (await settle(engine, one, DELIVERED)).lost
        assert await engine.census() == before

    @pytest.mark.parametrize("kind", KINDS)
    async def test_g6_two_acts_of_one_batch_for_one_lease(self, engine: Engine, kind: str) -> None:
        one = await bring_one(engine, "a")
        first, second = await engine.settle(
            [Settle(one, (self._place(kind),)), Settle(one, (dead_place(),))]
        )

        assert (first.lost, second.lost) == (False, True)
        await true_census(engine, self.storage(engine))

    @pytest.mark.parametrize("kind", KINDS)
    async def test_g6_two_settlements_at_once_for_one_lease(
        self, engine: Engine, kind: str
    ) -> None:
        one = await bring_one(engine, "a")
        answers = await asyncio.gather(
            settle(engine, one, self._place(kind)), settle(engine, one, self._place(kind))
        )

        assert sorted(answer.lost for answer in answers) == [False, True]
        await true_census(engine, self.storage(engine))

    async def test_g6_routing_late_doubles_nothing(self, engine: Engine) -> None:
        await engine.accept([event("1")])
        late = await lease_one(engine, COMMON_QUEUE)
        await self.let_pass(LEASE_S + 1)
        current = await lease_one(engine, COMMON_QUEUE)
        first = await route(engine, late, {"a": [QUEUED]})
        second = await route(engine, current, {"a": [QUEUED]})

        assert first.lost != second.lost
        assert engine.depth("a").queued == 1
        await true_census(engine, self.storage(engine))

    async def test_g6_the_rest_of_the_batch_is_settled(self, engine: Engine) -> None:
        late = await bring_one(engine, "a", "late")
        await self.let_pass(LEASE_S + 1)
        good = await bring_one(engine, "b", "good")
        first, second = await engine.settle(
            [Settle(late, (DELIVERED,)), Settle(good, (DELIVERED,))]
        )

        assert second.taken == DELIVERED
        assert first.lost or first.taken == DELIVERED

    def _place(self, kind: str) -> Place:
        named: dict[str, Place] = {
            "delivered": DELIVERED,
            "released": RELEASED,
            "retrying": self.lane_place(60),
            "parked": self.parked_place(),
            "dead": dead_place(),
        }
        return named[kind]


class Moves(EngineBench):
    """G7: moving never loses and never merges."""

    async def test_g7_routing_makes_a_delivery_in_each_topic(self, engine: Engine) -> None:
        (receipt,) = await engine.accept([event("1")])
        one = await lease_one(engine, COMMON_QUEUE)
        answer = await route(engine, one, {"a": [QUEUED], "b": [QUEUED]})

        (in_a,), (in_b,) = await walk(engine, topic("a")), await walk(engine, topic("b"))
        assert answer.routed == (QUEUED, QUEUED)
        assert (in_a.id, in_b.id) == (f"{receipt.ref}.a", f"{receipt.ref}.b")
        assert (in_a.hop, in_b.hop) == (0, 0)
        assert await walk(engine, COMMON_QUEUE) == []

    async def test_g7_the_first_place_with_room_is_taken(self, engine: Engine) -> None:
        await engine.apply(Plan({COMMON: TopicPlan(50), "a": TopicPlan(2, 1)}))
        await engine.accept(events(5))
        tries = (QUEUED, self.lane_place(60), self.parked_place())
        leases = await lease(engine, COMMON_QUEUE)
        answers = await engine.settle([Route(one, (Target("a", tries),)) for one in leases])

        taken = [answer.routed[0] for answer in answers]
        assert taken == [QUEUED, QUEUED, tries[1], tries[2], tries[2]]
        await true_census(engine, self.storage(engine))

    async def test_g7_topics_fall_back_each_by_itself(self, engine: Engine) -> None:
        plan = Plan({COMMON: TopicPlan(50), "a": TopicPlan(1), "b": TopicPlan(9)})
        await engine.apply(plan)
        await bring(engine, "a", event("fills"))
        await engine.accept([event("1")])
        one = await lease_one(engine, COMMON_QUEUE)
        parked = self.parked_place()
        answer = await route(engine, one, {"a": [QUEUED, parked], "b": [QUEUED, parked]})

        assert answer.routed == (parked, QUEUED)
        assert ids(await walk(engine, topic("b"))) == ["1"]

    async def test_g7_every_move_has_a_greater_hop(self, engine: Engine) -> None:
        one = await bring_one(engine, "a")
        hops = [one.delivery.hop]
        await settle(engine, one, self.lane_place(0))
        one = await lease_one(engine, lane("a"))
        hops.append(one.delivery.hop)
        await settle(engine, one, Queued(Row.DUE, one.delivery.tally))
        one = await lease_one(engine, topic("a"))
        hops.append(one.delivery.hop)
        await settle(engine, one, self.parked_place())
        (stored,) = await kept(self.storage(engine))
        hops.append(stored.delivery.hop)
        await engine.place([Placing(stored.delivery, Queued(Row.RECOVERED_DUE))])
        hops.append((await lease_one(engine, topic("a"))).delivery.hop)

        assert hops == [0, 1, 2, 3, 4]

    async def test_g7_a_place_brings_its_counts_and_reason(self, engine: Engine) -> None:
        place = self.parked_place()
        await settle(engine, await bring_one(engine, "a"), place, note=_NOTE)

        (stored,) = await kept(self.storage(engine))
        found = stored.delivery
        assert (found.tally, found.due_at, found.reason) == (
            place.tally,
            place.due_at,
            place.reason,
        )
        assert (found.history, found.traceback) == ((_FAILED,), "Traceback: no")

    async def test_g7_released_is_as_if_never_leased(self, engine: Engine) -> None:
        await bring(engine, "a", *events(3))
        before = await walk(engine, topic("a"))
        first, second, _ = await lease(engine, topic("a"))
        await engine.settle([Settle(one, (RELEASED,)) for one in (second, first)])

        assert await walk(engine, topic("a")) == before
        assert ids(await lease(engine, topic("a"))) == ["e0", "e1"]

    async def test_g7_storage_that_refuses_fails_only_that_act(self, engine: Engine) -> None:
        await bring(engine, "a", *events(4))
        leases = await lease(engine, topic("a"))
        ends: list[Place] = [DELIVERED, self.parked_place(), self.lane_place(60), dead_place()]
        with self.storage_refuses():
            answers = await engine.settle(
                [Settle(one, (end,)) for one, end in zip(leases, ends, strict=True)]
            )

        assert [answer.taken is not None for answer in answers] == [True, False, True, False]
        assert answers[1].refused is not None
        assert [answer.owed for answer in answers] == [()] * 4
        assert [one.state for one in await engine.walk(topic("a"))] == ["running", "running"]
        await true_census(engine, self.storage(engine))

    async def test_g7_what_storage_refuses_takes_the_next_place(self, engine: Engine) -> None:
        one = await bring_one(engine, "a")
        parked = self.parked_place()
        waits = self.lane_place(5, wish=parked)
        with self.storage_refuses():
            answer = await settle(engine, one, parked, waits)

        (found,) = await walk(engine, lane("a"))
        assert answer.taken == waits
        assert (found.wish, found.reason, found.hop) == (parked, Reason.STORAGE_DOWN, 1)
        assert await kept(self.storage(engine)) == []

    async def test_g7_what_storage_refused_can_be_settled_again(self, engine: Engine) -> None:
        one = await bring_one(engine, "a")
        with self.storage_refuses():
            refused = await settle(engine, one, self.parked_place())
        taken = await settle(engine, one, self.parked_place())

        assert (refused.taken, refused.lost) == (None, False)
        assert isinstance(taken.taken, Parked)
        await true_census(engine, self.storage(engine))

    async def test_g7_the_last_resort_can_be_to_give_it_back(self, engine: Engine) -> None:
        one = await bring_one(engine, "a")
        with self.storage_refuses():
            answer = await settle(engine, one, self.parked_place(), RELEASED)

        assert answer.taken == RELEASED
        assert (await lease_one(engine, topic("a"))).delivery == one.delivery
        await true_census(engine, self.storage(engine))

    async def test_g7_storage_takes_up_to_its_size(self, engine: Engine) -> None:
        await settle(engine, await bring_one(engine, "a", "e"), dead_place())
        (first,) = await kept(self.storage(engine))
        await engine.apply(
            msgspec.structs.replace(self.PLAN, storage_max_bytes=4 * first.size_bytes + 50)
        )
        await bring(engine, "a", *events(10))
        leases = await lease(engine, topic("a"))
        answers = await engine.settle([Settle(one, (dead_place(),)) for one in leases])

        assert sum(isinstance(answer.taken, Dead) for answer in answers) == 3
        assert engine.depth("a").running == 7
        await true_census(engine, self.storage(engine))

    async def test_g7_a_lane_that_is_full_keeps_its_own(self, engine: Engine) -> None:
        """What is in it and waits on may stay: its own place is free for it."""
        await bring(engine, "a", *events(18))
        leases = await lease(engine, topic("a"))
        await engine.settle([Settle(one, (self.lane_place(0),)) for one in leases[:9]])
        in_lane = await lease(engine, lane("a"))
        answers = await engine.settle([Settle(one, (self.lane_place(60),)) for one in in_lane])

        assert all(answer.taken is not None for answer in answers)
        assert engine.depth("a").retrying == 9

    async def test_g7_re_checks_take_no_room_from_others(self, engine: Engine) -> None:
        await bring(engine, "a", *events(10))
        leases = await lease(engine, topic("a"))
        await engine.settle([Settle(one, (self.lane_place(0),)) for one in leases[:8]])
        acts: list[Act] = [
            Settle(one, (self.lane_place(60),)) for one in await lease(engine, lane("a"))
        ]
        *_, answer = await engine.settle([*acts, Settle(leases[8], (self.lane_place(60),))])

        assert answer.taken is not None
        assert engine.depth("a").retrying == 9

    async def test_g7_a_topic_without_a_place_is_owed(self, engine: Engine) -> None:
        await engine.accept([event("1")])
        one = await lease_one(engine, COMMON_QUEUE)
        with self.storage_refuses():
            answer = await route(engine, one, {"a": [QUEUED], "b": [self.parked_place()]})

        assert (answer.routed, answer.owed) == ((QUEUED, None), ("b",))
        (found,) = await walk(engine, COMMON_QUEUE)
        assert (found.owed, found.hop) == (("b",), 1)
        await true_census(engine, self.storage(engine))

    async def test_g7_the_same_lease_routes_what_is_owed(self, engine: Engine) -> None:
        await engine.accept([event("1")])
        one = await lease_one(engine, COMMON_QUEUE)
        with self.storage_refuses():
            await route(engine, one, {"a": [QUEUED], "b": [self.parked_place()]})
        answer = await route(engine, one, {"b": [self.parked_place()]})

        assert (answer.owed, answer.lost) == ((), False)
        assert await walk(engine, COMMON_QUEUE) == []
        assert ids(await walk(engine, topic("a"))) == ["1"]
        assert len(await kept(self.storage(engine), topic="b")) == 1
        await true_census(engine, self.storage(engine))

    async def test_g7_what_is_owed_can_be_owed_again(self, engine: Engine) -> None:
        await engine.accept([event("1")])
        one = await lease_one(engine, COMMON_QUEUE)
        with self.storage_refuses():
            parked = [self.parked_place()]
            await route(engine, one, {"a": parked, "b": parked})
            again = await route(engine, one, {"a": [QUEUED], "b": parked})
            last = await route(engine, one, {"b": parked})

        assert (again.owed, last.owed) == (("b",), ("b",))
        assert (await route(engine, one, {"b": [QUEUED]})).owed == ()
        await true_census(engine, self.storage(engine))

    async def test_g7_who_owes_and_is_given_up_still_owes(self, engine: Engine) -> None:
        """A replay routes to those topics only that never had it."""
        await engine.accept([event("1")])
        one = await lease_one(engine, COMMON_QUEUE)
        with self.storage_refuses():
            await route(engine, one, {"a": [QUEUED], "b": [self.parked_place()]})
        await settle(engine, one, dead_place())

        (stored,) = await kept(self.storage(engine))
        assert stored.delivery.owed == ("b",)

    async def test_g7_a_parked_delivery_comes_back_once(self, engine: Engine) -> None:
        await settle(engine, await bring_one(engine, "a"), self.parked_place(), note=_NOTE)
        (stored,) = await kept(self.storage(engine))
        back = Placing(stored.delivery, Queued(Row.RECOVERED_DUE, Tally(attempts=1)))

        assert list(await engine.place([back])) == [Placed.PLACED]
        assert list(await engine.place([back])) == [Placed.ALREADY]
        (found,) = await walk(engine, topic("a"))
        assert (found.hop, found.history) == (2, (_FAILED,))
        assert await kept(self.storage(engine)) == []
        await true_census(engine, self.storage(engine))

    async def test_g7_placed_twice_at_once_it_comes_back_once(self, engine: Engine) -> None:
        await settle(engine, await bring_one(engine, "a"), self.parked_place())
        (stored,) = await kept(self.storage(engine))
        back = Placing(stored.delivery, Queued(Row.RECOVERED_DUE))
        answers = await asyncio.gather(engine.place([back, back]), engine.place([back]))

        given = [answer for batch in answers for answer in batch]
        assert sorted(given) == [Placed.ALREADY, Placed.ALREADY, Placed.PLACED]
        await true_census(engine, self.storage(engine))

    async def test_g7_no_room_leaves_it_in_storage(self, engine: Engine) -> None:
        await settle(engine, await bring_one(engine, "a"), self.parked_place())
        (stored,) = await kept(self.storage(engine))
        await bring(engine, "a", *events(18))
        placed = await engine.place([Placing(stored.delivery, Queued(Row.RECOVERED_DUE))])

        assert list(placed) == [Placed.FULL]
        assert await kept(self.storage(engine)) == [stored]

    async def test_g7_storage_that_refuses_keeps_what_it_has(self, engine: Engine) -> None:
        await settle(engine, await bring_one(engine, "a"), self.parked_place())
        (stored,) = await kept(self.storage(engine))
        with self.storage_refuses():
            placed = await engine.place([Placing(stored.delivery, Queued(Row.RECOVERED_DUE))])

        assert Placed.PLACED not in placed
        assert await walk(engine, topic("a")) == []
        await true_census(engine, self.storage(engine))

    async def test_g7_a_parked_delivery_can_be_declared_dead(self, engine: Engine) -> None:
        await settle(engine, await bring_one(engine, "a"), self.parked_place())
        (stored,) = await kept(self.storage(engine))
        place = Dead(Row.EXPIRED, stored.delivery.tally, Reason.EXPIRED)
        placed = await engine.place([Placing(stored.delivery, place)])

        (found,) = await kept(self.storage(engine))
        assert list(placed) == [Placed.PLACED]
        assert (found.state, found.delivery.hop) == ("dead", 2)
        await true_census(engine, self.storage(engine))

    async def test_g7_what_was_replayed_meanwhile_is_not_placed(self, engine: Engine) -> None:
        await settle(engine, await bring_one(engine, "a"), self.parked_place())
        storage = self.storage(engine)
        (stored,) = await kept(storage)
        await storage.replay([stored.delivery.id], SOMEBODY)
        placed = await engine.place([Placing(stored.delivery, Queued(Row.RECOVERED_DUE))])

        assert list(placed) == [Placed.ALREADY]
        assert [one.delivery.hop for one in await kept(storage)] == [2]
        await true_census(engine, storage)

    async def test_g7_replay_and_discard_keep_the_ledger(self, engine: Engine) -> None:
        await bring(engine, "a", *events(3))
        for one in await lease(engine, topic("a")):
            await settle(engine, one, dead_place())
        storage = self.storage(engine)
        first, second, _ = [one.delivery.id for one in await kept(storage)]
        replayed = await storage.replay([first, first], SOMEBODY)
        discarded = await storage.discard([second, second], SOMEBODY)

        census = await true_census(engine, storage)
        counts = census.topics["a"]
        assert (replayed[first], discarded[second]) == ("replayed", "discarded")
        assert (counts.parked, counts.dead, counts.discarded) == (1, 1, 1)


class Counting(EngineBench):
    """G8: the counts are true."""

    async def test_g8_a_new_engine_counts_nothing(self, engine: Engine) -> None:
        census = await true_census(engine, self.storage(engine))

        assert census.topics[COMMON].created == 0
        assert census.since == pytest.approx(self.now_s(), abs=30)

    async def test_g8_accepted_is_created_in_common(self, engine: Engine) -> None:
        await engine.accept(events(3))

        counts = (await true_census(engine, self.storage(engine))).topics[COMMON]
        assert (counts.created, counts.queued) == (3, 3)

    async def test_g8_routed_is_delivered_in_common_and_created_in_topics(
        self, engine: Engine
    ) -> None:
        await engine.accept(events(1))
        one = await lease_one(engine, COMMON_QUEUE)
        await route(engine, one, {"a": [QUEUED], "b": [self.lane_place(9)]})

        topics = (await true_census(engine, self.storage(engine))).topics
        assert (topics[COMMON].created, topics[COMMON].delivered) == (1, 1)
        assert (topics["a"].created, topics["a"].queued) == (1, 1)
        assert (topics["b"].created, topics["b"].retrying) == (1, 1)

    async def test_g8_what_was_released_counts_when_it_is_delivered(self, engine: Engine) -> None:
        await bring(engine, "a", event("1"))
        for end in (RELEASED, RELEASED, DELIVERED):
            await settle(engine, await lease_one(engine, topic("a")), end)

        counts = (await true_census(engine, self.storage(engine))).topics["a"]
        assert (counts.created, counts.delivered, counts.unaccounted) == (1, 1, 0)

    @pytest.mark.parametrize("seed", range(6))
    async def test_g8_the_counts_are_true_all_through_a_long_story(
        self, engine: Engine, seed: int
    ) -> None:
        chance = Random(seed)
        storage = self.storage(engine)
        for step in range(60):
            await self._step(engine, chance, step)
            await true_census(engine, storage)

    @pytest.mark.parametrize("seed", range(6))
    async def test_g8_the_counts_are_true_after_much_at_once(
        self, engine: Engine, seed: int
    ) -> None:
        chance = Random(seed)
        for step in range(12):
            steps = (self._step(engine, chance, 10 * step + n) for n in range(6))
            await asyncio.gather(*steps)
            await true_census(engine, self.storage(engine))

    async def _step(self, engine: Engine, chance: Random, step: int) -> None:
        kind = chance.choice(["accept", "route", "settle", "settle", "lane", "place", "wait"])
        if kind == "accept":
            priority = chance.choice([None, "low", "critical"])
            given = events(chance.choice([1, 3, 8, 60]), priority, f"s{step}-")
            fallback = chance.choice([None, self.fallback()])
            await asyncio.gather(engine.accept(given, fallback=fallback), return_exceptions=True)
        elif kind == "route":
            leases = await lease(engine, COMMON_QUEUE, chance.randint(1, 9))
            await self._settle(engine, chance, [self._route(chance, one) for one in leases])
        elif kind in {"settle", "lane"}:
            name = chance.choice("ab")
            queue = topic(name) if kind == "settle" else lane(name)
            leases = await lease(engine, queue, chance.randint(1, 9))
            await self._settle(engine, chance, [Settle(one, self._tries(chance)) for one in leases])
        elif kind == "place":
            stored = await kept(self.storage(engine), state="parked")
            chosen = [one.delivery for one in stored if chance.random() < 0.5]
            await engine.place([Placing(one, Queued(Row.RECOVERED_DUE)) for one in chosen])
        else:
            await self.let_pass(chance.choice([1, 20, LEASE_S + 1]))

    async def _settle(self, engine: Engine, chance: Random, acts: list[Act]) -> None:
        done = [act for act in acts if chance.random() < 0.9]
        if chance.random() < 0.2:
            with self.storage_refuses():
                await engine.settle(done)
        else:
            await engine.settle(done)

    def _route(self, chance: Random, one: Lease) -> Act:
        names = one.delivery.owed or chance.choice([("a",), ("b",), ("a", "b")])
        return Route(one, tuple(Target(name, self._tries(chance)) for name in names))

    def _tries(self, chance: Random) -> tuple[Place, ...]:
        ways: list[Place] = [QUEUED, self.lane_place(chance.choice([0, 5, 50]))]
        ways += [self.parked_place(), dead_place()]
        return tuple(chance.sample(ways, chance.randint(1, 4)))


class Lanes(EngineBench):
    """The retry queue: only what is due, the earliest first."""

    async def test_lane_gives_only_what_is_due(self, engine: Engine) -> None:
        await self._delay(engine, 5, 50)

        assert await lease(engine, lane("a")) == []
        await self.let_pass(6)
        assert ids(await lease(engine, lane("a"))) == ["e0"]

    async def test_lane_gives_the_earliest_first(self, engine: Engine) -> None:
        await self._delay(engine, 30, 10, 20)
        await self.let_pass(31)

        assert ids(await lease(engine, lane("a"))) == ["e1", "e2", "e0"]

    async def test_lane_gives_equals_in_order_of_entry(self, engine: Engine) -> None:
        at = self.lane_place(1)
        await bring(engine, "a", *events(5))
        leases = await lease(engine, topic("a"))
        await engine.settle([Settle(one, (at,)) for one in leases])
        await self.let_pass(2)

        assert ids(await lease(engine, lane("a"))) == [f"e{n}" for n in range(5)]

    async def test_lane_wakes_who_waits_when_something_comes_due(self, engine: Engine) -> None:
        await self._delay(engine, 20)
        waiting = asyncio.ensure_future(engine.lease(lane("a"), limit=5, wait_s=100))
        await self.let_pass(19)
        assert not waiting.done()
        await self.let_pass(2)

        assert ids(await waiting) == ["e0"]

    async def test_lane_wakes_who_waits_when_something_earlier_comes(self, engine: Engine) -> None:
        await self._delay(engine, 50)
        waiting = asyncio.ensure_future(engine.lease(lane("a"), limit=5, wait_s=100))
        await self.let_pass(1)
        await self._delay(engine, 5, name="early")
        await self.let_pass(6)

        assert ids(await waiting) == ["early0"]

    async def test_lane_goes_on_after_a_lease_ran_out(self, engine: Engine) -> None:
        await self._delay(engine, 0)
        await lease_one(engine, lane("a"))
        await self.let_pass(LEASE_S + 1)

        assert ids(await lease(engine, lane("a"))) == ["e0"]

    async def _delay(self, engine: Engine, *waits: float, name: str = "e") -> None:
        await bring(engine, "a", *events(len(waits), name=name))
        leases = await lease(engine, topic("a"))
        await engine.settle(
            [Settle(one, (self.lane_place(wait),)) for one, wait in zip(leases, waits, strict=True)]
        )


class Waiting(EngineBench):
    """Who leases from an empty queue waits for the first, and no longer than asked."""

    async def test_waiting_ends_with_the_first_arrival(self, engine: Engine) -> None:
        waiting = asyncio.ensure_future(engine.lease(COMMON_QUEUE, limit=5, wait_s=100))
        await self.let_pass(1)
        assert not waiting.done()
        await engine.accept([event("1")])

        assert ids(await waiting) == ["1"]

    async def test_waiting_ends_when_something_is_given_back(self, engine: Engine) -> None:
        one = await bring_one(engine, "a")
        waiting = asyncio.ensure_future(engine.lease(topic("a"), limit=5, wait_s=100))
        await self.let_pass(1)
        await settle(engine, one, RELEASED)

        assert ids(await waiting) == ["1"]

    async def test_waiting_ends_when_the_time_is_over(self, engine: Engine) -> None:
        waiting = asyncio.ensure_future(engine.lease(COMMON_QUEUE, limit=5, wait_s=10))
        await self.let_pass(9)
        assert not waiting.done()
        await self.let_pass(2)

        assert list(await waiting) == []

    async def test_waiting_no_time_answers_at_once(self, engine: Engine) -> None:
        before = self.now_s()
        assert await lease(engine, COMMON_QUEUE) == []
        assert self.now_s() - before < 1

    async def test_waiting_many_get_each_their_own(self, engine: Engine) -> None:
        waiting = [
            asyncio.ensure_future(engine.lease(COMMON_QUEUE, limit=1, wait_s=50)) for _ in range(5)
        ]
        await self.let_pass(1)
        await engine.accept(events(3))
        await engine.accept(events(2, name="f"))
        found = [ids(await one) for one in waiting]

        assert sorted(found) == [["e0"], ["e1"], ["e2"], ["f0"], ["f1"]]

    async def test_waiting_can_be_given_up(self, engine: Engine) -> None:
        waiting = asyncio.ensure_future(engine.lease(COMMON_QUEUE, limit=1, wait_s=50))
        await self.let_pass(1)
        waiting.cancel()
        await engine.accept(events(1))

        assert ids(await lease(engine, COMMON_QUEUE)) == ["e0"]

    async def test_a_limit_is_kept(self, engine: Engine) -> None:
        await engine.accept(events(5))

        assert len(await lease(engine, COMMON_QUEUE, 3)) == 3
        assert len(await lease(engine, COMMON_QUEUE, 3)) == 2


class Looking(EngineBench):
    """Finding, walking, depths."""

    async def test_find_tells_every_place_of_an_event(self, engine: Engine) -> None:
        (receipt, _) = await engine.accept([event("1"), event("2")])
        one = await lease_one(engine, COMMON_QUEUE)
        await route(engine, one, {"a": [QUEUED], "b": [self.lane_place(9)]})
        assert receipt.ref is not None

        found = {hit.delivery.topic: hit.state for hit in await engine.find(receipt.ref)}
        assert found == {"a": "queued", "b": "retrying"}

    async def test_find_tells_what_is_running(self, engine: Engine) -> None:
        one = await bring_one(engine, "a")

        (found,) = await engine.find(one.delivery.ref)
        assert (found.state, found.delivery) == ("running", one.delivery)

    async def test_find_knows_no_other_events(self, engine: Engine) -> None:
        await engine.accept(events(3))

        assert list(await engine.find("no-such-ref")) == []

    async def test_walk_gives_pages_that_make_the_whole(self, engine: Engine) -> None:
        await engine.accept([*events(12), *events(5, "critical", "c")])
        await lease(engine, COMMON_QUEUE, 4)
        cursor, pages = None, []
        while page := await engine.walk(COMMON_QUEUE, after=cursor, limit=5):
            pages.append([found.delivery.event.id for found in page])
            cursor = page[-1].cursor

        assert [len(page) for page in pages] == [5, 5, 5, 2]
        assert [id for page in pages for id in page] == [f"e{n}" for n in range(12)] + [
            f"c{n}" for n in range(5)
        ]

    async def test_walk_tells_what_is_running(self, engine: Engine) -> None:
        await bring(engine, "a", *events(2))
        await lease_one(engine, topic("a"))

        assert [found.state for found in await engine.walk(topic("a"))] == ["running", "queued"]

    async def test_depth_counts_queue_lane_and_what_runs(self, engine: Engine) -> None:
        await bring(engine, "a", *events(4))
        first, _ = await lease(engine, topic("a"), 2)
        await settle(engine, first, self.lane_place(9))

        depth = engine.depth("a")
        assert (depth.queued, depth.running, depth.retrying) == (2, 1, 1)
        assert (depth.capacity, depth.lane_capacity) == (20, 10)

    async def test_looking_for_an_unknown_topic_makes_none(self, engine: Engine) -> None:
        assert engine.depth("nobody").capacity == 0
        assert list(await engine.walk(topic("nobody"))) == []

        assert "nobody" not in (await engine.census()).topics


class Ending(EngineBench):
    """A closed engine takes nothing and leaves nobody waiting."""

    async def test_a_closed_engine_accepts_nothing(self, engine: Engine) -> None:
        await engine.close()
        with pytest.raises(EngineUnavailable):
            await engine.accept([event("1")])

    async def test_a_closed_engine_settles_nothing(self, engine: Engine) -> None:
        one = await bring_one(engine, "a")
        await engine.close()
        with pytest.raises(EngineUnavailable):
            await engine.settle([Settle(one, (DELIVERED,))])

    async def test_closing_lets_go_of_those_who_wait(self, engine: Engine) -> None:
        waiting = asyncio.ensure_future(engine.lease(COMMON_QUEUE, limit=1, wait_s=1000))
        await self.let_pass(1)
        await engine.close()

        assert list(await waiting) == []

    async def test_closing_ends_what_was_begun(self, engine: Engine) -> None:
        accepting = asyncio.ensure_future(engine.accept([event("1")]))
        await _a_turn_for_all()
        await engine.close()

        assert len(await accepting) == 1

    async def test_closing_twice_is_closing_once(self, engine: Engine) -> None:
        await asyncio.gather(engine.close(), engine.close())
        await engine.close()


class EngineContract(  # all promises, in their order
    Duplicates,
    Capacities,
    Fallbacks,
    Priorities,
    Leases,
    LateSettling,
    Moves,
    Counting,
    Lanes,
    Waiting,
    Looking,
    Ending,
):
    """What every engine keeps."""


class DurableEngineContract(EngineContract, Durability):
    """What every engine keeps that outlives its process: `EngineContract` and G1."""


async def _a_turn_for_all() -> None:
    """Let every task begin: of those ready in one step of the loop, any may be the first."""
    await asyncio.sleep(0)
    await asyncio.sleep(0)
