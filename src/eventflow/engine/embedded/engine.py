"""The embedded engine: the promises G1 to G8, kept by queues in memory and a journal."""

from __future__ import annotations

import asyncio
from functools import partial
from math import inf
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from eventflow.delivery import COMMON, Delivery
from eventflow.engine.embedded.arrival import Arrival
from eventflow.engine.embedded.backup import Written, write_backup
from eventflow.engine.embedded.cleaning import Cleaner
from eventflow.engine.embedded.committer import Committer, Txn
from eventflow.engine.embedded.dedup import Key, key_of, keys_of
from eventflow.engine.embedded.parking import Arrivals, Parking, kept_in_common
from eventflow.engine.embedded.placement import Placement
from eventflow.engine.embedded.queues import (
    OUT,
    SETTLING,
    Alarm,
    Anchor,
    BoundedQueue,
    Entry,
    Lane,
    weights_of,
)
from eventflow.engine.embedded.records import Accepted
from eventflow.engine.embedded.replay import Replay
from eventflow.engine.embedded.riders import Riders
from eventflow.engine.embedded.run import Origin, Run
from eventflow.engine.embedded.settlement import LOST, Settlement, wake
from eventflow.engine.embedded.state import State
from eventflow.engine.embedded.storage import EmbeddedStorage
from eventflow.engine.protocol import (
    Act,
    Applied,
    Census,
    Counts,
    Depth,
    Fallback,
    Finish,
    Found,
    Kind,
    Lease,
    Placed,
    Placing,
    Plan,
    Queue,
    Receipt,
    Settled,
    Way,
)
from eventflow.engine.refs import Refs, first_ref
from eventflow.engine.runs import Leases, Receipts
from eventflow.errors import BackupRefused, EngineUnavailable, QueueFull
from eventflow.policy.admission import room
from eventflow.policy.priority import frame

if TYPE_CHECKING:
    from array import array
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from eventflow.clock import Clock
    from eventflow.engine.embedded.journal import Journal
    from eventflow.engine.embedded.writer import Writer
    from eventflow.engine.members import Member
    from eventflow.engine.protocol import Run as AnyRun
    from eventflow.event import Event

CAUTIOUS_S = 60.0
"""How long after a crash a start is durable before the handler runs.

Starts are recorded with the next commit, so a handler that kills its process at once could do so
again and again without its start ever being on record. After a crash it can't.
"""


class Batch(NamedTuple):
    """Events to be accepted together."""

    events: list[Event]
    keys: list[Key]
    now: float
    ways: Sequence[Way]
    fallback: Fallback | None


