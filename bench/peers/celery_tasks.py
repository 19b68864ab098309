"""Celery, as its guide "Optimizing" has it for short tasks.

Prefork with a process a core; a large prefetch multiplier (128); no results, no events, no rate
limits, no gossip, mingle or heartbeat between workers; connections kept open; eight threads
publish, each by one producer. Acknowledged before the handler runs, as is its default: faster, and
a crash loses what was being handled.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from celery import Celery  # type: ignore[import-not-found]  # only where peers are installed

from bench.peers.counts import Counter
from bench.peers.sending import REDIS, in_threads, serve

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

counter = Counter()
app = Celery("bench", broker=os.environ[REDIS])
app.conf.update(
    broker_connection_retry_on_startup=True,
    task_ignore_result=True,
    task_serializer="json",
    task_store_errors_even_if_ignored=False,
    worker_disable_rate_limits=True,
    worker_prefetch_multiplier=128,
    worker_send_task_events=False,
)


def _handle(_event: dict[str, Any]) -> None:
    counter.add()


handle = app.task(name="handle")(_handle)


def _send(events: Iterable[dict[str, Any]]) -> None:
    with app.producer_pool.acquire(block=True) as producer:
        for event in events:
            handle.apply_async((event,), producer=producer)


def publish(events: Sequence[dict[str, Any]]) -> None:
    """Send a task for each."""
    in_threads(events, _send)


if __name__ == "__main__":
    serve(publish)
