"""Streams and consumers, declared up front: what a plan asks for, made or changed, never removed.

No consumer is made or removed while deliveries move. Each queue has one for each priority, and
each lane one for all; they are durable, so that what a dead node had leased is given to others.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from eventflow.delivery import COMMON
from eventflow.engine.jetstream import names
from eventflow.engine.jetstream.membership import KEPT_S
from eventflow.engine.jetstream.wire import Refused
from eventflow.engine.protocol import Kind, Queue

if TYPE_CHECKING:
    from collections.abc import Sequence

    from eventflow.engine.jetstream.wire import Wire
    from eventflow.engine.protocol import Plan

_NS = 1_000_000_000
_LEASED_AT_MOST = 1_000
"""Beside a queue's capacity, so that the server never keeps back what a node may lease."""
_MOVES_REMEMBERED_S = 600.0
"""How long a topic's stream and a lane know the ids of moves: far longer than one takes."""
_LEAST_WINDOW_S = 0.1

_STREAM_NOT_FOUND = 10059


class Streams:
    """What there is on the server, and what is asked for."""

    def __init__(self, wire: Wire, replicas: int, rate: float) -> None:
        self._wire = wire
        self.replicas = replicas
        self._rate = rate

    async def declare_nodes(self) -> None:
        """Make what nodes need to know of each other, before anything else."""
        await self._own(names.NODES, "ef.node.>", max_age=int(KEPT_S * _NS))

    async def declare(self, plan: Plan) -> None:
        """Make or change all that this plan asks for."""
        window = self._ns(max(plan.dedup_window_s, _LEAST_WINDOW_S))
        await asyncio.gather(
            self._own(names.NOTES, "ef.note.>"),
            self._own(names.LEDGER, "ef.ledger.>"),
            self._own(names.DOOR, "ef.door.>", max_age=window, duplicate_window=window),
        )
        # Capacities are what matters to whoever sends meanwhile, so common comes last.
        wanted = [Queue(Kind.TOPIC, name) for name in plan.topics if name != COMMON]
        wanted += [
            Queue(Kind.LANE, name) for name, topic in plan.topics.items() if topic.lane_capacity
        ]
        await asyncio.gather(*(self._queue(queue, plan) for queue in wanted))
        await self._queue(names.COMMON_QUEUE, plan)

    async def present(self) -> Sequence[Queue]:
        """Return the queues that are there, planned or not."""
        found: list[Queue] = []
        while True:
            told = await self._wire.ask("STREAM.NAMES", {"offset": len(found), "subject": "ef.>"})
            listed = told.get("streams") or []
            found += [queue for name in listed if (queue := names.queue_of(name)) is not None]
            if not listed or len(listed) >= told.get("total", 0):
                return found

    async def _own(self, name: str, subjects: str, **more: Any) -> None:
        await self._stream(
            {
                "name": name,
                "subjects": [subjects],
                "retention": "limits",
                "discard": "old",
                "max_msgs_per_subject": 1,
                **more,
            }
        )

    async def _queue(self, queue: Queue, plan: Plan) -> None:
        topic = plan.topics[queue.topic]
        name = names.stream(queue)
        capacity = topic.capacity if queue.kind is Kind.TOPIC else topic.lane_capacity
        window_s = plan.dedup_window_s
        if queue != names.COMMON_QUEUE:
            window_s = max(window_s, _MOVES_REMEMBERED_S)
        await self._stream(
            {
                "name": name,
                "subjects": [f"{names.head(queue)}.>"],
                "retention": "workqueue",
                "discard": "new",
                "max_msgs": capacity,
                "duplicate_window": self._ns(max(window_s, _LEAST_WINDOW_S)),
                "allow_atomic": True,
            }
        )
        tokens = "*.*.*"
        if queue.kind is Kind.LANE:
            consumers = {names.MOVER: f"{names.head(queue)}.*.{tokens}"}
        else:
            consumers = {rank: f"{names.head(queue)}.{rank}.{tokens}" for rank in names.RANKS}
        await asyncio.gather(
            *(
                self._consumer(name, consumer, subjects, plan.lease_s, capacity)
                for consumer, subjects in consumers.items()
            )
        )

    async def _stream(self, config: dict[str, Any]) -> None:
        config = {
            "storage": "file",
            "num_replicas": self.replicas,
            "allow_direct": True,
            **config,
        }
        name = config["name"]
        try:
            told = await self._wire.ask(f"STREAM.INFO.{name}")
        except Refused as refused:
            if refused.code != _STREAM_NOT_FOUND:
                raise
            await self._wire.ask(f"STREAM.CREATE.{name}", config)
            return
        held = told["config"]
        if any(held.get(key) != value for key, value in config.items()):
            await self._wire.ask(f"STREAM.UPDATE.{name}", {**held, **config})

    async def _consumer(
        self, stream: str, name: str, subjects: str, lease_s: float, capacity: int
    ) -> None:
        config = {
            "durable_name": name,
            "filter_subject": subjects,
            "ack_policy": "explicit",
            "ack_wait": self._ns(lease_s),
            "max_deliver": -1,
            "max_ack_pending": capacity + _LEASED_AT_MOST,
        }
        # Made where it is missing, changed where it differs, else left alone: one request for all.
        await self._wire.ask(
            f"CONSUMER.CREATE.{stream}.{name}.{subjects}",
            {"stream_name": stream, "config": config, "action": ""},
        )

    def _ns(self, seconds: float) -> int:
        return int(seconds / self._rate * _NS)
