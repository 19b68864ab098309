"""How long to wait before trying again.

Pure: the caller draws and does the waiting, so a test can state every wait exactly. With

    ceiling = min(max_s, base_s * factor ** (n - 1))              n counts from 1
    0 <= draw < 1

the four kinds of jitter are

    none           ceiling
    full           draw * ceiling
    equal          ceiling / 2 + draw * ceiling / 2
    decorrelated   min(max_s, base_s + draw * (3 * previous_s - base_s))

No kind ever waits longer than `max_s`: "at most five minutes between tries" needs no footnote.

Source: M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015, which measured
that full jitter makes the least work of all for a destination that comes back.
"""

from __future__ import annotations

from math import inf, isfinite
from typing import Literal, get_args

import msgspec

from eventflow.errors import ConfigError

Jitter = Literal["none", "full", "equal", "decorrelated"]


class Backoff(msgspec.Struct, frozen=True, gc=False):
    """The shape of the waits between tries.

    Raises:
        ConfigError: a number is out of range.
    """

    base_s: float = 1.0
    """Ceiling of the first wait, in seconds. 0 (no waiting at all) or more."""
    factor: float = 2.0
    """Growth from one ceiling to the next. 1 (they stay equal) or more."""
    max_s: float = 300.0
    """Longest wait, in seconds. At least `base_s`."""
    jitter: Jitter = "full"
    """How chance shortens a wait, so that what failed together does not come back together."""

    def __post_init__(self) -> None:
        problems = [
            *([] if 0 <= self.base_s < inf else [f"base: expected 0 s or more, got {self.base_s}"]),
            *([] if 1 <= self.factor < inf else [f"factor: expected 1 or more, got {self.factor}"]),
            *(
                []
                if self.base_s <= self.max_s < inf
                else [f"max: expected at least base ({self.base_s} s), got {self.max_s}"]
            ),
            *(
                []
                if self.jitter in get_args(Jitter)
                else [f"jitter: expected {', '.join(get_args(Jitter))}, got {self.jitter!r}"]
            ),
        ]
        if problems:
            raise ConfigError(problems)


def delay_s(backoff: Backoff, n: int, draw: float, previous_s: float | None = None) -> float:
    """Return the wait in seconds after the `n`th thing that went wrong.

    Args:
        backoff: The shape of the waits.
        n: Which failure, overflow or refusal this is, counted from 1.
        draw: A number in [0, 1), drawn by the caller.
        previous_s: The wait before this one, for decorrelated jitter only. None, or a first
            wait (n = 1): `base_s`.

    Returns:
        Seconds, between 0 and `backoff.max_s`.

    Raises:
        ValueError: `n` is below 1: there is no wait before the first try. Or `draw` is not a
            share.
    """
    if n < 1:
        raise ValueError(f"n counts from 1, got {n}")
    if not 0 <= draw <= 1:
        raise ValueError(f"draw: expected a number from 0 to 1, got {draw}")
    match backoff.jitter:
        case "full":
            return draw * ceiling_s(backoff, n)
        case "none":
            return ceiling_s(backoff, n)
        case "equal":
            return (0.5 + draw / 2) * ceiling_s(backoff, n)
        case "decorrelated":
            return _decorrelated_s(backoff, draw, backoff.base_s if n == 1 else previous_s)


def ceiling_s(backoff: Backoff, n: int) -> float:
    """Return the longest the `n`th wait can be, jitter aside, in seconds."""
    try:
        grown = backoff.base_s * float(backoff.factor) ** (n - 1)
    except OverflowError:  # 2.0 ** 1024 no longer fits a float
        grown = inf if backoff.base_s > 0 else 0.0
    return min(backoff.max_s, grown)


def _decorrelated_s(backoff: Backoff, draw: float, previous_s: float | None) -> float:
    base_s = backoff.base_s
    before_s = base_s if previous_s is None or not isfinite(previous_s) else previous_s
    return min(backoff.max_s, base_s + draw * (3 * max(base_s, before_s) - base_s))
