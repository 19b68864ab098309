"""How a handler is run: one delivery or batch at a time in each slot, with a timeout.

    outcome = await runner.run(number, delivery)        from the task that is slot `number`

Nothing is made per event but the call of the handler: no task and no timer. A slot writes down by
when its run has to end, and one timer a topic, set for the earliest of those, cancels what is
overdue. With timeouts of 10 s that timer rings at most every 10 s, however many events pass.

A run past its timeout
    async     CancelledError is raised in the handler. What it does then is its own affair: it may
              clean up, it may even return after all, and then the event is delivered.
    thread    The outcome is a timeout at once, but no thread can be stopped: it goes on, and the
              topic has one slot less until it returns (`stuck`).
    process   The outcome is a timeout at once; the process is killed and replaced.

A slot's task that is cancelled by others (the node stops) raises CancelledError: no outcome.
"""

from __future__ import annotations

import asyncio
from asyncio import CancelledError
from math import inf
from typing import TYPE_CHECKING, Any

from eventflow.errors import Permanent, RetryLater
from eventflow.flow.executors import ProcessDied, Processes, Threads, WorkerError, refuse_awaitable
from eventflow.flow.failures import Raised, answers_of, judge, outcome_of, timed_out
from eventflow.policy.outcome import SUCCEEDED, Failed, Outcome
from eventflow.sinks.base import SinkError
from eventflow.telemetry import names
from eventflow.telemetry.logging import log

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence

    from pebble import ProcessFuture

    from eventflow.clock import Clock
    from eventflow.delivery import Delivery
    from eventflow.flow.feed import Feed
    from eventflow.flow.handlers import Handler
    from eventflow.policy.causes import Verdict
    from eventflow.telemetry.metrics import Metrics
    from eventflow.telemetry.names import Metric

_TIMES_MAX = 500
"""Durations that are collected before they are counted: once a batch, not once an event."""
SLICE_S = 0.005
"""So long a slot goes on with a feed before it looks at anything else: pauses, leaving, gates."""
_SAYS_ITSELF = (Permanent, RetryLater, SinkError)
"""What a handler may still say after its timeout."""


