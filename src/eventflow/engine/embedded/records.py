"""What the journal says: one record for each thing that happened, many of them to a row.

    Accepted   a batch of events came into common
    Routed     events of common came into a topic's queue, without trouble: no state to tell
    Stated     a delivery's whole state, at its new place (or at the same, when the journal is
               cleaned of the older rows that told of it)
    Gone       entries that are in no queue any more: routed on, delivered, parked or dead
    Started    entries that were leased: if the node dies now, it died while they ran
    Returned   entries whose lease ended without a run: the start does not count
    Sent       as Routed, for events of one accepted batch
    Ended      as Gone, for stretches of entries
    Begun      as Started, for stretches of entries
    Told       as Stated, for a stretch of entries without trouble

Replaying all records in order gives the queues. A record needs nothing older than the row that
an entry is anchored in, see `Entry.row`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from eventflow.delivery import Attempt, Dead, Delivery, Parked, Reason, Tally
from eventflow.event import Event

if TYPE_CHECKING:
    from eventflow.engine.embedded.queues import Entry

FORMAT = 1
"""Of the records. A reader refuses a greater one."""


class Accepted(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=1):
    """Events came into common, numbered from `first`."""

    first: int
    ref: str
    """The first one's; the others' follow by counting up."""
    count: int
    at: float
    event_number: int = 0
    """Where its first event stands in the bodies; 0: at `first`, as in version 1."""


class Routed(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=2):
    """New entries in a topic's queue, numbered from `first`, for these entries of common."""

    topic: str
    first: int
    commons: list[int]
    at: float


class State(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A delivery without its event."""

    ref: str
    topic: str
    accepted_at: float
    hop: int
    entered_at: float
    tally: Tally
    due_at: float | None
    reason: Reason | None
    history: tuple[Attempt, ...]
    traceback: str | None
    expiry_lifted: bool
    wish: Parked | Dead | None
    owed: tuple[str, ...]


class Stated(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=3):
    """A delivery's whole state. It takes the place of entry `replaces`, if there is one."""

    number: int
    event_number: int
    replaces: int
    """0: nothing (a new delivery). The same as `number`: told again."""
    lane: bool
    """In the topic's lane, not in its queue."""
    started: bool
    state: State


class Gone(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=4):
    """Entries that are in no queue any more."""

    numbers: list[int]


class Started(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=5):
    """Entries that are being run."""

    numbers: list[int]


class Returned(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=6):
    """Entries that were leased and given back without a run."""

    numbers: list[int]


class Sent(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=7):
    """New entries in a topic's queue, numbered from `first`, for these of a batch in common."""

    topic: str
    first: int
    common: int
    """Number of the batch's first entry in common."""
    offsets: Sequence[int]
    """Of each, how far from that it is."""
    at: float


class Ended(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=8):
    """Stretches of entries that are in no queue any more."""

    spans: list[tuple[int, int]]
    """First number and the one after the last."""


class Begun(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=9):
    """Stretches of entries of which those that are still there are being run."""

    spans: list[tuple[int, int]]


class Told(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=10):
    """Plain deliveries that wait in a topic's queue, told again: numbered from `number`."""

    topic: str
    number: int
    event_number: int
    """Where the event of the batch's first one stands, or would stand."""
    ref: str
    """Of the batch's first one."""
    offsets: Sequence[int]
    """Of each, how far from those it is."""
    accepted_at: float
    entered_at: float


Record = Accepted | Routed | Stated | Gone | Started | Returned | Sent | Ended | Begun | Told

encode = msgspec.msgpack.Encoder().encode
decode_records = msgspec.msgpack.Decoder(list[Record]).decode
decode_events = msgspec.msgpack.Decoder(list[Event | None]).decode


def state_of(delivery: Delivery) -> State:
    """Return what the journal keeps of a delivery beside its event."""
    return State(
        delivery.ref,
        delivery.topic,
        delivery.accepted_at,
        delivery.hop,
        delivery.entered_at,
        delivery.tally,
        delivery.due_at,
        delivery.reason,
        delivery.history,
        delivery.traceback,
        delivery.expiry_lifted,
        delivery.wish,
        delivery.owed,
    )


def stated(entry: Entry) -> Stated:
    """Return the record that tells an entry's state again, at the place where it is."""
    return Stated(
        number=entry.number,
        event_number=entry.event_number,
        replaces=entry.number,
        lane=entry.in_lane,
        started=entry.started,
        state=state_of(entry.delivery),
    )


def delivery_of(state: State, event: Event) -> Delivery:
    """Return the delivery that the journal kept."""
    fields: dict[str, Any] = {name: getattr(state, name) for name in State.__struct_fields__}
    return Delivery(event=event, **fields)
