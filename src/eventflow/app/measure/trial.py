"""A configuration's topics and routes, measured on a journal of their own.

Kept: topics, capacities, concurrency, batches, routes, priorities' weights, durability, limits.
Not kept: handlers and sinks (nothing is called; each is one that does nothing), schemas (the events
are made up), and the journal: a new one in a folder beside it, so on the same disk, removed again.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from eventflow.app.eventflow import EventFlow
from eventflow.app.measure.latency import by_python
from eventflow.app.measure.lateness import Lateness
from eventflow.app.measure.rate import AHEAD, measured, publish, settled
from eventflow.app.measure.samples import Samples, bodies, event_bytes, samples_of
from eventflow.config import Secret, Settings, TopicSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from eventflow.event import Event

BATCH: Final = 500
WARM_BATCHES: Final = 10
"""Published before: the first ones find nothing compiled or in a cache."""
RATE, LATENCY = "rate", "latency"
PREFIX: Final = ".eventflow-bench-"
PLAIN: Final = ("a", "b", "c")
"""The topics, with default settings, where none are configured."""


class Bounds(msgspec.Struct, frozen=True):
    """How much is done at most."""

    seconds: float
    """How long each of the two parts lasts."""
    events: int
    """Events published for the rate."""
    per_s: int
    """Events a second while latency is measured."""


class Rate(msgspec.Struct, frozen=True):
    """What batches came to."""

    batch: int
    """Events published at once."""
    events: int
    deliveries: int
    took_s: float
    per_s: float
    deliveries_per_s: float
    cpu_s: float


class Latency(msgspec.Struct, frozen=True):
    """From the scheduled publish of single events to their handler."""

    per_s: int
    """Events that were due in a second."""
    events: int
    deliveries: int
    refused: int
    """Events that found the common queue, or memory, full."""
    p50_s: float | None
    p99_s: float | None
    max_s: float | None


class Report(msgspec.Struct, frozen=True):
    """What was measured, and on what."""

    folder: str
    """Where the journals were; empty: there were none."""
    durability: str
    """What an accepted event survived: "fsync", "os" or "memory"."""
    topics: tuple[str, ...]
    missed: tuple[str, ...]
    """Topics that none of the events went to."""
    event_bytes: int
    rate: Rate
    latency: Latency
    unaccounted: int
    """Deliveries that the ledgers of both parts can't place: 0, or something is wrong."""
    astray: int
    """Deliveries that ended elsewhere than with a handler: in a lane or in storage."""


def folder_of(settings: Settings) -> Path | None:
    """Return the folder whose disk is measured; None: nothing is written.

    It is that of the journal, or what there is of the way to it.
    """
    path = settings.engine.path
    if path is None:
        return None
    folder = path.absolute().parent
    while not folder.exists():
        folder = folder.parent
    return folder


async def trial(settings: Settings, bounds: Bounds, tell: Callable[[str], None]) -> Report:
    """Measure a configuration.

    Args:
        settings: Whose engine is no server.
        bounds: How much is done.
        tell: Told what is begun.

    Raises:
        ConfigError: an expression of a route can't be read.
        ValueError: no made-up event goes anywhere: see `samples_of`.
        OSError: nothing can be written where the journal is.
    """
    settings = settings if settings.topics else with_plain_topics(settings)
    samples = samples_of(settings)
    if not samples.types:
        raise ValueError("no route takes an event that could be made up")
    where = folder_of(settings)
    if where is None:
        return await _in(None, settings, samples, bounds, tell)
    with tempfile.TemporaryDirectory(prefix=PREFIX, dir=where) as folder:
        return await _in(Path(folder), settings, samples, bounds, tell)


def with_plain_topics(settings: Settings) -> Settings:
    """Return the same with three topics."""
    topics = tuple(TopicSettings(name=name, match=(f"{name}.*",)) for name in PLAIN)
    return replace(settings, topics=topics, routes=())


