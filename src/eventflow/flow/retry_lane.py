"""What is due goes back to its topic's queue; what still finds no room waits on, or is parked."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from eventflow.engine.protocol import Act, Kind, Lease, Note, Queue, Settle, Settled
from eventflow.errors import EngineUnavailable
from eventflow.flow.settler import AGAIN_S, Settler
from eventflow.policy.decide import decide
from eventflow.policy.outcome import CameDue

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from eventflow.clock import Clock
    from eventflow.engine.protocol import Engine
    from eventflow.flow.ledger import Ledger
    from eventflow.flow.topic import Topic

BATCH = 500
_CAME_DUE = CameDue()


class Due:
    """A delivery whose time in the lane is over."""

    __slots__ = ("lease", "stage")

    def __init__(self, lease: Lease, stage: RetryLane) -> None:
        self.lease = lease
        self.stage = stage

    def act(self) -> Act:
        """Return where it goes, as decided now."""
        return self.stage.decided(self.lease)

    def owing(self, owed: tuple[str, ...]) -> None:
        """Only events of common can be owed."""


class RetryLane:
    """One topic's lane of the retry queue."""

    def __init__(
        self,
        engine: Engine,
        topic: Topic,
        ledger: Ledger,
        clock: Clock,
        draw: Callable[[], float],
    ) -> None:
        self._engine = engine
        self._topic = topic
        self._ledger = ledger
        self._clock = clock
        self._draw = draw
        self._queue = Queue(Kind.LANE, topic.name)
        self.settler: Settler[Due] = Settler(engine, self._settled)

    async def run(self) -> None:
        """Move what comes due until cancelled."""
        while True:
            try:
                leases = await self._engine.lease(self._queue, limit=BATCH, wait_s=60.0)
            except EngineUnavailable:
                await asyncio.sleep(AGAIN_S)
                continue
            for lease in leases:
                self.settler.add(Due(lease, self))
            await self.settler.below(1)

    def decided(self, lease: Lease) -> Act:
        """Return the act that ends a lease of this lane."""
        decision = decide(
            lease.delivery,
            _CAME_DUE,
            self._topic.policy,
            self._topic.fullness(self._engine),
            self._clock.now_s(),
            self._draw(),
        )
        return Settle(lease, decision.tries, Note(decision.because))

    def _settled(self, items: Sequence[Due], answers: Sequence[Settled]) -> None:
        del items
        self._ledger.placed(self._topic.name, [answer.taken for answer in answers])
