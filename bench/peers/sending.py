"""How a program that publishes is told what: a line "FIRST STOP" on standard input, until it ends.

It reads its events before, says "ready", and "published" after each part: so that who measures
starts the clock, and everybody's clock is the same. `bullmq.mjs` does the same in JavaScript.
"""

from __future__ import annotations

import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

REDIS = "BENCH_REDIS"
"""Names the server: redis://127.0.0.1:PORT."""
EVENTS = "BENCH_EVENTS"
"""Names a file of events, one a line."""
THREADS = 8


def in_threads(
    events: Sequence[dict[str, Any]], send: Callable[[Iterable[dict[str, Any]]], None]
) -> None:
    """Let some threads send a share each: a server that syncs then does it for several at once."""
    with ThreadPoolExecutor(THREADS) as pool:
        shares = [events[at::THREADS] for at in range(THREADS)]
        list(pool.map(send, shares))


def serve(publish: Callable[[Sequence[dict[str, Any]]], None]) -> None:
    """Publish what is asked for, by `publish`."""
    with Path(os.environ[EVENTS]).open("rb") as file:
        events = [json.loads(line) for line in file]
    _say("ready")
    for line in sys.stdin:
        first, stop = map(int, line.split())
        publish(events[first:stop])
        _say("published")


def _say(word: str) -> None:
    sys.stdout.write(f"{word}\n")
    sys.stdout.flush()
