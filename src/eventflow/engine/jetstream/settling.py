"""Ending leases (G6, G7): the next place first, then the record in the ledger, then the ack.

All acts of a batch go side by side. Each goes through its tries in rounds: what wants into the same
stream in one round is published together, what wants into storage is put there together. An act
whose next place gave no answer is `lost`: never the next try, or it would be in two places.
"""

from __future__ import annotations

import asyncio
from enum import Enum
from typing import TYPE_CHECKING, Any

import msgspec

from eventflow.delivery import (
    DELIVERED,
    Dead,
    Delivered,
    Delivery,
    Parked,
    Place,
    Queued,
    Released,
    Retrying,
    Row,
)
from eventflow.engine.jetstream import names
from eventflow.engine.jetstream.counting import End
from eventflow.engine.jetstream.publishing import put_each
from eventflow.engine.jetstream.stored import DUE, encode
from eventflow.engine.jetstream.wire import Full, Item, Refused, Stored
from eventflow.engine.moves import audit_row, moved
from eventflow.engine.protocol import Kind, Note, Queue, Route, Settle, Settled
from eventflow.errors import EngineUnavailable, StorageUnanswered, StorageUnavailable
from eventflow.storage.rows import kept_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from eventflow.engine.jetstream.counting import Change
    from eventflow.engine.jetstream.desk import Desk
    from eventflow.engine.jetstream.leasing import Held
    from eventflow.storage.protocol import Kept

LOST = Settled(lost=True)
_FULL = "full"


class Leg:
    """One delivery's way to its next place."""

    __slots__ = (
        "because",
        "came",
        "delivery",
        "held",
        "note",
        "place",
        "routes",
        "topic",
        "tries",
        "unknown",
    )

    def __init__(
        self, held: Held, topic: str, tries: Sequence[Place], note: Note | None, *, routes: bool
    ) -> None:
        self.held = held
        self.topic = topic
        self.tries = list(tries)
        self.note = note
        self.routes = routes
        self.place: Place | None = None
        """Where it went."""
        self.delivery = held.delivery
        """As it is there."""
        self.came = False
        """Whether a stream has stored it now: else it was there already, or is in no stream."""
        self.because = _FULL
        """What the last place said that did not take it."""
        self.unknown = False
        """Whether a place gave no answer."""

    def stays_in(self, queue: Queue) -> bool:
        """Whether it is in this queue or lane already, and is to stay there."""
        return not self.routes and self.held.queue == queue


class Fate(Enum):
    """What becomes of a lease, once its act has tried its next places."""

    OWES = "a topic has no place for it yet: the lease goes on"
    GOES_BACK = "given back: it is leased at this hop again"
    WAITS_ON = "waits on where it is: likewise"
    LEAVES = "no lease of this hop comes after it: its end is counted, once"


class Step:
    """One act."""

    __slots__ = ("act", "fate", "held", "key", "legs")

    def __init__(self, act: Settle | Route, held: Held, legs: list[Leg]) -> None:
        self.act = act
        self.held = held
        self.legs = legs
        self.key = names.end_of(held.queue, held.seq, held.delivery.ref)
        """What the ledger knows the end of its message by."""
        self.fate = Fate.OWES

    def decide(self) -> None:
        """Say what becomes of the lease, from where its legs have come."""
        place: Place | None = None
        back = False
        for leg in self.legs:
            place = leg.place
            if place is None:
                return
            back = back or isinstance(place, Released)
        if back:
            self.fate = Fate.GOES_BACK
        elif isinstance(self.act, Settle) and _stays(place, self.held.queue.kind):
            self.fate = Fate.WAITS_ON
        else:
            self.fate = Fate.LEAVES