async def _in(
    folder: Path | None,
    settings: Settings,
    samples: Samples,
    bounds: Bounds,
    tell: Callable[[str], None],
) -> Report:
    tell(f"Publishing batches for {bounds.seconds:g} s, or {bounds.events:,} events.")
    rate = _Part(settings, folder, RATE)
    rated = await rate.run(lambda: _rate(rate, samples, bounds))
    tell(f"Publishing {bounds.per_s:,} single events a second for {bounds.seconds:g} s.")
    late = _Part(settings, folder, LATENCY)
    found = await late.run(lambda: _latency(late, samples, bounds))
    return Report(
        "" if folder is None else str(folder),
        rate.durability,
        samples.reached,
        samples.missed,
        event_bytes(samples.types),
        rated,
        found,
        rate.unaccounted + late.unaccounted,
        rate.astray + late.astray,
    )


class _Part:
    """A node of its own, whose handlers do nothing but take the time."""

    def __init__(self, settings: Settings, folder: Path | None, name: str) -> None:
        self._timed = name == LATENCY
        self.deliveries = 0
        self.late = Lateness()
        self.durability = ""
        self.unaccounted = self.astray = 0
        url = "memory:" if folder is None else f"sqlite:{folder / name}.db"
        self._settings = replace(
            settings,
            engine=replace(settings.engine, url=url),
            storage=replace(settings.storage, url=Secret(url)),
            topics=tuple(
                replace(topic, handler=None, sink=None, executor=None) for topic in settings.topics
            ),
            schemas=(),
            webhooks=(),
        )
        self.flow = EventFlow(self._settings)
        for topic in settings.topics:
            handler = self._one if topic.batch is None else self._many
            self.flow.topic(topic.name)(handler)

    @property
    def smallest(self) -> int:
        """The capacity of the smallest queue."""
        topics = [topic.capacity for topic in self._settings.topics]
        return min(self._settings.common.capacity, *topics)

    async def _one(self, event: Event) -> None:
        self.deliveries += 1
        if self._timed:
            self.late.take(event)

    async def _many(self, events: list[Event]) -> None:
        self.deliveries += len(events)
        if self._timed:
            for event in events:
                self.late.take(event)

    async def run(self, work: Callable[[], Any]) -> Any:
        """Do the work on a node that runs, and look at its ledger in the end."""
        await self.flow.start()
        try:
            found = await work()
            self.durability = self.flow.door.durability
            census = await self.flow.flow.tools.engine.census(walk=True)
        finally:
            await self.flow.stop(0.0)
        self.unaccounted = census.unaccounted
        counts: Sequence[Any] = list(census.topics.values())
        self.astray = sum(one.retrying + one.parked + one.dead for one in counts)
        return found


async def _rate(part: _Part, samples: Samples, bounds: Bounds) -> Rate:
    # A batch is the least that has room or has not: small queues need small ones.
    size = max(1, min(BATCH, part.smallest // (5 * AHEAD)))
    made = list(bodies(samples.types, bounds.events, size))
    await publish(part.flow, bodies(samples.types, WARM_BATCHES * size, size, prefix="warm"))
    await settled(part.flow)
    part.deliveries = 0
    took = await measured(part.flow, made, at_most_s=bounds.seconds)
    return Rate(
        size,
        took.events,
        part.deliveries,
        took.seconds,
        took.per_s,
        part.deliveries / took.seconds,
        took.cpu_s,
    )


async def _latency(part: _Part, samples: Samples, bounds: Bounds) -> Latency:
    late = part.late
    sent = await by_python(part.flow, late, samples.types, bounds.seconds, bounds.per_s)
    some = bool(late.taken_s)
    return Latency(
        bounds.per_s,
        sent.events,
        len(late.taken_s),
        sent.refused,
        late.at_s(0.5) if some else None,
        late.at_s(0.99) if some else None,
        late.at_s(1.0) if some else None,
    )
