"""What a topic's policies are, and how full a topic is: the frozen values that decisions look at.

Names carry their units. Ranges are checked here once more than in the configuration, so that a
policy made in Python can't be out of range either.
"""

from __future__ import annotations

from math import inf

import msgspec

from eventflow.errors import ConfigError
from eventflow.policy.backoff import Backoff


def _at_least(name: str, least: int, value: float) -> str | None:
    return None if least <= value < inf else f"{name}: expected {least} or more, got {value}"


def _share(name: str, value: float, *, above_zero: bool) -> str | None:
    if (0 < value <= 1) or (value == 0 and not above_zero):
        return None
    return f"{name}: expected {'above 0' if above_zero else '0'} to 1 (100 %), got {value}"


def _check(*problems: str | None) -> None:
    found = [problem for problem in problems if problem is not None]
    if found:
        raise ConfigError(found)


class RetryPolicy(msgspec.Struct, frozen=True, gc=False):
    """How often to try, and where to wait between tries.

    Raises:
        ConfigError: a number is out of range.
    """

    max_attempts: int = 5
    """Runs in a round. At least 1: a round without a run would deliver nothing."""
    backoff: Backoff = Backoff()
    """The waits after failures, overflows and refusals of storage."""
    max_overflows: int = 10
    """Times in a row a delivery may find its topic full and wait in the lane; the next time it is
    parked. 0: parked at once."""
    max_in_queue_s: float = 600.0
    """Longest wait in the lane, in seconds; what is due later waits in storage. 0 or more."""
    max_postponed: int = 100
    """Times a handler may ask for `RetryLater(count=False)`; then such a request counts."""

    def __post_init__(self) -> None:
        _check(
            _at_least("max_attempts", 1, self.max_attempts),
            _at_least("max_overflows", 0, self.max_overflows),
            _at_least("max_in_queue", 0, self.max_in_queue_s),
            _at_least("max_postponed", 0, self.max_postponed),
        )


class RecoveryPolicy(msgspec.Struct, frozen=True, gc=False):
    """When what is parked comes back, and how fast.

    Raises:
        ConfigError: a number is out of range.
    """

    max_rounds: int = 2
    """Rounds of `max_attempts` runs, the first one included. At least 1."""
    after_s: float = 900.0
    """Seconds between a round that failed and the next one. 0 or more."""
    low_water: float = 0.5
    """Share of its capacity below which a topic takes parked ones back. Above 0, at most 1."""
    rate_share: float = 0.10
    """Share of the topic's rate that may go to recovered ones while new ones wait. 0 to 1."""
    rate_per_s: float | None = None
    """Deliveries a second, in place of the share. 0 or more."""

    def __post_init__(self) -> None:
        _check(
            _at_least("max_rounds", 1, self.max_rounds),
            _at_least("after", 0, self.after_s),
            _share("low_water", self.low_water, above_zero=True),
            _share("rate", self.rate_share, above_zero=False),
            None if self.rate_per_s is None else _at_least("rate", 0, self.rate_per_s),
        )


class TopicPolicy(msgspec.Struct, frozen=True, gc=False):
    """All that a decision about a delivery of this topic has to know of the topic."""

    retry: RetryPolicy = RetryPolicy()
    recovery: RecoveryPolicy = RecoveryPolicy()


class Fullness(msgspec.Struct, frozen=True, gc=False):
    """How full a topic was when the decision was made: deliveries, and room for them."""

    queued: int = 0
    running: int = 0
    capacity: int = 0
    retrying: int = 0
    lane_capacity: int = 0
