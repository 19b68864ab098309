"""How long to keep trying a node that has no room, or is gone for a moment."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

FIRST_S: Final = 0.25
LONGEST_S: Final = 5.0
"""Waits double from the first to the longest, where the node names no time itself."""


class Patience:
    """Decides on waits between tries, until so many seconds have passed without progress.

    Args:
        wait_s: Seconds. 0 never waits.
        now: Tells the time, in seconds.
        draw: Chance in [0, 1) for full jitter, so that many senders don't come back together;
            also added, up to a second, to a time that the node asked for. None: no jitter.
        from_start: Count from now on, not only from the first failure.
    """

    def __init__(
        self,
        wait_s: float,
        now: Callable[[], float],
        draw: Callable[[], float] | None = None,
        *,
        from_start: bool = False,
    ) -> None:
        self.wait_s = wait_s
        self._now = now
        self._draw = draw
        self._from_start = from_start
        self._since = now() if from_start else None
        self._tries = 0

    def renew(self) -> None:
        """There was progress: begin anew."""
        self._since = self._now() if self._from_start else None
        self._tries = 0

    @property
    def left_s(self) -> float:
        """Seconds until patience ends; infinity where it doesn't run yet, or never waits."""
        if self._since is None or self.wait_s <= 0:
            return inf
        return max(0.0, self._since + self.wait_s - self._now())

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
        if self._draw is None:
            delay_s = own_s if asked_s is None else max(0.0, asked_s)
        elif asked_s is None:
            delay_s = self._draw() * own_s
        else:
            delay_s = max(0.0, asked_s) + self._draw() * min(1.0, own_s)
        wait_s = max(self.wait_s, least_s)
        return delay_s if wait_s > 0 and now + delay_s <= self._since + wait_s else None
