"""What is parked comes back: when it is due, its topic has room, and new work leaves a share."""

from __future__ import annotations

import asyncio
from math import inf
from typing import TYPE_CHECKING

from eventflow.delivery import COMMON
from eventflow.engine.protocol import Note, Placed, Placing
from eventflow.errors import EngineUnavailable, StorageUnavailable
from eventflow.flow.settler import AGAIN_S
from eventflow.policy.decide import decide
from eventflow.policy.outcome import ReadyAgain
from eventflow.policy.recovery import batch_size
from eventflow.telemetry import names

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from eventflow.clock import Clock
    from eventflow.engine.protocol import Engine
    from eventflow.flow.ledger import Ledger
    from eventflow.flow.topic import Topic
    from eventflow.storage.protocol import Kept, Storage

BATCH = 500
LOOK_ANYWAY_S = 30.0
"""How often what is parked is looked at, and storage that others use: who parks there, and dies,
tells nobody."""
LOOK_AGAIN_S = 1.0
"""How long to wait for a topic to fall below its low water, or for its share, before looking."""
NEW_WAITS_S = 1.0
"""Something new waits where something came within this time."""
_READY = ReadyAgain()


class Recovery:
    """One topic's way back from storage."""

    def __init__(
        self,
        engine: Engine,
        storage: Storage,
        topic: Topic,
        ledger: Ledger,
        clock: Clock,
        draw: Callable[[], float],
    ) -> None:
        self._engine = engine
        self._storage = storage
        self._topic = topic
        self._ledger = ledger
        self._clock = clock
        self._draw = draw
        self._nudged = asyncio.Event()
        self._wants_room = False
        self._budget = 0.0
        self._looked_at = clock.now_s()

    def nudge(self) -> None:
        """Look soon: something was parked or replayed."""
        self._nudged.set()

    def more_room(self) -> None:
        """Look soon if it is room that something parked waits for. Told after every batch."""
        if self._wants_room:
            self._nudged.set()

    async def run(self) -> None:
        """Bring back what may come until cancelled."""
        while True:
            try:
                wait_s = await self._look()
            except (StorageUnavailable, EngineUnavailable):
                # Storage keeps what it holds; deliveries in the queues go on meanwhile.
                wait_s = AGAIN_S
                await asyncio.sleep(wait_s)
                continue
            if wait_s == 0:
                await asyncio.sleep(0)
                continue
            await self._wait(wait_s)

    async def _wait(self, wait_s: float | None) -> None:
        try:
            async with asyncio.timeout(wait_s):
                await self._nudged.wait()
        except TimeoutError:
            return

    async def _look(self) -> float | None:
        """Bring back a batch; return how long to wait before the next, None: until nudged."""
        await self._topic.going()
        self._wants_room = False
        self._nudged.clear()  # what comes while it looks is for the next look
        due_at = await self._storage.next_due(self._topic.name)
        now = self._clock.now_s()
        if due_at is None or due_at > now:
            if due_at is None and not self._storage.shared:
                return None
            # No longer, though it is due in a year: clocks are set, and machines sleep.
            return min(inf if due_at is None else due_at - now, LOOK_ANYWAY_S)
        self._wants_room = True
        allowed = min(self._allowed(now), BATCH)
        if allowed < 1:
            return LOOK_AGAIN_S
        kept = await self._storage.due(self._topic.name, now=now, limit=allowed)
        placed = await self._engine.place([self._placing(one, now) for one in kept])
        self._note(kept, placed)
        # Full after all (the last tenth is for the urgent): leave it alone for a moment.
        return LOOK_AGAIN_S if Placed.FULL in placed else 0

    def _allowed(self, now: float) -> int:
        topic = self._topic
        new_waits = topic.arrived.recent(now, NEW_WAITS_S)
        if topic.name != COMMON:
            new_waits = new_waits and self._engine.depth(topic.name).queued > 0
        allowed, self._budget = batch_size(
            topic.fullness(self._engine),
            topic.policy.recovery,
            delivered_per_s=topic.delivered.per_s(now),
            topic_rate=None,
            new_waiting=new_waits,
            elapsed_s=now - self._looked_at,
            budget=self._budget,
        )
        self._looked_at = now
        return allowed

    def _placing(self, kept: Kept, now: float) -> Placing:
        decision = decide(
            kept.delivery,
            _READY,
            self._topic.policy,
            self._topic.fullness(self._engine),
            now,
            self._draw(),
        )
        return Placing(kept.delivery, decision.tries[0], Note(decision.because))

    def _note(self, kept: Sequence[Kept], placed: Sequence[Placed]) -> None:
        back = [one for one, answer in zip(kept, placed, strict=True) if answer is Placed.PLACED]
        if not back:
            return
        self._ledger.metrics.count(names.DELIVERIES_RECOVERED, len(back), self._topic.name)
        now = self._clock.now_s()
        self._ledger.placed(self._topic.name, [self._placing(one, now).place for one in back])
