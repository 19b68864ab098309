"""A state machine of an engine: any order of any acts, and the promises hold after each.

After every step the engine is held against the model: every delivery in the one place the model
has it in, the ledger counted and walked, no queue above its capacity, no hop that went back, no
queue whose order has changed. Settlements are planned before, while and after another commit is
on its way, one in four each.

A subclass says how to make an engine and how to let time pass: what stands under "the seam".
"""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from itertools import cycle
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from tests.engine.machine_model import (
    ENDS,
    NUMBERS,
    PLAN,
    SEEN,
    SOMEBODY,
    TOPICS,
    WAYS,
    WAYS_OF_TOPICS,
    Held,
    Known,
    place,
    tag_of,
)

from eventflow.delivery import COMMON, Dead, Delivered, Delivery, Queued, Reason, Released, Row
from eventflow.engine.protocol import Placed, Placing, Route, Settle, Target
from eventflow.errors import QueueFull
from eventflow.testing.engine_bench import (
    COMMON_QUEUE,
    LEASE_S,
    event,
    kept,
    lane,
    topic,
    true_census,
    walk,
)

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator, Sequence

    from eventflow.delivery import Place
    from eventflow.engine.protocol import Act, Engine, Lease, Queue, Receipt, Settled
    from eventflow.event import Event
    from eventflow.storage.protocol import Kept

T = TypeVar("T")

QUEUES = (COMMON_QUEUE, *(topic(name) for name in TOPICS), *(lane(name) for name in TOPICS))


