"""How late handlers are called: counted from when an event should have been sent."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from eventflow import Event


class Sent(msgspec.Struct):
    """What is read of an event's data."""

    sent_at: float | None = None
    """When it should have been sent, in seconds of the machine's monotonic clock."""


_decode = msgspec.json.Decoder(Sent).decode


class Lateness:
    """Takes the time of each event that says when it was to be sent."""

    def __init__(self) -> None:
        self.taken_s: list[float] = []

    async def handle(self, event: Event) -> None:
        """Be the handler of a topic."""
        sent_at = _decode(event.body or b"{}").sent_at
        if sent_at is not None:
            self.taken_s.append(time.monotonic() - sent_at)

    def figures(self) -> dict[str, float]:
        """Return median, 99th percentile and greatest, in milliseconds."""
        taken = sorted(self.taken_s)
        if not taken:
            return {}
        return {
            "p50_ms": taken[len(taken) // 2] * 1e3,
            "p99_ms": taken[len(taken) * 99 // 100] * 1e3,
            "max_ms": taken[-1] * 1e3,
            "events": len(taken),
        }
