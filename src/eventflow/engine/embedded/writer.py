"""Who runs the journal's code: a thread of its own in production, the caller in a simulation.

Both run one call after the other, in the order given, and tell the event loop what came of each
by a callback. SQLite lets go of the GIL while it waits for the disk, so a thread costs the loop
little; a simulation wants no thread at all, so that the same seed gives the same run.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    Told = Callable[[Any, BaseException | None], None]


class Writer(Protocol):
    """Runs functions one after the other."""

    def run(self, work: Callable[[], Any], told: Told) -> None:
        """Run `work`; then, on the event loop, `told(result, None)` or `told(None, error)`."""
        ...

    def stop(self) -> None:
        """Run what was given, then end. Nothing may be given after that."""
        ...


class ThreadWriter:
    """A thread that runs what it is given."""

    def __init__(self, name: str = "eventflow-journal") -> None:
        self._loop = asyncio.get_running_loop()
        self._given: queue.SimpleQueue[tuple[Callable[[], Any], Told] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def run(self, work: Callable[[], Any], told: Told) -> None:
        """Give the thread one more thing to do."""
        self._given.put((work, told))

    def stop(self) -> None:
        """Let the thread finish what it has, and wait for it."""
        self._given.put(None)
        self._thread.join()

    def _work(self) -> None:
        while (item := self._given.get()) is not None:
            work, told = item
            result, error = _try(work)
            if not self._loop.is_closed():
                self._loop.call_soon_threadsafe(told, result, error)


class InlineWriter:
    """Runs what it is given at once; tells when a disk would be done with it.

    Args:
        takes_s: Asked each time how long the disk takes, in seconds; None: told in the loop's
            next round.
    """

    def __init__(self, takes_s: Callable[[], float] | None = None) -> None:
        self._takes_s = takes_s
        self._free_at = 0.0
        self._loop: asyncio.AbstractEventLoop | None = None

    def run(self, work: Callable[[], Any], told: Told) -> None:
        """Run `work` now."""
        loop = self._loop = self._loop or asyncio.get_running_loop()
        answer = _try(work)
        if self._takes_s is None:
            loop.call_soon(told, *answer)
            return
        self._free_at = max(self._free_at, loop.time()) + self._takes_s()
        loop.call_at(self._free_at, told, *answer)

    def stop(self) -> None:
        """Nothing is left to do."""


def _try(work: Callable[[], Any]) -> tuple[Any, BaseException | None]:
    try:
        return work(), None
    except BaseException as error:  # noqa: BLE001  # handed on to whoever asked for the work
        return None, error
