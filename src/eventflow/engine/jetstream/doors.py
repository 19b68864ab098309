"""Accepting events (G1, G2, G3): straight into their one topic, into common, or parked at the door.

Events of one call that all go to one topic and no other need no second write: they are stored in
its stream, and count in common too. Where that has no room they go through common. So for a dedup
window after that some ids of the topic's events stand in the one stream and some in the other, and
both are asked for (ADR 0013). An event parked at the door is in neither: its id is in `EF_DOOR`.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from contextlib import suppress
from typing import TYPE_CHECKING

from eventflow.delivery import COMMON
from eventflow.engine.jetstream import names
from eventflow.engine.jetstream.entrance import Arrival, Entrance
from eventflow.engine.jetstream.wire import Item
from eventflow.engine.moves import audit_row, let_in
from eventflow.engine.protocol import Fallback, Kind, Queue, Receipt
from eventflow.engine.refs import first_ref, refs_from
from eventflow.errors import QueueFull, StorageUnavailable
from eventflow.storage.rows import kept_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from eventflow.engine.jetstream.desk import Desk
    from eventflow.event import Event

_PAGE = 500


class Doors:
    """The way into common."""

    def __init__(self, desk: Desk, draw_bits: Callable[[int], int]) -> None:
        self._desk = desk
        self._draw_bits = draw_bits
        self._known: OrderedDict[str, tuple[float, str]] = OrderedDict()
        """By key: when it was accepted here, and its ref."""
        self._parked: dict[str, tuple[float, str]] = {}
        """Likewise of those in `EF_DOOR`: parked at the door, or moved here with a file."""
        self._read_to = 0
        """Sequence of the last one that was read of those parked at the door."""
        self._coming: dict[str, asyncio.Future[None]] = {}
        """By key: events that are on their way in, and may yet be refused."""
        self._entrances: dict[str, Entrance] = {}
        """By topic."""
        self.committed: Callable[[float, int], None] | None = None
        """Told of each batch stored: how long it took, in seconds, and how many calls it held."""

    async def refresh(self) -> None:
        """Learn which events were parked at the door lately, here or by others.

        Raises:
            EngineUnavailable: no answer.
        """
        now = self._desk.clock.now_s()
        while page := await self._desk.wire.read(names.DOOR, "ef.door.>", self._read_to, _PAGE):
            for message in page:
                self._parked.setdefault(names.ref_of(message.subject), (now, message.body.decode()))
            self._read_to = page[-1].seq

    async def accept(
        self, events: Sequence[Event], topic: str | None, fallback: Fallback | None
    ) -> tuple[list[Receipt], bool]:
        """Store events, all or none; see `Engine.accept`.

        Args:
            events: The events.
            topic: Where all of them go, and nowhere else; None: it is not known.
            fallback: What is done where there is no room.

        Returns:
            The receipts, and whether all that is new is in its topic already.
        """
        keys = [event.key for event in events]
        await self._decided(keys)
        now = self._desk.clock.now_s()
        self._prune(now)
        receipts: dict[str, Receipt] = {}
        fresh: dict[str, Event] = {}
        straight = False
        for key, event in zip(keys, events, strict=True):
            known = self._known.get(key) or self._parked.get(key)
            if known is not None:
                receipts[key] = Receipt(known[1], duplicate=True)
            elif key not in fresh:
                fresh[key] = event
        if fresh:
            refs = refs_from(first_ref(now, self._draw_bits), len(fresh))
            arrivals = [Arrival(e, ref, k) for (k, e), ref in zip(fresh.items(), refs, strict=True)]
            let_in, straight = await self._let_in(arrivals, now, topic, fallback)
            receipts |= let_in
        answers: list[Receipt] = []
        told: set[str] = set()
        for key in keys:
            receipt = receipts[key]
            if key in told:  # the same event earlier in this batch
                receipt = Receipt(receipt.ref, duplicate=True)
            told.add(key)
            answers.append(receipt)
        return answers, straight

    def ref_of(self, key: str) -> str | None:
        """Return the ref under which this node accepted an event, while it is remembered."""
        known = self._known.get(key) or self._parked.get(key)
        return None if known is None else known[1]

    async def _decided(self, keys: Sequence[str]) -> None:
        """Wait until none of these is on its way: nobody is told "duplicate" of what fails."""
        while waits := {wait for key in keys if (wait := self._coming.get(key)) is not None}:
            await asyncio.wait(waits)

    def _prune(self, now: float) -> None:
        window_s = self._desk.plan.dedup_window_s
        while self._known:
            key, (at, _) = next(iter(self._known.items()))
            if now - at < window_s and len(self._known) <= self._desk.plan.dedup_max:
                break
            del self._known[key]
        while self._parked:
            key, (at, _) = next(iter(self._parked.items()))
            if now - at < window_s:
                break
            del self._parked[key]

    async def _let_in(
        self, arrivals: list[Arrival], now: float, topic: str | None, fallback: Fallback | None
    ) -> tuple[dict[str, Receipt], bool]:
        coming: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._coming.update((arrival.key, coming) for arrival in arrivals)
        # Whoever called may go away; what was begun is ended, so that the next one hears the truth.
        entering = asyncio.ensure_future(self._enter(arrivals, now, topic, fallback))
        entering.add_done_callback(lambda _: self._over(arrivals, coming))
        return await asyncio.shield(entering)

    def _over(self, arrivals: list[Arrival], coming: asyncio.Future[None]) -> None:
        for arrival in arrivals:
            del self._coming[arrival.key]
        coming.set_result(None)

    async def _enter(
        self, arrivals: list[Arrival], now: float, topic: str | None, fallback: Fallback | None
    ) -> tuple[dict[str, Receipt], bool]:
        found: dict[str, Receipt] = {}
        if topic is not None:
            found = await self._straight(arrivals, topic, now)
            arrivals = [one for one in arrivals if one.key not in found]
        if arrivals:
            try:
                found |= await self._through_common(arrivals)
            except QueueFull:
                if fallback is None:
                    raise
                return found | await self._park(arrivals, now, fallback), False
        self._known.update(
            (key, (now, receipt.ref)) for key, receipt in found.items() if receipt.ref is not None
        )
        return found, not arrivals

    async def _straight(
        self, arrivals: list[Arrival], topic: str, now: float
    ) -> dict[str, Receipt]:
        """Store them in their one topic; return the receipts of all that needn't go to common."""
        entrance, ledger = self._entrance(topic), self._desk.ledger
        found: dict[str, Receipt] = {}
        if now - ledger.detoured_at(topic) < self._desk.plan.dedup_window_s:
            found = await self._entrance(COMMON).found(arrivals)
            arrivals = [one for one in arrivals if one.key not in found]
        if not arrivals:
            return found
        if entrance.has_room(arrivals):
            with suppress(QueueFull):
                return found | await entrance.store(arrivals)
        await ledger.detour(topic, now)
        return found | await entrance.found(arrivals)

    async def _through_common(self, arrivals: list[Arrival]) -> dict[str, Receipt]:
        """Store them in common.

        Raises:
            QueueFull: it has no room for those that are no duplicates.
        """
        entrance = self._entrance(COMMON)
        if entrance.has_room(arrivals):
            return await entrance.store(arrivals)
        found = await entrance.found(arrivals)
        new = [arrival for arrival in arrivals if arrival.key not in found]
        if not new:
            return found
        if not found or not entrance.has_room(new):
            raise entrance.full()
        return found | await entrance.store(new)

    def _entrance(self, topic: str) -> Entrance:
        found = self._entrances.get(topic)
        if found is None:
            queue = Queue(Kind.TOPIC, topic)
            found = self._entrances[topic] = Entrance(self._desk, queue, self._tell)
        return found

    def _tell(self, took_s: float, calls: int) -> None:
        if self.committed is not None:
            self.committed(took_s, calls)

    # parking at the door ---------------------------------------------------------------

    async def _park(self, arrivals: list[Arrival], now: float, way: Fallback) -> dict[str, Receipt]:
        entrance = self._entrance(COMMON)
        found = await entrance.found(arrivals)  # these need no room
        new = [arrival for arrival in arrivals if arrival.key not in found]
        place, desk = way.place, self._desk
        kept = []
        rows = []
        for arrival in new:
            delivery = let_in(arrival.event, arrival.ref, place, now)
            kept.append(kept_of(delivery, "parked", now))
            rows.append([audit_row(delivery, place, "door", now, way.note)])
        try:
            refusals = await desk.storage.keep(kept, rows, together=True)
        except StorageUnavailable as error:
            raise _cant_park(entrance, str(error)) from error
        refusal = next(filter(None, refusals), None)
        if refusal is not None:
            raise _cant_park(entrance, refusal)
        await asyncio.gather(
            *(desk.wire.put(Item(f"ef.door.{one.key}", one.key, one.ref.encode())) for one in new)
        )
        self._parked.update((one.key, (now, one.ref)) for one in new)
        return found | {one.key: Receipt(one.ref, parked=True) for one in new}


def _cant_park(entrance: Entrance, why: str) -> QueueFull:
    full = entrance.full()
    return entrance.full(f"capacity {full.capacity}, and storage can't park: {why}")
