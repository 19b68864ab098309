"""An event loop whose time is virtual and whose order is drawn from a seed.

    ready callbacks?   run them all, in an order drawn from `seed`: one step, no time passes
    none, but timers?  the clock jumps to the earliest one; a week takes milliseconds
    none of both?      nothing can ever happen again: `Stuck`, with the tasks that still wait

The same program with the same seed takes the same steps at the same times. Another seed is
another legal order, so a few hundred seeds find what one order hides. What is needed for it:
all time from the loop or a `VirtualClock`, all chance from an injected generator, no threads,
no sockets.

What the shuffle keeps and what it does not
    Only what is ready when a step begins is reordered. What a step makes ready runs in the
    next one, so nothing waits longer than one step and nothing starves.
    A task has at most one callback ready (its next step or its wake-up), so the code of one
    task always runs in its own order; a cancellation goes the same way as a wake-up. Locks,
    semaphores, queues and events of asyncio keep their waiters in lists of their own: they
    stay correct, and single-file, but whoever is woken in the same step runs in any order.
    Timers due at the same moment fire in any order.
    Lost on purpose: `call_soon(a); call_soon(b)` runs a before b, tasks first run in the order
    of their creation, callbacks of one future run in the order they were added. A program that
    needs one of these leans on an accident. asyncio's transports do (`connection_made` before
    the first read); this loop has none. With `seed=None` all of it is first in, first out.

Sets of tasks are walked in the order of their hashes, by default their addresses. Tasks and
futures of this loop hash by the order of their creation instead, or `TaskGroup` and
`asyncio.wait` would cancel in another order in every process.

Stepping over asyncio's `_run_once` is the one place that leans on its inside; the tests of this
module fail first if a new Python changes it.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import math
import random
import threading
from contextlib import suppress
from contextvars import copy_context
from functools import partial
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar, TypeVarTuple, Unpack

if TYPE_CHECKING:
    from collections import deque
    from collections.abc import Callable, Coroutine, Generator, Iterable, Iterator, Sequence
    from contextvars import Context

    Hook = Callable[[], None]

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

MAX_STEPS = 2_000_000
"""Steps of a run before it counts as running away: 4 to 12 s of real time.

