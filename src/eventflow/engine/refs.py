"""Refs: EventFlow's own ids of accepted events, UUIDv7 counted up within a batch.

RFC 9562, 5.7 and 6.2 method 2: 48 bits of milliseconds, then 74 bits that start at random for
each batch and grow by one for each event, so that refs sort by time of acceptance and a batch's
refs are known from its first.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, overload

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


class Refs(Sequence[str]):
    """Refs of one batch, or of some of it: text is made only of those that are looked at."""

    __slots__ = ("_head", "_low", "_offsets")

    def __init__(self, first: str, offsets: Sequence[int]) -> None:
        """Name some refs of a batch.

        Args:
            first: The batch's first ref.
            offsets: How far from it each ref is, growing.
        """
        self._head = first[:24]
        self._low = int(first[24:], 16)
        self._offsets = offsets

    def __len__(self) -> int:
        return len(self._offsets)

    @overload
    def __getitem__(self, at: int) -> str: ...
    @overload
    def __getitem__(self, at: slice) -> Refs: ...
    def __getitem__(self, at: int | slice) -> str | Refs:
        if isinstance(at, slice):
            return Refs(f"{self._head}{self._low:012x}", self._offsets[at])
        return f"{self._head}{self._low + self._offsets[at]:012x}"

    def __contains__(self, ref: object) -> bool:
        return self.offset(ref) is not None

    def offset(self, ref: object) -> int | None:
        """Return how far a ref is from the batch's first, None where it is none of these."""
        if not isinstance(ref, str) or ref[:24] != self._head:
            return None
        try:
            offset = int(ref[24:], 16) - self._low
        except ValueError:
            return None
        spelt = f"{self._head}{self._low + offset:012x}" == ref
        return offset if spelt and offset in self._offsets else None


def _text(millis: int, version: int, variant: int, low: int) -> str:
    return f"{millis >> 16:08x}-{millis & 0xFFFF:04x}-{version:04x}-{variant:04x}-{low:012x}"
