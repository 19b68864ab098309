"""Taskiq on Redis streams: a process a core, many tasks at once, uvloop, orjson.

Its streams acknowledge, and read a hundred at once: with fsync they are faster than its lists, and
the workers alone are in any case. The publisher has a hundred messages on their way at once.
"""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Any

import uvloop
from taskiq.serializers import ORJSONSerializer  # type: ignore[import-not-found]  # peers only
from taskiq_redis import RedisStreamBroker  # type: ignore[import-not-found]  # peers only

from bench.peers.counts import Counter
from bench.peers.sending import REDIS, serve

if TYPE_CHECKING:
    from collections.abc import Sequence

AT_ONCE = 100
counter = Counter()
broker = RedisStreamBroker(os.environ[REDIS]).with_serializer(ORJSONSerializer())


async def _handle(_event: dict[str, Any]) -> None:
    counter.add()


handle = broker.task(task_name="handle")(_handle)


async def _publish(events: Sequence[dict[str, Any]]) -> None:
    given = iter(events)

    async def some() -> None:
        for event in given:
            await handle.kiq(event)

    await asyncio.gather(*(some() for _ in range(AT_ONCE)))


def main() -> None:
    """Publish what is asked for."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(broker.startup())
        serve(lambda events: runner.run(_publish(events)))


if __name__ == "__main__":
    main()