class EngineRules(RuleBasedStateMachine):
    engine: Engine
    loop: asyncio.AbstractEventLoop

    def __init__(self) -> None:
        super().__init__()
        self.model: dict[str, Known] = {}
        self.refs: dict[str, str | None] = {}
        """By event id, the ref it was accepted under."""
        self.forgotten: set[str] = set()
        """Ids that may be forgotten: the engine was opened anew after they had left common."""
        self.leases: list[Held] = []
        self.late: list[Held] = []
        """Leases that ran out and of which somebody else has the delivery by now."""
        self.refuses = False
        """Whether storage refuses."""
        self.settlements = 0
        self.created = dict.fromkeys((COMMON, *TOPICS), 0)
        self.ended = dict.fromkeys((COMMON, *TOPICS), 0)
        """Delivered or discarded, by topic."""
        self.order: dict[Queue, list[tuple[str, int]]] = {}

    # the seam ----------------------------------------------------------------

    @property
    def storage(self) -> Any:
        """What the engine moves parked and dead deliveries to."""
        raise NotImplementedError

    async def _open(self) -> None:
        """Make `engine`, with what the one before it has left."""
        raise NotImplementedError

    async def _die(self, *, power: bool) -> None:
        """Let the engine die, closing nothing, and make the next one."""
        raise NotImplementedError

    async def _reopen(self) -> None:
        await self.engine.close()
        await self._open()

    def now(self) -> float:
        """Return the engine's time, seconds since 1970."""
        raise NotImplementedError

    async def _let_pass(self, seconds: float) -> None:
        """Turn the clock, or wait."""
        raise NotImplementedError

    def _over(self, until: float) -> bool | None:
        """Return whether a lease is over, None where that can't be told."""
        return until <= self.now()

    def _refused_with_room(self, events: list[Event]) -> None:
        """Judge that common was said to be full where it is not."""
        raise AssertionError(f"no room for {len(events)} events")

    @contextmanager
    def look(self) -> Iterator[None]:
        """Read without changing anything by that."""
        yield

    def run(self, main: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(main)

    # accept ------------------------------------------------------------------

    @initialize(count=st.integers(0, 12))
    def open(self, count: int) -> None:
        self.run(self._open())
        if count:
            self.accept([*range(count)], None)
            self.pass_on(count, {"a": ["queued"], "b": ["queued", "parked"]})

    @rule(numbers=NUMBERS, priority=st.sampled_from([None, "critical", "low"]))
    def accept(self, numbers: list[int], priority: str | None) -> None:
        events = [event(f"e{number}", priority) for number in numbers]
        try:
            receipts = self.run(self.engine.accept(events))
        except QueueFull:
            self._refused(events)
            return
        self._accepted(events, receipts)

    def _refused(self, events: list[Event]) -> None:
        SEEN["full"] += 1
        waiting = sum(known.topic == COMMON for known in self._in("queued"))
        sure = self.refs.keys() - self.forgotten
        fresh = {one.id: one.rank for one in events if one.id not in sure}
        for may_use, given in ((20, fresh), (18, [r for r in fresh.values() if r > 1])):
            if given and waiting + len(given) > may_use:
                return
        self._refused_with_room(events)

    def _in(self, state: str) -> list[Known]:
        return [known for known in self.model.values() if known.state == state]

    @rule(first=st.integers(0, 40))
    def accept_until_full(self, first: int) -> None:
        for number in range(first, first + 3):
            self.accept([*range(7 * number, 7 * number + 7)], None)

    def _accepted(self, events: Sequence[Event], receipts: Sequence[Receipt]) -> None:
        for given, receipt in zip(events, receipts, strict=True):
            if not receipt.duplicate and given.id in self.forgotten:
                del self.refs[given.id]
            assert receipt.duplicate == (given.id in self.refs)
            self.forgotten.discard(given.id)
            self._named(given.id, receipt)
            SEEN["duplicate" if receipt.duplicate else "accepted"] += 1
            if not receipt.duplicate:
                assert receipt.ref is not None
                self._created(Delivery(given, receipt.ref, COMMON, 0.0), "queued")

    def _named(self, id: str, receipt: Receipt) -> None:
        assert self.refs.setdefault(id, receipt.ref) == receipt.ref

    def _created(self, new: Delivery, state: str) -> Known:
        assert new.id not in self.model
        self.created[new.topic] += 1
        self.model[new.id] = Known(new, state)
        return self.model[new.id]

    # lease -------------------------------------------------------------------

    @rule(name=st.sampled_from(TOPICS), limit=st.integers(1, 6))
    def lease(self, name: str, limit: int) -> None:
        for one in self._lease(topic(name), limit):
            self._take(one, "queued")
            self.model[one.id].started = not one.lease.delivery.tally.crashes

    @rule(limit=st.integers(1, 6))
    def lease_common(self, limit: int) -> None:
        for one in self._lease(COMMON_QUEUE, limit):
            self._take(one, "queued")

    @rule(name=st.sampled_from(TOPICS), limit=st.integers(1, 6))
    def lease_due(self, name: str, limit: int) -> None:
        for one in self._lease(lane(name), limit):
            self._take(one, "retrying")
            due_at = one.lease.delivery.due_at
            assert due_at is not None
            assert due_at <= self.now()

    def _lease(self, queue: Queue, limit: int) -> list[Held]:
        until = self.now() + LEASE_S
        found = list(self.run(self.engine.lease(queue, limit=limit, wait_s=0)))
        assert len(found) <= limit
        return [Held(one, until) for one in found]

    def _take(self, one: Held, state: str) -> None:
        delivery = one.lease.delivery
        self._taken(one.id, state)
        known = self.model[one.id]
        assert (known.state, known.hop) == (state, delivery.hop)
        assert delivery.tally.crashes == known.crashes
        self.leases.append(one)

    def _taken(self, id: str, state: str) -> None:
        """Note that a delivery was leased: whoever had it before has lost it."""
        known = self.model[id]
        assert known.state == state
        holders = [held for held in self.leases if held.id == id]
        for held in holders:
            assert self._over(held.until) is not False, "leased twice"
            assert list(self.run(self.engine.extend([held.lease]))) == [False]
        self.leases = [held for held in self.leases if held not in holders]
        self.late = self.late[-9:] + holders
        if known.started:  # its lease ran out while it ran
            SEEN["crashed by time"] += 1
            known.crashes += 1
            known.started = False

    @precondition(lambda self: self.leases)
    @rule(data=st.data())
    def start(self, data: st.DataObject) -> None:
        one = data.draw(st.sampled_from(self.leases))
        if one.lease.queue.kind == "lane" or one.lease.queue.topic == COMMON:
            return
        over = self._over(one.until)
        (held,) = self.run(self.engine.start([one.lease]))
        assert over is None or held is not over
        if held:
            self.model[one.id].started = True

    @precondition(lambda self: self.leases)
    @rule(data=st.data())
    def extend(self, data: st.DataObject) -> None:
        chosen = data.draw(st.lists(st.sampled_from(self.leases)))
        over = [self._over(one.until) for one in chosen]
        until = self.now() + LEASE_S
        answers = self.run(self.engine.extend([one.lease for one in chosen]))
        for one, was_over, extended in zip(chosen, over, answers, strict=True):
            assert was_over is None or extended is not was_over
            if extended:
                one.until = until

    # settle ------------------------------------------------------------------

    @precondition(lambda self: self.leases)
    @rule(data=st.data(), ends=st.lists(ENDS, min_size=1, max_size=6))
    def settle(self, data: st.DataObject, ends: list[list[str]]) -> None:
        chosen = data.draw(
            st.lists(st.sampled_from(self.leases), min_size=1, max_size=len(ends), unique_by=id)
        )
        self._settle(chosen, ends)

    def _settle(self, chosen: Sequence[Held], ends: list[list[str]]) -> None:
        acts = [self._ending(one, names) for one, names in zip(chosen, cycle(ends), strict=False)]
        over = [self._over(one.until) for one in chosen]
        answers = self.run(self._beside_a_commit(acts))
        for one, act, was_over, answer in zip(chosen, acts, over, answers, strict=True):
            assert was_over is None or answer.lost is was_over
            self._settled(one, act.tries, answer)

    def _ending(self, one: Held, names: Sequence[str]) -> Settle:
        now = self.now()
        return Settle(one.lease, tuple(place(name, one.lease.delivery, now) for name in names))

    async def _beside_a_commit(self, acts: Sequence[Act]) -> Sequence[Settled]:
        """Settle before, while or after another commit is on its way, or alone."""
        self.settlements += 1
        other = asyncio.ensure_future(self.storage.totals())
        if self.settlements % 4 == 0:
            await other
        for _ in range(self.settlements % 4):
            await asyncio.sleep(0)
        answers = await self.engine.settle(acts)
        await other
        return answers

    @precondition(lambda self: self.late)
    @rule(data=st.data(), end=ENDS)
    def settle_late(self, data: st.DataObject, end: list[str]) -> None:
        (answer,) = self.run(
            self.engine.settle([self._ending(data.draw(st.sampled_from(self.late)), end)])
        )
        SEEN["late"] += 1
        assert answer.lost

    @precondition(lambda self: any(one.lease.queue == COMMON_QUEUE for one in self.leases))
    @rule(data=st.data(), ways=WAYS_OF_TOPICS)
    def route(self, data: st.DataObject, ways: dict[str, list[str]]) -> None:
        commons = [one for one in self.leases if one.lease.queue == COMMON_QUEUE]
        self._route(data.draw(st.lists(st.sampled_from(commons), min_size=1, unique_by=id)), ways)

    def _route(self, chosen: Sequence[Held], ways: dict[str, list[str]]) -> None:
        acts = [self._routing(one, ways) for one in chosen]
        over = [self._over(one.until) for one in chosen]
        answers = self.run(self._beside_a_commit(acts))
        for one, act, was_over, answer in zip(chosen, acts, over, answers, strict=True):
            assert was_over is None or answer.lost is was_over
            self._routed(one, act, answer)

    # whole ways at once, so that stories get somewhere ---------------------------

    @rule(limit=st.integers(1, 9), ways=WAYS_OF_TOPICS)
    def pass_on(self, limit: int, ways: dict[str, list[str]]) -> None:
        before = self.leases
        self.lease_common(limit)
        self._route([one for one in self.leases if one not in before], ways)

    @rule(name=st.sampled_from(TOPICS), ends=st.lists(ENDS, min_size=1, max_size=4))
    def work(self, name: str, ends: list[list[str]]) -> None:
        before = self.leases
        self.lease(name, limit=5)
        self._settle([one for one in self.leases if one not in before], ends)

    @rule(ends=st.lists(WAYS, min_size=1, max_size=4))
    def all_comes_due(self, ends: list[list[str]]) -> None:
        self.clock(21)
        before = self.leases
        for name in TOPICS:
            self.lease_due(name, limit=9)
        self._settle([one for one in self.leases if one not in before], ends)

    @rule()
    def leases_run_out(self) -> None:
        self.clock(LEASE_S + 1)
        for name in TOPICS:
            self.lease(name, limit=9)

    @precondition(lambda self: self.leases)
    @rule(data=st.data(), ends=st.lists(ENDS, min_size=1, max_size=6))
    def settle_what_ran_out(self, data: st.DataObject, ends: list[list[str]]) -> None:
        """It is lost, though nobody else has it yet."""
        self.clock(LEASE_S + 1)
        self.settle(data, ends)

    @precondition(lambda self: self.leases)
    @rule(data=st.data(), end=ENDS)
    def settle_twice_at_once(self, data: st.DataObject, end: list[str]) -> None:
        one = data.draw(st.sampled_from(self.leases))
        act = self._ending(one, end)

        async def both() -> tuple[Sequence[Settled], Sequence[Settled]]:
            return await asyncio.gather(self.engine.settle([act]), self.engine.settle([act]))

        (first,), (second,) = self.run(both())
        assert first.lost or second.lost or None in (first.taken, second.taken)
        for answer in (first, second):
            if not answer.lost:
                self._settled(one, act.tries, answer)

    def _routing(self, one: Held, ways: dict[str, list[str]]) -> Route:
        delivery, now = one.lease.delivery, self.now()
        targets = [
            Target(name, tuple(place(way, delivery, now) for way in ways.get(name, ["dead"])))
            for name in self._owed(one.lease) or tuple(ways)
        ]
        return Route(one.lease, tuple(targets))

    def _owed(self, one: Lease) -> tuple[str, ...]:
        (found,) = [
            delivery
            for delivery in self.run(walk(self.engine, COMMON_QUEUE))
            if delivery.id == one.delivery.id
        ] or [one.delivery]
        return found.owed

    def _settled(self, one: Held, tries: tuple[Place, ...], answer: Settled) -> None:
        if answer.lost:
            SEEN["lost"] += 1
            return
        known = self.model[one.id]
        if answer.taken is None:
            SEEN["refused"] += 1
            assert not any(isinstance(place, Delivered | Released) for place in tries)
            return
        assert answer.taken in tries
        SEEN[f"{tag_of(answer.taken)}, choice {tries.index(answer.taken)}"] += 1
        self.leases.remove(one)
        if isinstance(answer.taken, Released):
            known.started = False
        elif isinstance(answer.taken, Delivered):
            self._ended(one.id)
        else:
            known.move(tag_of(answer.taken))

    def _ended(self, id: str) -> None:
        self.ended[self.model.pop(id).topic] += 1

    def _routed(self, one: Held, act: Route, answer: Settled) -> None:
        if answer.lost:
            SEEN["lost"] += 1
            return
        SEEN["owed" if answer.owed else "routed"] += 1
        common = self.model[one.id]
        taken = dict(zip([target.topic for target in act.targets], answer.routed, strict=False))
        for name, there in taken.items():
            if there is None:
                assert name in answer.owed
                continue
            SEEN[f"routed to {tag_of(there)}"] += 1
            new = Delivery(act.lease.delivery.event, common.ref, name, 0.0)
            self._created(new, tag_of(there)).crashes = act.lease.delivery.tally.crashes
        if not answer.owed:
            self.leases.remove(one)
            self._ended(one.id)
        elif any(taken.values()):
            common.hop += 1

    # storage -----------------------------------------------------------------

    @rule()
    def storage_fails(self) -> None:
        self.refuses = True

    @rule()
    def storage_heals(self) -> None:
        self.refuses = False

    @rule(data=st.data(), stale=st.booleans(), dies=st.booleans())
    def place(self, data: st.DataObject, *, stale: bool, dies: bool) -> None:
        stored = self._kept("parked")
        if not stored:
            return
        acts = []
        # Some of them twice: only the first is placed.
        for one in data.draw(st.lists(st.sampled_from(stored), min_size=1, max_size=9)):
            old = one.delivery
            if stale:  # as if it had been placed and parked again meanwhile
                old = msgspec.structs.replace(old, hop=old.hop - 1)
            to = Dead(Row.EXPIRED, old.tally, Reason.EXPIRED)
            acts.append(Placing(old, to if dies else Queued(Row.RECOVERED_DUE, old.tally)))
        for act, answer in zip(acts, self.run(self.engine.place(acts)), strict=True):
            SEEN[f"{answer.value}{', stale' if stale else ''}"] += 1
            known = self.model[act.delivery.id]
            if answer is Placed.PLACED:
                assert (known.state, known.hop) == ("parked", act.delivery.hop)
                known.move("dead" if dies else "queued")

    @rule(data=st.data())
    def replay(self, data: st.DataObject) -> None:
        ids = self._some_kept(data)
        if ids:
            for id, answer in self.run(self.storage.replay(ids, SOMEBODY)).items():
                SEEN[answer] += 1
                if answer == "replayed":
                    self.model[id].move("parked")
                    self.model[id].crashes = 0

    @rule(data=st.data())
    def discard(self, data: st.DataObject) -> None:
        ids = self._some_kept(data, "dead")
        if ids:
            for id, answer in self.run(self.storage.discard(ids, SOMEBODY)).items():
                assert answer == "discarded"
                SEEN[answer] += 1
                self._ended(id)

    def _some_kept(self, data: st.DataObject, state: str | None = None) -> list[str]:
        stored = self._kept(state)
        if not stored or self.refuses:
            return []
        chosen = data.draw(st.lists(st.sampled_from(stored), min_size=1, max_size=4))
        return [one.delivery.id for one in chosen]

    def _kept(self, state: str | None = None) -> list[Kept]:
        with self.look():
            return self.run(kept(self.storage, state=state))

    # time and ends -----------------------------------------------------------

    @rule(seconds=st.sampled_from([0.5, 10, LEASE_S + 1]))
    def clock(self, seconds: float) -> None:
        self.run(self._let_pass(seconds))

    @rule(power=st.booleans())
    def crash(self, *, power: bool) -> None:
        self.run(self._die(power=power))
        self._opened_anew()

    @rule()
    def reopen(self) -> None:
        self.run(self._reopen())
        self._opened_anew()

    def _opened_anew(self) -> None:
        in_common = {
            known.ref
            for known in self.model.values()
            if known.topic == COMMON and known.state in {"queued", "retrying"}
        }
        self.forgotten |= {id for id, ref in self.refs.items() if ref not in in_common}
        self.leases.clear()
        self.late.clear()
        for known in self.model.values():
            if known.started:
                SEEN["crashed"] += 1
                known.crashes += 1
            known.started = False

    # what holds after every step ---------------------------------------------

    @invariant()
    def every_delivery_is_where_the_model_has_it(self) -> None:
        if not hasattr(self, "engine"):
            return
        found: dict[str, tuple[str, int]] = {}
        with self.look():
            held = self.run(self._held())
        for one in held:
            assert one[0] not in found, "in two places"
            found[one[0]] = one[1:]
        assert found == {id: (known.state, known.hop) for id, known in self.model.items()}

    async def _held(self) -> list[tuple[str, str, int]]:
        """Return id, state and hop of all there is, having held each queue against its order."""
        held = []
        for queue in QUEUES:
            state = "queued" if queue.kind == "topic" else "retrying"
            found = await walk(self.engine, queue)
            held += [(one.id, state, one.hop) for one in found]
            self._ordered(queue, [one.id for one in found])
            capacities = PLAN.topics[queue.topic]
            most = capacities.capacity if state == "queued" else capacities.lane_capacity
            assert len(found) <= most
        stored = await kept(self.storage)
        self._stored(stored)
        return held + [(one.delivery.id, one.state, one.delivery.hop) for one in stored]

    def _stored(self, items: Sequence[Kept]) -> None:
        """Hold what storage says it uses against what it holds."""

    def _ordered(self, queue: Queue, ids: list[str]) -> None:
        """Find what was there in the order it was in, and before all that has come since."""
        known = [(id, self.model[id]) for id in ids if id in self.model]
        now = [(id, one.entered) for id, one in known if not one.stays]
        stayed = [one for one in self.order.get(queue, []) if one in now]
        assert now[: len(stayed)] == stayed
        self.order[queue] = now

    @invariant()
    def the_ledger_is_true(self) -> None:
        if not hasattr(self, "engine"):
            return
        with self.look():
            topics = self.run(true_census(self.engine, self.storage)).topics
        for name in (COMMON, *TOPICS):
            assert topics[name].created == self.created[name]
            assert topics[name].delivered + topics[name].discarded == self.ended[name]