class Settlement:
    """One batch of acts."""

    def __init__(self, desk: Desk, acts: Sequence[Any]) -> None:
        self._desk = desk
        self._now = desk.clock.now_s()
        self._rows: list[dict[str, Any]] = []
        self._steps: list[Step | None] = [self._step(act) for act in acts]

    def _step(self, act: Any) -> Step | None:
        if not isinstance(act, Settle | Route):
            raise TypeError(f"expected Settle or Route, got {type(act).__name__}: no runs here")
        held: Held = act.lease.token
        if held.settling or not held.valid(self._now):
            return None
        held.settling = True
        if isinstance(act, Settle):
            legs = [Leg(held, held.delivery.topic, act.tries, act.note, routes=False)]
        else:
            legs = [Leg(held, t.topic, t.tries, t.note, routes=True) for t in act.targets]
        return Step(act, held, legs)

    async def run(self) -> list[Settled]:
        """Carry them out."""
        steps = [step for step in self._steps if step is not None]
        moving = sum(max(1, len(step.legs)) for step in steps)
        self._desk.ledger.begin(moving)
        try:
            await self._move([leg for step in steps for leg in step.legs])
            for step in steps:
                step.decide()
            counted = await self._count(steps)
            await self._end(counted)
            await self._owe([step for step in counted if step.fate is Fate.OWES])
            held = {id(step) for step in counted}
            return [
                LOST if step is None else self._answer(step, sure=id(step) in held)
                for step in self._steps
            ]
        finally:
            self._desk.ledger.over(moving)
            for step in steps:
                step.held.settling = False

    # the next places ------------------------------------------------------------------

    async def _move(self, legs: list[Leg]) -> None:
        while legs:
            streams: dict[Queue, list[Leg]] = {}
            storage: list[Leg] = []
            for leg in legs:
                self._next(leg, streams, storage)
            await asyncio.gather(
                *(self._publish(queue, some) for queue, some in streams.items()),
                self._keep(storage),
            )
            legs = [leg for leg in legs if leg.place is None and leg.tries and not leg.unknown]

    def _next(self, leg: Leg, streams: dict[Queue, list[Leg]], storage: list[Leg]) -> None:
        """Take the next try that may have room, and say where it is to be tried."""
        while leg.tries:
            place = leg.tries[0]
            if place is DELIVERED and not leg.held.delivery.history:
                leg.place = place  # the common case: nothing is told of it, so nothing is made
                return
            leg.delivery = moved(
                leg.held.delivery, leg.topic, place, leg.note, self._now, routes=leg.routes
            )
            match place:
                case Queued() | Retrying():
                    kind = Kind.TOPIC if isinstance(place, Queued) else Kind.LANE
                    queue = Queue(kind, leg.topic)
                    if leg.stays_in(queue):
                        leg.place = place
                        return
                    gauge = self._desk.depths.gauge(queue)
                    if gauge.has_room(leg.held.delivery.event.rank):
                        gauge.promise()
                        streams.setdefault(queue, []).append(leg)
                        return
                    leg.because = _FULL
                case Parked() | Dead():
                    storage.append(leg)
                    return
                case Released() if leg.routes:
                    pass  # what is new can't be given back
                case Delivered() | Released():
                    leg.place = place
                    return
            leg.tries.pop(0)

    async def _publish(self, queue: Queue, legs: Sequence[Leg]) -> None:
        gauge = self._desk.depths.gauge(queue)
        items = [item(queue, leg.delivery) for leg in legs]
        stored = 0
        try:
            outcomes = await put_each(self._desk.wire, items)
            for leg, outcome in zip(legs, outcomes, strict=True):
                place = leg.tries.pop(0)
                if isinstance(outcome, Stored):
                    leg.place, leg.came = place, not outcome.duplicate
                    stored += leg.came
                elif isinstance(outcome, Refused):
                    leg.because = _FULL if isinstance(outcome, Full) else str(outcome)
                else:
                    leg.unknown = True
        finally:
            gauge.came(len(legs), stored)

    async def _keep(self, legs: Sequence[Leg]) -> None:
        if not legs:
            return
        coming: list[Kept] = []
        rows: list[list[dict[str, Any]]] = []
        for leg in legs:
            state = "parked" if isinstance(leg.tries[0], Parked) else "dead"
            coming.append(kept_of(leg.delivery, state, self._now))
            rows.append([self._row(leg, leg.tries[0], leg.delivery)])
        try:
            refusals = await self._desk.storage.keep(coming, rows)
        except StorageUnanswered:  # it may be there: in the next place there would be two of it
            for leg in legs:
                leg.tries.pop(0)
                leg.unknown = True
            return
        except StorageUnavailable as error:
            refusals = [str(error)] * len(legs)
        for leg, refusal in zip(legs, refusals, strict=True):
            place = leg.tries.pop(0)
            if refusal is None:
                leg.place = place
            else:
                leg.because = refusal

    # the ledger and the trail -----------------------------------------------------------

    async def _count(self, steps: Sequence[Step]) -> list[Step]:
        """Write the record; return what stands in it durably, so that its leases may end.

        Left out is what took so long, beside a storage that did not answer, that its lease has run
        out: whoever has it now ends it and counts it. Where it has gone it is known by its hop.
        """
        ledger = self._desk.ledger
        for leg in [leg for step in steps for leg in step.legs]:
            self._audit(leg)
        try:
            # Both may take long, and somebody else may end some of these meanwhile: so before.
            await self._desk.untold.tell(self._rows)
            await ledger.freshen()
            now = self._desk.clock.now_s()
            held = [step for step in steps if step.held.valid(now)]
            leaving = {step.key: step for step in held if step.fate is Fate.LEAVES}
            new = {key: _end(step) for key, step in leaving.items() if not ledger.has(key)}
            again = {id(step) for key, step in leaving.items() if key not in new}
            ledger.end(new, self._now)
            changes = [
                change
                for step in steps
                for leg in step.legs
                if leg.came
                for change in _arrivals(leg, again=id(step) in again)
            ]
            if changes or leaving:  # also what was counted before: it may not be durable yet
                await ledger.commit(changes)
        except EngineUnavailable:
            return []
        return held

    def _audit(self, leg: Leg) -> None:
        place = leg.place
        if isinstance(place, Delivered) and not leg.held.delivery.history:
            return
        if place is None or isinstance(place, Released | Parked | Dead):
            return  # storage wrote the row with the delivery, or nothing has changed
        if isinstance(place, Queued) and place.row in {Row.ROUTED, Row.DUE}:
            return  # no trouble, or the end of a wait that has its row already
        if isinstance(place, Retrying) and leg.held.queue.kind is Kind.LANE:
            return  # a re-check: totalled in the row that ends them
        self._rows.append(self._row(leg, place, leg.delivery))

    def _row(self, leg: Leg, place: Place, delivery: Delivery) -> dict[str, Any]:
        in_lane = leg.held.queue.kind is Kind.LANE
        was = "common" if leg.routes else "retrying" if in_lane else "running"
        return audit_row(delivery, place, was, self._now, leg.note)

    # the old places -------------------------------------------------------------------

    async def _end(self, steps: Sequence[Step]) -> None:
        """Ack what has gone on, give back what was released."""
        leaving = [step for step in steps if step.fate is Fate.LEAVES]
        done, _ = await asyncio.gather(
            self._desk.acked([step.held for step in leaving]),
            self._desk.give_back([step.held for step in steps if step.fate is Fate.GOES_BACK]),
        )
        await asyncio.gather(*(self._wait_on(step) for step in steps if step.fate is Fate.WAITS_ON))
        sure = [step.key for step, ended in zip(leaving, done, strict=True) if ended]
        self._desk.ledger.sure(sure, self._now)

    async def _wait_on(self, step: Step) -> None:
        """Let a delivery wait on where it is: a full lane has no room for a second one of it."""
        (leg,) = step.legs
        held, delivery = step.held, leg.delivery
        held.delivery = delivery
        await self._desk.note(held, started=False)
        delay_s = 0.0 if delivery.due_at is None else delivery.due_at - self._desk.clock.now_s()
        await self._desk.nak([held.reply], delay_s)
        held.ended = True
        self._desk.book.remove(held)

    async def _owe(self, steps: Sequence[Step]) -> None:
        """Note what common's deliveries still owe: the lease goes on with those topics."""
        for step in steps:
            owed = _owed(step)
            if any(leg.place is not None for leg in step.legs):
                held = step.held
                held.delivery = _owing(held.delivery, owed)
                await self._desk.note(held, started=False)

    def _answer(self, step: Step, *, sure: bool) -> Settled:
        if not sure or any(leg.unknown for leg in step.legs):
            step.held.ended = True  # the lease runs out: what is true then is found then
            self._desk.book.remove(step.held)
            return LOST
        if isinstance(step.act, Route):
            if not any(leg.place for leg in step.legs):
                return Settled(
                    refused=step.legs[0].because if step.legs else None, owed=_owed(step)
                )
            return Settled(routed=tuple(leg.place for leg in step.legs), owed=_owed(step))
        (leg,) = step.legs
        if leg.place is None:
            return Settled(refused=leg.because)
        return Settled(taken=leg.place)


