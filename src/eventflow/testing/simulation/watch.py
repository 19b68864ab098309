"""Engine and storage, watched: each call is a step, and each answer is held against the promises.

`Watched` stands between a node and its engine and is itself an engine; `WatchedStorage` likewise.
They change nothing: what is asked is passed on, what is answered is entered in the book.
"""

from __future__ import annotations

import functools
import zlib
from typing import TYPE_CHECKING, Any, TypeVar, cast

import msgspec

from eventflow.delivery import COMMON, Delivery
from eventflow.engine.protocol import Counts, Finish, Kind, Lease, Settle
from eventflow.engine.runs import Leases, Receipts
from eventflow.errors import EventFlowError
from eventflow.policy.values import TopicPolicy
from eventflow.testing.simulation.book import Broken, Held, deliveries_of, ids_of
from eventflow.testing.simulation.laws import broken_by

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence

    from eventflow.clock import Clock
    from eventflow.engine.protocol import (
        Act,
        Applied,
        Depth,
        Engine,
        Fallback,
        Placed,
        Placing,
        Plan,
        Queue,
        Run,
        Settled,
        Way,
    )
    from eventflow.event import Event
    from eventflow.storage.protocol import Actor, Kept, Storage
    from eventflow.testing.simulation.book import Book
    from eventflow.testing.simulation.weights import Weights

A = TypeVar("A")
C = TypeVar("C", bound="Callable[..., Coroutine[Any, Any, Any]]")

_encode = msgspec.json.Encoder().encode
SLACK_S = 60.0
"""How long a decision may be older than its settlement: a full disk lets it wait."""


def _telling(call: C) -> C:
    """Let the book know of a broken promise: a stage that is told so only logs it and goes on."""

    @functools.wraps(call)
    async def told(self: Any, *args: Any, **more: Any) -> Any:
        try:
            return await call(self, *args, **more)
        except EventFlowError:
            raise
        except Exception as error:
            self._book.broken = self._book.broken or error
            raise

    return cast("C", told)


class Trace:
    """Steps so far, and a digest of all of them: the same seed gives the same."""

    def __init__(self) -> None:
        self.steps = 0
        self.digest = 0

    def step(self, kind: str, *what: object) -> None:
        """Count one call, or a handler's start or end."""
        self.steps += 1
        self.digest = zlib.crc32(_encode((kind, what)), self.digest)


