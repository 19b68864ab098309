"""Who starts next among the priorities: a fixed frame of slots (G4).

A frame has as many slots as the weights add up to (85 for 64 : 16 : 4 : 1), each naming a rank, as
evenly spread as they can be. Starts go round the frame; a slot whose rank has nothing startable
is passed over and costs nothing. So:

    A rank with weight w that is startable all the while gets at least w of any
    sum(weights) starts in a row.

Why: those starts pass over at least sum(weights) slots in a row, so over each of the rank's w.
Where a rank is startable alone it starts without moving on: k such starts are all its own, and of
the k slots that are then missing from the round at most k were.

Ranks are 0 critical, 1 high, 2 normal, 3 low. A position is a slot's index, kept by the caller.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def frame(weights: Sequence[int]) -> tuple[int, ...]:
    """Return the ranks of sum(weights) slots, each rank spread evenly.

    The slots of a rank with weight w are due at 1/2w, 3/2w, ... of the way round; all slots stand
    in the order in which they are due, of several at once the more urgent first. (Smooth weighted
    round robin, as in nginx, leaves gaps of 17 to 28 for weight 4 of 85; this, of 21 and 22.)

    Raises:
        ValueError: no weights, or one that is below 1: its rank would wait for ever.
    """
    if not weights or min(weights) < 1:
        raise ValueError(f"weights: expected whole numbers of at least 1, got {tuple(weights)}")
    due = sorted(
        ((2 * nth + 1) / weight, rank)
        for rank, weight in enumerate(weights)
        for nth in range(weight)
    )
    return tuple(rank for _, rank in due)


def pick(slots: Sequence[int], position: int, startable: Sequence[bool]) -> tuple[int, int]:
    """Return the rank that starts next, and the position after that.

    Args:
        slots: What `frame` returned.
        position: Where the last `pick` or `share` left off; any number of 0 or more.
        startable: For each rank whether it has something to start.

    Raises:
        ValueError: nothing is startable.
    """
    order, after = share(slots, position, [int(can) for can in startable], 1)
    if not order:
        raise ValueError("expected at least one rank with something to start, got none")
    return order[0], after


def share(
    slots: Sequence[int], position: int, waiting: Sequence[int], limit: int
) -> tuple[list[int], int]:
    """Return the ranks of the next starts, in order, and the position after them.

    The same as calling `pick` as often, one at a time, but at a list's speed.

    Args:
        slots: What `frame` returned.
        position: Where the last `pick` or `share` left off; any number of 0 or more.
        waiting: For each rank how many could start.
        limit: Starts at most.

    Returns:
        `min(limit, sum(waiting))` ranks; 0 or more.
    """
    left = list(waiting)
    order: list[int] = []
    while len(order) < limit:
        ranks = [rank for rank, count in enumerate(left) if count > 0]
        if len(ranks) <= 1:
            for rank in ranks:
                order += [rank] * min(left[rank], limit - len(order))
            break
        position = _go_round(slots, position, left, order, limit)
    return order, position


def _go_round(
    slots: Sequence[int], position: int, left: list[int], order: list[int], limit: int
) -> int:
    """Add starts to `order`, taking them off `left`, until a rank runs out; return the position."""
    usable = [place for place, rank in enumerate(slots) if left[rank] > 0]
    position %= len(slots)
    at = next((i for i, place in enumerate(usable) if place >= position), 0)
    while len(order) < limit:
        place = usable[at]
        rank = slots[place]
        order.append(rank)
        left[rank] -= 1
        at = at + 1 if at + 1 < len(usable) else 0
        position = place + 1
        if left[rank] == 0:
            break
    return position % len(slots)
