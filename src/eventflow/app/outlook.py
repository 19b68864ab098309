"""What holds a delivery where it is, what happens next with it, and when. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from eventflow.clock import rfc3339
from eventflow.delivery import COMMON
from eventflow.engine.protocol import Depth

if TYPE_CHECKING:
    from eventflow.delivery import Delivery


class Surroundings(msgspec.Struct, frozen=True, gc=False):
    """How things are with the topic of a delivery."""

    depth: Depth
    now: float
    concurrency: int = 0
    low_water: float = 0.5
    paused: bool = False
    orphan: bool = False
    node_runs: bool = True


class Outlook(msgspec.Struct, frozen=True, gc=False):
    """What becomes of a delivery, as far as that can be told."""

    held_by: str | None
    """What it waits for; None: nothing keeps it."""
    next: str
    next_at: float | None
    """Not before then, seconds since 1970; None: that hangs on something else than time."""


def outlook(one: Delivery, state: str, around: Surroundings) -> Outlook:
    """Return what a delivery waits for and what happens next.

    Args:
        one: The delivery.
        state: "queued", "running", "retrying", "parked" or "dead".
        around: How things are with its topic.
    """
    held = _held_by(one, state, around)
    if not around.node_runs and state != "dead":
        held = "its node is not running" + (f"; then {held}" if held else "")
    match state:
        case "queued" if one.topic == COMMON:
            return Outlook(held, "is routed to its topics", None)
        case "queued":
            return Outlook(held, f"runs as soon as topic {one.topic!r} starts it", None)
        case "running":
            return Outlook(held, "ends when its handler does, or at the topic's timeout", None)
        case "retrying" if one.wish is not None:
            return Outlook(held, "goes to storage, if that takes it then", one.due_at)
        case "retrying":
            where = f"goes back into topic {one.topic!r} if that has room then"
            return Outlook(held, where, one.due_at)
        case "parked":
            return Outlook(held, f"comes back into topic {one.topic!r}", one.due_at)
        case _:
            return Outlook(None, "nothing, unless a person replays or discards it", None)


def _held_by(one: Delivery, state: str, around: Surroundings) -> str | None:
    topic, depth = f"topic {one.topic!r}", around.depth
    stands = None
    if around.orphan:
        stands = f"{topic} is not in the configuration any more, so nothing of it runs"
    elif around.paused:
        stands = f"{topic} is paused"
    match state:
        case "queued" if stands is None and 0 < around.concurrency <= depth.running:
            return (
                f"all {around.concurrency} slots of {topic} are taken, and {depth.queued} "
                f"{'delivery waits' if depth.queued == 1 else 'deliveries wait'} in it"
            )
        case "queued":
            return stands
        case "retrying" | "parked" if one.due_at is not None and one.due_at > around.now:
            waits = f"its time has not come: {rfc3339(one.due_at)}"
            return f"{waits}; and {stands}" if stands else waits
        case "parked" if stands is not None:
            return stands
        case "parked" if depth.capacity and _fill(depth) >= around.low_water:
            return (
                f"{topic} is filled {_fill(depth):.0%} ({depth.queued} queued, {depth.running} "
                f"running of {depth.capacity}); it has to be below {around.low_water:.0%}"
            )
        case _:
            return None


def _fill(depth: Depth) -> float:
    return (depth.queued + depth.running) / depth.capacity
