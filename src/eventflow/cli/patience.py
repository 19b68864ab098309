"""How long to keep trying a node that has no room, or is gone for a moment."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final

FIRST_S: Final = 0.25
LONGEST_S: Final = 5.0
"""Waits double from the first to the longest, where the node names no time itself."""


class Patience:
    """Waits between tries, until so many seconds have passed without progress.

    Args:
        wait_s: Seconds. 0 never waits.
        now: Tells the time, in seconds.
        sleep: Waits so many seconds.
    """

    def __init__(
        self,
        wait_s: float,
        now: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self.wait_s = wait_s
        self._now = now
        self._sleep = sleep
        self._since: float | None = None
        self._tries = 0

    def renew(self) -> None:
        """There was progress: count from the next failure."""
        self._since = None
        self._tries = 0

    def next_s(self, asked_s: float | None, least_s: float = 0.0) -> float | None:
        """Return the seconds to wait before the next try; None: patience is at its end.

        Args:
            asked_s: What the node asked for, None if nothing.
            least_s: Be patient for so long at least.
        """
        now = self._now()
        if self._since is None:
            self._since = now
        # 2 ** 10 is past any longest wait, and no number grows without end.
        own_s = min(LONGEST_S, FIRST_S * 2 ** min(self._tries, 10))
        self._tries += 1
        delay_s = own_s if asked_s is None else max(0.0, asked_s)
        wait_s = max(self.wait_s, least_s)
        return delay_s if wait_s > 0 and now + delay_s <= self._since + wait_s else None

    async def wait(self, delay_s: float) -> None:
        """Wait."""
        await self._sleep(delay_s)
