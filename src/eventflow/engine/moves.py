"""What a move makes of a delivery, and its row in the audit trail: the same in all engines."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from eventflow.delivery import COMMON, Attempt, Delivery, Reason, Row
from eventflow.policy.decide import MAX_CRASHES

if TYPE_CHECKING:
    from eventflow.delivery import Parked, Place
    from eventflow.engine.protocol import Note, Placing
    from eventflow.event import Event

_HISTORY_MAX = 200
"""Attempts kept with a delivery, the first and the latest ones."""


def moved(  # one move, with all that can be said of it
    old: Delivery, topic: str, place: Place, note: Note | None, now: float, *, routes: bool
) -> Delivery:
    """Return the delivery as it will be in `place`; of a route, the new one in its topic."""
    history = old.history
    if note is not None and note.attempt is not None:
        history = (*history, note.attempt)
        if len(history) > _HISTORY_MAX:
            half = _HISTORY_MAX // 2
            history = history[:half] + history[-half:]
    trace = old.traceback if note is None or note.traceback is None else note.traceback
    return Delivery(
        event=old.event,
        ref=old.ref,
        topic=topic,
        accepted_at=old.accepted_at,
        hop=0 if routes else old.hop + 1,
        entered_at=now,
        tally=getattr(place, "tally", old.tally),
        due_at=getattr(place, "due_at", None),
        reason=getattr(place, "reason", old.reason),
        history=history,
        traceback=trace,
        expiry_lifted=old.expiry_lifted,
        wish=getattr(place, "wish", None),
        owed=() if routes else old.owed,
    )


def brought_back(item: Placing, now: float) -> Delivery:
    """Return a delivery from storage as it will be where it is placed."""
    old = item.delivery
    back: Delivery = msgspec.structs.replace(
        old,
        hop=old.hop + 1,
        entered_at=now,
        tally=getattr(item.place, "tally", old.tally),
        reason=getattr(item.place, "reason", old.reason),
        due_at=None,
    )
    return back


def let_in(event: Event, ref: str, place: Parked, now: float) -> Delivery:
    """Return the delivery of an event that is parked at the door."""
    return Delivery(
        event,
        ref,
        COMMON,
        accepted_at=now,
        entered_at=now,
        tally=place.tally,
        due_at=place.due_at,
        reason=place.reason,
    )


def crashed(old: Delivery, now: float) -> Delivery:
    """Return a delivery that was running when its node died: one more crash is counted."""
    tally = msgspec.structs.replace(old.tally, crashes=old.tally.crashes + 1)
    attempt = Attempt(old.entered_at, now, "crashed", "crash", round=tally.rounds)
    delivery: Delivery = msgspec.structs.replace(old, tally=tally, history=(*old.history, attempt))
    return delivery


def crash_row(delivery: Delivery, now: float) -> dict[str, Any]:
    """Return the row of the trail for a run that died with its node."""
    poison = delivery.tally.crashes >= MAX_CRASHES
    return {
        "at": now,
        "what": f"delivery.{Row.NODE_DIED.value}",
        "ref": delivery.ref,
        "topic": delivery.topic,
        "delivery": delivery.id,
        "hop": delivery.hop,
        "from": "running",
        "to": "queued",
        "reason": Reason.POISON.value if poison else "node_died",
        "tally": msgspec.structs.asdict(delivery.tally),
    }


def audit_row(
    delivery: Delivery, place: Place, was: str, now: float, note: Note | None
) -> dict[str, Any]:
    """Return the row of the trail for a delivery that came to a place."""
    row: dict[str, Any] = {
        "at": now,
        "what": f"delivery.{place.row.value}",
        "ref": delivery.ref,
        "topic": delivery.topic,
        "delivery": delivery.id,
        "hop": delivery.hop,
        "from": was,
        "to": place.__struct_config__.tag,
        "tally": msgspec.structs.asdict(delivery.tally),
    }
    for name in ("reason", "due_at"):
        value = getattr(place, name, None)
        if value is not None:
            row[name] = value
    if note is not None:
        row["because"] = dict(note.because)
        if note.attempt is not None:
            row["attempt"] = msgspec.structs.asdict(note.attempt)
    return row
