"""The way in: hold events against the rules, and have them stored in common or say why not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from eventflow.delivery import COMMON, Delivery, Parked
from eventflow.engine.protocol import Fallback, Note, Way
from eventflow.errors import EngineUnavailable, InvalidEvent, QueueFull, TooLarge, Unroutable
from eventflow.flow.gather import SMALL, Gather
from eventflow.policy.admission import door_open, retry_after_s
from eventflow.policy.decide import decide
from eventflow.policy.outcome import COMMON_FULL
from eventflow.telemetry import names

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from eventflow.clock import Clock
    from eventflow.engine.protocol import Engine, Receipt
    from eventflow.engine.runs import Receipts
    from eventflow.event import Event
    from eventflow.flow.ledger import Ledger
    from eventflow.flow.schemas import Schemas
    from eventflow.flow.topic import Topic
    from eventflow.policy.routing import Router
    from eventflow.storage.protocol import Storage


class Rules(msgspec.Struct, frozen=True):
    """What may come in."""

    max_event_bytes: int = 2**20
    refuse_unroutable: bool = False


class Ingress:
    """Decides about a request's events, all or none of them."""

    def __init__(  # noqa: PLR0913, PLR0917  # what the stage works with
        self,
        engine: Engine,
        storage: Storage,
        routes: Router,
        topics: Mapping[str, Topic],
        schemas: Schemas,
        rules: Rules,
        clock: Clock,
        ledger: Ledger,
    ) -> None:
        self._engine = engine
        self._storage = storage
        self.routes = routes
        self._topics = topics
        self.schemas = schemas
        self.rules = rules
        self._clock = clock
        self._ledger = ledger
        self.stopping = False
        self.accepts = True
        """Whether it is this node's role."""
        self._gather = Gather(self._store)

    async def accept(self, events: Sequence[Event], *, park: bool = False) -> Sequence[Receipt]:
        """Have the events stored, or raise and store none of them.

        Args:
            events: The events.
            park: Where common or memory has no room, park them. Not past the 95 % of storage at
                which doors close: the rest is for what was accepted before.

        Raises:
            TooLarge: one is over `max_event`.
            InvalidEvent: one breaks the JSON Schema of its type.
            Unroutable: no route takes one, and such are refused.
            QueueFull: common, memory or storage has no room; with `park`, storage.
            EngineUnavailable: the node is stopping, or this is not its role, or nothing can be made
                durable.
        """
        self._admit(events)
        gathers = len(events) <= SMALL and not self._engine.groups
        store = self._gather.accept if gathers else self._store
        try:
            return await store(events)
        except QueueFull:
            if not park:
                raise
            return await self._park(events)

    def offer(self, event: Event, told: Callable[[Receipt | Exception], None]) -> bool:
        """Have one event stored, and say what came of it by a call: later, once.

        Returns:
            Whether it will. Where the engine gathers by itself it won't: see `accept`.

        Raises:
            EventFlowError: as `accept`, where it is known at once.
        """
        if self._engine.groups:
            return False
        events = (event,)
        self._admit(events)

        def found(answer: Sequence[Receipt] | Exception) -> None:
            told(answer if isinstance(answer, Exception) else answer[0])

        self._gather.offer(events, found)
        return True

    def _admit(self, events: Sequence[Event]) -> None:
        """Refuse what can be refused before anything is asked of the engine."""
        if self.stopping:
            raise EngineUnavailable("the node is stopping; send again to another, or later")
        if not self.accepts:
            raise EngineUnavailable(
                "this node accepts no events: its [engine] roles leave out accept; send to another"
            )
        self._check(events)
        self._check_storage()

    async def _store(self, events: Sequence[Event]) -> Receipts:
        """Have the events stored in common, or where nothing waits there in their topics."""
        try:
            receipts = await self._engine.accept(events, self._ways(events))
        except QueueFull as full:
            raise self._in_time(full, len(events)) from None
        self._count(receipts)
        if receipts.ways:
            self._routed(receipts.ways)
        return receipts

    def _count(self, receipts: Receipts) -> None:
        metrics, duplicates = self._ledger.metrics, receipts.duplicates
        if len(receipts) > duplicates:
            metrics.count(names.EVENTS_ACCEPTED, len(receipts) - duplicates)
        if duplicates:
            metrics.count(names.EVENTS_DUPLICATE, duplicates)

    async def _park(self, events: Sequence[Event]) -> Receipts:
        """Have the events stored in common, or if it is still full in secondary storage."""
        now = self._clock.now_s()
        common = self._topics[COMMON]
        decision = decide(
            Delivery(events[0], "", COMMON, now),
            COMMON_FULL,
            common.policy,
            common.fullness(self._engine),
            now,
            0.0,
        )
        place = decision.tries[0]
        assert isinstance(place, Parked)  # noqa: S101  # common has no other place for it
        fallback = Fallback(place, Note(decision.because))
        try:
            receipts = await self._engine.accept(events, fallback=fallback)
        except QueueFull as full:
            raise self._in_time(full, len(events)) from None
        self._count(receipts)
        parked = sum(receipt.parked for receipt in receipts)
        if parked:
            self._ledger.metrics.count(names.OVERFLOWS, parked, COMMON)
            self._ledger.placed(COMMON, [place] * parked)
        return receipts

    def _ways(self, events: Sequence[Event]) -> list[Way]:
        """Return where the events go, for the engine to take if nothing waits in common."""
        found = self.routes.together(events)
        return [Way(same.topics, same.indexes, same.rank) for same in found]

    def _routed(self, ways: Sequence[Way]) -> None:
        """Count what has gone through common in the write that accepted it."""
        now = self._clock.now_s()
        for way in ways:
            count = len(way.indexes)
            self._topics[COMMON].delivered.add(now, count)
            for topic in way.topics:
                self._topics[topic].arrived.add(now, count)
                self._ledger.routed(topic, count)

    def _in_time(self, full: QueueFull, count: int) -> QueueFull:
        """Return the refusal with the time in which there should be room."""
        return QueueFull(full.queue, full.capacity, self.drains_in_s(count), full.why)

    def drains_in_s(self, count: int) -> float:
        """Return in how many whole seconds common has let go of `count` events, at its pace now."""
        pace = self._topics[COMMON].delivered.per_s(self._clock.now_s())
        return retry_after_s(count, pace) if pace > 0 else 1.0

    def _check(self, events: Sequence[Event]) -> None:
        limit = self.rules.max_event_bytes
        alone = len(events) == 1
        sizes = [0 if event.body is None else len(event.body) for event in events]
        if max(sizes, default=0) > limit:
            index, size = next((at, size) for at, size in enumerate(sizes) if size > limit)
            which = "the event's data" if alone else f"event {index}: its data"
            raise TooLarge(which, size, limit, "[common] max_event", index=None if alone else index)
        if self.schemas:
            for index, event in enumerate(events):
                problems = self.schemas.problems(event)
                if problems:
                    raise InvalidEvent(problems, index=None if alone else index)
        if self.rules.refuse_unroutable:
            for index, event in enumerate(events):
                if not self.routes.topics_of(event).topics:
                    raise Unroutable(event.type, index=None if alone else index)

    def _check_storage(self) -> None:
        usage = self._storage.usage()
        if not door_open(usage.used_bytes, usage.max_bytes):
            raise QueueFull(
                "storage",
                usage.max_bytes,
                self.drains_in_s(1),
                f"{usage.used_bytes} of {usage.max_bytes} bytes of secondary storage are used; "
                f"doors close at 95 %. Discard or replay what is dead, or raise [storage] max_size",
            )
