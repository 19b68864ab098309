"""Bringing deliveries back from storage: put first, then storage forgets that hop (G7)."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from eventflow.delivery import Dead, Delivery
from eventflow.engine.jetstream.publishing import put_each
from eventflow.engine.jetstream.settling import item
from eventflow.engine.jetstream.wire import Stored
from eventflow.engine.moves import audit_row, brought_back
from eventflow.engine.protocol import Kind, Placed, Placing, Queue
from eventflow.errors import StorageUnavailable
from eventflow.storage.rows import kept_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from eventflow.engine.jetstream.desk import Desk


class Placement:
    """Brings batches back; of one delivery, one at a time."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._placing = asyncio.Lock()

    async def place(self, items: Sequence[Placing]) -> list[Placed]:
        """See `Engine.place`."""
        async with self._placing:
            try:
                return await self._place(items)
            except StorageUnavailable:
                return [Placed.FULL] * len(items)  # it keeps what it has

    async def _place(self, items: Sequence[Placing]) -> list[Placed]:
        desk = self._desk
        now = desk.clock.now_s()
        pairs = [(one.delivery.id, one.delivery.hop) for one in items]
        held = await desk.storage.holds(pairs)
        answers = [Placed.ALREADY] * len(items)
        coming: dict[Queue, list[int]] = {}
        seen: set[str] = set()
        moved: dict[int, Delivery] = {}
        for index, (one, there) in enumerate(zip(items, held, strict=True)):
            if not there or one.delivery.id in seen:
                continue
            seen.add(one.delivery.id)
            moved[index] = brought_back(one, now)
            if isinstance(one.place, Dead):
                answers[index] = await self._declare_dead(one, moved[index], now)
                continue
            queue = Queue(Kind.TOPIC, one.delivery.topic)
            gauge = desk.depths.gauge(queue)
            if gauge.has_room(one.delivery.event.rank):
                gauge.promise()
                coming.setdefault(queue, []).append(index)
            else:
                answers[index] = Placed.FULL
        for queue, indexes in coming.items():
            placed = await self._publish(queue, [moved[index] for index in indexes])
            back = [index for index, done in zip(indexes, placed, strict=True) if done]
            for index in indexes:
                answers[index] = Placed.PLACED if index in back else Placed.FULL
            await self._forget([items[index] for index in back], [moved[index] for index in back])
        return answers

    async def _publish(self, queue: Queue, deliveries: Sequence[Delivery]) -> list[bool]:
        """Put them into their queue; return for each whether it is there."""
        gauge = self._desk.depths.gauge(queue)
        stored = 0
        try:
            outcomes = await put_each(self._desk.wire, [item(queue, one) for one in deliveries])
            stored = sum(isinstance(one, Stored) and not one.duplicate for one in outcomes)
        finally:
            gauge.came(len(deliveries), stored)
        return [isinstance(one, Stored) for one in outcomes]

    async def _forget(self, items: Sequence[Placing], deliveries: Sequence[Delivery]) -> None:
        if not items:
            return
        now = self._desk.clock.now_s()
        rows: list[dict[str, Any]] = [
            audit_row(delivery, one.place, "parked", now, one.note)
            for one, delivery in zip(items, deliveries, strict=True)
        ]
        forgets = self._desk.forgets
        forgets.add([(one.delivery.id, one.delivery.hop) for one in items], rows)
        await forgets.carry_out()

    async def _declare_dead(self, one: Placing, moved: Delivery, now: float) -> Placed:
        row = audit_row(moved, one.place, "parked", now, one.note)
        try:
            (refusal,) = await self._desk.storage.keep([kept_of(moved, "dead", now)], [[row]])
        except StorageUnavailable:
            return Placed.FULL
        return Placed.PLACED if refusal is None else Placed.FULL
