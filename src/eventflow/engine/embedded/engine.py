"""The embedded engine: the promises G1 to G8, kept by queues in memory and a journal."""

from __future__ import annotations

import asyncio
import uuid
from math import inf
from typing import TYPE_CHECKING, Any

import msgspec

from eventflow.delivery import COMMON, Attempt, Dead, Delivery, Reason, Row, Tally
from eventflow.engine.embedded.cleaning import Cleaner
from eventflow.engine.embedded.committer import Committer, Txn
from eventflow.engine.embedded.journal import ALREADY, Change, Journal, StorageUnit
from eventflow.engine.embedded.queues import Anchor, BoundedQueue, Entry, Lane
from eventflow.engine.embedded.records import Accepted, Started, Stated, state_of
from eventflow.engine.embedded.replay import Replay
from eventflow.engine.embedded.settlement import LOST, Settlement, audit_row, wake
from eventflow.engine.embedded.state import State
from eventflow.engine.embedded.storage import EmbeddedStorage
from eventflow.engine.embedded.writer import ThreadWriter, Writer
from eventflow.engine.protocol import (
    Act,
    Applied,
    Census,
    Counts,
    Depth,
    Found,
    Kind,
    Lease,
    Placed,
    Placing,
    Plan,
    Queue,
    Receipt,
    Settled,
)
from eventflow.engine.refs import first_ref, refs_from
from eventflow.errors import EngineUnavailable, QueueFull
from eventflow.policy.admission import room
from eventflow.policy.priority import frame
from eventflow.storage.rows import kept_of
from eventflow.storage.shelf import Shelf

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import apsw

    from eventflow.clock import Clock
    from eventflow.event import Event

CAUTIOUS_S = 60.0
"""How long after a crash a start is durable before the handler runs.

Starts are recorded with the next commit, so a handler that kills its process at once could do so
again and again without its start ever being on record. After a crash it can't.
"""


