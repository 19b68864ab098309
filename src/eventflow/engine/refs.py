"""Refs: EventFlow's own ids of accepted events, UUIDv7 counted up within a batch.

RFC 9562, 5.7 and 6.2 method 2: 48 bits of milliseconds, then 74 bits that start at random for
each batch and grow by one for each event, so that refs sort by time of acceptance and a batch's
refs are known from its first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_LOW = 48


def first_ref(now_s: float, bits: Callable[[int], int]) -> str:
    """Return the first ref of a batch.

    Args:
        now_s: Seconds since 1970.
        bits: Draws so many random bits, as `random.Random.getrandbits` does.
    """
    millis = int(now_s * 1000) & (2**48 - 1)
    # The lowest part starts in its lower half, so that counting up never carries.
    return _text(millis, 0x7000 | bits(12), 0x8000 | bits(14), bits(_LOW - 1))


def refs_from(first: str, count: int) -> list[str]:
    """Return `count` refs, the given one first."""
    head, low = first[:24], int(first[24:], 16)
    return [f"{head}{low + n:012x}" for n in range(count)]


def _text(millis: int, version: int, variant: int, low: int) -> str:
    return f"{millis >> 16:08x}-{millis & 0xFFFF:04x}-{version:04x}-{variant:04x}-{low:012x}"
