"""A topic as the stages see it: its settings, its pace, whether it may go."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

from eventflow.policy.values import Fullness, TopicPolicy

if TYPE_CHECKING:
    from eventflow.engine.protocol import Depth, Engine
    from eventflow.flow.handlers import Handler

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
        self.held = False
        """A person has paused it."""
        self.delivered = Pace()
        self.arrived = Pace()
        """Deliveries that came new, not from storage."""
        self.paused = False
        """Nothing is started: it is held, or an orphan. Looked at before each run."""
        self._going = asyncio.Event()
        self._turn()
        self.round_at = 0.0
        """When its loop last went round, in the event loop's time: what readiness looks at."""

    def pause(self) -> None:
        """Start nothing until resumed. What runs goes on."""
        self.held = True
        self._turn()

    def resume(self) -> None:
        """Go on, unless it is an orphan."""
        self.held = False
        self._turn()

    def leave(self) -> None:
        """Be an orphan from now on: gone from the configuration, and paused."""
        self.orphan = True
        self.handler = None
        self._turn()

    def become(self, other: Topic) -> None:
        """Take over what the configuration says now; an orphan is none any more."""
        self.policy = other.policy
        self.handler = other.handler
        self.concurrency = other.concurrency
        self.capacity = other.capacity
        self.lane_capacity = other.lane_capacity
        self.orphan = False
        self._turn()

    def _turn(self) -> None:
        self.paused = self.held or self.orphan
        if self.paused:
            self._going.clear()
        else:
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


class Topics(dict[str, Topic]):
    """All topics by name. One that is not known any more is kept as an orphan.

    What was decided before a topic went (an event of common that still owes it a delivery, a
    settlement under way) goes there all the same: nothing is dropped.
    """

    def __missing__(self, name: str) -> Topic:
        topic = self[name] = Topic(name, TopicPolicy(), None, orphan=True)
        return topic
