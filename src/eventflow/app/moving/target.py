"""What a move goes to: the engine of the settings, and whether all of a file has room there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import msgspec

from eventflow.app import build
from eventflow.delivery import COMMON
from eventflow.engine.carrying import name_of
from eventflow.engine.protocol import Kind, Plan, Queue, TopicPlan
from eventflow.flow.topic import Topic
from eventflow.policy.admission import FIRST_ORDINARY_RANK
from eventflow.policy.fitting import Need, no_room, storage_full, too_large
from eventflow.storage.protocol import Keeper

if TYPE_CHECKING:
    from collections.abc import Mapping

    from eventflow.app.moving.source import Source
    from eventflow.config import Settings
    from eventflow.engine.carrying import Carriage, Carrier
    from eventflow.engine.protocol import Applied, Census


class OnServers(Protocol):
    """An engine that a file can be moved to."""

    storage: Keeper

    def carrier(self) -> Carrier:
        """Return what puts all of a file there."""
        ...

    async def apply(self, plan: Plan) -> Applied:
        """See `Engine.apply`."""
        ...

    async def census(self, *, walk: bool = False) -> Census:
        """See `Engine.census`."""
        ...

    async def close(self) -> None:
        """See `Engine.close`."""
        ...


def plan_of(settings: Settings, source: Source) -> Plan:
    """Return the queues that the settings want, and those of topics that they don't name.

    What such a topic holds is kept, as any node keeps it: exactly that has room.
    """
    topics = [
        Topic(
            one.name,
            build.policy_of(one),
            None,
            capacity=one.capacity,
            lane_capacity=one.retry.capacity,
        )
        for one in settings.topics
    ]
    plan = build.shape_of(settings, topics).plan
    orphans = {
        queue.topic: TopicPlan(
            max(1, source.count(Queue(Kind.TOPIC, queue.topic))),
            source.count(Queue(Kind.LANE, queue.topic)),
        )
        for queue in source.queues
        if queue.topic not in plan.topics
    }
    return msgspec.structs.replace(plan, topics={**plan.topics, **orphans})


async def problems(
    source: Source, carrier: Carrier, storage: Keeper, plan: Plan, carriage: Carriage | None
) -> list[str]:
    """Return what has no room there, a sentence each. Nothing is written.

    Args:
        source: The file.
        carrier: The servers.
        storage: Secondary storage.
        plan: The queues as they will be.
        carriage: How far an earlier run has come; None: there was none.
    """
    found: list[str | None] = []
    large = _Large(carrier.largest_bytes)
    held = {name_of(queue): count for queue, count in (await carrier.held()).items()}
    before = held if carriage is None else carriage.before
    for queue in source.queues:
        need = await _need(source, carrier, queue, plan, large)
        found.append(no_room(need._replace(there=before.get(name_of(queue), 0))))
    async for some in source.kept(""):
        for kept in some:
            large.see(carrier.size_bytes(Queue(Kind.TOPIC, kept.delivery.topic), kept.delivery))
    found.append(too_large(large.count, large.largest_bytes, carrier.largest_bytes))
    if carriage is None:
        usage = storage.usage()
        coming = await source.kept_bytes()
        found.append(storage_full(coming, usage.used_bytes, usage.max_bytes))
    return [problem for problem in found if problem is not None]


class _Large:
    """Deliveries that are larger than one message may be."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self.count = 0
        self.largest_bytes = 0

    def see(self, size_bytes: int) -> None:
        self.count += size_bytes > self._limit_bytes
        self.largest_bytes = max(self.largest_bytes, size_bytes)


async def _need(source: Source, carrier: Carrier, queue: Queue, plan: Plan, large: _Large) -> Need:
    ordinary = urgent = 0
    async for batch in source.batches(queue, -1):
        for delivery in batch.deliveries:
            large.see(carrier.size_bytes(queue, delivery))
            if delivery.event.rank < FIRST_ORDINARY_RANK:
                urgent += 1
            else:
                ordinary += 1
    where, setting, capacity = _described(queue, plan.topics)
    return Need(where, setting, ordinary, urgent, 0, capacity)


def _described(queue: Queue, topics: Mapping[str, TopicPlan]) -> tuple[str, str, int]:
    topic = topics[queue.topic]
    if queue.topic == COMMON:
        return "the common queue", "[common] capacity", topic.capacity
    if queue.kind is Kind.LANE:
        setting = f"[topics.{queue.topic}] retry.capacity"
        return f"the retry lane of topic {queue.topic!r}", setting, topic.lane_capacity
    return f"the queue of topic {queue.topic!r}", f"[topics.{queue.topic}] capacity", topic.capacity
