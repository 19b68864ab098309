"""What a person's act makes of a kept delivery, and its row in the trail, in any storage."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from eventflow.delivery import Delivery, Reason, Row, Tally
from eventflow.storage.rows import kept_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from eventflow.storage.protocol import Actor, Kept

MAX_REPLAYS = 20
"""Replays of one delivery before it is refused: a loop guard."""


def replayed(kept: Kept | None, now: float) -> tuple[str, Kept | None]:
    """Return the answer for one delivery, and what is kept from now on if it changes."""
    if kept is None:
        return "unknown", None
    old = kept.delivery
    if kept.state == "parked" and old.reason is Reason.REPLAYED:
        return "already", None
    if old.tally.replays >= MAX_REPLAYS:
        return "max_replays", None
    new = msgspec.structs.replace(
        old,
        hop=old.hop + 1,
        entered_at=now,
        tally=Tally(replays=old.tally.replays + 1),
        reason=Reason.REPLAYED,
        due_at=now,
        expiry_lifted=True,
    )
    return "replayed", kept_of(new, "parked", now)


def act_row(  # the columns of a row
    delivery: Delivery, row: Row, was: str, to: str, now: float, by: Actor
) -> dict[str, Any]:
    """Return the row of the trail for what a person did to a delivery."""
    return {
        "at": now,
        "what": f"delivery.{row.value}",
        "ref": delivery.ref,
        "topic": delivery.topic,
        "delivery": delivery.id,
        "hop": delivery.hop,
        "from": was,
        "to": to,
        "by": by.name,
        "why": by.why,
        "tally": msgspec.structs.asdict(delivery.tally),
    }


def override_row(
    topic: str, values: Mapping[str, Any] | None, now: float, by: Actor
) -> dict[str, Any]:
    """Return the row of the trail for settings made at run time."""
    return {
        "at": now,
        "what": "topic.overridden",
        "topic": topic,
        "by": by.name,
        "why": by.why,
        "to": None if values is None else dict(values),
    }


def settings_row(changed: Sequence[str], now: float, by: Actor) -> dict[str, Any]:
    """Return the row of the trail for a configuration that was read again."""
    return {
        "at": now,
        "what": "settings.applied",
        "by": by.name,
        "why": by.why,
        "changed": list(changed),
    }
