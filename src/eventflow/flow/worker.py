"""Runs a topic's handler: as many at once as it may, one after the other in each slot.

    fetch     leases for the slots that are free, and a few ahead where runs are quick
    slot      takes what was fetched, runs the handler, hands the outcome to the settler
    settler   ends the leases of what has finished, a batch at a time

Nothing is made per event but the call of the handler: no task, no timer, no lock.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter, deque
from typing import TYPE_CHECKING

from eventflow.delivery import CLEAN, DELIVERED, RELEASED, Attempt, Decision, Delivery, Place
from eventflow.engine.protocol import Act, Kind, Lease, Note, Queue, Settle, Settled
from eventflow.errors import EngineUnavailable
from eventflow.flow.failures import storable
from eventflow.flow.settler import AGAIN_S, Settler
from eventflow.policy.decide import decide
from eventflow.policy.outcome import SUCCEEDED, Failed, Outcome, Postponed, Started, Succeeded
from eventflow.telemetry import names

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from eventflow.clock import Clock
    from eventflow.engine.protocol import Engine
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

    def __init__(  # noqa: PLR0913, PLR0917  # what the stage works with
        self,
        engine: Engine,
        topic: Topic,
        runner: Runner,
        gate: Gate,
        ledger: Ledger,
        clock: Clock,
        draw: Callable[[], float],
    ) -> None:
        self._engine = engine
        self._topic = topic
        self._runner = runner
        self._gate = gate
        self._ledger = ledger
        self.clock = clock
        self._draw = draw
        self._queue = Queue(Kind.TOPIC, topic.name)
        self.settler: Settler[Ran] = Settler(engine, self._settled)
        self._fetched: deque[Lease] = deque()
        self._idle: deque[asyncio.Future[None]] = deque()
        self._slot_freed = asyncio.Event()
        self.running: dict[int, Lease] = {}
        """By slot: what is being run (of a batch, its first)."""
        self.gathering: dict[int, list[Lease]] = {}
        """By slot: what waits for its batch to fill, or runs in it."""
        self._run_s = 0.0
        """How long a run takes, smoothed: 0 until one has been timed."""
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
                self._fetched.extend(leases)
                self._wake_slot()
                await asyncio.sleep(0)

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
        taken = len(self.running) + len(self._fetched) + len(self.settler.stuck)
        taken += self._runner.stuck
        free = self._topic.concurrency - taken
        if 0 < self._run_s < AHEAD_S:
            free += min(AHEAD_MAX, int(AHEAD_S / self._run_s))
        return min(free, UNSETTLED_MAX - self.settler.unsettled)

    def _give_back(self, leases: Sequence[Lease] | deque[Lease]) -> None:
        for lease in leases:
            self.settler.add(Ran(lease, None, self, self.clock.now_s()))

    def _wake_slot(self) -> None:
        while self._idle:
            waiter = self._idle.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return

    # running -----------------------------------------------------------------

    async def slot(self, number: int) -> None:
        """Run what is fetched, one after the other, until cancelled."""
        batch = self._runner.handler.batch
        loop = asyncio.get_running_loop()
        ran = 0
        while True:
            if not self._fetched or self._topic.paused:
                self._slot_freed.set()
                await self._until_woken()
                ran = 0
                continue
            began = loop.time()
            count = await (self._run_batch(number, batch) if batch else self._run_some(number))
            took = (loop.time() - began) / count
            self._run_s = took if self._run_s == 0 else 0.8 * self._run_s + 0.2 * took
            ran += count
            self._slot_freed.set()
            if ran >= YIELD_AFTER:
                ran = 0
                await asyncio.sleep(0)

    async def _until_woken(self) -> None:
        waiter = asyncio.get_running_loop().create_future()
        self._idle.append(waiter)
        await waiter

    async def _run_some(self, number: int) -> int:
        """Run up to a few deliveries; return how many."""
        count = 0
        fetched, settler, runner, gate = self._fetched, self.settler, self._runner, self._gate
        while fetched and count < YIELD_AFTER:
            lease = fetched.popleft()
            count += 1
            if fetched:
                self._wake_slot()  # should this run have to wait, another slot goes on
            delivery = lease.delivery
            if (
                delivery.tally is not CLEAN or delivery.event.extensions is not None
            ) and not await self._may_start(number, lease):
                continue
            if gate.closed:
                await gate.opened()
            self.running[number] = lease
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
                (held,) = await self._engine.start([lease])
                if held:
                    outcome = await self._runner.run(number, lease.delivery)
        except EngineUnavailable:
            outcome = None  # given back: it runs when its start can be put on record
        finally:
            del self.running[number]
            self.settler.add(Ran(lease, outcome, self, started_at))

    async def _run_batch(self, number: int, batch: Batch) -> int:
        """Gather a batch and run it; return how many were in it."""
        leases = await self._gather(number, batch)
        if not leases:
            return 1
        if self._gate.closed:
            await self._gate.opened()
        started_at = self.clock.now_s()
        self._gate.running += 1
        outcomes: Sequence[Outcome | None] = [None] * len(leases)
        try:
            outcomes = await self._runner.run_batch(number, [lease.delivery for lease in leases])
        finally:
            self.running.pop(number, None)
            self._gate.left()
            for lease, outcome in zip(leases, outcomes, strict=True):
                self.settler.add(Ran(lease, outcome, self, started_at))
        return len(leases)

    async def _gather(self, number: int, batch: Batch) -> list[Lease]:
        """Take what is fetched; wait up to `linger_s` for the batch to fill."""
        leases: list[Lease] = []
        loop = asyncio.get_running_loop()
        deadline = loop.time() + batch.linger_s
        self.gathering[number] = leases
        try:
            while True:
                while self._fetched and len(leases) < batch.max:
                    lease = self._fetched.popleft()
                    delivery = lease.delivery
                    plain = delivery.tally is CLEAN and delivery.event.extensions is None
                    if plain or await self._may_start(number, lease):
                        leases.append(lease)
                left = deadline - loop.time()
                if len(leases) >= batch.max or left <= 0 or self._topic.paused or not leases:
                    return leases
                self._slot_freed.set()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(left):
                        await self._until_woken()
        except BaseException:
            self._give_back(leases)
            raise
        finally:
            del self.gathering[number]
            if leases:
                self.running[number] = leases[0]

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

    def _settled(self, items: Sequence[Ran], answers: Sequence[Settled]) -> None:
        refs: list[str] = []
        accepted: list[float] = []
        others: list[Place | None] = []
        for item, answer in zip(items, answers, strict=True):
            taken = answer.taken
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
        self._count_runs(items)
        self._slot_freed.set()
        self.on_room()

    def _count_runs(self, items: Sequence[Ran]) -> None:
        metrics, topic = self._ledger.metrics, self._topic.name
        kinds = Counter(_kind(item.outcome) for item in items)
        for (outcome, cause), count in kinds.items():
            if outcome:
                metrics.count(names.ATTEMPTS, count, topic, outcome)
            if cause:
                metrics.count(names.FAILURES, count, topic, cause)

    def leases(self) -> list[Lease]:
        """Return every lease it holds, for them to be extended."""
        held = [*self.running.values(), *self._fetched, *self.settler.leases()]
        for leases in self.gathering.values():
            held += leases
        return held

    @property
    def busy(self) -> int:
        """How many deliveries it has leased and not settled."""
        return len(self.running) + len(self._fetched) + self.settler.unsettled

    def release_fetched(self) -> None:
        """Give back what has not been started: the node is stopping."""
        self._give_back(self._fetched)
        self._fetched.clear()


def _kind(outcome: Outcome | None) -> tuple[str, str]:
    """Return how a run ended and from what cause, as the metrics call it."""
    match outcome:
        case Succeeded():
            return "succeeded", ""
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
