"""Whether what a file holds has room where it is to be moved, and if not, how to make it.

A queue takes its capacity and no more, and the last tenth of it only critical and high (see
`admission`). What is there already is taken for ordinary: nobody knows before it is leased.
"""

from __future__ import annotations

from math import ceil
from typing import NamedTuple

from eventflow.policy.admission import reserve

_MIB = 2**20


class Need(NamedTuple):
    """What one queue, or lane, is to take."""

    where: str
    """As in a sentence: "the queue of topic 'email'"."""
    setting: str
    """What says how much it holds: "[topics.email] capacity"."""
    ordinary: int
    """Deliveries of normal and low priority that are to come."""
    urgent: int
    """Those of critical and high."""
    there: int
    """Deliveries that were there before."""
    capacity: int

    @property
    def coming(self) -> int:
        """All that are to come."""
        return self.ordinary + self.urgent

    def fits(self, capacity: int) -> bool:
        """Return whether a queue of this capacity has room for all."""
        return (
            self.there + self.coming <= capacity
            and self.there + self.ordinary <= capacity - reserve(capacity)
        )


def least_capacity(need: Need) -> int:
    """Return the least capacity that has room for all."""
    least = max(need.there + need.coming, ceil((need.there + need.ordinary) * 10 / 9) - 10, 1)
    while not need.fits(least):
        least += 1
    return least


def no_room(need: Need) -> str | None:
    """Return what to say of a queue that has no room for what comes; None: it has."""
    if not need.coming or need.fits(need.capacity):
        return None
    there = f", {need.there:,} are there," if need.there else ""
    reserved = reserve(need.capacity)
    kept = f", the last {reserved:,} for critical and high alone" if reserved else ""
    return (
        f"{need.where}: {need.coming:,} deliveries are to come{there} and it holds "
        f"{need.capacity:,}{kept}. Set {need.setting} to {least_capacity(need):,} or more; it can "
        f"be lowered once they are delivered. Or start a node on the file until less is left."
    )


def too_large(count: int, largest_bytes: int, limit_bytes: int) -> str | None:
    """Return what to say where deliveries are larger than what servers take in one message.

    Args:
        count: How many are.
        largest_bytes: What the largest of all takes.
        limit_bytes: What servers take.
    """
    if not count:
        return None
    wanted = ceil(largest_bytes / _MIB)
    return (
        f"{count:,} deliveries are larger than the {limit_bytes:,} bytes that the servers take in "
        f"one message; the largest has {largest_bytes:,}. Set max_payload of the servers to "
        f"{wanted}MB or more. Or discard them first, with `eventflow discard`."
    )


def storage_full(coming_bytes: int, used_bytes: int, max_bytes: int) -> str | None:
    """Return what to say of a secondary storage that can't hold what is parked and dead."""
    if used_bytes + coming_bytes <= max_bytes:
        return None
    wanted = ceil((used_bytes + coming_bytes) / _MIB)
    return (
        f"secondary storage: {coming_bytes:,} bytes are parked or dead, {used_bytes:,} are there, "
        f'and it holds {max_bytes:,}. Set [storage] max_size to "{wanted}MiB" or more. Or replay '
        f"or discard some of it first."
    )
