"""Many nodes: what each does of the work, and which of them are there.

A node beats every second. Whoever has heard nothing of one for `OVER_S` calls it missing: it may
have died, or be cut off. Nothing is taken from it for that, its leases end by themselves; it only
has no claim to its name any more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

Role = Literal["accept", "route", "deliver", "recover"]
State = Literal["alive", "missing", "stopped"]

ROLES: tuple[Role, ...] = ("accept", "route", "deliver", "recover")
"""All work there is: taking events in, routing them, delivering, bringing back what is parked."""

BEAT_S = 1.0
OVER_S = 5.0
"""Five beats: a busy machine or a change of a stream's leader loses some."""


def state_of(quiet_s: float, *, stopped: bool) -> State:
    """Return how a node is of which nothing was heard for `quiet_s` seconds."""
    if stopped:
        return "stopped"
    return "alive" if quiet_s < OVER_S else "missing"


def undone(alive: Iterable[Collection[str]]) -> tuple[Role, ...]:
    """Return the roles that none of the living nodes has: work that nobody does."""
    done = {role for roles in alive for role in roles}
    return tuple(role for role in ROLES if role not in done)
