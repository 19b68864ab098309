"""From common into the topics that the routes name: one settlement for each event."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from eventflow.delivery import COMMON, Delivery, Place
from eventflow.engine.protocol import Act, Kind, Lease, Note, Queue, Route, Settle, Settled, Target
from eventflow.errors import EngineUnavailable
from eventflow.flow.settler import AGAIN_S, Settler
from eventflow.policy.decide import decide
from eventflow.policy.outcome import NoRoute, Routed
from eventflow.policy.values import Fullness
from eventflow.telemetry import names

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from eventflow.clock import Clock
    from eventflow.engine.protocol import Engine
    from eventflow.flow.ledger import Ledger
    from eventflow.flow.topic import Topic
    from eventflow.policy.routing import Router

BATCH = 500
"""Events routed in one settlement."""
UNSETTLED_MAX = 2_000
"""Events being routed at once: the next batch is routed while the last one's commit goes on."""
_ROUTED = Routed()
_COMMON = Queue(Kind.TOPIC, COMMON)


class Routing:
    """An event on its way out of common."""

    __slots__ = ("lease", "owed", "stage", "targets")

    def __init__(self, lease: Lease, stage: RouterStage, targets: tuple[Target, ...]) -> None:
        self.lease = lease
        self.stage = stage
        self.targets = targets
        """Empty: no route takes it."""
        self.owed: tuple[str, ...] = ()

    def act(self) -> Act:
        """Return the settlement: every topic at once, or dead where there is none."""
        if self.owed:
            self.targets = tuple(
                self.stage.target(self.lease.delivery, topic) for topic in self.owed
            )
        if self.targets:
            return Route(self.lease, self.targets)
        return self.stage.unroutable(self.lease)

    def owing(self, owed: tuple[str, ...]) -> None:
        """Go on with those topics only that had no place."""
        self.owed = owed


class RouterStage:
    """Leases from common, decides the topics, settles."""

    def __init__(
        self,
        engine: Engine,
        routes: Router,
        topics: Mapping[str, Topic],
        ledger: Ledger,
        clock: Clock,
        draw: Callable[[], float],
    ) -> None:
        self._engine = engine
        self.routes = routes
        self._topics = topics
        self._ledger = ledger
        self._clock = clock
        self._draw = draw
        self._shared: dict[tuple[str, ...], tuple[Target, ...]] = {}
        self.settler: Settler[Routing] = Settler(engine, self._settled)

    async def run(self) -> None:
        """Route until cancelled."""
        common = self._topics[COMMON]
        loop = asyncio.get_running_loop()
        while True:
            common.round_at = loop.time()
            await self.settler.below(UNSETTLED_MAX)
            try:
                leases = await self._engine.lease(_COMMON, limit=BATCH, wait_s=5.0)
            except EngineUnavailable:
                await asyncio.sleep(AGAIN_S)
                continue
            self._shared.clear()  # decided once a batch: the time and the depths have moved on
            for lease in leases:
                self.settler.add(self._routing(lease))
            if leases:
                await asyncio.sleep(0)  # let workers and doors in between two batches

    def _routing(self, lease: Lease) -> Routing:
        delivery = lease.delivery
        if delivery.owed:
            return Routing(lease, self, tuple(self.target(delivery, t) for t in delivery.owed))
        topics = self.routes.topics_of(delivery.event).topics
        if delivery.event.extensions is None:
            return Routing(lease, self, self._shared_targets(delivery, topics))
        return Routing(lease, self, tuple(self.target(delivery, topic) for topic in topics))

    def _shared_targets(self, delivery: Delivery, topics: tuple[str, ...]) -> tuple[Target, ...]:
        """Return targets for all events of this batch that nothing sets apart.

        They share one draw, and so one due time should a topic be full. Where a topic may well
        be, each gets its own: else the overflow would come back all at once.
        """
        found = self._shared.get(topics)
        if found is None:
            found = tuple(self.target(delivery, topic) for topic in topics)
            if all(self._has_plenty(topic) for topic in topics):
                self._shared[topics] = found
        return found

    def _has_plenty(self, topic: str) -> bool:
        depth = self._engine.depth(topic)
        return depth.queued + depth.running + 2 * BATCH < depth.capacity * 0.9

    def target(self, delivery: Delivery, topic: str) -> Target:
        """Decide where one event goes in one topic."""
        known = self._topics[topic]
        decision = decide(
            new_delivery(delivery, topic),
            _ROUTED,
            known.policy,
            known.fullness(self._engine),
            self._clock.now_s(),
            self._draw(),
        )
        first: Place = decision.tries[0]
        everyday = len(decision.tries) > 1 and first.__struct_config__.tag == "queued"
        return Target(topic, decision.tries, None if everyday else Note(decision.because))

    def unroutable(self, lease: Lease) -> Act:
        """Decide about an event that no route takes."""
        routed = self.routes.topics_of(lease.delivery.event)
        decision = decide(
            lease.delivery,
            NoRoute(routed.filter_errors),
            self._topics[COMMON].policy,
            Fullness(),
            self._clock.now_s(),
            self._draw(),
        )
        return Settle(lease, decision.tries, Note(decision.because))

    def _settled(self, items: Sequence[Routing], answers: Sequence[Settled]) -> None:
        now = self._clock.now_s()
        by_topic: dict[str, list[Place | None]] = {}
        gone = 0
        for item, answer in zip(items, answers, strict=True):
            gone += not (answer.owed or answer.refused or answer.lost)
            if answer.taken is not None:
                by_topic.setdefault(COMMON, []).append(answer.taken)
            for target, place in zip(item.targets, answer.routed, strict=False):
                by_topic.setdefault(target.topic, []).append(place)
        if gone:
            self._topics[COMMON].delivered.add(now, gone)
        for name, places in by_topic.items():
            count = sum(place is not None for place in places)
            if name != COMMON and count:
                self._topics[name].arrived.add(now, count)
                self._ledger.metrics.count(names.DELIVERIES_ROUTED, count, name)
            self._ledger.placed(name, places)


def new_delivery(common: Delivery, topic: str) -> Delivery:
    """Return the delivery that routing makes of one in common."""
    return Delivery(common.event, common.ref, topic, common.accepted_at)