class Timekeeper:
    """Cancels slots whose time is over, with one timer for all of them.

    Args:
        loop: Whose time counts, and whose timer it is.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.time = loop.time
        self.armed_at = inf
        """When the timer rings, in the loop's time; infinity: it is not set."""
        self.slots: list[Slot] = []
        self._loop = loop
        self._timer: asyncio.TimerHandle | None = None

    def arm(self, at: float) -> None:
        """Set the timer for `at`, which is earlier than it is set for now."""
        self.disarm()
        self.armed_at = at
        self._timer = self._loop.call_at(at, self._ring)

    def disarm(self) -> None:
        """Let the timer never ring."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.armed_at = inf

    def _ring(self) -> None:
        self._timer = None
        self.armed_at = earliest = inf
        now = self.time()
        for slot in self.slots:
            if slot.deadline <= now:
                slot.overrun(now)
            earliest = min(earliest, slot.deadline)
        if earliest < inf:
            self.arm(earliest)


class Runner:
    """Runs one topic's handler.

    Made in the event loop that the slots run in.

    Args:
        handler: What is run.
        topic: Whose it is, for the log and the metrics.
        concurrency: Slots, and so threads or processes at most.
        clock: The time of day, for `RetryLater` and `Retry-After`.
        metrics: Where durations and stuck threads are counted.
        overrides: The topic's own word on names of exceptions.

    Raises:
        ConfigError: the handler is for processes, and they would not find its function.
    """

    def __init__(
        self,
        handler: Handler,
        topic: str,
        concurrency: int,
        clock: Clock,
        metrics: Metrics,
        overrides: Mapping[str, Verdict] | None = None,
    ) -> None:
        loop = asyncio.get_running_loop()
        self.handler = handler
        self.topic = topic
        self.clock = clock
        self.overrides = overrides
        self.timekeeper = Timekeeper(loop)
        self.stuck = 0
        """Threads still running a handler that is past its timeout: slots that are taken."""
        self.times: list[float] = []
        self.threads: Threads | None = None
        self.processes: Processes | None = None
        self._slots: dict[int, Slot] = {}
        self._metrics = metrics
        self.elsewhere = self._place_of(handler, concurrency, loop)
        self._forget_reader = metrics.read(self._gauges)
        self._forget_flush = metrics.on_read(self.flush_times)

    def _place_of(
        self, handler: Handler, concurrency: int, loop: asyncio.AbstractEventLoop
    ) -> Callable[[Slot, tuple[Any, ...]], Awaitable[Any]] | None:
        """Return how the handler is called where it isn't called in the loop."""
        if handler.mode == "async":
            return None
        if is_virtual(loop):
            return self._here
        if handler.mode == "thread":
            self.threads = Threads(concurrency, f"eventflow-{self.topic}", loop)
            return self._in_thread
        self.processes = Processes(concurrency, handler)
        return self._in_process

    async def start(self) -> None:
        """Open the sink, or have a worker process import the handler.

        Raises:
            ConfigError: it can't import it, or the sink can't be opened.
        """
        if self.handler.sink is not None:
            await self.handler.sink.start()
        if self.processes is not None:
            await self.processes.start()

    def resize(self, concurrency: int) -> None:
        """Have threads for so many slots. Processes are as many as there were in the beginning."""
        if self.threads is not None:
            self.threads.resize(concurrency)

    def run(self, number: int, delivery: Delivery) -> Awaitable[Outcome]:
        """Run the handler with one delivery, in slot `number`; awaited in the slot's task.

        Raises:
            CancelledError: the slot's task was cancelled, not by the timeout.
        """
        slot = self._slots.get(number) or self._new_slot(number)
        return slot.run(delivery)

    def slot(self, number: int) -> Slot:
        """Return slot `number`: for feeds, which are run in the loop only."""
        return self._slots.get(number) or self._new_slot(number)

    def run_batch(
        self, number: int, deliveries: Sequence[Delivery]
    ) -> Awaitable[Sequence[Outcome]]:
        """Run a batch handler with these deliveries; the outcomes are in their order.

        Raises:
            CancelledError: the slot's task was cancelled, not by the timeout.
        """
        slot = self._slots.get(number) or self._new_slot(number)
        return slot.run_batch(deliveries)

    async def close(self) -> None:
        """Let go of timer, threads, processes and sink. What runs in a process is killed."""
        self.flush_times()
        self._forget_reader()
        self._forget_flush()
        self.timekeeper.disarm()
        if self.threads is not None:
            self.threads.close()
        if self.processes is not None:
            await self.processes.close()
        if self.handler.sink is not None:
            await self.handler.sink.close()

    def flush_times(self) -> None:
        """Count the durations that were collected."""
        times = self.times[:]
        self.times.clear()  # not a new one: slots hold on to it
        if times:
            self._metrics.observe(names.HANDLER_SECONDS, times, self.topic)

    def judged(self, error: BaseException) -> Outcome:
        """Return what an exception means for the delivery."""
        now = self.clock.now_s()
        if isinstance(error, WorkerError):
            return judge(error.raised, now, self.overrides)
        return outcome_of(error, now, self.overrides)

    def _new_slot(self, number: int) -> Slot:
        slot = self._slots[number] = Slot(self)
        self.timekeeper.slots.append(slot)
        return slot

    def _gauges(self) -> Iterator[tuple[Metric, tuple[str, ...], float]]:
        yield names.STUCK_THREADS, (self.topic,), self.stuck

    async def _here(self, _: Slot, args: tuple[Any, ...]) -> Any:
        return refuse_awaitable(self.handler.function(*args))

    async def _in_thread(self, slot: Slot, args: tuple[Any, ...]) -> Any:
        threads = self.threads
        assert threads is not None  # noqa: S101  # `_place_of` made them
        if threads.busy >= threads.size:
            slot.deadline = inf
            await threads.room()
            slot.begin()
        future = threads.submit(self.handler.function, args)
        try:
            returned, error = await asyncio.shield(future)
        except CancelledError:
            self._leave(future)
            raise
        if error is None:
            return refuse_awaitable(returned)
        if isinstance(error, Exception | CancelledError):
            raise error
        raise RuntimeError(f"the handler would have ended its thread: {error!r}") from error

    def _leave(self, future: asyncio.Future[Any]) -> None:
        """Let a thread go on by itself; until it returns it takes up a slot."""
        if future.done():
            return
        self.stuck += 1
        handler = self.handler
        log(
            names.THREAD_STUCK,
            topic=self.topic,
            handler=handler.name,
            timeout_s=handler.timeout_s,
            stuck_threads=self.stuck,
        )
        future.add_done_callback(self._returned)

    def _returned(self, _: asyncio.Future[Any]) -> None:
        self.stuck -= 1
        log(
            names.THREAD_RETURNED,
            topic=self.topic,
            handler=self.handler.name,
            stuck_threads=self.stuck,
        )

    async def _in_process(self, slot: Slot, args: tuple[Any, ...]) -> Any:
        from pebble import ProcessExpired  # noqa: PLC0415  # only nodes with processes need it

        assert self.processes is not None  # noqa: S101  # `_place_of` made them
        slot.job = self.processes.submit(args)
        try:
            answer = await asyncio.wrap_future(slot.job)
        except ProcessExpired as error:
            raise ProcessDied(f"its worker process ended with status {error.exitcode}") from error
        finally:
            slot.job = None
        if isinstance(answer, Raised):
            raise WorkerError(answer)
        return [raised and WorkerError(raised) for raised in answer] or None


