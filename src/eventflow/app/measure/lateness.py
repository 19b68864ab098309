"""How late handlers are called: counted from when an event should have been sent."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from eventflow.event import Event


class Sent(msgspec.Struct):
    """What is read of an event's data."""

    sent_at: float | None = None
    """When it should have been sent, in seconds of the machine's monotonic clock."""


_decode = msgspec.json.Decoder(Sent).decode


class Lateness:
    """Takes the time of each event that says when it was to be sent."""

    def __init__(self) -> None:
        self.taken_s: list[float] = []
        self._since = 0.0

    async def handle(self, event: Event) -> None:
        """Be the handler of a topic."""
        self.take(event)

    def take(self, event: Event) -> None:
        """Note how late an event is handled; one that does not say when it was sent is left out."""
        sent_at = _decode(event.body or b"{}").sent_at
        if sent_at is not None and sent_at >= self._since:
            self.taken_s.append(time.monotonic() - sent_at)

    def begin(self) -> None:
        """Leave out what was to be sent before now, though it may be handled later."""
        self._since = time.monotonic()
        self.taken_s.clear()

    def at_s(self, share: float) -> float:
        """Return the seconds that this share of them was not later than.

        Raises:
            ValueError: nothing was taken.
        """
        if not self.taken_s:
            raise ValueError("no event said when it was to be sent")
        taken = sorted(self.taken_s)
        return taken[min(len(taken) - 1, int(len(taken) * share))]

    def figures(self) -> dict[str, float]:
        """Return median, 99th percentile and greatest, in milliseconds."""
        if not self.taken_s:
            return {}
        return {
            "p50_ms": self.at_s(0.5) * 1e3,
            "p99_ms": self.at_s(0.99) * 1e3,
            "max_ms": self.at_s(1.0) * 1e3,
            "events": len(self.taken_s),
        }
