"""Where handlers run that must not run in the event loop: threads, and worker processes.

    Threads     daemon threads of one topic, so that a stuck one can't keep a stopped node alive.
                (concurrent.futures waits for its threads when Python ends.)
    Processes   worker processes, killed and replaced when a run is cancelled.

On a virtual loop, where no thread may enter, `slots` calls such handlers directly.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import importlib
import inspect
import threading
from collections import deque
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from eventflow.errors import ConfigError
from eventflow.flow.failures import Raised, answers_of, describe
from eventflow.flow.handlers import check_importable

if TYPE_CHECKING:
    from collections.abc import Callable

    from pebble import ProcessFuture, ProcessPool

    from eventflow.flow.handlers import Handler

    Ended = tuple[Any, BaseException | None]
    Job = tuple[asyncio.Future[Ended], contextvars.Context, Callable[..., Any], tuple[Any, ...]]


class ProcessDied(Exception):
    """A worker process ended in the middle of a run, killed or crashed."""


class WorkerError(Exception):
    """Carries what a worker process said of an exception that its handler raised."""

    def __init__(self, raised: Raised) -> None:
        super().__init__(raised.message)
        self.raised = raised


class Threads:
    """The threads of one topic, started as they are needed.

    Args:
        size: Threads at most. Those of runs past their timeout count until they return.
        name: What they are called, with a number.
        loop: The loop that is told of results.
    """

    def __init__(self, size: int, name: str, loop: asyncio.AbstractEventLoop) -> None:
        self.size = size
        self.busy = 0
        """Threads that run a handler now."""
        self._name = name
        self._loop = loop
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        self._started = 0
        self._ended: deque[tuple[asyncio.Future[Ended], Ended]] = deque()
        self._told = False
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def room(self) -> None:
        """Wait until a thread is free."""
        while self.busy >= self.size:
            waiter: asyncio.Future[None] = self._loop.create_future()
            self._waiting.append(waiter)
            try:
                await waiter
            except asyncio.CancelledError:
                if waiter.done() and not waiter.cancelled():
                    self._wake()  # woken and cancelled at once: the place is another's
                raise

    def resize(self, size: int) -> None:
        """Have so many threads at most from now on. Those that are more end with the others."""
        self.size = size
        for _ in range(size - self.busy):
            self._wake()

    def submit(self, function: Callable[..., Any], args: tuple[Any, ...]) -> asyncio.Future[Ended]:
        """Run `function(*args)` in a thread; the future gets its result and its exception."""
        self.busy += 1
        if self._started < self.busy:
            self._started += 1
            name = f"{self._name}-{self._started}"
            threading.Thread(target=self._work, name=name, daemon=True).start()
        future: asyncio.Future[Ended] = self._loop.create_future()
        self._jobs.put((future, contextvars.copy_context(), function, args))
        return future

    def close(self) -> None:
        """Let the threads end: free ones now, the others when their handler returns."""
        for _ in range(self._started):
            self._jobs.put(None)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            future, context, function, args = job
            try:
                ended: Ended = (context.run(function, *args), None)
            except BaseException as error:  # noqa: BLE001  # handed on to who awaits the future
                ended = (None, error)
            self._ended.append((future, ended))
            del job, future, context, function, args, ended
            if not self._told:
                self._told = True
                with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
                    self._loop.call_soon_threadsafe(self._tell)

    def _tell(self) -> None:
        self._told = False  # first: what ends from here on tells again
        while self._ended:
            future, ended = self._ended.popleft()
            self.busy -= 1
            if not future.done():
                future.set_result(ended)
            self._wake()

    def _wake(self) -> None:
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return


class Processes:
    """The worker processes of one topic.

    Args:
        size: How many.
        handler: What they run.

    Raises:
        ConfigError: a worker process would not find the handler's function.
    """

    def __init__(self, size: int, handler: Handler) -> None:
        check_importable(handler)
        # Here, since most nodes need no worker process and this takes some time.
        import multiprocessing  # noqa: PLC0415  # see above

        from pebble import ProcessPool  # noqa: PLC0415  # see above

        # Not "fork", which copies locks that other threads hold: the child can hang on them.
        self._pool: ProcessPool = ProcessPool(
            max_workers=size, context=multiprocessing.get_context("spawn")
        )
        self._handler = handler

    async def start(self) -> None:
        """Start a process and have it import the function.

        Raises:
            ConfigError: it can't; the message says why.
        """
        function = self._handler.function
        future = self._pool.schedule(find, args=(function.__module__, function.__qualname__))
        try:
            await asyncio.wrap_future(future)
        except Exception as error:
            name, why = self._handler.name, f"{type(error).__name__}: {error}"
            raise ConfigError([f"handler {name}: a worker process can't import it: {why}"]) from (
                error
            )

    def submit(self, args: tuple[Any, ...]) -> ProcessFuture[Raised | list[Raised | None]]:
        """Run the handler; cancelling the future kills its process and starts another."""
        count = len(args[0]) if self._handler.batch is not None else 0
        return self._pool.schedule(run_here, args=(self._handler.function, args, count))

    async def close(self) -> None:
        """Kill what runs, and wait until every process has ended."""
        self._pool.stop()  # type: ignore[no-untyped-call]  # pebble's own
        await asyncio.get_running_loop().run_in_executor(None, self._pool.join)


def find(module: str, qualname: str) -> None:
    """Import a function by name, in a worker process."""
    found: Any = importlib.import_module(module)
    for part in qualname.split("."):
        found = getattr(found, part)


def run_here(
    function: Callable[..., Any], args: tuple[Any, ...], count: int
) -> Raised | list[Raised | None]:
    """Run a handler in a worker process; what it returned or raised goes back as plain values.

    Args:
        function: The handler's.
        args: Event and delivery, or lists of them.
        count: How many events the batch has; 0 where it is no batch.
    """
    try:
        returned = refuse_awaitable(function(*args))
        answers = answers_of(returned, count) if count else ()
        return [None if answer is None else describe(answer) for answer in answers]
    except BaseException as error:  # noqa: BLE001  # described to who waits for the result
        return describe(error)


def refuse_awaitable(returned: Any) -> Any:
    """Return what a sync function returned.

    Raises:
        TypeError: it can be awaited: what the function was to do has not been done.
    """
    if not inspect.isawaitable(returned):
        return returned
    if inspect.iscoroutine(returned):
        returned.close()
    raise TypeError(
        "the handler returned something to be awaited, and nothing awaits it.\n"
        "    def handler(event): return send(event)            # wrong: send has not run\n"
        "    async def handler(event): await send(event)       # right"
    )
