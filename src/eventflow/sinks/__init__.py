"""Built-in handlers: what delivers events to the outside world."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from eventflow.config import SinkSettings
    from eventflow.sinks.base import Sink


def make_sink(settings: SinkSettings, *, concurrency: int) -> Sink:
    """Return the sink that the settings describe, not opened yet.

    Args:
        settings: The topic's `sink` table.
        concurrency: Deliveries at the same time: connections at most.
    """
    # Here, not above: a node without such a sink needs no HTTP client.
    from eventflow.sinks import http  # noqa: PLC0415

    return http.HttpSink(settings, concurrency=concurrency)