A program that sleeps one second at a time for a virtual week stays below it: two steps a sleep.
"""

CLEANUP_STEPS = 100_000
"""Further steps that cancelled tasks get to end in."""


class Stuck(RuntimeError):
    """Nothing is ready and no timer is set, but a task still waits: it would wait for ever."""

    def __init__(self, waiting: Sequence[str], where: str) -> None:
        super().__init__(
            f"nothing can happen any more ({where}): no callback is ready, no timer is set.\n"
            f"Still waiting:\n{_listing(waiting)}\n"
            f"Something must wake them. A virtual loop has no threads and no sockets: "
            f"what waits for one waits for ever."
        )
        self.waiting = tuple(waiting)
        """One line a task: its name and where it is suspended, outermost call first."""


class TooManySteps(RuntimeError):
    """The run took all the steps it may: it runs away, or it needs a higher `max_steps`."""

    def __init__(self, max_steps: int, waiting: Sequence[str], where: str) -> None:
        super().__init__(
            f"the run took all of its {max_steps} steps ({where}).\n"
            f"Unfinished:\n{_listing(waiting)}\n"
            f"If virtual time stands still, one of them spins without waiting. "
            f"If it moves, allow more with max_steps."
        )
        self.max_steps = max_steps
        self.waiting = tuple(waiting)
        """One line a task: its name and where it is suspended, outermost call first."""


class VirtualLoop(asyncio.BaseEventLoop):
    """An asyncio event loop with virtual time, a seeded order, and no outside world.

    `run` makes one, drives it and closes it; make one yourself only for
    `asyncio.Runner(loop_factory=...)` and the like. What it does otherwise than other loops:

    - `time()` begins at 0.0 and moves only when nothing is ready, by any length at once.
    - `run_in_executor` and `asyncio.to_thread` call the function at once, in this thread, and
      give back a future that is done: awaiting it gives no other task a turn.
    - `call_soon_threadsafe` refuses other threads: when they would call is not reproducible.
    - Connections, servers, processes, signals and name look-ups raise NotImplementedError.
    - An error that reaches the loop's exception handler (raised in a callback, or in a task
      that nobody awaits) ends the run at that step instead of being logged. A program that sets
      an exception handler of its own keeps them.

    Args:
        seed: Draws the order of what is ready. None: first in, first out.
        max_steps: Loop iterations before `TooManySteps`.
    """

    # Set by asyncio.BaseEventLoop, missing in its type stubs.
    _ready: deque[asyncio.Handle]
    _stopping: bool
    _closed: bool
    _debug: bool
    _check_closed: Callable[[], None]

    def __init__(self, *, seed: int | None = None, max_steps: int = MAX_STEPS) -> None:
        super().__init__()
        self.seed = seed
        self.max_steps = max_steps
        self.steps = 0
        """Loop iterations so far."""
        self.on_step: list[Hook] = []
        """Called after every iteration, in this order; an error raised there ends the run."""
        self._chance = None if seed is None else random.Random(seed)
        self.now_s = 0.0
        """What `time()` returns: to be read where that is asked for often."""
        self._timers: list[tuple[float, int, asyncio.TimerHandle]] = []
        self._cancelled_timers = 0
        self._numbers = itertools.count()
        self._owner = threading.get_ident()
        self._unhandled: list[BaseException] = []
        self.set_debug(self._debug)
        self.set_task_factory(self._make_task)
        self.set_exception_handler(self._keep_unhandled)

    def time(self) -> float:
        """Return the virtual time in seconds, 0.0 at the start."""
        return self.now_s

    def where(self) -> str:
        """Return step, virtual time and seed as text, enough to run into the same again."""
        return f"step {self.steps}, virtual time {self.now_s:g} s, seed {self.seed}"

    def unfinished(self) -> list[asyncio.Task[Any]]:
        """Return the tasks that are not done, oldest first."""
        return sorted(asyncio.all_tasks(self), key=hash)

    def raise_unhandled(self) -> None:
        """Raise the first error that nobody handled, if there is one."""
        if self._unhandled:
            raise self._unhandled.pop(0)

    def set_debug(self, enabled: bool) -> None:  # noqa: FBT001  # asyncio's own signature
        """Turn asyncio's debug mode on or off."""
        super().set_debug(enabled)
        # Each new future asks: `bool`, called without arguments, is the fastest "no" there is.
        self.get_debug = partial(bool, enabled) if enabled else bool  # type: ignore[method-assign]  # asked as often as anything

    def call_at(
        self,
        when: float,
        callback: Callable[[Unpack[Ts]], object],
        *args: *Ts,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        """Call `callback(*args)` at virtual time `when`, in seconds. Infinity is never."""
        if self._closed:
            self._check_closed()
        timer = _Timer(when, callback, args, self, context)
        heapq.heappush(self._timers, (when, next(self._numbers), timer))
        return timer

    def call_later(
        self,
        delay: float,
        callback: Callable[[Unpack[Ts]], object],
        *args: *Ts,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        """Call `callback(*args)` in `delay` seconds of virtual time."""
        return self.call_at(self.now_s + delay, callback, *args, context=context)

    def call_soon_threadsafe(
        self,
        callback: Callable[[Unpack[Ts]], object],
        *args: *Ts,
        context: Context | None = None,
    ) -> asyncio.Handle:
        """Call `callback(*args)` in the next step.

        Raises:
            RuntimeError: Another thread calls. No run could be repeated if it were let in.
        """
        if threading.get_ident() != self._owner:
            raise RuntimeError(
                "call_soon_threadsafe: expected the thread that made this VirtualLoop, "
                f"got {threading.current_thread().name!r}. "
                "Give the code under test its inline mode: virtual time has no threads."
            )
        return self.call_soon(callback, *args, context=context)

    def run_in_executor(
        self, executor: object, func: Callable[[Unpack[Ts]], T], *args: *Ts
    ) -> asyncio.Future[T]:
        """Call `func(*args)` at once, in this thread, and return a future that is done.

        Args:
            executor: Not used, whatever it is.
            func: Its virtual running time is 0 s; what it raises is the future's exception.
            args: For `func`.
        """
        del executor
        future: asyncio.Future[T] = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as error:  # noqa: BLE001  # handed on to who awaits the future
            future.set_exception(error)
        return future

    async def _refuse(self, *_args: object, **_options: object) -> NoReturn:
        """Raise NotImplementedError: what comes from outside can't be repeated."""
        raise NotImplementedError(
            "a VirtualLoop has no network and no processes; give the code under test a stand-in"
        )

    getaddrinfo = getnameinfo = _refuse
    create_connection = create_server = create_datagram_endpoint = _refuse
    subprocess_exec = subprocess_shell = _refuse

    def create_future(self) -> asyncio.Future[Any]:
        """Return a future of this loop, hashed by its number."""
        future = _Future(loop=self)
        future.number = next(self._numbers)
        return future

    def _make_task(
        self,
        _loop: asyncio.AbstractEventLoop,
        coro: Coroutine[Any, Any, T] | Generator[Any, None, T],
        **options: Any,  # whatever this Python's create_task passes on
    ) -> asyncio.Task[T]:
        return _Task(self, next(self._numbers), coro, options)

    def _keep_unhandled(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if error is None:
            error = RuntimeError(context["message"])
        else:
            error.add_note(str(context["message"]))
        self._unhandled.append(error)

    def timer_cancelled(self) -> None:
        """Know of one more timer that will not ring."""
        self._cancelled_timers += 1

    def call_soon(
        self,
        callback: Callable[[Unpack[Ts]], object],
        *args: *Ts,
        context: Context | None = None,
    ) -> asyncio.Handle:
        """Call `callback(*args)` in the next step."""
        if self._debug:
            return super().call_soon(callback, *args, context=context)
        if self._closed:
            self._check_closed()
        handle = _Handle(callback, args, self, context)
        self._ready.append(handle)
        return handle

    # A simulated day takes 25,000 steps of one or two callbacks: the three below are written for
    # few calls in each.

    def _run_once(self) -> None:
        """Take one step: let time jump if nothing is ready, then run all that is."""
        ready = self._ready
        if not ready and not self._stopping:
            self._jump()
        timers, now_s = self._timers, self.now_s
        while timers and timers[0][0] <= now_s:
            ready.append(heapq.heappop(timers)[2])
        if len(ready) > 1 and self._chance is not None:
            self._shuffle(self._chance.random)
        self._run_ready()
        self.steps += 1
        if self._unhandled:
            self.raise_unhandled()
        for hook in self.on_step:
            hook()
        if self.steps >= self.max_steps and not self._stopping:
            raise TooManySteps(self.max_steps, _describe(self.unfinished()), self.where())

    def _run_ready(self) -> None:
        """Run all that is ready now."""
        ready = self._ready
        for _ in range(len(ready)):
            handle = ready.popleft()
            if not handle._cancelled:  # noqa: SLF001  # how asyncio's own loops do it
                # As `Handle._run`, with one call less for each of a day's 50,000.
                try:
                    handle._context.run(handle._callback, *handle._args)  # type: ignore[attr-defined]  # noqa: SLF001  # so, too
                except (SystemExit, KeyboardInterrupt):
                    raise
                except BaseException as error:  # noqa: BLE001  # told as asyncio does
                    self._failed(handle, error)
            # The traceback of a failed task keeps this frame: with the handle still in it the
            # task would live on, and its error, if nobody awaits it, would never be reported.
            del handle

    def _jump(self) -> None:
        """Move the time to the earliest timer that still counts."""
        # Half of them are gone by then, so each timer's share of rebuilding stays small.
        if self._cancelled_timers > max(100, len(self._timers) // 2):
            self._timers = [entry for entry in self._timers if not entry[2].cancelled()]
            heapq.heapify(self._timers)
            self._cancelled_timers = 0
        timers = self._timers
        while timers and timers[0][2]._cancelled:  # noqa: SLF001  # as `cancelled()` says
            heapq.heappop(timers)
        if not timers or timers[0][0] == math.inf:
            raise Stuck(_describe(self.unfinished()), self.where())
        self.now_s = max(self.now_s, timers[0][0])

    def _failed(self, handle: asyncio.Handle, error: BaseException) -> None:
        """Tell of what a callback raised."""
        message = f"Exception in callback {handle!r}"
        self.call_exception_handler({"message": message, "exception": error, "handle": handle})

    def _shuffle(self, draw: Callable[[], float]) -> None:
        ready = self._ready
        if len(ready) == 2:  # most often
            if draw() < 0.5:
                ready.rotate()
            return
        handles = list(ready)
        for last in range(len(handles) - 1, 0, -1):
            other = int(draw() * (last + 1))
            handles[last], handles[other] = handles[other], handles[last]
        ready.clear()
        ready.extend(handles)


class _Handle(asyncio.Handle):
    """A handle that is made without asking the loop whether it is being debugged."""

    __slots__ = ()

    def __init__(
        self,
        callback: Callable[..., object],
        args: Sequence[Any],
        loop: VirtualLoop,
        context: Context | None,
    ) -> None:
        self._context = copy_context() if context is None else context
        self._loop = loop
        self._callback = callback
        self._args = args
        self._cancelled = False
        self._repr = self._source_traceback = None


class _Timer(asyncio.TimerHandle):
    """A timer that is made, and cancelled, with few calls."""

    __slots__ = ()

    def __init__(
        self,
        when: float,
        callback: Callable[..., object],
        args: Sequence[Any],
        loop: VirtualLoop,
        context: Context | None,
    ) -> None:
        self._when = when
        self._scheduled = False
        self._context = copy_context() if context is None else context
        self._loop = loop
        self._callback = callback
        self._args = args
        self._cancelled = False
        self._repr = self._source_traceback = None

    def cancel(self) -> None:
        """Never ring."""
        if not self._cancelled:
            self._cancelled = True
            self._loop.timer_cancelled()
            self._callback = self._args = None  # type: ignore[assignment]  # as asyncio's does


class _Task(asyncio.Task[T]):
    """A task that sets and dictionaries find by its number instead of its address."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        number: int,
        coro: Coroutine[Any, Any, T] | Generator[Any, None, T],
        options: dict[str, Any],
    ) -> None:
        self._number = number  # first: asyncio puts the task into a set while making it
        super().__init__(coro, loop=loop, **options)

    def __hash__(self) -> int:
        return self._number


class _Future(asyncio.Future[Any]):
    """A future that sets and dictionaries find by its number instead of its address."""

    __slots__ = ("number",)
    number: int

    def __hash__(self) -> int:
        return self.number


def run(
    main: Coroutine[Any, Any, T],
    *,
    seed: int | None = None,
    max_steps: int = MAX_STEPS,
    on_step: Iterable[Hook] = (),
) -> T:
    """Return what `main` returns, having run it on a `VirtualLoop` of its own.

    Tasks that `main` leaves behind are cancelled, oldest first, and waited for; then the loop is
    closed. The thread's current loop and the loop policy are never touched.

    Args:
        main: The coroutine to run.
        seed: Draws the order of what is ready. None: first in, first out.
        max_steps: Loop iterations that `main` may take, with the one that ends the run.
        on_step: Called after every iteration until `main` has ended; here stand the checks
            of what must hold at every moment.

    Raises:
        Stuck: `main` or a task it left behind waits for what can't happen.
        TooManySteps: `main` took `max_steps` steps, or a cancelled task does not end.
        RuntimeError: This thread already runs an event loop.
        BaseException: What `main`, a check or a callback raised, with step, virtual time and
            seed as a note.
    """
    _refuse_a_running_loop(main)
    loop = VirtualLoop(seed=seed, max_steps=max_steps)
    loop.on_step.extend(on_step)
    try:
        result = loop.run_until_complete(main)
    except BaseException as error:
        error.add_note(f"virtual loop: {loop.where()}")
        with suppress(Exception):  # the first error is the one to look at
            _end_leftovers(loop)
        raise
    else:
        _end_leftovers(loop)
        return result
    finally:
        loop.close()


def _refuse_a_running_loop(main: Coroutine[Any, Any, object]) -> None:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    main.close()  # or Python would warn that it was never awaited
    raise RuntimeError(
        "run: this thread already runs an event loop. "
        "Call it from a plain function: `def test_...`, not `async def test_...`."
    )


def _end_leftovers(loop: VirtualLoop) -> None:
    """Cancel what is still unfinished and run the loop until all of it has ended."""
    loop.on_step.clear()
    loop.max_steps = loop.steps + CLEANUP_STEPS
    while left := loop.unfinished():
        for task in left:
            task.cancel()
        loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        for task in left:
            if not task.cancelled() and (error := task.exception()) is not None:
                raise error
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.raise_unhandled()


def _listing(lines: Sequence[str]) -> str:
    return "\n".join(f"  {line}" for line in lines) or "  (no task)"


def _describe(tasks: Iterable[asyncio.Task[Any]]) -> list[str]:
    return [f"{task.get_name()!r} in {' > '.join(_frames(task.get_coro()))}" for task in tasks]


def _frames(awaited: object) -> Iterator[str]:
    """Yield each coroutine that is suspended below this one: name, file and line."""
    while (frame := _attribute(awaited, "cr_frame", "gi_frame", "ag_frame")) is not None:
        file = PurePath(frame.f_code.co_filename).name
        yield f"{frame.f_code.co_qualname} ({file}:{frame.f_lineno})"
        awaited = _attribute(awaited, "cr_await", "gi_yieldfrom", "ag_await")


def _attribute(of: object, *names: str) -> Any:  # a frame, a coroutine or None
    """Return the first of these attributes that is there, else None."""
    return next((getattr(of, name) for name in names if hasattr(of, name)), None)
