"""How long a command keeps trying: the client's patience, without chance, and how it waits."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from eventflow.client import patience


class Patience(patience.Patience):
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
        super().__init__(wait_s, now)
        self.sleep = sleep