class EmbeddedEngine:
    """Queues in this process's memory, made durable by a journal. See `Engine` for the promises."""

    def __init__(
        self,
        journal: Journal,
        writer: Writer,
        clock: Clock,
        draw_bits: Callable[[int], int],
    ) -> None:
        """Read an open journal back. `open_engine` is the way to make one."""
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
        self._fresh: list[Entry] = []
        """Leased since the last commit: their starts ride in the next."""
        self._cautious_until = clock.now_s() + CAUTIOUS_S if self.unclean else -inf
        self._cleaner = Cleaner(self.state, self.committer)
        self.committer.before_commit = self._ride
        self.storage = EmbeddedStorage(self.state, self.committer, clock)
        self._closing = False

    def _read_back(
        self,
        ledger: dict[str, tuple[int, int, int, int]],
        kept: dict[tuple[str, str], tuple[int, int]],
    ) -> None:
        replay = Replay(self.journal)
        for topic, counters in ledger.items():
            self.state.topic(topic)
            tallies = self.state.tallies[topic]
            (tallies.created, tallies.delivered, tallies.discarded, tallies.archived) = counters
        for (topic, state), (count, size) in kept.items():
            self.state.topic(topic)
            self.state.tallies[topic].move_kept(state, count)
            self.state.storage_bytes += size
        replay.into(self.state)
        replay.check(self.state)
        self.committer.rows.extend(replay.rows)
        self.committer.journal_bytes = sum(row.size_bytes for row in replay.rows)

    async def recover_crashed(self) -> int:
        """Count a crash for each delivery that was running when the last process died."""
        crashed = [entry for entry in self.state.entries() if entry.started]
        txn = self._crash_txn(crashed)
        if txn is not None:
            await self.committer.submit(txn)
        return len(crashed)

    # Engine ------------------------------------------------------------------

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
        orphans = []
        for name in self.state.topics:
            if name not in plan.topics and _live(self.state.counts(name)):
                orphans.append(name)
        return Applied(tuple(sorted(orphans)))

    async def accept(self, events: Sequence[Event]) -> Sequence[Receipt]:
        if self._closing:
            raise EngineUnavailable("it is closing")
        now = self.clock.now_s()
        fresh, keys, receipts = self._without_duplicates(events)
        txn = Txn()
        if fresh:
            self._check_room(fresh)
            refs = refs_from(first_ref(now, self._draw_bits), len(fresh))
            self._plan_accept(txn, fresh, keys, refs, now)
            following = iter(refs)
            seen: dict[bytes, str] = dict(zip(keys, refs, strict=True))
            for index, receipt in enumerate(receipts):
                if receipt is None:
                    receipts[index] = Receipt(next(following))
                elif receipt.ref is None:  # the same pair earlier in this batch
                    receipts[index] = Receipt(seen[events[index].key_bytes], duplicate=True)
        # Duplicates wait too: the first one's commit may still be on its way (G1).
        await self.committer.submit(txn)
        return [receipt for receipt in receipts if receipt is not None]

    def _without_duplicates(
        self, events: Sequence[Event]
    ) -> tuple[list[Event], list[bytes], list[Receipt | None]]:
        """Return the new events, their keys, and for each event its receipt if a duplicate."""
        self.state.dedup.prune(self.clock.now_s())
        known = self.state.dedup.ref
        fresh: list[Event] = []
        keys: list[bytes] = []
        batch: set[bytes] = set()
        receipts: list[Receipt | None] = []
        for event in events:
            key = event.key_bytes
            ref = known(key)
            if ref is not None:
                receipts.append(Receipt(ref, duplicate=True))
            elif key in batch:
                receipts.append(Receipt(None, duplicate=True))
            else:
                batch.add(key)
                fresh.append(event)
                keys.append(key)
                receipts.append(None)
        return fresh, keys, receipts

    def _check_room(self, events: list[Event]) -> None:
        common = self.state.common
        urgent = sum(1 for event in events if event.extensions is not None and event.rank < 2)
        # The urgent ones may use the last tenth, the others may not; all must fit.
        depth = common.depth
        ordinary = len(events) - urgent
        if (
            room(depth, common.capacity, 0, urgent) < urgent
            or room(depth + urgent, common.capacity, 2, ordinary) < ordinary
        ):
            raise QueueFull(COMMON, common.capacity, retry_after_s=1.0)
        size = sum(200 if event.body is None else 200 + len(event.body) for event in events)
        limit = self.state.plan.memory_limit_bytes
        if self.state.memory_bytes + self.state.memory_reserved + size > limit:
            raise QueueFull(
                COMMON, common.capacity, 1.0, f"[engine] memory_limit of {limit} bytes is reached"
            )

    def _plan_accept(
        self, txn: Txn, events: list[Event], keys: list[bytes], refs: list[str], now: float
    ) -> None:
        state = self.state
        count = len(events)
        first = self.committer.take_numbers(count)
        size = sum(200 if event.body is None else 200 + len(event.body) for event in events)
        txn.change.bodies.append((first, events))
        txn.change.records.append(Accepted(first, refs[0], count, now))
        txn.change.count(COMMON, created=count)
        state.common.reserved += count
        state.memory_reserved += size
        state.dedup.remember(keys, refs, now)

        def apply(_: Txn, row: Anchor) -> None:
            state.common.reserved -= count
            state.memory_reserved -= size
            state.tallies[COMMON].created += count
            body = Anchor(first, size)
            body.total = count
            number = first
            for event, ref in zip(events, refs, strict=True):
                delivery = Delivery(event, ref, COMMON, now, 0, now)
                state.add(Entry(number, number, delivery, row, body), state.common)
                number += 1
            wake(state.common)

        def undo() -> None:
            state.common.reserved -= count
            state.memory_reserved -= size
            state.dedup.forget(keys)

        txn.apply, txn.undo = apply, undo

    async def lease(self, queue: Queue, *, limit: int, wait_s: float) -> Sequence[Lease]:
        place = self.state.place(queue)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + wait_s
        while True:
            now = self.clock.now_s()
            if now >= place.next_expiry:
                self._expire(place, now)
            if isinstance(place, Lane):
                entries = place.take_due(now, limit)
            else:
                entries = place.take(self._frame, limit)
            if entries:
                return await self._grant(place, entries, now)
            left = deadline - loop.time()
            if left <= 0 or self._closing:
                return []
            until = min(place.next_expiry, place.next_due if isinstance(place, Lane) else inf)
            await self._something(place, min(left, max(0.0, until - now)))

    async def _something(self, place: BoundedQueue | Lane, wait_s: float) -> None:
        """Wait until something may have come, or `wait_s` seconds are over."""
        loop = asyncio.get_running_loop()
        waiter = loop.create_future()
        place.waiters.append(waiter)
        # A hair more than asked: a timer may ring a moment before the clock has got there.
        timer = loop.call_later(wait_s + 0.001, _ring, waiter)
        try:
            await waiter
        finally:
            timer.cancel()
            if waiter in place.waiters:
                place.waiters.remove(waiter)

    async def _grant(
        self, place: BoundedQueue | Lane, entries: list[Entry], now: float
    ) -> list[Lease]:
        until = now + self.state.plan.lease_s
        queue = place.queue
        leases = []
        for entry in entries:
            lease = Lease(entry.delivery, queue, entry)
            entry.lease = lease
            entry.until = until
            place.running[entry.number] = entry
            leases.append(lease)
        place.next_expiry = min(place.next_expiry, until)
        if queue.kind is Kind.TOPIC and queue.topic != COMMON:
            await self._record_starts(entries, now)
        return leases

    async def _record_starts(self, entries: list[Entry], now: float) -> None:
        # What was there at a crash is on record only once it really runs: see `start`.
        fresh = [entry for entry in entries if not entry.delivery.tally.crashes]
        self._fresh += fresh
        if fresh and now < self._cautious_until:
            try:
                await self.committer.submit(Txn())
            except BaseException:  # also where whoever wanted the leases was cancelled
                for entry in entries:
                    self._take_back(entry)
                raise
        else:
            self.committer.kick()

    async def start(self, leases: Sequence[Lease]) -> Sequence[bool]:
        held = [lease.token for lease in leases if lease.token.lease is lease]
        self._fresh += held
        await self.committer.submit(Txn())
        return [lease.token.lease is lease for lease in leases]

    def _take_back(self, entry: Entry) -> None:
        place = self.state.place(Queue(Kind.TOPIC, entry.delivery.topic))
        if place.running.pop(entry.number, None) is not None:
            entry.lease = None
            place.put_back(entry)

    def _ride(self, txn: Txn) -> None:
        """Add to a commit what nobody waits for: starts, and rows told again."""
        running = [entry for entry in self._fresh if entry.lease is not None and not entry.settling]
        self._fresh.clear()
        if running:
            txn.change.records.append(Started([entry.number for entry in running]))
            for entry in running:
                entry.started = True
        self._cleaner.ride(txn)

    def _expire(self, place: BoundedQueue | Lane, now: float) -> None:
        """Take back leases that have run out (G5)."""
        over = [e for e in place.running.values() if e.until <= now and not e.settling]
        for entry in over:
            del place.running[entry.number]
            entry.lease = None
            place.put_back(entry)
        place.next_expiry = min((e.until for e in place.running.values()), default=inf)
        crashed = [entry for entry in over if entry.started]
        txn = self._crash_txn(crashed)
        if txn is not None:
            self.committer.submit(txn)

    def _crash_txn(self, crashed: list[Entry]) -> Txn | None:
        """Count one more crash for each of these waiting entries, in memory at once."""
        if not crashed:
            return None
        now = self.clock.now_s()
        txn = Txn()
        for entry in crashed:
            old = entry.delivery
            tally: Tally = msgspec.structs.replace(old.tally, crashes=old.tally.crashes + 1)
            attempt = Attempt(old.entered_at, now, "crashed", "crash", round=tally.rounds)
            entry.delivery = msgspec.structs.replace(
                old, tally=tally, history=(*old.history, attempt)
            )
            entry.started = False
            txn.change.records.append(
                Stated(
                    entry.number,
                    entry.event_number,
                    entry.number,
                    entry.in_lane,
                    False,  # noqa: FBT003  # records are positional
                    state_of(entry.delivery),
                )
            )
            txn.change.audit.append(_crash_row(entry.delivery, now))

        def apply(_: Txn, row: Anchor) -> None:
            for entry in crashed:
                if entry.live:
                    entry.row.live -= 1
                    entry.row = row
                    row.live += 1

        txn.apply = apply
        return txn

    async def settle(self, acts: Sequence[Act]) -> Sequence[Settled]:
        answers: list[Settled | None] = [None] * len(acts)
        waiting: list[tuple[int, Act]] = list(enumerate(acts))
        now = self.clock.now_s()
        while waiting:
            txn = Txn()
            settlement = Settlement(self.state, self.committer, now, txn)
            for index, act in waiting:
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
                answers[step.index], again = settlement.answer(step)
                if again is not None:
                    waiting.append((step.index, again))
        return [answer if answer is not None else LOST for answer in answers]

    async def extend(self, leases: Sequence[Lease]) -> Sequence[bool]:
        now = self.clock.now_s()
        until = now + self.state.plan.lease_s
        kept = []
        for lease in leases:
            entry: Entry = lease.token
            holds = entry.lease is lease and (entry.until > now or entry.settling)
            if holds:
                entry.until = until
            kept.append(holds)
        return kept

    async def place(self, items: Sequence[Placing]) -> Sequence[Placed]:
        answers = [Placed.FULL] * len(items)
        txn = Txn()
        planned: list[tuple[int, StorageUnit, Placing, Entry | None]] = []
        now = self.clock.now_s()
        row = body = Anchor(0)  # replaced when the commit's own is known
        for index, item in enumerate(items):
            old = item.delivery
            new = msgspec.structs.replace(
                old,
                hop=old.hop + 1,
                entered_at=now,
                tally=getattr(item.place, "tally", old.tally),
                reason=getattr(item.place, "reason", old.reason),
                due_at=None,
            )
            unit = StorageUnit(Change(), forget=(old.id, old.hop))
            entry = None
            if isinstance(item.place, Dead):
                unit.keep.append(kept_of(new, "dead", now))
            else:
                queue = self.state.topic(new.topic)
                if not queue.has_room(new.event.rank):
                    continue
                queue.reserved += 1
                number = self.committer.take_numbers(1)
                unit.change.bodies.append((number, [new.event]))
                unit.change.records.append(
                    Stated(number, number, 0, False, False, state_of(new))  # noqa: FBT003
                )
                entry = Entry(number, number, new, row, body)
            unit.change.audit.append(audit_row(new, item.place, "parked", now, item.note))
            txn.units.append(unit)
            planned.append((index, unit, item, entry))

        def release() -> None:
            for _, _, _, entry in planned:
                if entry is not None:
                    self.state.topic(entry.delivery.topic).reserved -= 1

        def apply(_: Txn, row: Anchor) -> None:
            release()
            for _, unit, item, entry in planned:
                if unit.refused is None:
                    self._apply_placed(item, unit, entry, row)

        txn.apply, txn.undo = apply, release
        if planned:
            await self.committer.submit(txn)
        for index, unit, _, _ in planned:
            if unit.refused is None:
                answers[index] = Placed.PLACED
            elif unit.refused == ALREADY:
                answers[index] = Placed.ALREADY
        return answers

    def _apply_placed(
        self, item: Placing, unit: StorageUnit, entry: Entry | None, row: Anchor
    ) -> None:
        tallies = self.state.tallies[item.delivery.topic]
        tallies.parked -= 1
        self.state.storage_bytes -= kept_of(item.delivery, "parked", 0.0).size_bytes
        if entry is None:
            tallies.dead += 1
            self.state.storage_bytes += unit.keep[0].size_bytes
            return
        entry.row = row
        entry.body = Anchor(entry.number)
        entry.body.total = 1
        queue = self.state.topic(item.delivery.topic)
        self.state.add(entry, queue)
        wake(queue)

    async def find(self, ref: str) -> Sequence[Found]:
        return [
            Found(entry.delivery, _state_of(entry), entry.number)
            for entry in self.state.entries()
            if entry.delivery.ref == ref
        ]

    async def walk(self, queue: Queue, *, after: Any = None, limit: int = 1000) -> Sequence[Found]:
        entries = sorted(self.state.place(queue).entries(), key=lambda entry: entry.number)
        if after is not None:
            entries = [entry for entry in entries if entry.number > after]
        return [Found(entry.delivery, _state_of(entry), entry.number) for entry in entries[:limit]]

    def depth(self, topic: str) -> Depth:
        queue, lane = self.state.topic(topic), self.state.lanes[topic]
        return Depth(
            queue.queued,
            len(queue.running),
            lane.queued + len(lane.running),
            queue.capacity,
            lane.capacity,
        )

    def counts(self, topic: str) -> Counts:
        """Return a topic's line of the ledger."""
        return self.state.counts(topic)

    def ref_of(self, key: bytes) -> str | None:
        """Return the ref under which an event's key was accepted, while that is remembered."""
        return self.state.dedup.ref(key)

    def dedup_window_s(self) -> float:
        """Return how far back duplicates are known, in seconds (G2)."""
        return self.state.dedup.window_in_effect_s(self.clock.now_s())

    def oldest_at(self, topic: str) -> float | None:
        """Return when the oldest waiting delivery of a topic came, None where none waits."""
        entry = self.state.topic(topic).oldest()
        return None if entry is None else entry.delivery.entered_at

    async def census(self, *, walk: bool = False) -> Census:
        topics = {name: self.state.counts(name, walk=walk) for name in self.state.topics}
        if walk:
            totals = await self.storage.totals()
            topics = {
                name: msgspec.structs.replace(
                    counts,
                    parked=totals.get((name, "parked"), (0, 0))[0],
                    dead=totals.get((name, "dead"), (0, 0))[0],
                )
                for name, counts in topics.items()
            }
        return Census(self.since, topics)

    async def close(self) -> None:
        """Release everything; deliveries still leased count as crashed when it is reopened."""
        if self._closing:
            return
        self._closing = True
        for place in (*self.state.topics.values(), *self.state.lanes.values()):
            wake(place)
        if not self.committer.broken:
            await self.committer.idle()
        running = any(queue.running for queue in self.state.topics.values())
        clean = not running and self.committer.fault is None
        done = asyncio.get_running_loop().create_future()
        self.committer.writer.run(
            lambda: self.journal.close(clean=clean), lambda _, error: _end(done, error)
        )
        try:
            await done
        finally:
            self.committer.writer.stop()