class Watched:
    """An engine that keeps a book of what another one says."""

    def __init__(  # what a watch looks at
        self,
        engine: Engine,
        storage: Storage,
        book: Book,
        trace: Trace,
        weights: Weights,
        clock: Clock,
    ) -> None:
        self._engine = engine
        self._book = book
        self._trace = trace
        self._weights = weights
        self._clock = clock
        self.storage = WatchedStorage(storage, book, trace, self.check)
        self._counts = getattr(engine, "counts", None)
        self.depth = engine.depth  # asked for so often that `__getattr__` would be felt
        self.policy_of: Callable[[str], TopicPolicy] = lambda _: TopicPolicy()
        self._plan: Plan | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    @property
    def _is_broken(self) -> bool:
        return bool(getattr(self._engine, "broken", False))

    async def _watched(
        self, what: str, given: Sequence[Any], call: Callable[[], Awaitable[A]]
    ) -> tuple[int, A]:
        number, was_broken = self._book.begin(what, given), self._is_broken
        try:
            answer = await call()
        except EventFlowError:
            # Only a call under way when the journal broke may have happened: one that was refused
            # has not, nor has one that came after.
            if was_broken or not self._is_broken:
                self._book.end(number)
            raise
        return number, answer

    @_telling
    async def apply(self, plan: Plan) -> Applied:
        self._plan = plan
        self._trace.step("apply")
        applied = await self._engine.apply(plan)
        for topic in plan.topics:
            self.check(topic)
        return applied

    @_telling
    async def accept(
        self, events: Sequence[Event], ways: Sequence[Way] = (), *, fallback: Fallback | None = None
    ) -> Receipts:
        number, receipts = await self._watched(
            "accept",
            (events, ways, fallback),
            lambda: self._engine.accept(events, ways, fallback=fallback),
        )
        if not self._book.frozen:
            self._trace.step("accept", [event.id for event in events], len(receipts.ways))
            assert self._plan is not None
            if fallback is not None:
                self._check_door(events, receipts, fallback)
            now_s, window_s = self._clock.now_s(), self._plan.dedup_window_s
            self._book.accepted(events, receipts, now_s, window_s)
            self._book.end(number)
            for topic in {COMMON, *(topic for way in receipts.ways for topic in way.topics)}:
                self.check(topic)
        return receipts

    def _check_door(self, events: Sequence[Event], receipts: Receipts, way: Fallback) -> None:
        now = self._clock.now_s()
        for event, receipt in zip(events, receipts, strict=True):
            if receipt.parked and receipt.ref is not None:
                before = Delivery(event, receipt.ref, COMMON, now)
                fault = broken_by(before, way.place, self.policy_of(COMMON), now, SLACK_S)
                if fault is not None:
                    raise Broken(f"{before.id}: {fault}")

    async def lease(self, queue: Queue, *, limit: int, wait_s: float) -> Leases:
        try:  # as `_telling`: of these calls there are as many as of all others
            before = self._waiting(queue)
            leases = await self._engine.lease(queue, limit=limit, wait_s=wait_s)
            if self._book.frozen:
                return leases
            if not leases.parts:
                self._trace.step("lease", queue)
                self.check(queue.topic)
                return leases
            return self._leased(queue, leases, limit, before)
        except EventFlowError:
            raise
        except Exception as error:
            self._book.broken = self._book.broken or error
            raise

    def _leased(self, queue: Queue, leases: Leases, limit: int, before: Sequence[int]) -> Leases:
        parts = [one if isinstance(one, Lease) else WatchedRun(one) for one in leases.parts]
        held = [one for part in parts for one in held_by(part)]
        self._trace.step("lease", queue, [one.id for one in held])
        self._check_leases(queue, held, limit)
        self._book.leased(queue, held)
        if queue.kind is Kind.TOPIC:
            self._check_weights(queue, held, before)
        self.check(queue.topic)
        return Leases(parts)

    def _check_leases(self, queue: Queue, held: Sequence[Held], limit: int) -> None:
        if len(held) > limit:
            raise Broken(f"{queue}: {limit} leases were asked for, and {len(held)} given")
        if queue.kind is Kind.LANE:
            now = self._clock.now_s()
            for one in held:
                due_at = one.delivery.due_at
                if due_at is None or due_at > now:
                    raise Broken(f"{one.id} was leased at {now}, due at {due_at}")

    def _check_weights(self, queue: Queue, held: Sequence[Held], before: Sequence[int]) -> None:
        starts = [one.delivery.event.rank for one in held]
        # What came while the call waited for its commit may have come after the starts were
        # chosen: a rank waited all the while only if it was not used up.
        both = [
            after if early > starts.count(rank) else 0
            for rank, (early, after) in enumerate(zip(before, self._waiting(queue), strict=True))
        ]
        self._weights.started(queue.topic, starts, both)

    def _waiting(self, queue: Queue) -> list[int]:
        """Return how many of each rank wait in a topic's queue."""
        waiting = [0, 0, 0, 0]
        for one in self._book.queued(queue.topic) if queue.kind is Kind.TOPIC else ():
            if one.token is None:
                waiting[one.delivery.event.rank] += 1
        return waiting

    @_telling
    async def start(self, leases: Sequence[Lease]) -> Sequence[bool]:
        self._trace.step("start", [lease.delivery.id for lease in leases])
        answers = await self._engine.start(leases)
        for topic in {lease.delivery.topic for lease in leases}:
            self.check(topic)
        return answers

    @_telling
    async def settle(self, acts: Sequence[Act]) -> Sequence[Settled]:
        inner = [unwatched(act) for act in acts]
        number, answers = await self._watched("settle", acts, lambda: self._engine.settle(inner))
        if not self._book.frozen:
            what = [(ids_of(a), b.taken or b.routed) for a, b in zip(acts, answers, strict=True)]
            self._trace.step("settle", what)
            self._check_laws(acts, answers)
            self._book.settled(acts, answers)
            self._book.end(number)
            for topic in {one.topic for act in acts for one in deliveries_of(act)}:
                self.check(topic)
        return answers

    def _check_laws(self, acts: Sequence[Act], answers: Sequence[Settled]) -> None:
        now = self._clock.now_s()
        for act, answer in zip(acts, answers, strict=True):
            if answer.taken is None:
                continue
            for before in deliveries_of(act):
                policy = self.policy_of(before.topic)
                fault = broken_by(before, answer.taken, policy, now, SLACK_S)
                if fault is not None:
                    raise Broken(f"{before.id}: {fault}")

    @_telling
    async def extend(self, leases: Sequence[Lease | Run]) -> Sequence[bool]:
        self._trace.step("extend", len(leases))
        inner = [one.run if isinstance(one, WatchedRun) else one for one in leases]
        answers = await self._engine.extend(inner)
        for topic in {one.delivery.topic for part in leases for one in held_by(part)}:
            self.check(topic)
        return answers

    @_telling
    async def place(self, items: Sequence[Placing]) -> Sequence[Placed]:
        number, answers = await self._watched("place", items, lambda: self._engine.place(items))
        if not self._book.frozen:
            self._trace.step("place", [item.delivery.id for item in items], answers)
            self._check_placed(items)
            self._book.placed(items, answers)
            self._book.end(number)
            for topic in {item.delivery.topic for item in items}:
                self.check(topic)
        return answers

    def _check_placed(self, items: Sequence[Placing]) -> None:
        now = self._clock.now_s()
        for item in items:
            before = item.delivery
            expired = before.expires_at is not None and before.expires_at <= now
            if not expired and (before.due_at is None or before.due_at > now + 1e-3):
                raise Broken(f"{before.id} came back at {now}, due at {before.due_at}")
            fault = broken_by(before, item.place, self.policy_of(before.topic), now)
            if fault is not None:
                raise Broken(f"{before.id}: {fault}")

    def check(self, topic: str) -> None:
        """Hold one topic's counters and depths against G3 and the ledger: at every step of its."""
        assert self._plan is not None
        if self._book.frozen:
            return
        # One look says both, where the engine has a ledger's line to show.
        held: Counts | Depth = self.depth(topic) if self._counts is None else self._counts(topic)
        plan = self._plan.topics.get(topic)
        if plan is not None and (
            held.queued + held.running > plan.capacity or held.retrying > plan.lane_capacity
        ):
            raise Broken(f"topic {topic} holds more than its capacity: {held}, {plan}")
        if isinstance(held, Counts) and held.unaccounted:
            raise Broken(f"topic {topic}: unaccounted in {held}")


