"""Runs a topic's handler: as many at once as it may, one after the other in each slot.

    fetch     leases for the slots that are free, and a few ahead where runs are quick
    slot      takes what was fetched, runs the handler, hands the outcome to the settler
    settler   ends the leases of what has finished, a batch at a time

Nothing is made per event but the call of the handler: no task, no timer, no lock. Plain deliveries
come in runs, which slots share as feeds; one gets a lease of its own when it does not end well.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter, deque
from itertools import zip_longest
from math import inf
from typing import TYPE_CHECKING

from eventflow.delivery import CLEAN, DELIVERED, RELEASED, Attempt, Decision, Delivery, Place
from eventflow.engine.protocol import Act, Kind, Lease, Note, Queue, Settle, Settled
from eventflow.errors import EngineUnavailable
from eventflow.flow.failures import storable
from eventflow.flow.feed import Done, Feed
from eventflow.flow.settler import AGAIN_S, Settler
from eventflow.policy.decide import decide
from eventflow.policy.outcome import SUCCEEDED, Failed, Outcome, Postponed, Started, Succeeded
from eventflow.telemetry import names

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from eventflow.clock import Clock
    from eventflow.engine.protocol import Engine, Run
    from eventflow.engine.runs import Leases
    from eventflow.flow.gate import Gate
    from eventflow.flow.handlers import Batch
    from eventflow.flow.ledger import Ledger
    from eventflow.flow.slots import Runner
    from eventflow.flow.topic import Topic

AHEAD_S = 0.005
"""What is fetched ahead of free slots should be run within this time: a late urgent one waits no
longer than that behind it."""
AHEAD_MAX = 500
ROUND_S = 5.0
"""The loop that fetches goes round at least that often, however little there is to do."""
UNSETTLED_MAX = 2_000
"""Outcomes waiting for their commit: with the slots, what a crash can repeat at most."""
YIELD_AFTER = 128
"""Runs without a pause before others get their turn in the event loop."""
_STARTED = Started()
_SUCCEEDED = ("succeeded", "")
_ENDED_WELL = (DELIVERED,)
_GIVEN_BACK = (RELEASED,)


class Ran:
    """A lease whose run has ended (or needed none), and how."""

    __slots__ = ("ended_at", "lease", "outcome", "started_at", "worker")

    def __init__(
        self, lease: Lease, outcome: Outcome | None, worker: Worker, started_at: float
    ) -> None:
        self.lease = lease
        self.outcome = outcome
        """None: it is given back as if it had never been leased."""
        self.worker = worker
        self.started_at = started_at
        self.ended_at = worker.clock.now_s() if outcome is not SUCCEEDED else started_at

    def act(self) -> Act:
        """Return where it goes, as decided now."""
        if self.outcome is SUCCEEDED:
            return Settle(self.lease, _ENDED_WELL)
        if self.outcome is None:
            return Settle(self.lease, _GIVEN_BACK)
        return self.worker.decided(self, self.outcome)

    def owing(self, owed: tuple[str, ...]) -> None:
        """Only events of common can be owed."""


class Worker:
    """One topic's slots."""

    def __init__(
        self,
        engine: Engine,
        topic: Topic,
        gate: Gate,
        ledger: Ledger,
        clock: Clock,
        draw: Callable[[], float],
    ) -> None:
        self._engine = engine
        self._topic = topic
        self._gate = gate
        self._ledger = ledger
        self.clock = clock
        self._draw = draw
        self._queue = Queue(Kind.TOPIC, topic.name)
        self.settler: Settler[Ran | Done] = Settler(engine, self._settled)
        self._fetched: deque[Lease | Feed] = deque()
        self._feeds: set[Feed] = set()
        """Those that are not settled to the end."""
        self._idle: deque[asyncio.Future[None]] = deque()
        self._help_asked = False
        self._slot_freed = asyncio.Event()
        self.running: dict[int, Lease | Feed] = {}
        """By slot: what is being run (of a batch, its first)."""
        self.gathering: dict[int, list[Lease]] = {}
        """By slot: what waits for its batch to fill, or runs in it."""
        self.leaving: set[int] = set()
        """Slots that end after the run they are in."""
        self.runners: list[Runner] = []
        """Those whose stuck threads take up slots: the topic's own, and such as it had before."""
        self._runner_of: dict[int, Runner] = {}
        """By slot: a slot keeps the one it began with."""
        self._run_s = inf
        """How long a run takes, smoothed: without end until one has been timed."""
        self.on_room: Callable[[], None] = lambda: None
        """Told after each batch that left the queue."""

    # fetching ----------------------------------------------------------------

    async def fetch(self) -> None:
        """Lease what the slots can run until cancelled."""
        topic = self._topic
        loop = asyncio.get_running_loop()
        while True:
            topic.round_at = loop.time()
            if topic.paused:
                await self._rest()
                continue
            room = self._room()
            if room < 1:
                await self._until_room()
                continue
            try:
                leases = await self._engine.lease(self._queue, limit=room, wait_s=ROUND_S)
            except EngineUnavailable:
                await asyncio.sleep(AGAIN_S)
                continue
            if topic.paused:
                self._give_back(leases)
            elif leases:
                self._take_over(leases)
                self._wake_slots(1)
                if len(leases) >= room:  # there is more: the slots have their turn first
                    await asyncio.sleep(0)

    def _take_over(self, leases: Leases) -> None:
        for part in leases.parts:
            if isinstance(part, Lease):
                self._fetched.append(part)
            else:
                feed = Feed(part, self._settle_feed)
                self._feeds.add(feed)
                self._fetched.append(feed)

    def _settle_feed(self, feed: Feed) -> None:
        """See to it that what is done of a feed gets settled."""
        feed.asked = True
        self.settler.add(Done(feed))

    async def _rest(self) -> None:
        self.release_fetched()
        await self._topic.going()

    async def _until_room(self) -> None:
        self._slot_freed.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(ROUND_S):
                await self._slot_freed.wait()

    def _room(self) -> int:
        """Return how many more may be leased: free slots, and more ahead where runs are quick."""
        waiting = self._waiting()
        taken = len(self.running) + waiting + len(self.settler.stuck)
        for runner in self.runners:
            taken += runner.stuck
        free = self._topic.concurrency - taken
        if self._run_s < AHEAD_S:
            free += int(min(AHEAD_MAX, AHEAD_S / max(self._run_s, 1e-9)))
        unsettled = self.settler.unsettled - waiting
        for feed in self._feeds:
            unsettled += feed.open
        return min(free, UNSETTLED_MAX - unsettled)

    def _waiting(self) -> int:
        """Return how many are fetched and not started."""
        if not self._fetched:
            return 0
        return sum(1 if isinstance(part, Lease) else len(part) for part in self._fetched)

    def _give_back(self, leases: Sequence[Lease]) -> None:
        for lease in leases:
            self.settler.add(Ran(lease, None, self, self.clock.now_s()))

    def _taken_out(self, feed: Feed, index: int) -> Lease:
        """Return the lease of one of a feed that goes its own way."""
        self._less_open(feed, 1)
        return feed.run.lease(index)

    def _less_open(self, feed: Feed, count: int) -> None:
        feed.open -= count
        if not feed.open:
            self._feeds.discard(feed)

    def _head(self) -> Lease | Feed | None:
        """Return what is to be started next; None: all that is fetched has been."""
        fetched = self._fetched
        while fetched:
            head = fetched[0]
            if isinstance(head, Lease) or len(head):
                return head
            fetched.popleft()
        return None

    def _next(self) -> Lease | None:
        """Take the next that is fetched by itself."""
        head = self._head()
        if isinstance(head, Feed):
            head.at += 1
            return self._taken_out(head, head.at - 1)
        if head is not None:
            self._fetched.popleft()
        return head

    def _wake_slots(self, count: int) -> None:
        while count > 0 and self._idle:
            waiter = self._idle.popleft()
            if not waiter.done():
                waiter.set_result(None)
                count -= 1

    def _ask_help(self) -> None:
        """See to it that other slots go on with what is fetched, should this run have to wait."""
        if self._idle and not self._help_asked:
            self._help_asked = True
            asyncio.get_running_loop().call_soon(self._help)

    def _help(self) -> None:
        """Wake slots for what is fetched: the loop has its turn, so what runs is waiting."""
        self._help_asked = False
        if self.running:
            self._wake_slots(self._waiting())

    # running -----------------------------------------------------------------

    async def slot(self, number: int, runner: Runner) -> None:
        """Run what is fetched, one after the other, until cancelled or told to leave."""
        self._runner_of[number] = runner
        batch = runner.handler.batch
        loop = asyncio.get_running_loop()
        ran = 0
        while number not in self.leaving:
            if self._topic.paused or self._head() is None:
                self._slot_freed.set()
                await self._until_woken()
                ran = 0
                continue
            began = loop.time()
            count = await (self._run_batch(number, batch) if batch else self._run_some(number))
            took = (loop.time() - began) / max(count, 1)
            self._run_s = took if self._run_s == inf else 0.8 * self._run_s + 0.2 * took
            ran += count
            self._slot_freed.set()
            if ran >= YIELD_AFTER:
                ran = 0
                await asyncio.sleep(0)
        self.leaving.discard(number)
        del self._runner_of[number]
        self._wake_slots(1)  # it may have been this one that was woken for what is fetched
        self._slot_freed.set()

    def leave(self, slots: Iterable[int]) -> None:
        """Let slots end: idle ones now, others after the run they are in."""
        self.leaving.update(slots)
        self._wake_slots(len(self._idle))

    async def _until_woken(self) -> None:
        waiter = asyncio.get_running_loop().create_future()
        self._idle.append(waiter)
        await waiter

    async def _run_some(self, number: int) -> int:
        """Run up to a few deliveries; return how many."""
        count = 0
        fetched, settler, gate, leaving = self._fetched, self.settler, self._gate, self.leaving
        runner = self._runner_of[number]
        while count < YIELD_AFTER and not (leaving and count):
            head = self._head()
            if isinstance(head, Feed) and runner.elsewhere is None:
                if gate.closed:
                    await gate.opened()
                    continue
                count += await self._run_feed(number, head, YIELD_AFTER - count)
                continue
            lease = self._next()
            if lease is None:
                break
            count += 1
            if fetched:
                self._ask_help()
            delivery = lease.delivery
            if (
                delivery.tally is not CLEAN or delivery.event.extensions is not None
            ) and not await self._may_start(number, lease):
                continue
            self.running[number] = lease
            if gate.closed:
                await self._until_open(number, lease)
                if self._decide(delivery, _STARTED).tries:  # it has expired meanwhile
                    del self.running[number]
                    settler.add(Ran(lease, _STARTED, self, self.clock.now_s()))
                    continue
            gate.running += 1
            started_at = self.clock.now_s()
            try:
                outcome = await runner.run(number, delivery)
            except BaseException:
                settler.add(Ran(lease, None, self, started_at))
                raise
            finally:
                del self.running[number]
                gate.left()
            settler.add(Ran(lease, outcome, self, started_at))
        return count

    async def _run_feed(self, number: int, feed: Feed, limit: int) -> int:
        """Run some of a feed; return how many were started."""
        gate = self._gate
        if len(feed) > 1 or len(self._fetched) > 1:
            self._ask_help()
        self.running[number] = feed
        gate.running += 1
        slot = self._runner_of[number].slot(number)
        try:
            outcome = await slot.run_feed(feed, limit)
        except BaseException:
            self.settler.add(Ran(self._taken_out(feed, slot.index), None, self, self.clock.now_s()))
            raise
        finally:
            del self.running[number]
            gate.left()
        if outcome is not None:
            took_s = asyncio.get_running_loop().time() - slot.began
            lease = self._taken_out(feed, slot.index)
            self.settler.add(Ran(lease, outcome, self, self.clock.now_s() - took_s))
        return slot.ran

    async def _until_open(self, number: int, lease: Lease) -> None:
        try:
            await self._gate.opened()
        except BaseException:
            del self.running[number]
            self._give_back([lease])
            raise

    async def _may_start(self, number: int, lease: Lease) -> bool:
        """Settle what must not run (expired, poison); run alone what has crashed before."""
        started_at = self.clock.now_s()
        if self._decide(lease.delivery, _STARTED).tries:
            self.settler.add(Ran(lease, _STARTED, self, started_at))
            return False
        if not lease.delivery.tally.crashes:
            return True
        await self._run_alone(number, lease)
        return False

    async def _run_alone(self, number: int, lease: Lease) -> None:
        """Run what was there at a crash, nothing beside it, its start on record before."""
        outcome: Outcome | None = None
        started_at = self.clock.now_s()
        self.running[number] = lease
        try:
            async with self._gate.alone():
                started_at = self.clock.now_s()
                if self._decide(lease.delivery, _STARTED).tries:
                    outcome = _STARTED  # it has expired while it waited to be alone
                elif (await self._engine.start([lease]))[0]:
                    outcome = await self._run_one(number, lease.delivery)
        except EngineUnavailable:
            outcome = None  # given back: it runs when its start can be put on record
        finally:
            del self.running[number]
            self.settler.add(Ran(lease, outcome, self, started_at))

    async def _run_one(self, number: int, delivery: Delivery) -> Outcome:
        """Run one delivery: a batch handler has it as a list."""
        runner = self._runner_of[number]
        if runner.handler.batch is None:
            return await runner.run(number, delivery)
        (outcome,) = await runner.run_batch(number, [delivery])
        return outcome

    async def _run_batch(self, number: int, batch: Batch) -> int:
        """Gather a batch and run it; return how many were in it."""
        leases: list[Lease] = []
        self.gathering[number] = leases  # until they are handed to the settler: leases run out
        outcomes: Sequence[Outcome | None] = ()
        started_at = self.clock.now_s()
        try:
            await self._gather(number, batch, leases)
            if leases:
                self.running[number] = leases[0]
                if self._gate.closed:
                    await self._gate.opened()
                self._part_with_late(leases)
                started_at = self.clock.now_s()
                if leases:
                    outcomes = await self._run_gathered(number, leases)
        finally:
            self.running.pop(number, None)
            del self.gathering[number]
            for lease, outcome in zip_longest(leases, outcomes):
                self.settler.add(Ran(lease, outcome, self, started_at))
        return len(leases) or 1

    def _part_with_late(self, leases: list[Lease]) -> None:
        """Settle what has expired while its batch was gathered."""
        may_expire = [lease for lease in leases if lease.delivery.event.extensions is not None]
        for lease in may_expire:
            if self._decide(lease.delivery, _STARTED).tries:
                leases.remove(lease)
                self.settler.add(Ran(lease, _STARTED, self, self.clock.now_s()))

    async def _run_gathered(self, number: int, leases: list[Lease]) -> Sequence[Outcome]:
        deliveries = [lease.delivery for lease in leases]
        self._gate.running += 1
        try:
            return await self._runner_of[number].run_batch(number, deliveries)
        finally:
            self._gate.left()

    async def _gather(self, number: int, batch: Batch, leases: list[Lease]) -> None:
        """Take what is fetched; wait up to `linger_s` for the batch to fill."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + batch.linger_s
        while True:
            while len(leases) < batch.max and (lease := self._next()) is not None:
                delivery = lease.delivery
                plain = delivery.tally is CLEAN and delivery.event.extensions is None
                if plain or await self._may_start(number, lease):
                    leases.append(lease)
            left = deadline - loop.time()
            if len(leases) >= batch.max or left <= 0 or self._topic.paused or not leases:
                return
            self._slot_freed.set()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await self._until_woken()

    # settling ----------------------------------------------------------------

    def decided(self, ran: Ran, outcome: Outcome) -> Act:
        """Return the act that ends a lease whose run did not end well."""
        decision = self._decide(ran.lease.delivery, outcome)
        attempt = traceback = None
        if isinstance(outcome, Failed):
            traceback = None if outcome.traceback is None else storable(outcome.traceback)
            attempt = _failed_attempt(ran, outcome)
        elif isinstance(outcome, Postponed):
            attempt = Attempt(
                ran.started_at,
                ran.ended_at,
                "retry_later",
                "RetryLater",
                storable(outcome.why),
                round=ran.lease.delivery.tally.rounds,
            )
        return Settle(ran.lease, decision.tries, Note(decision.because, attempt, traceback))

    def _decide(self, delivery: Delivery, outcome: Outcome) -> Decision:
        return decide(
            delivery,
            outcome,
            self._topic.policy,
            self._topic.fullness(self._engine),
            self.clock.now_s(),
            self._draw(),
        )

    def _settled(self, items: Sequence[Ran | Done], answers: Sequence[Settled]) -> None:
        refs: list[str] = []
        accepted: list[float] = []
        others: list[Place | None] = []
        ended_well = 0
        for item, answer in zip(items, answers, strict=True):
            taken = answer.taken
            if isinstance(item, Done):
                ended_well += item.count
                self._less_open(item.feed, item.count)
                if taken is DELIVERED:
                    self._topic.delivered.add(self.clock.now_s(), item.count)
                    self._ledger.delivered_of_run(self._topic.name, item.feed.run, item.spans)
                continue
            if taken is DELIVERED:
                delivery = item.lease.delivery
                refs.append(delivery.ref)
                accepted.append(delivery.accepted_at)
            elif taken is not None:
                others.append(taken)
        if refs:
            self._topic.delivered.add(self.clock.now_s(), len(refs))
            self._ledger.delivered(self._topic.name, refs, accepted)
        if others:
            self._ledger.placed(self._topic.name, others)
        self._count_runs(ended_well, [item for item in items if isinstance(item, Ran)])
        self._slot_freed.set()
        self.on_room()

    def _count_runs(self, ended_well: int, runs: Sequence[Ran]) -> None:
        metrics, topic = self._ledger.metrics, self._topic.name
        if ended_well:
            metrics.count(names.ATTEMPTS, ended_well, topic, _SUCCEEDED[0])
        if not runs:
            return
        kinds = Counter(_kind(run.outcome) for run in runs)
        for (outcome, cause), count in kinds.items():
            if outcome and count:
                metrics.count(names.ATTEMPTS, count, topic, outcome)
            if cause:
                metrics.count(names.FAILURES, count, topic, cause)

    def leases(self) -> list[Lease | Run]:
        """Return every lease it holds, for them to be extended."""
        held: list[Lease | Run] = [feed.run for feed in self._feeds]
        held += [one for one in (*self.running.values(), *self._fetched) if isinstance(one, Lease)]
        held += [one for one in self.settler.leases() if isinstance(one, Lease)]
        for leases in self.gathering.values():
            held += leases
        return held

    def lose(self, lost: Sequence[Lease | Run]) -> None:
        """Start nothing more of these: somebody else will, or does."""
        gone = {id(one) for one in lost}
        kept = [one for one in self._fetched if id(one) not in gone]
        self._fetched.clear()  # not a new one: slots hold on to it
        self._fetched += kept
        for feed in [feed for feed in self._feeds if id(feed.run) in gone]:
            rest = len(feed)
            feed.stop = feed.at
            self._less_open(feed, rest)
        self._slot_freed.set()

    @property
    def busy(self) -> int:
        """How many deliveries it has leased and not settled."""
        singles = sum(isinstance(one, Lease) for one in (*self.running.values(), *self._fetched))
        return singles + self.settler.unsettled + sum(feed.open for feed in self._feeds)

    def release_fetched(self) -> None:
        """Give back what has not been started: the node is stopping."""
        while (lease := self._next()) is not None:
            self._give_back([lease])


def _kind(outcome: Outcome | None) -> tuple[str, str]:
    """Return how a run ended and from what cause, as the metrics call it."""
    match outcome:
        case Succeeded():
            return _SUCCEEDED
        case Failed(timed_out=True):
            return "timeout", outcome.cause
        case Failed(permanent=True):
            return "permanent", outcome.cause
        case Failed():
            return "failed", outcome.cause
        case Postponed():
            return "postponed", ""
        case _:
            return "", ""


def _failed_attempt(ran: Ran, failed: Failed) -> Attempt:
    outcome, _ = _kind(failed)
    return Attempt(
        ran.started_at,
        ran.ended_at,
        outcome,
        storable(failed.cause),
        storable(failed.error),
        failed.fingerprint,
        ran.lease.delivery.tally.rounds,
    )
