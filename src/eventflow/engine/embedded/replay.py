"""From the journal's records back to the queues, after a crash or a clean end."""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_never

from eventflow.delivery import COMMON, Delivery
from eventflow.engine.embedded.dedup import key_of
from eventflow.engine.embedded.queues import Anchor, Entry
from eventflow.engine.embedded.records import (
    Accepted,
    Begun,
    Ended,
    Gone,
    Record,
    Returned,
    Routed,
    Sent,
    Started,
    Stated,
    Told,
    delivery_of,
)
from eventflow.engine.refs import Refs, refs_from
from eventflow.errors import JournalUnreadable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from eventflow.engine.embedded.dedup import Key
    from eventflow.engine.embedded.journal import Journal
    from eventflow.engine.embedded.state import State
    from eventflow.event import Event
    from eventflow.storage.protocol import Kept


class Replay:
    """Folds records, oldest first, into entries; then fills the state with those left."""

    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        self.rows: list[Anchor] = []
        self._entries: dict[int, tuple[Entry, bool]] = {}
        """By number, with whether it is in its lane."""
        self._events: dict[int, tuple[Event, Anchor]] = {}
        self._bodies: dict[int, Anchor] = {}
        self._keys: list[tuple[float, list[Key], list[str]]] = []

    def into(self, state: State, kept: Iterable[Kept]) -> None:
        """Read the journal into an empty state.

        Args:
            state: What to fill.
            kept: Whose ids are known as accepted as well: what storage holds of common.

        Raises:
            JournalUnreadable: a record can't be read, or an event that is needed is missing.
        """
        for first, events, size in self.journal.bodies():
            body = Anchor(first, size, len(events))
            self._bodies[first] = body
            for number, event in enumerate(events, first):
                if event is not None:
                    self._events[number] = (event, body)
        for number, records, size in self.journal.rows():
            row = Anchor(number, size)
            self.rows.append(row)
            for record in records:
                self._fold(record, row)
        for one in kept:
            delivery, event = one.delivery, one.delivery.event
            key = key_of(event.source, event.id)
            self._keys.append((delivery.accepted_at, [key], [delivery.ref]))
        self._fill(state)

    def _fold(self, record: Record, row: Anchor) -> None:
        match record:
            case Accepted():
                self._accepted(record, row)
            case Routed(topic, first, commons, at):
                for offset, common in enumerate(commons):
                    self._routed(topic, first + offset, common, at)
            case Stated():
                self._entries.pop(record.replaces, None)
                self._stated(record, row)
            case Gone(numbers):
                for number in numbers:
                    self._entries.pop(number, None)
            case Started(numbers) | Returned(numbers):
                self._started(numbers, started=isinstance(record, Started))
            case Sent() | Ended() | Begun() | Told():
                self._fold_stretch(record, row)
            case _:
                assert_never(record)

    def _fold_stretch(self, record: Sent | Ended | Begun | Told, row: Anchor) -> None:
        match record:
            case Sent(topic, first, common, offsets, at):
                for number, offset in enumerate(offsets, first):
                    self._routed(topic, number, common + offset, at)
            case Ended(spans):
                for number in _within(spans):
                    self._entries.pop(number, None)
            case Begun(spans):
                self._started(_within(spans), started=True)
            case Told():
                self._told(record, row)
            case _:
                assert_never(record)

    def _started(self, numbers: Iterable[int], *, started: bool) -> None:
        for number in numbers:
            if (found := self._entries.get(number)) is not None:
                found[0].started = started

    def _accepted(self, record: Accepted, row: Anchor) -> None:
        refs = refs_from(record.ref, record.count)
        keys, known = [], []
        first_event = record.event_number or record.first
        for offset, ref in enumerate(refs):
            event_number = first_event + offset
            found = self._events.get(event_number)
            if found is None:
                continue  # its whole batch of events is gone: it has left every queue
            event, body = found
            keys.append(key_of(event.source, event.id))
            known.append(ref)
            number = record.first + offset
            delivery = Delivery(event, ref, COMMON, record.at, 0, record.at)
            self._entries[number] = Entry(number, event_number, delivery, row, body), False
        self._keys.append((record.at, keys, known))

    def _routed(self, topic: str, number: int, common: int, at: float) -> None:
        found = self._entries.get(common)
        if found is None:
            return  # see _accepted
        origin, _ = found
        old = origin.delivery
        delivery = Delivery(old.event, old.ref, topic, old.accepted_at, 0, at)
        # It needs the row of its acceptance, which tells of its event and ref.
        entry = Entry(number, origin.event_number, delivery, origin.row, origin.body)
        self._entries[number] = entry, False

    def _told(self, record: Told, row: Anchor) -> None:
        refs = Refs(record.ref, record.offsets)
        for index, offset in enumerate(record.offsets):
            found = self._events.get(record.event_number + offset)
            number = record.number + index
            if found is None:
                # It has ended, or was leased while it was told again: then it is known from before
                # and stands in its first batch still, and nothing needed the one named here.
                continue
            event, body = found
            delivery = Delivery(
                event, refs[index], record.topic, record.accepted_at, 0, record.entered_at
            )
            entry = Entry(number, record.event_number + offset, delivery, row, body)
            self._entries[number] = entry, False

    def _stated(self, record: Stated, row: Anchor) -> None:
        found = self._events.get(record.event_number)
        if found is None:
            return  # a later record says that it is gone, else its events would be here
        event, body = found
        delivery = delivery_of(record.state, event)
        entry = Entry(record.number, record.event_number, delivery, row, body)
        entry.started = record.started
        if delivery.topic == COMMON:  # the row that told of its acceptance may be gone
            self._keys.append(
                (delivery.accepted_at, [key_of(event.source, event.id)], [delivery.ref])
            )
        self._entries[record.number] = entry, record.lane

    def _fill(self, state: State) -> None:
        for number in sorted(self._entries):
            entry, in_lane = self._entries[number]
            topic = entry.delivery.topic
            state.add(entry, state.lane(topic) if in_lane else state.topic(topic))
        state.dead_bodies += [body.number for body in self._bodies.values() if body.live == 0]
        for at, keys, refs in sorted(self._keys, key=_time_of):
            state.dedup.remember(keys, refs, at)

    def check(self, state: State) -> None:
        """Hold what was found against the ledger.

        Raises:
            JournalUnreadable: a delivery was created and is in no place.
        """
        for topic in state.topics:
            missing = state.counts(topic).unaccounted
            if missing:
                raise JournalUnreadable(
                    self.journal.path,
                    f"the ledger of topic {topic!r} counts {missing:+d} deliveries "
                    f"more than its records tell of",
                    "Keep a copy and restore a backup.",
                )


def _within(spans: list[tuple[int, int]]) -> Iterator[int]:
    for start, stop in spans:
        yield from range(start, stop)


def _time_of(accepted: tuple[float, list[Key], list[str]]) -> float:
    return accepted[0]
