"""Ending leases: which place each delivery takes, in one transaction for the whole batch.

The everyday ways are planned in bulk: delivered at once, and routed to queues that have room.
Everything else (a move to a lane, to storage, back to a queue) is a `Step` of its own. Room is
promised when a step is planned and taken when its commit is durable; if storage refuses, the step
is undone alone and tried again with the next place.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, assert_never

import msgspec

from eventflow.delivery import (
    CLEAN,
    COMMON,
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
from eventflow.engine.embedded.journal import Change, StorageUnit
from eventflow.engine.embedded.queues import OUT, SETTLING, Anchor, BoundedQueue, Entry, Lane
from eventflow.engine.embedded.records import (
    Ended,
    Gone,
    Returned,
    Routed,
    Stated,
    state_of,
    stated,
)
from eventflow.engine.moves import audit_row, moved
from eventflow.engine.protocol import Act, Note, Route, Settle, Settled
from eventflow.storage.rows import kept_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from eventflow.engine.embedded.committer import Committer, Txn
    from eventflow.engine.embedded.run import Run
    from eventflow.engine.embedded.state import State
    from eventflow.storage.protocol import Kept

    Spans = Sequence[tuple[int, int]]

SETTLED_DELIVERED = Settled(taken=DELIVERED)
LOST = Settled(lost=True)


class Leg(NamedTuple):
    """One delivery's way to one place, planned."""

    place: Place
    delivery: Delivery
    """As it will be there."""
    number: int
    kept: Kept | None
    to: BoundedQueue | Lane | None
    promised: bool
    """Whether a place in `to` is reserved for it; where it is already, it needs none."""


class Step:
    """One act that is not an everyday one."""

    __slots__ = ("act", "body", "entry", "event_number", "index", "legs", "owed", "targets", "unit")

    def __init__(self, index: int, act: Settle | Route, entry: Entry) -> None:
        self.index = index
        self.act = act
        self.entry = entry
        self.targets: list[tuple[str, tuple[Place, ...], Note | None]]
        if isinstance(act, Route):
            self.targets = [(target.topic, target.tries, target.note) for target in act.targets]
        else:
            self.targets = [(entry.delivery.topic, act.tries, act.note)]
        self.legs: list[Leg | None] = []
        self.owed: tuple[str, ...] = ()
        self.unit: StorageUnit | None = None
        self.event_number = 0
        self.body = entry.body

    @property
    def routes(self) -> bool:
        """Whether it makes new deliveries of one in common."""
        return isinstance(self.act, Route)


