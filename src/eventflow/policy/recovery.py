"""How many parked deliveries may come back now, so that old work doesn't push out new.

A parked delivery comes back only while its topic is below low water:

    queued + running < low_water * capacity

and no faster than the share of the topic that recovery has:

    rate_per_s                               where the policy names one
    share * the topic's rate                 where the topic has a rate limit
    share * what it delivered per second     else, over the last 10 s; at least 1/s

`share` is the policy's `rate_share` while new deliveries wait, and 1 (100 %) while none does. A
topic without a rate whose queue is empty has shown no limit: then twice of what it delivered, so
that a long line of parked ones is not held to the 1/s of a topic that has just been idle. As soon
as something waits again it is back to what the topic delivers.

What is not used is kept for at most `BURST_S`. The caller rests recovery altogether while the
topic is paused, its breaker is not closed or memory is short.
"""

from __future__ import annotations

from math import ceil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from eventflow.policy.values import Fullness, RecoveryPolicy

BURST_S = 10.0
"""Seconds of unused share that may be spent at once: as long as `delivered_per_s` looks back."""

LEAST_PER_S = 1.0
_FLOAT_ERROR = 1e-9


def room_below(fullness: Fullness, low_water: float) -> int:
    """Return how many may come in one by one, each while the topic is below low water.

    At least 1 where it is below at all: a topic with capacity 1 recovers too.
    """
    mark = ceil(low_water * fullness.capacity - _FLOAT_ERROR)
    return max(0, mark - fullness.queued - fullness.running)


def share_per_s(
    fullness: Fullness,
    policy: RecoveryPolicy,
    *,
    delivered_per_s: float,
    topic_rate: float | None,
    new_waiting: bool,
) -> float:
    """Return how many parked deliveries may come back per second, 0 or more.

    Args:
        fullness: Of the topic now.
        policy: The topic's.
        delivered_per_s: What the topic delivered per second over the last 10 s.
        topic_rate: Its rate limit, in deliveries per second; None: it has none.
        new_waiting: Whether deliveries wait in its queue that were never parked.
    """
    if policy.rate_per_s is not None:
        return policy.rate_per_s
    share = policy.rate_share if new_waiting else 1.0
    if topic_rate is not None:
        return share * topic_rate
    if fullness.queued == 0 and not new_waiting:
        share *= 2
    return share * max(LEAST_PER_S, delivered_per_s)


def batch_size(  # noqa: PLR0913  # the state of a topic, called from one place and by name
    fullness: Fullness,
    policy: RecoveryPolicy,
    *,
    delivered_per_s: float,
    topic_rate: float | None,
    new_waiting: bool,
    elapsed_s: float,
    budget: float,
) -> tuple[int, float]:
    """Return how many parked deliveries may come back now, and the budget for the next time.

    One step of a token bucket: start with a budget of 0, and keep what is returned.

    Args:
        fullness: Of the topic now.
        policy: The topic's.
        delivered_per_s: See `share_per_s`.
        topic_rate: See `share_per_s`.
        new_waiting: See `share_per_s`.
        elapsed_s: Seconds since the step before. Below 0, after a clock was set back, is 0.
        budget: What the step before returned: deliveries not yet taken, 0 or more.
    """
    rate = share_per_s(
        fullness,
        policy,
        delivered_per_s=delivered_per_s,
        topic_rate=topic_rate,
        new_waiting=new_waiting,
    )
    earned = max(0.0, budget) + rate * max(0.0, elapsed_s)
    have = min(earned, max(1.0, rate * BURST_S))
    allowed = min(int(have + _FLOAT_ERROR), room_below(fullness, policy.low_water))
    return allowed, max(0.0, have - allowed)