class WatchedRun:
    """A run that remembers what was taken out of it."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.taken: list[Any] = []
        """The tokens of the leases."""
        # As they were handed out: what is asked of each several times.
        self._deliveries = [run.delivery(index) for index in range(len(run))]

    def delivery(self, index: int) -> Delivery:
        return self._deliveries[index]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.run, name)

    def __len__(self) -> int:
        return len(self._deliveries)

    def lease(self, index: int) -> Lease:
        lease = self.run.lease(index)
        self.taken.append(lease.token)
        return lease


def held_by(part: Lease | Run | WatchedRun) -> list[Held]:
    """Return the deliveries that a lease or a run is the right to settle."""
    if isinstance(part, Lease):
        return [Held(part.delivery.id, part.delivery, part.token)]
    deliveries = [part.delivery(index) for index in range(len(part))]
    return [Held(delivery.id, delivery, part) for delivery in deliveries]


def unwatched(act: Act) -> Act:
    """Return the act as the engine is to have it.

    Of a traceback it keeps the last line. The others have paths and line numbers; so many bytes
    more or less in the journal, and a crash leaves other writes of it: in another checkout a seed
    would make another day.
    """
    if isinstance(act, Finish) and isinstance(act.run, WatchedRun):
        return msgspec.structs.replace(act, run=act.run.run)
    if isinstance(act, Settle) and act.note is not None and act.note.traceback is not None:
        last = act.note.traceback.rstrip().rpartition("\n")[2]
        return msgspec.structs.replace(act, note=msgspec.structs.replace(act.note, traceback=last))
    return act


class WatchedStorage:
    """A storage that keeps a book of what another one says."""

    shared: bool  # as that says

    def __init__(
        self, storage: Storage, book: Book, trace: Trace, check: Callable[[str], None]
    ) -> None:
        self._storage = storage
        self._book = book
        self._trace = trace
        self._check = check

    def __getattr__(self, name: str) -> Any:
        return getattr(self._storage, name)

    @_telling
    async def due(self, topic: str, *, now: float, limit: int) -> Sequence[Kept]:
        self._trace.step("due", topic)
        self._check(topic)
        return await self._storage.due(topic, now=now, limit=limit)

    @_telling
    async def next_due(self, topic: str) -> float | None:
        self._trace.step("next_due", topic)
        self._check(topic)
        return await self._storage.next_due(topic)

    @_telling
    async def replay(self, ids: Sequence[str], by: Actor) -> Mapping[str, str]:
        number = self._book.begin("replay", ids)
        answers = await self._storage.replay(ids, by)
        if not self._book.frozen:
            self._trace.step("replay", answers)
            self._book.replayed(answers)
            self._book.end(number)
            self._check_all(answers)
        return answers

    @_telling
    async def discard(self, ids: Sequence[str], by: Actor) -> Mapping[str, str]:
        number = self._book.begin("discard", ids)
        answers = await self._storage.discard(ids, by)
        if not self._book.frozen:
            self._trace.step("discard", answers)
            self._book.discard(answers)
            self._book.end(number)
            self._check_all(answers)
        return answers

    def _check_all(self, ids: Iterable[str]) -> None:
        for topic in {id.partition(".")[2] for id in ids}:
            self._check(topic)
