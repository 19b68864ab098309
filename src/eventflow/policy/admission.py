"""Who may come in: room in bounded queues, and what a door says when there is none (G3).

The last tenth of every capacity is kept for critical and high, so that a flood of ordinary
events can't shut out the urgent ones. Exactly: with `depth` deliveries in a queue, leased ones
included, one more of rank 0 (critical) or 1 (high) fits while depth < capacity, one more of rank 2
(normal) or 3 (low) while depth < capacity - reserve(capacity). A capacity below 10 has no reserve.
"""

from __future__ import annotations

from math import ceil

FIRST_ORDINARY_RANK = 2
"""Ranks below are urgent: critical and high. See `Event.rank`."""

DOORS_CLOSE_AT_PERCENT = 95
"""Of secondary storage's `max_size`: the rest is for what was accepted before."""

LONGEST_RETRY_AFTER_S = 300


def reserve(capacity: int) -> int:
    """Return how many places of a queue only critical and high may take."""
    return capacity // 10


def room(depth: int, capacity: int, rank: int, incoming: int) -> int:
    """Return how many of `incoming` deliveries of one rank fit, 0 to `incoming`.

    Args:
        depth: Deliveries in the queue, leased ones included.
        capacity: Deliveries it may hold. Depth may be above it, after it was lowered.
        rank: 0 critical, 1 high, 2 normal, 3 low.
        incoming: How many want to come in.
    """
    kept_free = reserve(capacity) if rank >= FIRST_ORDINARY_RANK else 0
    return max(0, min(incoming, capacity - kept_free - depth))


def door_open(used_bytes: int, max_bytes: int) -> bool:
    """Return whether doors let new events in, as far as secondary storage goes.

    From 95 % of `max_bytes` on they do not (429): what has been accepted needs the rest.
    """
    return used_bytes * 100 < max_bytes * DOORS_CLOSE_AT_PERCENT


def retry_after_s(excess: float, drain_per_s: float) -> int:
    """Return in how many whole seconds to send again: 1 to 300.

    Args:
        excess: Deliveries (or bytes) that have to go before there is room.
        drain_per_s: How many went per second lately. 0 or less: nothing moves, so 300.
    """
    if not drain_per_s > 0:
        return LONGEST_RETRY_AFTER_S
    wait_s = min(excess / drain_per_s, LONGEST_RETRY_AFTER_S)
    return max(1, ceil(wait_s))