def item(queue: Queue, delivery: Delivery) -> Item:
    """Return the message that puts a delivery into a queue or lane."""
    headers = {DUE: repr(delivery.due_at)} if queue.kind is Kind.LANE else {}
    subject = names.subject(queue, delivery.event, delivery.ref)
    return Item(subject, names.move_id(delivery), encode(delivery), headers)


def _end(step: Step) -> End:
    """Return what the end of its message counts as: all there is to be said of routes."""
    topic = step.held.queue.topic
    went_on = isinstance(step.act, Route) or isinstance(step.legs[0].place, Delivered)
    return End(topic, "delivered" if went_on else "moved")


def _arrivals(leg: Leg, *, again: bool) -> Iterator[Change]:
    """Yield what is counted of what has come into a stream.

    Args:
        leg: What has come.
        again: Whether the end of its message was counted before: what it brings is there twice.
    """
    if isinstance(leg.place, Queued):
        yield leg.topic, "placed", 1
    if again:
        yield leg.topic, "repeated", 1


def _owed(step: Step) -> tuple[str, ...]:
    return tuple(leg.topic for leg in step.legs if leg.place is None)


def _owing(old: Delivery, owed: tuple[str, ...]) -> Delivery:
    new: Delivery = msgspec.structs.replace(old, hop=old.hop + 1, owed=owed)
    return new


def _stays(place: Place | None, kind: Kind) -> bool:
    if isinstance(place, Queued):
        return kind is Kind.TOPIC
    return isinstance(place, Retrying) and kind is Kind.LANE
