"""Accepting events (G1, G2, G3): who comes at once shares a batch, each call is all or nothing.

The server knows ids for the dedup window, and is asked about all that this node has not seen
itself. An event parked at the door is not in common's stream, so its id stands in `EF_DOOR`.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import TYPE_CHECKING, NamedTuple

from eventflow.delivery import COMMON, Delivery
from eventflow.engine.jetstream import names
from eventflow.engine.jetstream.publishing import BATCH_MAX
from eventflow.engine.jetstream.stored import encode
from eventflow.engine.jetstream.wire import Duplicated, Full, Item, Refused
from eventflow.engine.moves import audit_row, let_in
from eventflow.engine.protocol import Fallback, Receipt
from eventflow.engine.refs import first_ref, refs_from
from eventflow.errors import EngineUnavailable, QueueFull, StorageUnavailable
from eventflow.storage.rows import kept_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from eventflow.engine.jetstream.desk import Desk
    from eventflow.event import Event

_PAGE = 500
_ATOMIC_MAX = 1_000
"""What the server takes as one batch."""
_ROUNDS = 5
"""How often duplicates are looked for before giving up: each finds some, or the batch is stored."""


class Arrival(NamedTuple):
    """One new event on its way in."""

    event: Event
    ref: str
    key: str


class Call:
    """The new events of one `accept`."""

    def __init__(self, arrivals: list[Arrival], over: asyncio.Future[None]) -> None:
        self.arrivals = arrivals
        self.over = over
        self.receipts: dict[str, Receipt] = {}
        """By key."""


class Doors:
    """The way into common."""

    def __init__(self, desk: Desk, draw_bits: Callable[[int], int]) -> None:
        self._desk = desk
        self._draw_bits = draw_bits
        self._known: OrderedDict[str, tuple[float, str]] = OrderedDict()
        """By key: when it was accepted here, and its ref."""
        self._parked: dict[str, tuple[float, str]] = {}
        self._coming: dict[str, asyncio.Future[None]] = {}
        """By key: events that are on their way in, and may yet be refused."""
        self._waiting: list[Call] = []
        self._working: asyncio.Task[None] | None = None
        self.committed: Callable[[float, int], None] | None = None
        """Told of each batch stored: how long it took, in seconds, and how many calls it held."""

    async def load(self) -> None:
        """Learn which events were parked at the door lately."""
        after = 0
        now = self._desk.clock.now_s()
        while page := await self._desk.wire.read(names.DOOR, "ef.door.>", after, _PAGE):
            for message in page:
                self._parked[names.ref_of(message.subject)] = (now, message.body.decode())
            after = page[-1].seq

    async def accept(self, events: Sequence[Event], fallback: Fallback | None) -> list[Receipt]:
        """Store events, all or none; see `Engine.accept`."""
        keys = [event.key for event in events]
        await self._decided(keys)
        now = self._desk.clock.now_s()
        self._prune(now)
        receipts: dict[str, Receipt] = {}
        fresh: dict[str, Event] = {}
        for key, event in zip(keys, events, strict=True):
            known = self._known.get(key) or self._parked.get(key)
            if known is not None:
                receipts[key] = Receipt(known[1], duplicate=True)
            elif key not in fresh:
                fresh[key] = event
        if fresh:
            refs = refs_from(first_ref(now, self._draw_bits), len(fresh))
            arrivals = [Arrival(e, ref, k) for (k, e), ref in zip(fresh.items(), refs, strict=True)]
            receipts |= await self._let_in(arrivals, now, fallback)
        answers: list[Receipt] = []
        told: set[str] = set()
        for key in keys:
            receipt = receipts[key]
            if key in told:  # the same event earlier in this batch
                receipt = Receipt(receipt.ref, duplicate=True)
            told.add(key)
            answers.append(receipt)
        return answers

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
        for key in [key for key, (at, _) in self._parked.items() if now - at >= window_s]:
            del self._parked[key]

    async def _let_in(
        self, arrivals: list[Arrival], now: float, fallback: Fallback | None
    ) -> dict[str, Receipt]:
        coming: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._coming.update((arrival.key, coming) for arrival in arrivals)
        # Whoever called may go away; what was begun is ended, so that the next one hears the truth.
        entering = asyncio.ensure_future(self._enter(arrivals, now, fallback))
        entering.add_done_callback(lambda _: self._over(arrivals, coming))
        return await asyncio.shield(entering)

    def _over(self, arrivals: list[Arrival], coming: asyncio.Future[None]) -> None:
        for arrival in arrivals:
            del self._coming[arrival.key]
        coming.set_result(None)

    async def _enter(
        self, arrivals: list[Arrival], now: float, fallback: Fallback | None
    ) -> dict[str, Receipt]:
        gauge = self._desk.depths.gauge(names.COMMON_QUEUE)
        urgent = sum(arrival.event.rank < 2 for arrival in arrivals)
        count = len(arrivals)
        room = gauge.has_room(0, count) and gauge.has_room(2, count - urgent)
        try:
            if not room or count > _ATOMIC_MAX:
                await self._refuse_new(arrivals)
            call = await self._publish(arrivals)
        except QueueFull:
            if fallback is None:
                raise
            return await self._park(arrivals, now, fallback)
        for arrival in arrivals:
            receipt = call.receipts[arrival.key]
            if receipt.ref is not None:
                self._known[arrival.key] = (now, receipt.ref)
        return call.receipts

    async def _refuse_new(self, arrivals: list[Arrival]) -> None:
        """Refuse, unless all are duplicates of which this node has not heard: they need no room."""
        found = await self._found(arrivals)
        if len(found) < len(arrivals):
            raise self._full()

    def _full(self, why: str = "") -> QueueFull:
        return QueueFull(COMMON, self._desk.depths.gauge(names.COMMON_QUEUE).capacity, 1.0, why)

    # group commit --------------------------------------------------------------------

    async def _publish(self, arrivals: list[Arrival]) -> Call:
        """Have them stored with what else waits.

        Raises:
            QueueFull: there is no room for all of them.
            EngineUnavailable: unknown, for too long.
        """
        call = Call(arrivals, asyncio.get_running_loop().create_future())
        self._desk.depths.gauge(names.COMMON_QUEUE).promise(len(arrivals))
        self._waiting.append(call)
        if self._working is None or self._working.done():
            self._working = asyncio.ensure_future(self._work())
        await call.over
        return call

    async def _work(self) -> None:
        while self._waiting:
            calls = [self._waiting.pop(0)]
            size = len(calls[0].arrivals)
            while self._waiting and size + len(self._waiting[0].arrivals) <= BATCH_MAX:
                size += len(self._waiting[0].arrivals)
                calls.append(self._waiting.pop(0))
            loop = asyncio.get_running_loop()
            began = loop.time()
            if len(calls) == 1 or not await self._together(calls):
                for call in calls:
                    await self._alone(call)
            if self.committed is not None:
                self.committed(loop.time() - began, len(calls))

    async def _together(self, calls: list[Call]) -> bool:
        """Store several calls at once; False where each has to be tried by itself."""
        arrivals = [arrival for call in calls for arrival in call.arrivals]
        try:
            await self._desk.wire.put_all([self._item(arrival) for arrival in arrivals])
        except (Refused, EngineUnavailable):
            return False
        for call in calls:
            self._stored(call, call.arrivals)
        return True

    async def _alone(self, call: Call) -> None:
        rest = call.arrivals
        try:
            for _ in range(_ROUNDS):
                try:
                    stored = await self._desk.wire.put_all([self._item(one) for one in rest])
                except (Duplicated, EngineUnavailable) as error:
                    # Some are known: from before, or from an attempt that was stored after all.
                    found = await self._found(rest)
                    if not found and isinstance(error, EngineUnavailable):
                        raise
                    call.receipts |= found
                    rest = [one for one in rest if one.key not in found]
                    if rest:
                        continue
                    self._stored(call, [])
                    return
                if stored.duplicate:  # a single one
                    call.receipts |= await self._found(rest)
                    rest = []
                self._stored(call, rest)
                return
            what = "the server calls a batch a duplicate, and none of its events"
            self._failed(call, EngineUnavailable(what))
        except Full as full:
            self._failed(call, self._full(full.text))
        except Refused as refused:
            self._failed(call, EngineUnavailable(f"the server refuses an event: {refused}"))
        except Exception as error:  # noqa: BLE001  # whoever called is told
            self._failed(call, error)

    def _stored(self, call: Call, new: list[Arrival]) -> None:
        call.receipts |= {arrival.key: Receipt(arrival.ref) for arrival in new}
        ours = sum(not receipt.duplicate for receipt in call.receipts.values())
        self._desk.depths.gauge(names.COMMON_QUEUE).came(len(call.arrivals), ours)
        if not call.over.done():
            call.over.set_result(None)

    def _failed(self, call: Call, error: Exception) -> None:
        self._desk.depths.gauge(names.COMMON_QUEUE).came(len(call.arrivals), 0)
        if not call.over.done():
            call.over.set_exception(error)

    def _item(self, arrival: Arrival) -> Item:
        event, ref, key = arrival
        now = self._desk.clock.now_s()
        delivery = Delivery(event, ref, COMMON, accepted_at=now, entered_at=now)
        subject = names.subject(names.COMMON_QUEUE, event, ref)
        return Item(subject, key, encode(delivery))

    async def _found(self, arrivals: Sequence[Arrival]) -> dict[str, Receipt]:
        """Return the receipts of those that the server knows already."""
        receipts = await asyncio.gather(*(self._look_up(arrival) for arrival in arrivals))
        return {
            arrival.key: receipt
            for arrival, receipt in zip(arrivals, receipts, strict=True)
            if receipt is not None
        }

    async def _look_up(self, arrival: Arrival) -> Receipt | None:
        wire = self._desk.wire
        stream = names.stream(names.COMMON_QUEUE)
        subject = names.subject(names.COMMON_QUEUE, arrival.event, arrival.ref)
        seq = await wire.known(subject, arrival.key)
        if seq is None:
            return None
        first = await wire.get(stream, seq=seq)
        ref = None if first is None else names.ref_of(first.subject)
        return Receipt(ref, duplicate=ref != arrival.ref)

    # parking at the door ---------------------------------------------------------------

    async def _park(self, arrivals: list[Arrival], now: float, way: Fallback) -> dict[str, Receipt]:
        found = await self._found(arrivals)  # these need no room
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
            raise self._cant_park(str(error)) from error
        refusal = next(filter(None, refusals), None)
        if refusal is not None:
            raise self._cant_park(refusal)
        await asyncio.gather(
            *(desk.wire.put(Item(f"ef.door.{one.key}", one.key, one.ref.encode())) for one in new)
        )
        await desk.ledger.commit([(COMMON, "created", len(new))])
        self._parked.update((one.key, (now, one.ref)) for one in new)
        return found | {one.key: Receipt(one.ref, parked=True) for one in new}

    def _cant_park(self, why: str) -> QueueFull:
        capacity = self._desk.depths.gauge(names.COMMON_QUEUE).capacity
        return self._full(f"capacity {capacity}, and storage can't park: {why}")
