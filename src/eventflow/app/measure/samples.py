"""Events that go to a configuration's topics: made from the patterns of its routes."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, NamedTuple

from eventflow.app.build import routes_of
from eventflow.app.measure.latency import NOTE
from eventflow.event import Event

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from eventflow.config import Settings

_STARS = re.compile(r"\*+")


class Samples(NamedTuple):
    """Which types of events to send, and which topics none of them goes to."""

    types: tuple[str, ...]
    reached: tuple[str, ...]
    missed: tuple[str, ...]
    """Nothing leads there, or only a route whose `when` says no to a made-up event."""


def samples_of(settings: Settings) -> Samples:
    """Return types of events that the routes take, one a pattern.

    Raises:
        ConfigError: an expression of a route can't be read.
    """
    routes = routes_of(settings)
    patterns = [pattern for topic in settings.topics for pattern in topic.match]
    patterns += [pattern for route in settings.routes for pattern in route.match]
    types: list[str] = []
    reached: list[str] = []
    for pattern in dict.fromkeys(patterns):
        event = Event(type=_STARS.sub("bench", pattern), source="/bench", data={"note": NOTE})
        taken = routes.topics_of(event).topics
        if taken and event.type not in types:
            types.append(event.type)
        reached += [topic for topic in taken if topic not in reached]
    missed = [topic.name for topic in settings.topics if topic.name not in reached]
    return Samples(tuple(types), tuple(reached), tuple(missed))


def bodies(types: Sequence[str], events: int, size: int, *, prefix: str = "") -> Iterator[bytes]:
    """Yield JSON batches of new events, `size` in each but the last; their types in turns."""
    for first in range(0, events, size):
        part = range(first, min(first + size, events))
        ids = [(types[number % len(types)], f"{prefix}{number:012d}") for number in part]
        yield b"[" + b",".join(_structured(type, id) for type, id in ids) + b"]"


def event_bytes(types: Sequence[str]) -> int:
    """Return how large such an event is, as it is sent."""
    return len(_structured(types[0], f"{0:012d}"))


def _structured(type: str, id: str) -> bytes:
    event = {
        "specversion": "1.0",
        "id": id,
        "source": "/bench",
        "type": type,
        "time": "2026-11-24T08:00:00Z",
        "data": {"note": NOTE},
    }
    return json.dumps(event, separators=(",", ":")).encode()