async def open_engine(  # noqa: PLR0913  # what an engine needs to be opened with
    path: str,
    *,
    clock: Clock,
    draw_bits: Callable[[int], int],
    durability: str = "fsync",
    audit_key: bytes | None = None,
    writer: Callable[[], Writer] = ThreadWriter,
    vfs: str | None = None,
    shelf: Callable[[apsw.Connection], Shelf] = Shelf,
) -> EmbeddedEngine:
    """Open the journal at `path` (":memory:" keeps nothing) and read it back.

    Args:
        path: The file; made if it is not there.
        clock: Tells the time of day.
        draw_bits: Draws so many random bits: for refs. `random.Random.getrandbits`.
        durability: "fsync" or "os", see G1.
        audit_key: HMAC key of the audit chain.
        writer: Makes what runs the journal: `InlineWriter` in a simulation.
        vfs: SQLite VFS: for crash tests.
        shelf: Makes the storage's table access: for tests that let it fail.

    Raises:
        JournalInUse: another process has it open.
        JournalUnreadable: damaged, not a journal, or of a newer version.
    """
    chain = str(uuid.UUID(int=draw_bits(128), version=4))
    journal = Journal(
        path,
        now_s=clock.now_s(),
        chain=chain,
        durability=durability,
        vfs=vfs,
        audit_key=audit_key,
        shelf=shelf,
    )
    try:
        engine = EmbeddedEngine(journal, writer(), clock, draw_bits)
    except BaseException:
        journal.close(clean=False)
        raise
    journal.set_meta("clean", 0)
    await engine.recover_crashed()
    return engine


def _crash_row(delivery: Delivery, now: float) -> dict[str, Any]:
    return {
        "at": now,
        "what": f"delivery.{Row.NODE_DIED.value}",
        "ref": delivery.ref,
        "topic": delivery.topic,
        "delivery": delivery.id,
        "hop": delivery.hop,
        "from": "running",
        "to": "queued",
        "reason": Reason.POISON if delivery.tally.crashes >= 3 else "node_died",
        "tally": msgspec.structs.asdict(delivery.tally),
    }


def _live(counts: Any) -> int:
    found: int = counts.queued + counts.running + counts.retrying + counts.parked + counts.dead
    return found


def _state_of(entry: Entry) -> str:
    if entry.in_lane:
        return "retrying"
    return "running" if entry.lease is not None or entry.settling else "queued"


def _ring(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


def _end(done: asyncio.Future[None], error: BaseException | None) -> None:
    if error is None:
        done.set_result(None)
    else:
        done.set_exception(error)
