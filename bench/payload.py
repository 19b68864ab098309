"""The events that every program of the bench works on: the same bytes for all of them."""

from __future__ import annotations

import json

TOPICS = ("a", "b", "c")


def structured(
    number: int, *, prefix: str = "", topic: str | None = None, note_bytes: int = 400
) -> bytes:
    """Return one event as application/cloudevents+json, of about `note_bytes` + 150 bytes.

    Args:
        number: Its id, after `prefix`; without `topic` it also says which of `TOPICS` it is for.
        prefix: Of the id.
        topic: Whom it is for.
        note_bytes: How much text is in its data.
    """
    event = {
        "specversion": "1.0",
        "id": f"{prefix}{number:012d}",
        "source": "/shop/checkout",
        "type": f"{topic or TOPICS[number % len(TOPICS)]}.made",
        "time": "2026-11-24T08:00:00Z",
        "data": {"order": number, "note": "x" * note_bytes},
    }
    return json.dumps(event, separators=(",", ":")).encode()


def batches(
    events: int, size: int, *, prefix: str = "", topic: str | None = None, note_bytes: int = 400
) -> list[bytes]:
    """Return bodies of application/cloudevents-batch+json, `size` events in each."""
    prefix = prefix or topic or ""
    made = [
        structured(number, prefix=prefix, topic=topic, note_bytes=note_bytes)
        for number in range(events)
    ]
    return [b"[" + b",".join(made[at : at + size]) + b"]" for at in range(0, events, size)]