class EmbeddedEngine:
    """Queues in this process's memory, made durable by a journal. See `Engine` for the promises."""

    groups = False

    def __init__(
        self,
        journal: Journal,
        writer: Writer,
        clock: Clock,
        draw_bits: Callable[[int], int],
    ) -> None:
        """Read an open journal back. `open_engine` is the way to make one."""
        self._loop = asyncio.get_running_loop()  # asked for at each lease it would be felt
        self.clock = clock
        self.state = State()
        self.journal = journal
        contents = journal.contents()
        self.since = contents.since
        self.unclean = not contents.clean
        self.committer = Committer(journal, writer, contents.last_commit, self.state.dead_bodies)
        self.committer.next_number = contents.next_number
        self._read_back(contents.ledger, contents.kept)
        self._draw_bits = draw_bits
        self._frame = frame(self.state.plan.weights)
        self._riders = Riders(self.committer)
        self._cautious_until = clock.now_s() + CAUTIOUS_S if self.unclean else -inf
        self._cleaner = Cleaner(self.state, self.committer)
        self._parking = Parking(self.state)
        self.committer.before_commit = self._ride
        self.storage = EmbeddedStorage(self.state, self.committer, clock)
        self.overrides = self.storage
        """What operators have set."""
        self._closing: asyncio.Future[None] | None = None
        self._backup: asyncio.Task[Written] | None = None
        self._me: Member | None = None

    def _read_back(
        self,
        ledger: dict[str, tuple[int, int, int, int]],
        kept: dict[tuple[str, str], tuple[int, int]],
    ) -> None:
        known = self.state.dedup
        lately = self.clock.now_s() - known.window_s
        replay = Replay(self.journal)
        for topic, counters in ledger.items():
            self.state.topic(topic)
            tallies = self.state.tallies[topic]
            (tallies.created, tallies.delivered, tallies.discarded, tallies.archived) = counters
        for (topic, state), (count, size) in kept.items():
            self.state.topic(topic)
            self.state.tallies[topic].move_kept(state, count)
            self.state.storage_bytes += size
        replay.into(self.state, kept_in_common(self.journal, lately, known.limit))
        replay.check(self.state)
        self.committer.rows.extend(replay.rows)
        self.committer.journal_bytes = sum(row.size_bytes for row in replay.rows)

    async def recover_crashed(self) -> int:
        """Count a crash for each delivery that was running when the last process died."""
        crashed = [entry for entry in self.state.entries() if entry.started]
        if crashed:
            self._riders.crashes(crashed, self.clock.now_s())
            await self.committer.submit(Txn())
        return len(crashed)

    # Engine ------------------------------------------------------------------

    @property
    def durability(self) -> str:
        """What acceptance survives: "fsync", "os" or "memory" (G1)."""
        return "memory" if self.journal.path == ":memory:" else self.journal.durability

    def watch(self, committed: Callable[[float, int], None]) -> None:
        """Have told of each commit how long it took, in seconds, and how many waited for it."""
        self.committer.on_commit = committed

    @property
    def doubts(self) -> Sequence[Any]:
        """What is not as it should be, though this node runs: it needs nobody else."""
        return ()

    @property
    def fault(self) -> str | None:
        """Why nothing can be made durable now; None while all is well."""
        return self.committer.fault

    @property
    def broken(self) -> bool:
        """Whether only closing and opening it again can help."""
        return self.committer.broken

    async def apply(self, plan: Plan) -> Applied:
        self.state.plan = plan
        self._frame = frame(plan.weights)
        self.state.dedup.window_s = plan.dedup_window_s
        self.state.dedup.limit = plan.dedup_max
        for name, topic in plan.topics.items():
            self.state.topic(name).capacity = topic.capacity
            self.state.lanes[name].capacity = topic.lane_capacity
        gone = self.state.topics.keys() - plan.topics.keys()
        return Applied(tuple(sorted(name for name in gone if self.state.counts(name).live)))

    async def accept(
        self, events: Sequence[Event], ways: Sequence[Way] = (), *, fallback: Fallback | None = None
    ) -> Receipts:
        await self._parking.decided(events)
        self._check_open()
        now = self.clock.now_s()
        dedup = self.state.dedup
        dedup.prune(now)
        keys = keys_of(events)
        txn = Txn()
        known = keys and dedup.all_new(keys)
        plan = self._accept_new if known else self._accept_some
        receipts, parked = plan(txn, Batch(list(events), keys, now, ways, fallback))
        # Duplicates wait too: the first one's commit may still be on its way (G1).
        await self.committer.submit(txn)
        if parked is not None and parked.unit.refused is not None:
            raise parked.refusal(parked.unit.refused)
        return receipts

    def _accept_new(self, txn: Txn, batch: Batch) -> tuple[Receipts, Arrivals | None]:
        """Plan to accept events none of which is a duplicate."""
        events, keys, now, ways, fallback = batch
        refs = Refs(first_ref(now, self._draw_bits), range(len(events)))
        try:
            weights = self._check_room(events)
        except QueueFull:
            if fallback is None:
                raise
            parked = self._parking.plan(txn, events, keys, refs, now, fallback)
            return Receipts(refs, [Receipt(ref, parked=True) for ref in refs]), parked
        origin = Origin(0, refs[0], now)
        arrival = Arrival.planned(self.state, self.committer, events, weights, origin, ways)
        self.state.dedup.remember(keys, refs, now)
        if arrival is None:
            self._plan_accept(txn, batch, refs, sum(weights))
            return Receipts(refs), None
        arrival.into(txn)
        txn.undo = partial(self._take_back_arrival, arrival, keys)
        return Receipts(refs, ways=ways), None

    def _take_back_arrival(self, arrival: Arrival, keys: list[Key]) -> None:
        arrival.undo()
        self.state.dedup.forget(keys)

    def _accept_some(self, txn: Txn, batch: Batch) -> tuple[Receipts, Arrivals | None]:
        """Plan to accept those that are no duplicates."""
        known = self.state.dedup.ref
        answers: dict[Key, Receipt] = {}
        for key in set(batch.keys):
            ref = known(key)
            if ref is not None:
                answers[key] = Receipt(ref, duplicate=True)
        fresh: dict[Key, Event] = {}
        for key, event in zip(batch.keys, batch.events, strict=True):
            if key not in answers:
                fresh.setdefault(key, event)
        parked = None
        if fresh:
            new = batch._replace(events=list(fresh.values()), keys=list(fresh), ways=())
            receipts, parked = self._accept_new(txn, new)
            answers.update(zip(fresh, receipts, strict=True))
        given = []
        for key in batch.keys:
            given.append(answers[key])
            if key in fresh:  # the same pair again in this batch is a duplicate
                answers[key] = Receipt(answers[key].ref, duplicate=True)
        return Receipts((), given), parked

    def _check_room(self, events: Sequence[Event]) -> array[int]:
        """Return the bytes that each of these events takes, having found that all fit."""
        common = self.state.common
        count = len(events)
        extended = [event for event in events if event.extensions is not None]
        urgent = sum([event.rank < 2 for event in extended])
        # All must fit, and those that are not urgent without the last tenth.
        depth = common.depth + self.state.passing
        if (
            room(depth, common.capacity, 0, count) < count
            or room(depth, common.capacity, 2, count - urgent) < count - urgent
        ):
            raise QueueFull(COMMON, common.capacity, retry_after_s=1.0)
        weights = weights_of(events)
        size = sum(weights)
        limit = self.state.plan.memory_limit_bytes
        if self.state.memory_bytes + self.state.memory_reserved + size > limit:
            raise QueueFull(
                COMMON, common.capacity, 1.0, f"[engine] memory_limit of {limit} bytes is reached"
            )
        return weights

    def _plan_accept(self, txn: Txn, batch: Batch, refs: Refs, size: int) -> None:
        state = self.state
        events, keys, now = batch.events, batch.keys, batch.now
        count = len(events)
        first = self.committer.take_numbers(count)
        event_number = 0

        def numbered(at: int) -> None:
            nonlocal event_number
            event_number = at
            txn.change.records.append(Accepted(first, refs[0], count, now, at))

        txn.events = events
        txn.numbered = numbered
        txn.change.count(COMMON, created=count)
        state.common.reserved += count
        state.memory_reserved += size

        def apply(_: Txn, row: Anchor) -> None:
            state.common.reserved -= count
            state.memory_reserved -= size
            state.tallies[COMMON].created += count
            assert row.body is not None  # noqa: S101  # its commit brought these events
            for offset, (event, ref) in enumerate(zip(events, refs, strict=True)):
                delivery = Delivery(event, ref, COMMON, now, 0, now)
                entry = Entry(first + offset, event_number + offset, delivery, row, row.body)
                state.add(entry, state.common)
            wake(state.common)

        def undo() -> None:
            state.common.reserved -= count
            state.memory_reserved -= size
            state.dedup.forget(keys)

        txn.apply, txn.undo = apply, undo

    async def lease(self, queue: Queue, *, limit: int, wait_s: float) -> Leases:
        self._check_open()
        place = self.state.place(queue)
        loop = self._loop
        deadline = loop.time() + wait_s
        while self._closing is None:
            now = self.clock.now_s()
            if now >= place.next_expiry:
                self._expire(place, now)
            parts: Sequence[Entry | Run]
            if isinstance(place, Lane):
                parts = place.take_due(now, limit)
            else:
                parts = place.take(self._frame, limit)
            if parts:
                return await self._grant(place, parts, now)
            left = deadline - loop.time()
            if left <= 0:
                break
            until = min(place.next_expiry, place.next_due if isinstance(place, Lane) else inf)
            await self._something(place, min(left, max(0.0, until - now)))
        return Leases()

    async def _something(self, place: BoundedQueue | Lane, wait_s: float) -> None:
        """Wait until something may have come, or `wait_s` seconds are over."""
        loop = self._loop
        waiter = loop.create_future()
        place.waiters.append(waiter)
        # A hair more than asked: a timer may ring a moment before the clock has got there.
        at = loop.time() + wait_s + 0.001
        alarm = place.alarm
        if alarm is None or alarm.at > at:
            if alarm is not None:
                alarm.handle.cancel()
            place.alarm = Alarm(at, loop.call_at(at, _ring, place))
        try:
            await waiter
        finally:
            if waiter in place.waiters:
                place.waiters.remove(waiter)

    async def _grant(
        self, place: BoundedQueue | Lane, parts: Sequence[Entry | Run], now: float
    ) -> Leases:
        until = now + self.state.plan.lease_s
        queue = place.queue
        leases: list[Lease | Run] = []
        for part in parts:
            if isinstance(part, Run):
                part.grant(until)
                leases.append(part)
                continue
            lease = Lease(part.delivery, queue, part)
            part.lease = lease
            part.until = until
            place.running[part.number] = part
            leases.append(lease)
        place.next_expiry = min(place.next_expiry, until)
        if queue.kind is Kind.TOPIC and queue.topic != COMMON:
            await self._record_starts(leases, now)
        return Leases(leases)

    async def _record_starts(self, leases: Sequence[Lease | Run], now: float) -> None:
        # What was there at a crash is on record only once it really runs: see `start`.
        fresh = [
            lease.token
            for lease in leases
            if isinstance(lease, Lease) and not lease.delivery.tally.crashes
        ]
        runs = [lease for lease in leases if isinstance(lease, Run)]
        self._riders.starts(fresh)
        self._riders.run_starts(runs)
        if (fresh or runs) and now < self._cautious_until:
            try:
                await self.committer.submit(Txn())
            except BaseException:  # also where whoever wanted the leases was cancelled
                self._take_back(leases)
                raise
        elif fresh or runs:
            self.committer.kick_soon()

    async def start(self, leases: Sequence[Lease]) -> Sequence[bool]:
        self._check_open()
        now = self.clock.now_s()
        held = [lease.token for lease in leases if self._holds(lease, now)]
        self._riders.starts(held)
        try:
            await self.committer.submit(Txn())
        except EngineUnavailable:
            self._riders.withdraw(held)
            raise
        return [self._holds(lease, now) for lease in leases]

    @staticmethod
    def _holds(lease: Lease, now: float) -> bool:
        entry: Entry = lease.token
        return entry.lease is lease and (entry.settling or entry.until > now)

    def _take_back(self, leases: Sequence[Lease | Run]) -> None:
        """Put back what was leased but not handed over, where nobody else has it by now."""
        singles = [lease for lease in leases if isinstance(lease, Lease)]
        for lease in leases:
            if isinstance(lease, Run):
                singles += [lease.lease(index) for index in lease.out()]
        held: list[Entry] = [lease.token for lease in singles if lease.token.lease is lease]
        for entry in held:
            place = self.state.topic(entry.delivery.topic)
            del place.running[entry.number]
            entry.lease = None
            place.put_back(entry)
            wake(place)
        self._riders.returns(held)
        self.committer.kick_soon()

    def _ride(self, txn: Txn) -> None:
        """Add to a commit what nobody waits for: starts, crashes, and rows told again."""
        self._riders.ride(txn)
        told = txn.apply
        cleaned = self._cleaner.ride(txn)
        if cleaned is None:
            return

        def apply(given: Txn, row: Anchor) -> None:
            if told is not None:
                told(given, row)
            cleaned(row)

        txn.apply = apply

    def _expire(self, place: BoundedQueue | Lane, now: float) -> None:
        """Take back leases that have run out (G5)."""
        if isinstance(place, BoundedQueue):
            for run in [run for run in place.runs.values() if run.until <= now]:
                run.until = inf if SETTLING in run.states else now
                for index in run.out():  # each by itself from now on
                    run.lease(index).token.until = now
        over = [e for e in place.running.values() if e.until <= now and not e.settling]
        for entry in over:
            del place.running[entry.number]
            entry.lease = None
            place.put_back(entry)
        place.next_expiry = min((e.until for e in place.running.values()), default=inf)
        if isinstance(place, BoundedQueue):
            ends = (run.until for run in place.runs.values())
            place.next_expiry = min(place.next_expiry, min(ends, default=inf))
        self._riders.crashes([entry for entry in over if entry.started], now)

    async def settle(self, acts: Sequence[Act]) -> Sequence[Settled]:
        self._check_open()
        answers: list[Settled | None] = [None] * len(acts)
        refusals: dict[int, str | None] = {}
        waiting: list[tuple[int, Act]] = list(enumerate(acts))
        now = self.clock.now_s()
        while waiting:
            txn = Txn()
            settlement = Settlement(self.state, self.committer, now, txn)
            for index, act in waiting:
                if isinstance(act, Finish):
                    answers[index] = self._finish(settlement, act, now)
                    continue
                entry: Entry = act.lease.token
                if entry.lease is not act.lease or entry.settling or entry.until <= now:
                    answers[index] = LOST
                else:
                    answers[index] = settlement.add(index, act, entry)
            if not settlement.plan():
                break
            await self.committer.submit(txn)
            waiting = []
            for step in settlement.steps:
                answer, again = settlement.answer(step)
                if again is not None:
                    waiting.append((step.index, again))
                    refusals[step.index] = step.unit.refused if step.unit else None
                elif answer is not None and answer.refused and step.index in refusals:
                    answer = msgspec.structs.replace(answer, refused=refusals[step.index])
                answers[step.index] = answer
        if self._riders.untold():  # what found no place runs on
            self.committer.kick_soon()
        return [answer if answer is not None else LOST for answer in answers]

    @staticmethod
    def _finish(settlement: Settlement, act: Finish, now: float) -> Settled:
        """Plan the end of some of a run, if all of them are still leased with it."""
        run, spans = act.run, act.spans
        if not isinstance(run, Run) or run.until <= now:
            return LOST
        count = run.states.count
        if any(count(OUT, start, stop) < stop - start for start, stop in spans):
            return LOST
        return settlement.finish(run, spans)

    async def extend(self, leases: Sequence[Lease | AnyRun]) -> Sequence[bool]:
        now = self.clock.now_s()
        until = now + self.state.plan.lease_s
        kept = []
        for lease in leases:
            if isinstance(lease, Run):
                holds = lease.until > now and lease.left > 0
                if holds:
                    lease.until = until
                    # It may have run out while it was settling: then nobody looks at it any more.
                    place = lease.queue
                    place.next_expiry = min(place.next_expiry, until)
            else:
                holds = isinstance(lease, Lease) and self._holds(lease, now)
                if isinstance(lease, Lease) and holds:
                    lease.token.until = until
            kept.append(holds)
        return kept

    async def place(self, items: Sequence[Placing]) -> Sequence[Placed]:
        self._check_open()
        txn = Txn()
        placement = Placement(self.state, self.committer, self.clock.now_s(), txn)
        for item in items:
            placement.add(item)
        if txn.units:
            await self.committer.submit(txn)
        return placement.answers()

    async def find(self, ref: str) -> Sequence[Found]:
        queues, lanes = self.state.topics.values(), self.state.lanes.values()
        entries = [entry for queue in queues for entry in queue.find(ref)]
        entries += [entry for lane in lanes for entry in lane.find(ref)]
        return [Found(entry.delivery, _state_of(entry), entry.number) for entry in entries]

    async def walk(self, queue: Queue, *, after: Any = None, limit: int = 1000) -> Sequence[Found]:
        place = self.state.known(queue)
        if place is None:
            return []
        page = place.page(-1 if after is None else after, limit)
        return [Found(entry.delivery, _state_of(entry), entry.number) for entry in page]

    def depth(self, topic: str) -> Depth:
        queue = self.state.topics.get(topic)
        if queue is None:
            return Depth()
        lane = self.state.lanes[topic]
        return Depth(
            queue.queued,
            queue.leased,
            lane.queued + lane.leased,
            queue.capacity,
            lane.capacity,
        )

    def counts(self, topic: str) -> Counts:
        """Return a topic's line of the ledger."""
        return self.state.counts(topic)

    def ref_of(self, source: str, id: str) -> str | None:
        """Return the ref under which an event was accepted, while that is remembered."""
        return self.state.dedup.ref(key_of(source, id))

    def dedup_window_s(self) -> float:
        """Return how far back duplicates are known, in seconds (G2)."""
        return self.state.dedup.window_in_effect_s(self.clock.now_s())

    def oldest_at(self, topic: str) -> float | None:
        """Return when the oldest waiting delivery of a topic came, None where none waits."""
        queue = self.state.topics.get(topic)
        return None if queue is None else queue.oldest_at()

    async def census(self, *, walk: bool = False) -> Census:
        # Storage first: nothing is applied between its answer and the counting here.
        totals = await self.storage.totals() if walk else {}
        topics = {name: self.state.counts(name, walk=walk) for name in self.state.topics}
        if walk:
            for name, counts in topics.items():
                parked, _ = totals.get((name, "parked"), (0, 0))
                dead, _ = totals.get((name, "dead"), (0, 0))
                topics[name] = msgspec.structs.replace(counts, parked=parked, dead=dead)
        return Census(self.since, topics)

    async def backup(self, path: Path) -> Written:
        """Write a copy of the whole file, as it is at one moment, while traffic goes on.

        Raises:
            BackupRefused: it can't be written there, or not now. None was written.
        """
        self._check_open()
        if self.journal.in_memory:
            why = "the queues are kept in memory alone"
            raise BackupRefused(str(path), why, 'Keep them in a file: [engine] url "sqlite:PATH".')
        if self._backup is not None and not self._backup.done():
            raise BackupRefused(str(path), "another one is being written", "Wait for its end.")
        self._backup = asyncio.create_task(write_backup(self.committer, path), name="backup")
        await asyncio.wait([self._backup])
        if self._backup.cancelled():
            raise BackupRefused(str(path), "the node has stopped", "Write it with --db FILE.")
        return self._backup.result()

    def announce(self, url: str) -> None:
        """Let those who find the file in use know where this node can be asked."""
        self.journal.announce(url)
        if self._me is not None:
            self._me = msgspec.structs.replace(self._me, url=url)

    def on_override(self, told: Callable[[], None]) -> None:
        """Nobody else sets anything: nothing to do."""

    async def join(self, me: Member) -> None:
        """Be the one node of this file: its lock has seen to that."""
        self._me = me

    def members(self) -> Sequence[Member]:
        """Return the nodes on these queues: this one."""
        if self._me is None:
            return ()
        return (msgspec.structs.replace(self._me, beat_at=self.clock.now_s()),)

    def _check_open(self) -> None:
        if self._closing is not None:
            raise EngineUnavailable("it is closed, or closing")

    async def close(self) -> None:
        """Release everything; deliveries still leased count as crashed when it is reopened."""
        if self._closing is None:
            self._closing = self._loop.create_future()
            try:
                await self._close()
            finally:
                self._closing.set_result(None)
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        places: list[BoundedQueue | Lane] = [*self.state.topics.values()]
        places += self.state.lanes.values()
        for place in places:
            if place.alarm is not None:
                place.alarm.handle.cancel()
            wake(place)
        if self._backup is not None:
            self._backup.cancel()
            await asyncio.wait([self._backup])
        await self.committer.idle()
        running = any(queue.leased for queue in self.state.topics.values())
        clean = not running and self.committer.fault is None
        self.committer.shut("closed")
        done = self._loop.create_future()
        self.committer.writer.run(
            lambda: self.journal.close(clean=clean), lambda _, error: _end(done, error)
        )
        try:
            await done
        finally:
            self.committer.writer.stop()


def _state_of(entry: Entry) -> str:
    if entry.in_lane:
        return "retrying"
    return "running" if entry.lease is not None or entry.settling else "queued"


def _ring(place: BoundedQueue | Lane) -> None:
    place.alarm = None
    wake(place)


def _end(done: asyncio.Future[None], error: BaseException | None) -> None:
    if error is None:
        done.set_result(None)
    else:
        done.set_exception(error)
