"""What a row of kept deliveries says beside the body: the same in every database."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from eventflow.delivery import Attempt
from eventflow.errors import UnknownName
from eventflow.storage import rows
from eventflow.storage.protocol import Group

if TYPE_CHECKING:
    from collections.abc import Sequence

    from eventflow.event import Event
    from eventflow.storage.protocol import Kept

COLUMNS = (
    *("id", "ref", "topic", "hop", "state", "reason", "cause", "fingerprint"),
    *("type", "event_key", "wake_at_us", "since_us", "size_bytes", "search"),
)
STATES = ("parked", "dead")
_NO_ATTEMPT = Attempt(0.0, 0.0, "")
_SEPARATOR = "\x1f"
_CURSOR = re.compile(r"([0-9a-f]{1,15})-([0-9a-f]{1,15})")


def columns_of(kept: Kept) -> tuple[Any, ...]:
    """Return what a row says of a delivery beside its body, in the order of `COLUMNS`."""
    delivery = kept.delivery
    event = delivery.event
    last = delivery.history[-1] if delivery.history else _NO_ATTEMPT
    return (
        delivery.id,
        delivery.ref,
        delivery.topic,
        delivery.hop,
        kept.state,
        delivery.reason or "",
        last.cause,
        last.fingerprint,
        event.type,
        event_key(event),
        _wake_at_us(kept) if kept.state == "parked" else None,
        rows.micros(kept.since),
        kept.size_bytes,
        _SEPARATOR.join((event.id, event.source, event.subject or "", last.error)).casefold(),
    )


def event_key(event: Event) -> int:
    """Return half the event's key as an integer of 64 bits: a small index, and few share it."""
    return int.from_bytes(event.key_bytes[:8], "big", signed=True)


def _wake_at_us(kept: Kept) -> int:
    """Return when recovery has to look at a parked delivery: it is due, or it expires."""
    due = kept.since if kept.delivery.due_at is None else kept.delivery.due_at
    expires = kept.delivery.expires_at
    return rows.micros(due if expires is None else min(due, expires))


def group_of(line: Sequence[Any], newest: Kept) -> Group:
    """Return a group: `line` is its count, last and first moment, and more."""
    count, last_us, first_us, *_ = line
    delivery = newest.delivery
    last = delivery.history[-1] if delivery.history else _NO_ATTEMPT
    return Group(
        topic=delivery.topic,
        state=newest.state,
        reason=delivery.reason or "",
        cause=last.cause,
        fingerprint=last.fingerprint,
        count=count,
        error=last.error,
        first_at=rows.seconds(first_us),
        last_at=rows.seconds(last_us),
        example=delivery.id,
    )


def cursor(since_us: int, number: int) -> str:
    """Return the text that names a place in a listing: since when, and which row."""
    return f"{since_us:x}-{number:x}"


def position(cursor: str) -> tuple[int, int]:
    """Return since and row number that a cursor names.

    Raises:
        UnknownName: it is no cursor.
    """
    match = _CURSOR.fullmatch(cursor)
    if match is None:
        raise UnknownName("cursor", cursor)
    return int(match[1], 16), int(match[2], 16)
