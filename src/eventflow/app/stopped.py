"""The file of a node that is not running, behind the same door as one that runs.

Its queues are read back and nothing else: no stage is started, nothing is recovered or counted,
and the file stays as it is, byte for byte. Whoever reads a node's answers can read these.
"""

from __future__ import annotations

import random
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from eventflow.app import build
from eventflow.app.door import Door
from eventflow.clock import SystemClock
from eventflow.config import EngineSettings, Settings
from eventflow.delivery import COMMON
from eventflow.engine.embedded import open_stopped
from eventflow.errors import EngineUnavailable
from eventflow.flow.node import Flow, Tools, Wanted
from eventflow.flow.schemas import Schemas
from eventflow.flow.topic import Topic
from eventflow.policy.routing import compile_routes
from eventflow.policy.values import TopicPolicy
from eventflow.telemetry.metrics import Metrics
from eventflow.version import VERSION

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from pathlib import Path

    from eventflow.engine.embedded import EmbeddedEngine
    from eventflow.engine.embedded.backup import Written
    from eventflow.storage.protocol import Actor

_OF_A_RUN = ("capacity", "lane_capacity", "rates", "latencies", "since_start", "breaker")
"""What a topic's line has from its configuration, or from the process that runs it."""


class StoppedDoor(Door):
    """A file, as the HTTP door would see its node. Acts fail: nothing can be written."""

    async def stats(self) -> Mapping[str, Any]:
        """Return the ledger, without what only a configuration or a run knows."""
        stats = dict(await super().stats())
        topics = {
            name: {key: value for key, value in topic.items() if key not in _OF_A_RUN}
            for name, topic in stats["topics"].items()
        }
        return stats | {
            "durability": None,
            "dedup_window_s": None,
            "storage": stats["storage"] | {"max_bytes": None},
            "topics": topics,
        }

    async def nodes(self) -> Mapping[str, Any]:
        """Return none: nobody works on the file."""
        return {"nodes": [], "undone": []}

    async def backup(self, name: str | None, by: Actor) -> Written:
        """Refuse: a stopped file is copied without a door."""
        del name, by
        raise EngineUnavailable("the file is only read here")


@asynccontextmanager
async def stopped(path: Path) -> AsyncIterator[StoppedDoor]:
    """Open the file of a node that is not running: what the HTTP interface asks of it, to be read.

    Raises:
        JournalInUse: its node is running; the message names it.
        JournalUnreadable: damaged, not a journal, of a newer version, or not there.
    """
    clock = SystemClock()
    engine = await open_stopped(path, clock=clock)
    try:
        yield await _door(engine, path, clock)
    finally:
        await engine.close()


async def _door(engine: EmbeddedEngine, path: Path, clock: SystemClock) -> StoppedDoor:
    settings = Settings(engine=EngineSettings(url=f"sqlite:{path}"))
    names = [name for name in (await engine.census()).topics if name != COMMON]
    topics = [Topic(name, TopicPolicy(), None) for name in names]
    tools = Tools(engine, engine.storage, clock, random.random, Metrics(VERSION), engine.storage)
    shape = build.shape_of(settings, topics)
    flow = Flow(tools, Wanted(shape, topics, compile_routes([]), Schemas()))
    for name, values in (await engine.storage.overrides()).items():
        if name in flow.topics and values.get("paused"):
            flow.topics[name].pause()
    door = StoppedDoor(flow, settings, engine)
    door.running = False
    return door
