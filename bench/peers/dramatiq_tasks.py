"""Dramatiq: a process a core with eight threads each, its defaults, and a longer prefetch.

Its middleware is left out, retries and time limits too: nothing fails here, and it is faster so.
Messages are acknowledged after the handler. There is no way to publish many at once:
eight threads do.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import dramatiq  # type: ignore[import-not-found]  # only where peers are installed
from dramatiq.brokers.redis import RedisBroker  # type: ignore[import-not-found]  # see above

from bench.peers.counts import Counter
from bench.peers.sending import REDIS, in_threads, serve

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

counter = Counter()
broker = RedisBroker(url=os.environ[REDIS], middleware=[])
dramatiq.set_broker(broker)


def _handle(_event: dict[str, Any]) -> None:
    counter.add()


handle = dramatiq.actor(_handle, actor_name="handle")


def _send(events: Iterable[dict[str, Any]]) -> None:
    for event in events:
        handle.send(event)


def publish(events: Sequence[dict[str, Any]]) -> None:
    """Send a message for each."""
    in_threads(events, _send)


if __name__ == "__main__":
    serve(publish)
