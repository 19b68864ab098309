"""Events a second: batches published, some on their way at once, until all is settled."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import msgspec

from eventflow.cloudevents import decode_batch

if TYPE_CHECKING:
    from collections.abc import Iterable

    from eventflow.app.eventflow import EventFlow
    from eventflow.engine.protocol import Depth

AHEAD = 4
"""Batches being accepted at once: a node commits one while it decodes the next."""
ROOM = 0.8
"""A queue that is filled to this share of its capacity gets no more: what overflows waits in a
lane, which is not what is measured. The last tenth is not for such events anyhow."""
PATIENCE_S = 10.0
"""How long a batch waits for room that its queues don't show: in memory, say."""
_POLL_S = 0.002
_NO_END = float("inf")


class Took(msgspec.Struct, frozen=True):
    """What a run of batches took."""

    events: int
    seconds: float
    """From the first decode until nothing waits or runs: durably."""
    cpu_s: float
    """Of the process, its threads together."""

    @property
    def per_s(self) -> float:
        """Events a second."""
        return self.events / self.seconds


async def publish(
    flow: EventFlow, bodies: Iterable[bytes], ahead: int = AHEAD, until_s: float = _NO_END
) -> int:
    """Decode and accept bodies, each a JSON batch of events; return how many events they were.

    Args:
        flow: The node, started.
        bodies: What to publish.
        ahead: How many of them are on their way at once.
        until_s: None is begun after this time of the machine's monotonic clock.
    """
    given = iter(bodies)
    taken = 0

    async def some() -> None:
        nonlocal taken
        for body in given:
            events = decode_batch(body)
            await _room(flow, len(events) * ahead)
            await flow.publish_many(events, wait_s=PATIENCE_S)
            taken += len(events)
            if time.monotonic() > until_s:
                return

    await asyncio.gather(*(some() for _ in range(ahead)))
    return taken


async def _room(flow: EventFlow, wanted: int) -> None:
    """Wait until every queue has room for so many, or is empty."""
    depth = flow.flow.tools.engine.depth
    names = [name for name, topic in flow.flow.topics.items() if not topic.paused]
    while any(_full(depth(name), wanted) for name in names):  # noqa: ASYNC110  # as `settled`
        await asyncio.sleep(_POLL_S)


def _full(depth: Depth, wanted: int) -> bool:
    held = depth.queued + depth.running
    return bool(held) and held + wanted > depth.capacity * ROOM


async def settled(flow: EventFlow) -> None:
    """Wait until nothing waits nor runs in common, or in any topic that is not paused."""
    depth = flow.flow.tools.engine.depth
    names = [name for name, topic in flow.flow.topics.items() if not topic.paused]
    while any(depth(name).queued + depth(name).running for name in names):  # noqa: ASYNC110  # asks the engine: no one event says it
        await asyncio.sleep(_POLL_S)


async def measured(
    flow: EventFlow, bodies: Iterable[bytes], ahead: int = AHEAD, at_most_s: float = _NO_END
) -> Took:
    """Publish bodies, or as many of them as there is time for, and return what it took."""
    cpu_s = time.process_time()
    began, until_s = time.perf_counter(), time.monotonic() + at_most_s
    events = await publish(flow, bodies, ahead, until_s)
    await settled(flow)
    return Took(events, time.perf_counter() - began, time.process_time() - cpu_s)
