"""Bringing deliveries back from storage: put first, then storage forgets that hop (G7)."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, NamedTuple

from eventflow.delivery import Dead, Delivery
from eventflow.engine.jetstream import names
from eventflow.engine.jetstream.counting import of_move
from eventflow.engine.jetstream.publishing import put_each
from eventflow.engine.jetstream.settling import item
from eventflow.engine.jetstream.wire import Stored
from eventflow.engine.moves import audit_row, brought_back
from eventflow.engine.protocol import Kind, Placed, Placing, Queue
from eventflow.errors import StorageUnavailable
from eventflow.storage.rows import kept_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from eventflow.engine.jetstream.counting import Change
    from eventflow.engine.jetstream.desk import Desk


class _Back(NamedTuple):
    """What is in its queue again."""

    item: Placing
    delivery: Delivery
    seq: int
    """Of its message there."""


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
            done = [index for index, at in zip(indexes, placed, strict=True) if at]
            for index in indexes:
                answers[index] = Placed.PLACED if index in done else Placed.FULL
            desk.ledger.begin(len(done))
            try:
                back = [
                    _Back(items[index], moved[index], at)
                    for index, at in zip(indexes, placed, strict=True)
                    if at
                ]
                await self._forget(queue, back, now)
            finally:
                desk.ledger.over(len(done))
        return answers

    async def _publish(self, queue: Queue, deliveries: Sequence[Delivery]) -> list[int]:
        """Put them into their queue; for each the number of its message, 0 if it is not there."""
        gauge = self._desk.depths.gauge(queue)
        stored = 0
        try:
            outcomes = await put_each(self._desk.wire, [item(queue, one) for one in deliveries])
            stored = sum(isinstance(one, Stored) and not one.duplicate for one in outcomes)
        finally:
            gauge.came(len(deliveries), stored)
        return [one.seq if isinstance(one, Stored) else 0 for one in outcomes]

    async def _forget(self, queue: Queue, back: Sequence[_Back], now: float) -> None:
        if not back:
            return
        rows: list[dict[str, Any]] = [
            audit_row(delivery, one.place, "parked", now, one.note) for one, delivery, _ in back
        ]
        desk = self._desk
        await desk.ledger.freshen()
        changes: list[Change] = []
        keys: list[bytes] = []
        for one, delivery, seq in back:
            end = names.leaving_of(one.delivery)
            coming = names.coming_of(queue, seq, delivery.ref)
            came = not desk.ledger.has(coming)
            changes += of_move(
                queue.topic, came=came, ended=desk.ledger.has(end), queued=True, routes=False
            )
            keys += [end, coming]
        desk.ledger.remember(keys, now)
        await desk.ledger.commit(changes)
        desk.forgets.add([(one.delivery.id, one.delivery.hop) for one, _, _ in back], rows)
        await desk.forgets.carry_out()
        desk.ledger.sure(keys, now)

    async def _declare_dead(self, one: Placing, moved: Delivery, now: float) -> Placed:
        row = audit_row(moved, one.place, "parked", now, one.note)
        try:
            (refusal,) = await self._desk.storage.keep([kept_of(moved, "dead", now)], [[row]])
        except StorageUnavailable:
            return Placed.FULL
        return Placed.PLACED if refusal is None else Placed.FULL
