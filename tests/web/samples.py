"""Events as their senders write them."""

from __future__ import annotations

import json
from typing import Any

STRUCTURED = {"content_type": "application/cloudevents+json"}
BATCH = {"content_type": "application/cloudevents-batch+json"}
LINES = {"content_type": "application/x-ndjson"}


def event(id: object = 1, **members: Any) -> dict[str, Any]:
    """Return a small event."""
    least = {"specversion": "1.0", "id": str(id), "source": "/shop", "type": "order.created"}
    return least | members


def lines(*events: dict[str, Any]) -> bytes:
    """Return events as lines."""
    return b"".join(json.dumps(one).encode() + b"\n" for one in events)