class Slot:
    """Runs a handler, one call after the other, always in the same task."""

    __slots__ = ("_runner", "_task", "began", "deadline", "index", "job", "overdue", "ran")

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._task: asyncio.Task[Any] | None = None
        self.began = 0.0
        """When the run began, in the loop's time."""
        self.index = -1
        """Which of its feed it runs."""
        self.ran = 0
        """How many of its feed it has started since it was given to it."""
        self.deadline = inf
        """When to look whether the run is over its time; infinity: nothing runs."""
        self.overdue = False
        """The timeout has cancelled the task, and the run has not ended yet."""
        self.job: ProcessFuture[Any] | None = None
        """The run in a worker process."""

    async def run(self, delivery: Delivery) -> Outcome:
        """Run the handler with one delivery."""
        runner = self._runner
        handler = runner.handler
        if self._task is None or self._task.done():
            self._task = asyncio.current_task()
        began = self.begin()
        try:
            if runner.elsewhere is not None:
                event = delivery.event
                args = (event, delivery) if handler.wants_delivery else (event,)
                await runner.elsewhere(self, args)
            elif handler.wants_delivery:
                await handler.function(delivery.event, delivery)
            else:
                await handler.function(delivery.event)
        except (Exception, CancelledError) as error:
            outcome = self._outcome(error)
            if outcome is None:
                raise
        else:
            outcome = SUCCEEDED
            if self.overdue or self._task.cancelling():  # type: ignore[union-attr]  # a task runs
                self._outcome(None)
        finally:
            self.deadline = inf
        times = runner.times
        times.append(runner.timekeeper.time() - began)
        if len(times) >= _TIMES_MAX:
            runner.flush_times()
        return outcome

    async def run_feed(self, feed: Feed, limit: int) -> Outcome | None:
        """Run up to `limit` deliveries of a feed, for some milliseconds at most.

        Each that ends well is added to `feed.done`. The first that does not ends it: its outcome
        is returned, `index` says which it is. None: all ended well.
        """
        runner = self._runner
        handler, times = runner.handler, runner.times
        if self._task is None or self._task.done():
            self._task = asyncio.current_task()
        function, time = handler.function, runner.timekeeper.time
        run, done = feed.run, feed.done
        events, wants_delivery = run.events, handler.wants_delivery
        index = feed.at
        began = ended = self.begin()
        until = began + SLICE_S
        self.ran = 0
        try:
            while feed.at < feed.stop and self.ran < limit and ended < until and not self.overdue:
                index = feed.at
                feed.at = index + 1
                self.ran += 1
                if wants_delivery:
                    await function(events[index], run.delivery(index))
                else:
                    await function(events[index])
                ended = time()
                times.append(ended - began)
                self.began = began = ended
                done.append(index)
                if not feed.asked:
                    feed.ask(feed)
        except (Exception, CancelledError) as error:
            times.append(time() - began)
            outcome = self._outcome(error)
            if outcome is None:
                raise
            return outcome
        else:
            if self.overdue or self._task.cancelling():  # type: ignore[union-attr]  # a task runs
                self._outcome(None)
            return None
        finally:
            self.index = index  # also where it ends the process: others must not be taken for it
            self.deadline = inf
            if len(times) >= _TIMES_MAX:
                runner.flush_times()

    async def run_batch(self, deliveries: Sequence[Delivery]) -> Sequence[Outcome]:
        """Run the handler with a list of deliveries."""
        runner = self._runner
        handler = runner.handler
        if self._task is None or self._task.done():
            self._task = asyncio.current_task()
        events = [delivery.event for delivery in deliveries]
        args = (events, list(deliveries)) if handler.wants_delivery else (events,)
        began = self.begin()
        try:
            if runner.elsewhere is not None:
                returned = await runner.elsewhere(self, args)
            else:
                returned = await handler.function(*args)
            answers = answers_of(returned, len(events))
        except (Exception, CancelledError) as error:
            outcome = self._outcome(error)
            if outcome is None:
                raise
            outcomes: Sequence[Outcome] = [outcome] * len(events)
        else:
            if self.overdue or self._task.cancelling():  # type: ignore[union-attr]  # a task runs
                self._outcome(None)
            outcomes = [SUCCEEDED if a is None else runner.judged(a) for a in answers]
        finally:
            self.deadline = inf
        runner.times.append(runner.timekeeper.time() - began)
        return outcomes

    def begin(self) -> float:
        """Start the clock of a run; return when that was, in the loop's time."""
        timekeeper = self._runner.timekeeper
        self.began = began = timekeeper.time()
        self.deadline = deadline = began + self._runner.handler.timeout_s
        if deadline < timekeeper.armed_at:
            timekeeper.arm(deadline)
        return began

    def overrun(self, now: float) -> None:
        """Cancel the run: its time is over."""
        if self.job is not None and not self.job.running():
            # No process has taken it yet, one may just be started: its time has not begun.
            self.deadline = now + self._runner.handler.timeout_s
            return
        self.deadline = self.began + self._runner.handler.timeout_s
        if self.deadline > now:  # what runs now began later, in the same feed
            return
        self.deadline = inf
        self.overdue = True
        if self._task is not None:
            self._task.cancel()

    def _outcome(self, error: BaseException | None) -> Outcome | None:
        """Return what the end of a run means; None: the task was cancelled by others.

        A handler that swallowed such a cancellation has had its say about the event, but the task
        has to end all the same: it is cancelled again, at whatever it awaits next.
        """
        runner, task = self._runner, self._task
        overdue, self.overdue = self.overdue, False
        assert task is not None  # noqa: S101  # `run` found it
        by_others = task.uncancel() if overdue else task.cancelling()
        if by_others:
            if isinstance(error, CancelledError):
                return None
            task.cancel()
        if error is None:
            return SUCCEEDED
        if overdue and not isinstance(error, _SAYS_ITSELF):
            return self._timed_out(error)
        return runner.judged(error)

    def _timed_out(self, error: BaseException) -> Failed:
        handler = self._runner.handler
        note = "" if isinstance(error, CancelledError) else f", then raised {type(error).__name__}"
        if handler.mode == "thread":
            note = "; its thread goes on until it returns"
        return timed_out(error, handler.timeout_s, note)


def is_virtual(loop: asyncio.AbstractEventLoop) -> bool:
    """Return whether this is `eventflow.testing`'s loop: no thread may call it, time jumps."""
    return hasattr(loop, "max_steps")  # what only that one has: `flow` may not import `testing`
