"""How full the streams are, as this node knows it: the server's word, and what it did since.

Capacity itself is the server's to keep, exactly. The reserve of a queue (G3) is kept here: against
what the server said at most `FRESH_S` ago, and all that this node has put there or taken since.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from eventflow.clock import from_rfc3339
from eventflow.engine.jetstream import names
from eventflow.engine.jetstream.wire import Refused
from eventflow.errors import EngineUnavailable
from eventflow.policy.admission import room

if TYPE_CHECKING:
    from collections.abc import Mapping

    from eventflow.engine.jetstream.marks import Marks
    from eventflow.engine.jetstream.wire import Wire
    from eventflow.engine.protocol import Queue

FRESH_S = 1.0
"""How old the server's word may be."""
_SETTLED_S = 0.5
"""How long the server may take to let go of what was acked: its answer comes before."""
_LOOK_AGAIN_S = 0.005


class Gauge:
    """One stream."""

    def __init__(self, queue: Queue) -> None:
        self.queue = queue
        self.stream = names.stream(queue)
        self.capacity = 0
        self.held = 0
        """Messages in it, leased ones included."""
        self.promised = 0
        """Places for what is being published just now."""
        self.first_at: float | None = None
        """When the oldest message in it came, seconds since 1970."""
        self.last_seq = 0
        """Of the message stored last: how many ever were."""
        self.missing = 0
        """How many more it had been given before it was made anew."""
        self.changes = 0
        """Grows with all that this node does: whether an answer from the server is of before."""

    def has_room(self, rank: int, incoming: int = 1) -> bool:
        """Return whether so many more of one rank fit, as far as this node knows."""
        depth = self.held + self.promised
        return room(depth, self.capacity, rank, incoming) >= incoming

    def promise(self, count: int = 1) -> None:
        """Keep places for what is about to be published."""
        self.promised += count
        self.changes += 1

    def came(self, promised: int, stored: int) -> None:
        """Say what became of places promised."""
        self.promised -= promised
        self.held += stored
        self.last_seq += stored
        self.changes += 1

    def take(self, state: Mapping[str, Any], under_way: int) -> None:
        """Believe the server, which may show `under_way` messages that are being published."""
        self.held = state["messages"] - under_way
        self.last_seq = state["last_seq"] - under_way
        self.first_at = moment_of(state["first_ts"]) if state["messages"] else None

    def left(self, count: int = 1) -> None:
        """Note that messages were acked."""
        self.held = max(0, self.held - count)
        self.changes += 1


class Depths:
    """All streams that are queues."""

    def __init__(self, wire: Wire, marks: Marks) -> None:
        self._wire = wire
        self._marks = marks
        self.gauges: dict[Queue, Gauge] = {}

    def gauge(self, queue: Queue) -> Gauge:
        """Return the gauge of a queue; without a stream it has no capacity."""
        found = self.gauges.get(queue)
        return Gauge(queue) if found is None else found

    def know(self, queue: Queue) -> Gauge:
        """Return the gauge of a queue whose stream is there."""
        return self.gauges.setdefault(queue, Gauge(queue))

    async def refresh(self) -> None:
        """Ask the server for all of them."""
        await asyncio.gather(*(self._ask(gauge) for gauge in list(self.gauges.values())))

    async def shows_room(self, queue: Queue, count: int) -> bool:
        """Return whether so many more fit as the server tells it now; True where nobody tells."""
        gauge = self.gauge(queue)
        try:
            state = await self._state(gauge)
        except EngineUnavailable:
            return True
        return state is not None and state["messages"] + count <= gauge.capacity

    async def settle(self) -> None:
        """Wait until server and node agree, or long enough; then the server's word counts."""
        await asyncio.gather(*(self._agree(gauge) for gauge in list(self.gauges.values())))

    async def _ask(self, gauge: Gauge) -> None:
        before = gauge.changes
        state = await self._state(gauge)
        if state is not None and (gauge.changes == before or not gauge.promised):
            gauge.take(state, 0)

    async def _agree(self, gauge: Gauge) -> None:
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + _SETTLED_S
        while (state := await self._state(gauge)) is not None:
            agreed = state["messages"] == gauge.held + gauge.promised
            if agreed or loop.time() > give_up_at:
                gauge.take(state, gauge.promised)
                return
            await asyncio.sleep(_LOOK_AGAIN_S)

    async def _state(self, gauge: Gauge) -> dict[str, Any] | None:
        try:
            told = await self._wire.ask(f"STREAM.INFO.{gauge.stream}")
        except Refused:  # it was removed by hand
            return None
        state: dict[str, Any] = told["state"]
        # A server that is behind may say less than before: only one made anew has lost something.
        name = f"{gauge.stream} of {told['created']}"
        self._marks.saw(name, state["last_seq"])
        gauge.missing = self._marks.others(f"{gauge.stream} of ", name)
        return state


def moment_of(text: str) -> float | None:
    """Return seconds since 1970; the server writes nanoseconds, which Python does not read."""
    whole, _, rest = text.rstrip("Z").partition(".")
    try:
        return from_rfc3339(f"{whole}.{rest[:6] or '0'}Z")
    except ValueError:
        return None
