"""A topic as the stages see it: its settings, its pace, whether it may go."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

from eventflow.policy.values import Fullness

if TYPE_CHECKING:
    from eventflow.engine.protocol import Depth, Engine
    from eventflow.flow.handlers import Handler
    from eventflow.policy.values import TopicPolicy

PACE_WINDOW_S = 10.0
"""Over which "delivered per second" is told."""


class Pace:
    """How many a second, over the last ten seconds."""

    def __init__(self) -> None:
        self._counts: deque[tuple[float, int]] = deque()
        self._total = 0

    def add(self, now: float, count: int) -> None:
        """Count some more."""
        second = float(int(now))
        if self._counts and self._counts[-1][0] == second:
            self._counts[-1] = (second, self._counts[-1][1] + count)
        else:
            self._counts.append((second, count))
        self._total += count
        self._forget(now)

    def per_s(self, now: float) -> float:
        """Return the rate up to `now`."""
        self._forget(now)
        return self._total / PACE_WINDOW_S

    def recent(self, now: float, window_s: float) -> bool:
        """Return whether anything was counted in the last `window_s` seconds."""
        return bool(self._counts) and self._counts[-1][0] >= now - window_s

    def _forget(self, now: float) -> None:
        while self._counts and self._counts[0][0] < now - PACE_WINDOW_S:
            self._total -= self._counts.popleft()[1]


class Topic:
    """One destination: what it runs, by which policy, how fast it goes."""

    def __init__(  # noqa: PLR0913  # what a topic is made of
        self,
        name: str,
        policy: TopicPolicy,
        handler: Handler | None,
        *,
        concurrency: int = 16,
        capacity: int = 10_000,
        lane_capacity: int = 20_000,
        orphan: bool = False,
    ) -> None:
        self.name = name
        self.policy = policy
        self.handler = handler
        """None: for common, and for an orphan."""
        self.concurrency = concurrency
        self.capacity = capacity
        self.lane_capacity = lane_capacity
        self.orphan = orphan
        """Gone from the configuration, but it still holds deliveries: kept, paused."""
        self.delivered = Pace()
        self.arrived = Pace()
        """Deliveries that came new, not from storage."""
        self.paused = orphan
        self._going = asyncio.Event()
        if not self.paused:
            self._going.set()
        self.round_at = 0.0
        """When its loop last went round, in the event loop's time: what readiness looks at."""

    def pause(self) -> None:
        """Start nothing until resumed. What runs goes on."""
        self.paused = True
        self._going.clear()

    def resume(self) -> None:
        """Go on."""
        self.paused = False
        self._going.set()

    async def going(self) -> None:
        """Wait until it is not paused."""
        await self._going.wait()

    def fullness(self, engine: Engine) -> Fullness:
        """Return how full it is, for decisions to tell."""
        return fullness_of(engine.depth(self.name))


def fullness_of(depth: Depth) -> Fullness:
    """Return a depth in the words of the policies."""
    return Fullness(
        depth.queued, depth.running, depth.capacity, depth.retrying, depth.lane_capacity
    )
