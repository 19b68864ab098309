"""Going through deliveries wherever they are: pages for people, all of them for an export."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from eventflow.engine.protocol import Kind, Queue
from eventflow.errors import UnknownName
from eventflow.policy.glob import Glob
from eventflow.storage.protocol import Filter, Kept, Page
from eventflow.storage.rows import kept_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from eventflow.app.engines import AnyEngine
    from eventflow.event import Event

KEPT_BATCH = 200
"""Deliveries read from storage at once, for an export: with their bodies."""
WALK_BATCH = 2_000
"""Deliveries looked at in a queue at once; they are in memory anyway."""
_FIRST = "k"
"""Cursor of a page of storage's, the first one."""


class Listing:
    """What is in queues, lanes and storage of one engine."""

    def __init__(self, engine: AnyEngine) -> None:
        self._engine = engine
        self._storage = engine.storage

    async def page(
        self, topics: Sequence[str], which: Filter, *, after: str | None, limit: int
    ) -> Page:
        """Return a page of what is retrying (from the lanes), parked or dead (from storage)."""
        if which.state == "retrying":
            return await self._retrying(topics, which, after, limit)
        if which.state is not None:
            return await self._storage.page(which, after=after, limit=limit)
        return await self._both(topics, which, after, limit)

    async def _both(
        self, topics: Sequence[str], which: Filter, after: str | None, limit: int
    ) -> Page:
        """List first the lanes, whose cursors are numbers, then storage."""
        waiting: tuple[Kept, ...] = ()
        if after is None or after.isdigit():
            page = await self._retrying(topics, which, after, limit)
            waiting, after = page.items, page.cursor
            if page.cursor is not None:
                return page
            if len(waiting) == limit:
                return Page(waiting, _FIRST)
        kept = await self._storage.page(
            which, after=None if after == _FIRST else after, limit=limit - len(waiting)
        )
        return Page((*waiting, *kept.items), kept.cursor)

    async def _retrying(
        self, topics: Sequence[str], which: Filter, after: str | None, limit: int
    ) -> Page:
        if after is not None and not after.isdigit():
            raise UnknownName("cursor", after)
        items: list[tuple[int, Kept]] = []
        for name in [which.topic] if which.topic else topics:
            found = await self._engine.walk(Queue(Kind.LANE, name), limit=1_000_000)
            for one in found:
                kept = kept_of(one.delivery, "retrying", one.delivery.entered_at)
                if matches(which, kept):
                    items.append((one.cursor, kept))
        items.sort(key=lambda item: -item[0])
        if after is not None:
            items = [item for item in items if item[0] < int(after)]
        page = items[:limit]
        more = len(items) > limit
        return Page(tuple(kept for _, kept in page), str(page[-1][0]) if more else None)

    async def events(
        self, topics: Sequence[str], which: Filter, states: Sequence[str]
    ) -> AsyncIterator[Sequence[Event]]:
        """Yield each event once that has a delivery that matches, in batches.

        Args:
            topics: Every topic, common too.
            which: What is meant, beside the states.
            states: Of "queued", "running", "retrying", "parked" and "dead".
        """
        seen: set[str] = set()
        for queue in _queues([which.topic] if which.topic else topics, states):
            after: Any = None
            while found := await self._engine.walk(queue, after=after, limit=WALK_BATCH):
                after = found[-1].cursor
                meant = [
                    one.delivery
                    for one in found
                    if one.state in states
                    and one.delivery.ref not in seen
                    and matches(which, kept_of(one.delivery, one.state, one.delivery.entered_at))
                ]
                seen.update(delivery.ref for delivery in meant)
                yield list({one.ref: one.event for one in meant}.values())
        kept_states = [state for state in ("parked", "dead") if state in states]
        if kept_states:
            async for events in self._kept(which, kept_states, seen):
                yield events

    async def _kept(
        self, which: Filter, states: Sequence[str], seen: set[str]
    ) -> AsyncIterator[Sequence[Event]]:
        after, last = None, ""
        while True:
            kept, after = await self._storage.along(which, after=after, limit=KEPT_BATCH)
            events: list[Event] = []
            for one in kept:
                ref = one.delivery.ref
                # Deliveries of one event follow each other, so the last one tells enough.
                if one.state in states and ref != last and ref not in seen:
                    events.append(one.delivery.event)
                    last = ref
            yield events
            if after is None:
                return


def _queues(topics: Sequence[str], states: Sequence[str]) -> list[Queue]:
    queues = [Queue(Kind.TOPIC, topic) for topic in topics if {"queued", "running"} & set(states)]
    return queues + [Queue(Kind.LANE, topic) for topic in topics if "retrying" in states]


def matches(which: Filter, kept: Kept) -> bool:
    """Return whether a delivery outside of storage is meant by a filter."""
    one = kept.delivery
    last = one.history[-1] if one.history else None
    wanted = (
        (which.topic, one.topic),
        (which.reason, one.reason),
        (which.cause, last.cause if last else None),
        (which.fingerprint, last.fingerprint if last else None),
    )
    if any(want is not None and want != got for want, got in wanted):
        return False
    if which.type is not None and not Glob(which.type).matches(one.event.type):
        return False
    if which.ids and one.id not in which.ids:
        return False
    texts = (one.event.id, one.event.source, one.event.subject or "", last.error if last else "")
    return which.q is None or any(which.q.lower() in text.lower() for text in texts)