class Settlement:
    """Plans a batch of acts into one transaction, and applies it when that is durable."""

    def __init__(self, state: State, committer: Committer, now: float, txn: Txn) -> None:
        self.state = state
        self.committer = committer
        self.now = now
        self.txn = txn
        self.delivered: list[Entry] = []
        self.released: list[Entry] = []
        self.left: list[Entry] = []
        """Entries of common that have been routed, all the everyday way."""
        self.routed: dict[str, list[Entry]] = {}
        """By topic: entries of common that come into its queue."""
        self.first: dict[str, int] = {}
        self.steps: list[Step] = []
        self.finished: list[tuple[Run, Spans]] = []

    # planning ----------------------------------------------------------------

    def add(self, index: int, act: Settle | Route, entry: Entry) -> Settled | None:
        """Plan one act; return the answer where it is known already."""
        entry.settling = True
        if type(act) is Settle:
            place = act.tries[0] if act.tries else None
            if type(place) is Delivered and not entry.delivery.history:
                self.delivered.append(entry)
                return SETTLED_DELIVERED
            if type(place) is Released:
                self.released.append(entry)
                return Settled(taken=place)
        elif type(act) is Route and self._all_have_room(act, entry):
            for target in act.targets:
                self.routed.setdefault(target.topic, []).append(entry)
                self.state.topics[target.topic].reserved += 1
            self.left.append(entry)
            return Settled(routed=tuple(target.tries[0] for target in act.targets))
        self.steps.append(Step(index, act, entry))
        return None

    def finish(self, run: Run, spans: Spans) -> Settled:
        """Plan the end of deliveries of a run; each of them is leased with it."""
        for start, stop in spans:
            run.states[start:stop] = bytes((SETTLING,)) * (stop - start)
        self.finished.append((run, spans))
        return SETTLED_DELIVERED

    def _all_have_room(self, act: Route, entry: Entry) -> bool:
        topics = self.state.topics
        rank = entry.delivery.event.rank
        for target in act.targets:
            place = target.tries[0] if target.tries else None
            if type(place) is not Queued or place.tally is not CLEAN or target.note is not None:
                return False
            queue = topics.get(target.topic)
            if queue is None or not queue.has_room(rank):
                return False
        return True

    def plan(self) -> bool:
        """Write the transaction; False where there is nothing to write."""
        change = self.txn.change
        for topic, commons in self.routed.items():
            first = self.committer.take_numbers(len(commons))
            self.first[topic] = first
            numbers = [entry.number for entry in commons]
            change.records.append(Routed(topic, first, numbers, self.now))
            change.count(topic, created=len(commons))
        for step in self.steps:
            self._plan_step(step)
        gone = [entry.number for entry in self.delivered]
        gone += [entry.number for entry in self.left]
        if gone:
            change.records.append(Gone(gone))
        if self.left:
            change.count(COMMON, delivered=len(self.left))
        for entry in self.delivered:
            change.count(entry.delivery.topic, delivered=1)
        if self.finished:
            self._plan_finished(change)
        returned = [entry.number for entry in self.released if entry.started]
        if returned:
            change.records.append(Returned(returned))
        planned = bool(change.records or self.txn.units or self.steps or self.released)
        if planned:  # a transaction that holds this and is never submitted would not let go of it
            self.txn.apply, self.txn.undo = self.apply, self.undo
        return planned

    def _plan_finished(self, change: Change) -> None:
        ended: list[tuple[int, int]] = []
        for run, spans in self.finished:
            first = run.number
            ended += [(first + start, first + stop) for start, stop in spans]
            count = sum(stop - start for start, stop in spans)
            change.count(run.queue.queue.topic, delivered=count)
        change.records.append(Ended(ended))

    def _plan_step(self, step: Step) -> None:
        entry = step.entry
        step.event_number, step.body = entry.event_number, entry.body
        step.body.live += 1  # until it is applied: cleaning may rebase the entry meanwhile
        step.legs = [self._leg(step, *target) for target in step.targets]
        step.owed = tuple(
            target[0] for target, leg in zip(step.targets, step.legs, strict=True) if leg is None
        )
        change = Change()
        legs = [leg for leg in step.legs if leg is not None]
        if legs:
            self._write(step, legs, change)
        kept = [leg.kept for leg in legs if leg.kept is not None]
        if kept:
            step.unit = StorageUnit(change, keep=kept)
            self.txn.units.append(step.unit)
        else:
            self.txn.change.join(change)

    def _leg(
        self, step: Step, topic: str, tries: tuple[Place, ...], note: Note | None
    ) -> Leg | None:
        """Return the way to the first place that has room, None where none has."""
        self.state.topic(topic)
        for place in tries:
            match place:
                case Queued():
                    leg = self._leg_into(step, self.state.topic(topic), place, note)
                case Retrying():
                    leg = self._leg_into(step, self.state.lane(topic), place, note)
                case Parked() | Dead():
                    leg = self._leg_to_storage(step, topic, place, note)
                case Released() if step.routes:
                    leg = None  # what is new can't be given back
                case Delivered() | Released():
                    delivery = self._moved(step, topic, place, note)
                    leg = Leg(place, delivery, 0, None, None, promised=False)
                case _:
                    assert_never(place)
            if leg is not None:
                return leg
        return None

    def _leg_into(
        self, step: Step, to: BoundedQueue | Lane, place: Place, note: Note | None
    ) -> Leg | None:
        # What is in this very queue or lane may stay: its own place is free for it.
        stays = to is self._place_of(step.entry)
        if not stays:
            if not to.has_room(step.entry.delivery.event.rank):
                return None
            to.reserved += 1
        delivery = self._moved(step, to.queue.topic, place, note)
        number = self.committer.take_numbers(1)
        return Leg(place, delivery, number, None, to, promised=not stays)

    def _leg_to_storage(
        self, step: Step, topic: str, place: Parked | Dead, note: Note | None
    ) -> Leg | None:
        state = self.state
        delivery = self._moved(step, topic, place, note)
        kept = kept_of(delivery, "parked" if isinstance(place, Parked) else "dead", self.now)
        taken = state.storage_bytes + state.storage_reserved
        if taken + kept.size_bytes > state.plan.storage_max_bytes:
            return None
        state.storage_reserved += kept.size_bytes
        return Leg(place, delivery, 0, kept, None, promised=False)

    def _moved(self, step: Step, topic: str, place: Place, note: Note | None) -> Delivery:
        return moved(step.entry.delivery, topic, place, note, self.now, routes=step.routes)

    def _write(self, step: Step, legs: list[Leg], change: Change) -> None:
        entry = step.entry
        replaces = 0 if step.routes else entry.number
        for leg in legs:
            if leg.to is not None:
                change.records.append(
                    Stated(
                        number=leg.number,
                        event_number=step.event_number,
                        replaces=replaces,
                        lane=isinstance(leg.to, Lane),
                        started=False,
                        state=state_of(leg.delivery),
                    )
                )
            elif isinstance(leg.place, Released):
                if entry.started:
                    change.records.append(Returned([entry.number]))
                return
            elif not step.routes:
                change.records.append(Gone([entry.number]))
            if step.routes:
                change.count(leg.delivery.topic, created=1)
            if isinstance(leg.place, Delivered):
                change.count(leg.delivery.topic, delivered=1)
        if step.routes and step.owed:
            told = stated(entry)
            change.records.append(msgspec.structs.replace(told, state=state_of(self._owing(step))))
        elif step.routes:
            change.records.append(Gone([entry.number]))
            change.count(COMMON, delivered=1)
        self._audit(step, legs, change)

    def _owing(self, step: Step) -> Delivery:
        old = step.entry.delivery
        return msgspec.structs.replace(old, hop=old.hop + 1, owed=step.owed)

    def _audit(self, step: Step, legs: list[Leg], change: Change) -> None:
        was = "common" if step.routes else ("retrying" if step.entry.in_lane else "running")
        notes = {target[0]: target[2] for target in step.targets}
        for leg in legs:
            place = leg.place
            if isinstance(place, Queued) and place.row in {Row.ROUTED, Row.DUE}:
                continue  # no trouble, or the end of a wait that has its row already
            if isinstance(place, Retrying) and step.entry.in_lane:
                continue  # a re-check: totalled in the row that ends them
            change.audit.append(
                audit_row(leg.delivery, place, was, self.now, notes.get(leg.delivery.topic))
            )

    # when the commit is known ------------------------------------------------

    def apply(self, _: Txn, row: Anchor) -> None:
        """Change queues and counters as the durable transaction says."""
        state = self.state
        for topic, commons in self.routed.items():
            self._apply_routed(topic, commons)
        if self.left:
            self._end(state.common, self.left)
            state.tallies[COMMON].delivered += len(self.left)
        for entry in self.delivered:
            topic = entry.delivery.topic
            place = state.lanes[topic] if entry.in_lane else state.topics[topic]
            place.running.pop(entry.number, None)
            state.forget(entry)
            state.tallies[topic].delivered += 1
        for run, spans in self.finished:
            state.tallies[run.queue.queue.topic].delivered += state.end(run, spans)
        for entry in self.released:
            self._give_back(entry)
        for step in self.steps:
            self._apply_step(step, row)

    def _apply_routed(self, topic: str, commons: list[Entry]) -> None:
        state, now = self.state, self.now
        queue = state.topics[topic]
        number = self.first[topic]
        queue.reserved -= len(commons)
        state.tallies[topic].created += len(commons)
        for common in commons:
            old = common.delivery
            delivery = Delivery(old.event, old.ref, topic, old.accepted_at, 0, now)
            state.add(Entry(number, common.event_number, delivery, common.row, common.body), queue)
            number += 1
        wake(queue)

    def _end(self, queue: BoundedQueue, entries: Sequence[Entry]) -> None:
        for entry in entries:
            queue.running.pop(entry.number, None)
            self.state.forget(entry)

    def _give_back(self, entry: Entry) -> None:
        place = self._place_of(entry)
        place.running.pop(entry.number, None)
        entry.lease, entry.settling, entry.started = None, False, False
        place.put_back(entry)
        wake(place)

    def _apply_step(self, step: Step, row: Anchor) -> None:
        refused = step.unit is not None and step.unit.refused is not None
        self._return_promises(step)
        entry = step.entry
        if refused or not any(step.legs):
            entry.settling = False
        else:
            self._apply_legs(step, row)
        self.state.unpin(step.body)

    def _apply_legs(self, step: Step, row: Anchor) -> None:
        state, entry = self.state, step.entry
        for leg in step.legs:
            if leg is None:
                continue
            if isinstance(leg.place, Released):
                self._give_back(entry)
                return
            tallies = state.tallies[leg.delivery.topic]
            if step.routes:
                tallies.created += 1
            if isinstance(leg.place, Delivered):
                tallies.delivered += 1
            if leg.kept is not None:
                tallies.move_kept(leg.kept.state, 1)
                state.storage_bytes += leg.kept.size_bytes
            elif leg.to is not None:
                state.add(
                    Entry(leg.number, step.event_number, leg.delivery, row, step.body), leg.to
                )
                wake(leg.to)
        if step.routes and step.owed:
            entry.anchor_in(row)
            # What the record says counts, also where cleaning has moved its event meanwhile.
            state.rebase(entry, step.event_number, step.body)
            entry.delivery, entry.settling = self._owing(step), False
            return
        self._place_of(entry).running.pop(entry.number, None)
        if step.routes:
            state.tallies[COMMON].delivered += 1
        state.forget(entry)

    def _return_promises(self, step: Step) -> None:
        for leg in step.legs:
            if leg is None:
                continue
            if leg.to is not None and leg.promised:
                leg.to.reserved -= 1
            if leg.kept is not None:
                self.state.storage_reserved -= leg.kept.size_bytes

    def undo(self) -> None:
        """Nothing happened: every lease is as it was."""
        for topic, commons in self.routed.items():
            self.state.topics[topic].reserved -= len(commons)
        for entry in (*self.delivered, *self.released, *self.left):
            entry.settling = False
        for run, spans in self.finished:
            for start, stop in spans:
                run.states[start:stop] = bytes((OUT,)) * (stop - start)
            run.stand_again(self.now)
        for step in self.steps:
            self._return_promises(step)
            step.entry.settling = False
            self.state.unpin(step.body)

    def _place_of(self, entry: Entry) -> BoundedQueue | Lane:
        topic = entry.delivery.topic
        return self.state.lanes[topic] if entry.in_lane else self.state.topics[topic]

    # answering ---------------------------------------------------------------

    def answer(self, step: Step) -> tuple[Settled | None, Act | None]:
        """Return the answer to a step, or the act to try next because storage refused."""
        if step.unit is not None and step.unit.refused is not None:
            return None, without_storage_tried(step)
        if not any(step.legs):
            return Settled(refused="full", owed=step.owed if step.routes else ()), None
        places = tuple(None if leg is None else leg.place for leg in step.legs)
        if step.routes:
            return Settled(routed=places, owed=step.owed), None
        return Settled(taken=places[0]), None


def without_storage_tried(step: Step) -> Settle | Route:
    """Return the step's act without the places that storage has just refused."""

    def rest(tries: tuple[Place, ...], leg: Leg | None) -> tuple[Place, ...]:
        if leg is None or leg.kept is None:
            return tries
        return tries[tries.index(leg.place) + 1 :]

    act = step.act
    if isinstance(act, Settle):
        return msgspec.structs.replace(act, tries=rest(act.tries, step.legs[0]))
    return Route(
        act.lease,
        tuple(
            msgspec.structs.replace(target, tries=rest(target.tries, leg))
            for target, leg in zip(act.targets, step.legs, strict=True)
        ),
    )


def wake(place: BoundedQueue | Lane) -> None:
    """Let those who wait for something in this place look again."""
    while place.waiters:
        waiter = place.waiters.popleft()
        if not waiter.done():
            waiter.set_result(None)
