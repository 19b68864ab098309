"""Group commit into one queue: calls that come at once share a batch, each is all or nothing.

The server knows ids for the dedup window; it is asked about all that this node has not seen itself.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, NamedTuple

from eventflow.delivery import Delivery
from eventflow.engine.jetstream import names
from eventflow.engine.jetstream.publishing import BATCH_MAX
from eventflow.engine.jetstream.stored import encode
from eventflow.engine.jetstream.wire import Duplicated, Full, Item, Refused
from eventflow.engine.protocol import Receipt
from eventflow.errors import EngineUnanswered, EngineUnavailable, QueueFull

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from eventflow.engine.jetstream.desk import Desk
    from eventflow.engine.jetstream.wire import Stored
    from eventflow.engine.protocol import Queue
    from eventflow.event import Event

_ATOMIC_MAX = 1_000
"""What the server takes as one batch."""
_ROUNDS = 5
"""How often duplicates are looked for before giving up: each finds some, or the batch is stored."""
_APART = 8
"""How many calls of one event are tried at once, each by itself."""
_BATCHES_APART = 2
"""How many of several events: all nodes together may have 50 batches under way in a stream."""
_SAID_BY_WHOM = (
    "a server refuses it ({}) and shows room for it: the others may have left that server behind, "
    "and their leader may have stored it"
)


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


class Entrance:
    """The way into the stream of common, or of one topic."""

    def __init__(self, desk: Desk, queue: Queue, committed: Callable[[float, int], None]) -> None:
        """Of `committed`: told how long each batch took, in seconds, and how many calls it held."""
        self._desk = desk
        self._queue = queue
        self._committed = committed
        self._waiting: list[Call] = []
        self._working: asyncio.Task[None] | None = None

    def has_room(self, arrivals: Sequence[Arrival]) -> bool:
        """Return whether all of them fit, as far as this node knows (G3)."""
        gauge = self._desk.depths.gauge(self._queue)
        urgent = sum(arrival.event.rank < 2 for arrival in arrivals)
        count = len(arrivals)
        fits = gauge.has_room(0, count) and gauge.has_room(2, count - urgent)
        return fits and count <= _ATOMIC_MAX

    def full(self, why: str = "") -> QueueFull:
        """Return the error of who finds no room."""
        return QueueFull(self._queue.topic, self._desk.depths.gauge(self._queue).capacity, 1.0, why)

    async def store(self, arrivals: list[Arrival]) -> dict[str, Receipt]:
        """Have them stored with what else waits, and return their receipts by key.

        Raises:
            QueueFull: there is no room for all of them.
            EngineUnavailable: unknown, for too long.
        """
        call = Call(arrivals, asyncio.get_running_loop().create_future())
        self._desk.depths.gauge(self._queue).promise(len(arrivals))
        self._waiting.append(call)
        if self._working is None or self._working.done():
            self._working = asyncio.ensure_future(self._work())
        await call.over
        return call.receipts

    async def found(self, arrivals: Sequence[Arrival]) -> dict[str, Receipt]:
        """Return the receipts of those that the server knows already, by key."""
        receipts = await asyncio.gather(*(self._look_up(arrival) for arrival in arrivals))
        return {
            arrival.key: receipt
            for arrival, receipt in zip(arrivals, receipts, strict=True)
            if receipt is not None
        }

    async def _work(self) -> None:
        while self._waiting:
            calls = [self._waiting.pop(0)]
            size = len(calls[0].arrivals)
            while self._waiting and size + len(self._waiting[0].arrivals) <= BATCH_MAX:
                size += len(self._waiting[0].arrivals)
                calls.append(self._waiting.pop(0))
            loop = asyncio.get_running_loop()
            began = loop.time()
            if len(calls) == 1:
                await self._alone(calls[0])
            elif not await self._together(calls):
                await self._apart(calls)
            self._committed(loop.time() - began, len(calls))

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

    async def _apart(self, calls: list[Call]) -> None:
        """Store each call by itself, some at once: those that come meanwhile wait for the last."""
        slots, for_batches = asyncio.Semaphore(_APART), asyncio.Semaphore(_BATCHES_APART)

        async def one(call: Call) -> None:
            async with for_batches if len(call.arrivals) > 1 else slots:
                await self._alone(call)

        await asyncio.gather(*map(one, calls))

    async def _alone(self, call: Call) -> None:
        rest = call.arrivals
        try:
            for _ in range(_ROUNDS):
                try:
                    stored = await self._put(rest)
                except (Duplicated, Full, EngineUnavailable) as error:
                    # Some are known: from before, or from an attempt that was stored after all.
                    found = await self.found(rest)
                    if not found and not isinstance(error, Duplicated):
                        raise
                    call.receipts |= found
                    rest = [one for one in rest if one.key not in found]
                    if rest:
                        continue
                    self._stored(call, [])
                    return
                if stored.duplicate:  # a single one
                    call.receipts |= await self.found(rest)
                    rest = []
                self._stored(call, rest)
                return
            what = "the server calls a batch a duplicate, and none of its events"
            self._failed(call, EngineUnavailable(what))
        except Full as full:
            self._failed(call, self.full(full.text))
        except Refused as refused:
            self._failed(call, EngineUnavailable(f"the server refuses an event: {refused}"))
        except Exception as error:  # noqa: BLE001  # whoever called is told
            self._failed(call, error)

    async def _put(self, arrivals: Sequence[Arrival]) -> Stored:
        """Store them, or none.

        A server that the others have left behind takes itself for the leader still, and says "full"
        of what it could not agree on with them, while their leader stores it. It shows room then.
        """
        said = ""
        for _ in range(2):  # there may be room again
            try:
                return await self._desk.wire.put_all([self._item(one) for one in arrivals])
            except Full as full:
                if not await self._desk.depths.shows_room(self._queue, len(arrivals)):
                    raise
                said = full.text
        raise EngineUnanswered(_SAID_BY_WHOM.format(said))

    def _stored(self, call: Call, new: list[Arrival]) -> None:
        call.receipts |= {arrival.key: Receipt(arrival.ref) for arrival in new}
        ours = sum(not receipt.duplicate for receipt in call.receipts.values())
        self._desk.depths.gauge(self._queue).came(len(call.arrivals), ours)
        if not call.over.done():
            call.over.set_result(None)

    def _failed(self, call: Call, error: Exception) -> None:
        self._desk.depths.gauge(self._queue).came(len(call.arrivals), 0)
        if not call.over.done():
            call.over.set_exception(error)

    def _item(self, arrival: Arrival) -> Item:
        event, ref, key = arrival
        now = self._desk.clock.now_s()
        # In a topic it is what a route from common would have made of it: hop 0, and no trouble.
        delivery = Delivery(event, ref, self._queue.topic, accepted_at=now, entered_at=now)
        return Item(names.subject(self._queue, event, ref, key), key, encode(delivery))

    async def _look_up(self, arrival: Arrival) -> Receipt | None:
        wire = self._desk.wire
        subject = names.subject(self._queue, *arrival)
        seq = await wire.known(subject, arrival.key)
        if seq is None:
            return None
        first = await wire.get(names.stream(self._queue), seq=seq)
        ref = None if first is None else names.ref_of(first.subject)
        return Receipt(ref, duplicate=ref != arrival.ref)
