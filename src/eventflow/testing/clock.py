"""Clocks for tests: one that follows a virtual loop, one turned by hand."""

from __future__ import annotations

import asyncio
import math
from typing import Any

from eventflow.testing.loop import VirtualLoop

EPOCH_S = 1_767_225_600.0
"""2026-01-01T00:00:00Z in unix seconds: when tests begin if they don't say otherwise."""


class VirtualClock:
    """The time of day on the running `VirtualLoop`: `epoch_s` plus the loop's own time.

    A float of today's unix seconds has steps of 0.24 us, so a timer may fire that much before
    the time of day it was meant for: compare with `>=` after waiting and wait again, as on a
    real clock.

    Args:
        epoch_s: The time of day at which the loop's time is 0.0, in unix seconds UTC.
    """

    def __init__(self, epoch_s: float = EPOCH_S) -> None:
        self.epoch_s = epoch_s
        self._loop: Any = None

    def now_s(self) -> float:
        """Return unix seconds UTC.

        Raises:
            RuntimeError: No loop is running, so there is no time to tell.
            TypeError: The running loop is not a `VirtualLoop`; its time is the machine's.
        """
        # Asked 20,000 times a simulated day; to find the running loop takes a call of the system.
        loop = self._loop
        if loop is None or loop._thread_id is None:  # noqa: SLF001  # as its `is_running` says
            loop = self._loop = self._running()
        now_s: float = self.epoch_s + loop.now_s
        return now_s

    @staticmethod
    def _running() -> VirtualLoop:
        loop = asyncio.get_running_loop()
        if not isinstance(loop, VirtualLoop):
            raise TypeError(
                f"VirtualClock: expected a running VirtualLoop, got {type(loop).__name__}. "
                f"Run the test with eventflow.testing.run, or use a ManualClock."
            )
        return loop


class ManualClock:
    """A clock that moves only when told to.

    Args:
        start_s: The first time it shows, in unix seconds UTC.
    """

    def __init__(self, start_s: float = EPOCH_S) -> None:
        self._now_s = start_s

    def now_s(self) -> float:
        """Return unix seconds UTC."""
        return self._now_s

    def advance(self, seconds: float) -> None:
        """Let `seconds` pass at once.

        Raises:
            ValueError: `seconds` is negative or not finite: time runs forward, step by step.
        """
        if not 0 <= seconds < math.inf:
            raise ValueError(f"advance: expected 0 or more seconds, got {seconds!r}")
        self._now_s += seconds
