"""A state machine of the embedded engine: any order of any acts, and the promises hold after each.

The model is a dictionary: where each delivery is, at which hop, and with how many crashes. After
every step the engine is held against it: every delivery in the one place the model has it in, the
ledger counted and walked, no queue above its capacity, no hop that went back.

A crash is a copy of the disk as the process leaves it; a power cut leaves of it what was synced.
Commits are awaited in each step, so both must show everything. Settlements are planned before,
while and after another commit is on its way, one in four each.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import contextmanager
from itertools import cycle
from random import Random
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import seed as repeat_with
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from eventflow.delivery import (
    COMMON,
    DELIVERED,
    RELEASED,
    Dead,
    Delivered,
    Delivery,
    Parked,
    Place,
    Queued,
    Reason,
    Released,
    Retrying,
    Row,
)
from eventflow.engine.embedded import EmbeddedEngine, cleaning, open_engine
from eventflow.engine.embedded.committer import SOON_S
from eventflow.engine.embedded.writer import InlineWriter
from eventflow.engine.protocol import (
    Act,
    Lease,
    Placed,
    Placing,
    Plan,
    Receipt,
    Route,
    Settle,
    Settled,
    Target,
    TopicPlan,
)
from eventflow.errors import EngineUnavailable, QueueFull, StorageUnavailable
from eventflow.storage.protocol import Actor
from eventflow.storage.shelf import Shelf
from eventflow.testing import CrashDisk, VirtualClock, VirtualLoop
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
    from collections.abc import Callable, Coroutine, Iterator, Sequence

    from eventflow.event import Event
    from eventflow.storage.protocol import Kept

T = TypeVar("T")

PLAN = Plan(
    topics={COMMON: TopicPlan(20), "a": TopicPlan(10, 5), "b": TopicPlan(4, 2)},
    dedup_window_s=1_000_000,
    lease_s=LEASE_S,
    storage_max_bytes=6_000,
)
TOPICS = ("a", "b")
SOMEBODY = Actor("somebody")
CLOCK = VirtualClock()

SEEN: Counter[str] = Counter()
"""What the stories came by: a story that goes nowhere proves nothing."""
PLACES = st.sampled_from(["queued", "retrying", "parked", "dead"])
WAYS = st.lists(PLACES, min_size=1, max_size=4, unique=True)
WAYS_OF_TOPICS = st.dictionaries(st.sampled_from(TOPICS), WAYS, min_size=1)
ENDS = st.one_of(st.sampled_from([["delivered"], ["released"]]), WAYS)


class Switch:
    """Whether storage refuses."""

    def __init__(self) -> None:
        self.refuses = False

    def shelf(self, connection: Any) -> Shelf:
        """Make a shelf that looks at this switch."""
        switch = self

        class Switched(Shelf):
            def keep(self, items: Sequence[Kept]) -> None:
                switch.check()
                super().keep(items)

            def forget(self, pairs: Sequence[tuple[str, int]]) -> list[bool]:
                switch.check()
                return super().forget(pairs)

        return Switched(connection)

    def check(self) -> None:
        """Refuse, if so switched."""
        if self.refuses:
            raise StorageUnavailable("a test has switched it off")


class Known:
    """What the model knows of one delivery."""

    def __init__(self, delivery: Delivery, state: str) -> None:
        self.topic = delivery.topic
        self.ref = delivery.ref
        self.hop = delivery.hop
        self.state = state
        """"queued" (or running), "retrying", "parked", "dead"."""
        self.crashes = delivery.tally.crashes
        self.started = False


class EngineMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.loop = VirtualLoop(seed=1)
        self.disk = CrashDisk()
        self.switch = Switch()
        self.chance = Random(1)
        self.model: dict[str, Known] = {}
        self.refs: dict[str, str] = {}
        """By event id, the ref it was accepted under."""
        self.forgotten: set[str] = set()
        """Ids that may be forgotten: the engine was opened anew after they had left common."""
        self.leases: list[Lease] = []
        self.late: list[Lease] = []
        """Leases that ran out and of which somebody else has the delivery by now."""
        self.settlements = 0
        self.looking = False
        self.created = dict.fromkeys((COMMON, *TOPICS), 0)
        self.ended = dict.fromkeys((COMMON, *TOPICS), 0)
        """Delivered or discarded, by topic."""
        self.engine: EmbeddedEngine

    def run(self, main: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(main)

    async def _open(self) -> None:
        self.engine = await open_engine(
            "journal.db",
            clock=CLOCK,
            draw_bits=self.chance.getrandbits,
            writer=InlineWriter,
            vfs=self.disk.name,
            shelf=self.switch.shelf,
        )
        await self.engine.apply(PLAN)
        cleaner = self.engine._cleaner  # noqa: SLF001  # to let it rest while the test looks
        ride = cleaner.ride
        cleaner.ride = lambda txn: None if self.looking else ride(txn)  # type: ignore[method-assign]

    @contextmanager
    def look(self) -> Iterator[None]:
        """Read without the cleaning that rides with every commit: it is for the rules to meet."""
        self.looking = True
        try:
            yield
        finally:
            self.looking = False

    @initialize(count=st.integers(0, 12))
    def open(self, count: int) -> None:
        self.run(self._open())
        if count:
            self.accept([*range(count)], None)
            self.pass_on(count, {"a": ["queued"], "b": ["queued", "parked"]})

    def teardown(self) -> None:
        if hasattr(self, "engine"):
            self.run(self.engine.close())
        self.loop.close()
        self.disk.unregister()

    # accept ------------------------------------------------------------------

    @rule(
        numbers=st.lists(st.integers(0, 60), min_size=1, max_size=8),
        priority=st.sampled_from([None, "critical", "low"]),
    )
    def accept(self, numbers: list[int], priority: str | None) -> None:
        events = [event(f"e{number}", priority) for number in numbers]
        before = self.engine.depth(COMMON)
        try:
            receipts = self.run(self.engine.accept(events))
        except QueueFull:
            SEEN["full"] += 1
            assert self.engine.depth(COMMON) == before
            known = self.refs.keys() - self.forgotten
            fresh = len({f"e{number}" for number in numbers} - known)
            reserve = 0 if priority == "critical" else 2
            assert before.queued + before.running + fresh > 20 - reserve
            return
        self._accepted(events, receipts)

    @rule(numbers=st.lists(st.integers(0, 60), min_size=1, max_size=8))
    def accept_on_a_full_disk(self, numbers: list[int]) -> None:
        """What could not be kept is not remembered either: it may come again."""
        events = [event(f"e{number}") for number in numbers]
        self.disk.fail_write()
        try:
            receipts = self.run(self.engine.accept(events))
        except (EngineUnavailable, QueueFull):
            return
        finally:
            self.disk.heal()
        assert all(receipt.duplicate for receipt in receipts), "acknowledged on a full disk"
        self._accepted(events, receipts)

    @rule(first=st.integers(0, 40))
    def accept_until_full(self, first: int) -> None:
        for number in range(first, first + 3):
            self.accept([*range(7 * number, 7 * number + 7)], None)

    def _accepted(self, events: Sequence[Event], receipts: Sequence[Receipt]) -> None:
        for given, receipt in zip(events, receipts, strict=True):
            assert receipt.ref is not None
            if not receipt.duplicate and given.id in self.forgotten:
                del self.refs[given.id]
            assert receipt.duplicate == (given.id in self.refs)
            self.forgotten.discard(given.id)
            assert self.refs.setdefault(given.id, receipt.ref) == receipt.ref
            SEEN["duplicate" if receipt.duplicate else "accepted"] += 1
            if not receipt.duplicate:
                new = Delivery(given, receipt.ref, COMMON, CLOCK_AT_REST)
                self.model[new.id] = Known(new, "queued")
                self.created[COMMON] += 1

    # lease -------------------------------------------------------------------

    @rule(name=st.sampled_from(TOPICS), limit=st.integers(1, 6))
    def lease(self, name: str, limit: int) -> None:
        found = self.run(self.engine.lease(topic(name), limit=limit, wait_s=0))
        self.run(asyncio.sleep(2 * SOON_S))  # until the starts are on record
        for one in found:
            self._take(one, "queued")
            self.model[one.delivery.id].started = not one.delivery.tally.crashes

    @rule(limit=st.integers(1, 6))
    def lease_common(self, limit: int) -> None:
        for one in self.run(self.engine.lease(COMMON_QUEUE, limit=limit, wait_s=0)):
            self._take(one, "queued")

    @rule(name=st.sampled_from(TOPICS), limit=st.integers(1, 6))
    def lease_due(self, name: str, limit: int) -> None:
        for one in self.run(self.engine.lease(lane(name), limit=limit, wait_s=0)):
            self._take(one, "retrying")
            assert one.delivery.due_at is not None
            assert one.delivery.due_at <= self.now()

    def _take(self, one: Lease, state: str) -> None:
        known = self.model[one.delivery.id]
        holder = [lease for lease in self.leases if lease.delivery.id == one.delivery.id]
        assert all(not self.run(self.engine.extend([lease]))[0] for lease in holder)
        self.leases = [lease for lease in self.leases if lease not in holder]
        self.late = self.late[-9:] + holder
        if known.started:  # its lease ran out while it ran
            SEEN["crashed by time"] += 1
            known.crashes += 1
            known.started = False
        assert (known.state, known.hop) == (state, one.delivery.hop)
        assert one.delivery.tally.crashes == known.crashes
        self.leases.append(one)

    @precondition(lambda self: self.leases)
    @rule(data=st.data())
    def start(self, data: st.DataObject) -> None:
        one = data.draw(st.sampled_from(self.leases))
        if one.queue.kind == "lane" or one.queue.topic == COMMON:
            return
        (held,) = self.run(self.engine.start([one]))
        if held:
            self.model[one.delivery.id].started = True

    @precondition(lambda self: self.leases)
    @rule(data=st.data())
    def extend(self, data: st.DataObject) -> None:
        self.run(self.engine.extend(data.draw(st.lists(st.sampled_from(self.leases)))))

    # settle ------------------------------------------------------------------

    @precondition(lambda self: self.leases)
    @rule(data=st.data(), ends=st.lists(ENDS, min_size=1, max_size=6))
    def settle(self, data: st.DataObject, ends: list[list[str]]) -> None:
        chosen = data.draw(
            st.lists(st.sampled_from(self.leases), min_size=1, max_size=len(ends), unique_by=id)
        )
        self._settle(chosen, ends)

    def _settle(self, chosen: Sequence[Lease], ends: list[list[str]]) -> None:
        acts = []
        for one, names in zip(chosen, cycle(ends), strict=False):
            tries = tuple(self._place(name, one.delivery) for name in names)
            acts.append(Settle(one, tries))
        for act, answer in zip(acts, self.run(self._beside_a_commit(acts)), strict=True):
            self._settled(act.lease, act.tries, answer)

    async def _beside_a_commit(self, acts: Sequence[Act]) -> Sequence[Settled]:
        """Settle before, while or after another commit is on its way, or alone."""
        self.settlements += 1
        other = asyncio.ensure_future(self.engine.storage.totals())
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
        one = data.draw(st.sampled_from(self.late))
        act = Settle(one, tuple(self._place(name, one.delivery) for name in end))
        (answer,) = self.run(self.engine.settle([act]))
        SEEN["late"] += 1
        assert answer.lost

    @precondition(lambda self: any(one.queue == COMMON_QUEUE for one in self.leases))
    @rule(data=st.data(), ways=WAYS_OF_TOPICS)
    def route(self, data: st.DataObject, ways: dict[str, list[str]]) -> None:
        commons = [one for one in self.leases if one.queue == COMMON_QUEUE]
        chosen = data.draw(st.lists(st.sampled_from(commons), min_size=1, unique_by=id))
        self._route(chosen, ways)

    def _route(self, chosen: Sequence[Lease], ways: dict[str, list[str]]) -> None:
        acts = [self._routing(one, ways) for one in chosen]
        for act, answer in zip(acts, self.run(self._beside_a_commit(acts)), strict=True):
            self._routed(act, answer)

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
        act = Settle(one, tuple(self._place(name, one.delivery) for name in end))

        async def both() -> tuple[Sequence[Settled], Sequence[Settled]]:
            return await asyncio.gather(self.engine.settle([act]), self.engine.settle([act]))

        (first,), (second,) = self.run(both())
        assert first.lost or second.lost or None in (first.taken, second.taken)
        for answer in (first, second):
            if not answer.lost:
                self._settled(one, act.tries, answer)

    @precondition(lambda self: self.leases)
    @rule(data=st.data())
    def settle_on_a_full_disk(self, data: st.DataObject) -> None:
        one = data.draw(st.sampled_from(self.leases))
        if not self.run(self.engine.extend([one]))[0]:
            return
        self.disk.fail_write()
        try:
            self.run(self.engine.settle([Settle(one, (DELIVERED,))]))
        except EngineUnavailable:
            pass
        else:
            raise AssertionError("acknowledged on a full disk")
        finally:
            self.disk.heal()

    def _routing(self, one: Lease, ways: dict[str, list[str]]) -> Route:
        owed = self._owed(one)
        names = owed or tuple(ways)
        targets = [
            Target(name, tuple(self._place(way, one.delivery) for way in ways.get(name, ["dead"])))
            for name in names
        ]
        return Route(one, tuple(targets))

    def _owed(self, one: Lease) -> tuple[str, ...]:
        (found,) = [
            delivery
            for delivery in self.run(walk(self.engine, COMMON_QUEUE))
            if delivery.id == one.delivery.id
        ] or [one.delivery]
        return found.owed

    def _place(self, name: str, delivery: Delivery) -> Place:
        tally = msgspec.structs.replace(delivery.tally, attempts=1)
        due_at = self.now() + 20
        places: dict[str, Place] = {
            "queued": Queued(Row.DUE, tally),
            "retrying": Retrying(Row.RETRY, tally, due_at, Reason.HANDLER_ERROR),
            "parked": Parked(Row.RETRY_FULL, tally, due_at, Reason.RETRY_FULL),
            "dead": Dead(Row.PERMANENT, tally, Reason.PERMANENT),
            "delivered": DELIVERED,
            "released": RELEASED,
        }
        return places[name]

    def _settled(self, one: Lease, tries: tuple[Place, ...], answer: Settled) -> None:
        if answer.lost:
            SEEN["lost"] += 1
            return
        known = self.model[one.delivery.id]
        if answer.taken is None:
            SEEN["refused"] += 1
            assert not any(isinstance(place, Delivered | Released) for place in tries)
            return
        assert answer.taken in tries
        SEEN[f"{answer.taken.__struct_config__.tag}, choice {tries.index(answer.taken)}"] += 1
        self.leases = [lease for lease in self.leases if lease is not one]
        known.started = False
        if isinstance(answer.taken, Released):
            return
        if isinstance(answer.taken, Delivered):
            del self.model[one.delivery.id]
            self.ended[known.topic] += 1
            return
        known.hop += 1
        known.state = answer.taken.__struct_config__.tag  # type: ignore[assignment]  # all have one

    def _routed(self, act: Route, answer: Settled) -> None:
        if answer.lost:
            SEEN["lost"] += 1
            return
        SEEN["owed" if answer.owed else "routed"] += 1
        common = self.model[act.lease.delivery.id]
        taken = dict(zip([target.topic for target in act.targets], answer.routed, strict=False))
        for name, place in taken.items():
            if place is None:
                assert name in answer.owed
                continue
            SEEN[f"routed to {place.__struct_config__.tag}"] += 1
            new = Delivery(act.lease.delivery.event, common.ref, name, 0.0)
            assert new.id not in self.model
            self.model[new.id] = Known(new, str(place.__struct_config__.tag))
            self.model[new.id].crashes = act.lease.delivery.tally.crashes
            self.created[name] += 1
        if not answer.owed:
            self.leases = [lease for lease in self.leases if lease is not act.lease]
            del self.model[act.lease.delivery.id]
            self.ended[COMMON] += 1
        elif any(taken.values()):
            common.hop += 1

    # storage -----------------------------------------------------------------

    @rule()
    def storage_fails(self) -> None:
        self.switch.refuses = True

    @rule()
    def storage_heals(self) -> None:
        self.switch.refuses = False

    @rule(data=st.data(), stale=st.booleans(), dies=st.booleans())
    def place(self, data: st.DataObject, *, stale: bool, dies: bool) -> None:
        stored = self._kept("parked")
        if not stored:
            return
        chosen = data.draw(st.lists(st.sampled_from(stored), min_size=1, max_size=9))
        acts = []
        for one in chosen:  # some of them twice: only the first is placed
            old = one.delivery
            if stale:  # as if it had been placed and parked again meanwhile
                old = msgspec.structs.replace(old, hop=old.hop - 1)
            place = Dead(Row.EXPIRED, old.tally, Reason.EXPIRED)
            acts.append(Placing(old, place if dies else Queued(Row.RECOVERED_DUE, old.tally)))
        answers = self.run(self.engine.place(acts))
        for act, answer in zip(acts, answers, strict=True):
            SEEN[f"{answer.value}{', stale' if stale else ''}"] += 1
            known = self.model[act.delivery.id]
            if answer is Placed.PLACED:
                assert (known.state, known.hop) == ("parked", act.delivery.hop)
                known.hop += 1
                known.state = "dead" if dies else "queued"

    @rule(data=st.data())
    def replay(self, data: st.DataObject) -> None:
        stored = self._kept()
        if not stored or self.switch.refuses:
            return
        chosen = data.draw(st.lists(st.sampled_from(stored), min_size=1, max_size=4))
        ids = [one.delivery.id for one in chosen]
        for id, answer in self.run(self.engine.storage.replay(ids, SOMEBODY)).items():
            SEEN[answer] += 1
            if answer == "replayed":
                self.model[id].hop += 1
                self.model[id].state = "parked"
                self.model[id].crashes = 0

    @rule(data=st.data())
    def discard(self, data: st.DataObject) -> None:
        stored = self._kept("dead")
        if not stored or self.switch.refuses:
            return
        chosen = data.draw(st.lists(st.sampled_from(stored), min_size=1, max_size=4))
        ids = [one.delivery.id for one in chosen]
        for id, answer in self.run(self.engine.storage.discard(ids, SOMEBODY)).items():
            assert answer == "discarded"
            SEEN[answer] += 1
            self.ended[self.model[id].topic] += 1
            del self.model[id]

    def _kept(self, state: str | None = None) -> list[Kept]:
        with self.look():
            return self.run(kept(self.engine.storage, state=state))

    # time and ends -----------------------------------------------------------

    @rule(seconds=st.sampled_from([0.5, 10, LEASE_S + 1]))
    def clock(self, seconds: float) -> None:
        self.run(asyncio.sleep(seconds))

    @rule(power=st.booleans())
    def crash(self, *, power: bool) -> None:
        self.run(self.engine.committer.idle())
        # Every start has been given time to be on record by now.
        image = self.disk.crash(self.chance) if power else self.disk.killed()
        old, old_disk = self.engine, self.disk
        self.disk = CrashDisk.from_image(image)
        self.run(self._open())
        self._close_quietly(old, old_disk)
        self._opened_anew()

    @rule()
    def reopen(self) -> None:
        self.run(self.engine.close())
        self.run(self._open())
        self._opened_anew()

    def _close_quietly(self, engine: EmbeddedEngine, disk: CrashDisk) -> None:
        engine.committer.shut("its process is gone")
        self.run(engine.close())
        disk.unregister()

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

    def now(self) -> float:
        async def ask() -> float:
            return CLOCK.now_s()

        return self.run(ask())

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
        held = []
        for name in (COMMON, *TOPICS):
            held += [(one.id, "queued", one.hop) for one in await walk(self.engine, topic(name))]
            held += [(one.id, "retrying", one.hop) for one in await walk(self.engine, lane(name))]
        for one in await kept(self.engine.storage):
            held.append((one.delivery.id, one.state, one.delivery.hop))
        return held

    @invariant()
    def the_ledger_is_true(self) -> None:
        if not hasattr(self, "engine"):
            return
        with self.look():
            topics = self.run(true_census(self.engine, self.engine.storage)).topics
        for name in (COMMON, *TOPICS):
            assert topics[name].created == self.created[name]
            assert topics[name].delivered + topics[name].discarded == self.ended[name]

    @invariant()
    def no_queue_is_above_its_capacity(self) -> None:
        if not hasattr(self, "engine"):
            return
        for name in (COMMON, *TOPICS):
            depth = self.engine.depth(name)
            assert depth.queued + depth.running <= PLAN.topics[name].capacity
            assert depth.retrying <= PLAN.topics[name].lane_capacity
        usage = self.engine.storage.usage()
        assert usage.used_bytes <= PLAN.storage_max_bytes
        assert usage.used_bytes == sum(one.size_bytes for one in self._kept())

    @invariant()
    def no_room_is_promised_any_more(self) -> None:
        """Nothing is under way between two steps."""
        if not hasattr(self, "engine"):
            return
        state = self.engine.state
        assert state.memory_reserved == state.storage_reserved == 0
        for name in (COMMON, *TOPICS):
            assert state.topics[name].reserved == state.lanes[name].reserved == 0


CLOCK_AT_REST = 0.0
LOTS = 8
STORIES = 1_500
ALWAYS = ("accepted", "full", "routed", "owed", "lost", "crashed", "crashed by time", "placed")
EXPECTED = (
    *ALWAYS,
    *("duplicate", "late", "refused", "already", "already, stale", "replayed", "discarded"),
    *(f"{place}, choice 0" for place in ("delivered", "released", "queued", "parked", "dead")),
    *(f"retrying, choice {n}" for n in (0, 1)),
    *(f"routed to {place}" for place in ("queued", "retrying", "parked", "dead")),
)
QUIET = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large]


@pytest.fixture(autouse=True)
def _clean_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the journal be cleaned all the time: it must not show."""
    monkeypatch.setattr(cleaning, "JOURNAL_LIMIT_BYTES", 1)
    monkeypatch.setattr(cleaning, "BYTES_A_LIVE_ENTRY", 1)
    monkeypatch.setattr(cleaning, "BATCH", 3)


@pytest.mark.timeout(120)
def test_any_story() -> None:
    """Tells stories until each of the usual outcomes was met: almost always the first lot will do.

    Which ones a lot meets is chance, and a test must not fail by it.
    """
    SEEN.clear()
    for _ in range(LOTS):
        run_state_machine_as_test(
            EngineMachine,
            settings=settings(
                max_examples=120, stateful_step_count=40, deadline=None, suppress_health_check=QUIET
            ),
        )
        if all(SEEN[name] for name in ALWAYS):
            return

    assert {name for name in ALWAYS if not SEEN[name]} == set(), "stories that go nowhere"


@pytest.mark.prove
@pytest.mark.timeout(3_600)
def test_many_long_stories(proof: Callable[..., dict[str, Any]], seed: int) -> None:
    SEEN.clear()
    run_state_machine_as_test(
        repeat_with(seed)(type("Stories", (EngineMachine,), {})),
        settings=settings(
            max_examples=STORIES,
            stateful_step_count=80,
            deadline=None,
            suppress_health_check=QUIET,
        ),
    )
    proof("engine-state-machine", stories=STORIES, seen=dict(sorted(SEEN.items())))

    assert {name for name in EXPECTED if not SEEN[name]} == set()
