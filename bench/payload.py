"""The events that every program of the bench works on: the same bytes for all of them."""

from __future__ import annotations

import json

TOPICS = ("a", "b", "c")


def structured(number: int, *, prefix: str = "", note_bytes: int = 400) -> bytes:
    """Return one event as application/cloudevents+json, of about `note_bytes` + 150 bytes."""
    event = {
        "specversion": "1.0",
        "id": f"{prefix}{number:012d}",
        "source": "/shop/checkout",
        "type": f"{TOPICS[number % len(TOPICS)]}.made",
        "time": "2026-11-24T08:00:00Z",
        "data": {"order": number, "note": "x" * note_bytes},
    }
    return json.dumps(event, separators=(",", ":")).encode()


def batches(events: int, size: int, *, prefix: str = "", note_bytes: int = 400) -> list[bytes]:
    """Return bodies of application/cloudevents-batch+json, `size` events in each."""
    made = [structured(number, prefix=prefix, note_bytes=note_bytes) for number in range(events)]
    return [b"[" + b",".join(made[at : at + size]) + b"]" for at in range(0, events, size)]
