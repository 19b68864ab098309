"""The streams and consumers that a plan asks for, as JetStream calls what they are. Pure.

Each queue has a consumer for each priority, and each lane one for all; they are durable, so that
what a dead node had leased is given to others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from eventflow.delivery import COMMON
from eventflow.engine.jetstream import names
from eventflow.engine.jetstream.membership import KEPT_S
from eventflow.engine.protocol import Kind, Queue

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from eventflow.engine.protocol import Plan

_NS = 1_000_000_000
_LEASED_AT_MOST = 1_000
"""Beside a queue's capacity, so that the server never keeps back what a node may lease."""
_MOVES_REMEMBERED_S = 600.0
"""How long a topic's stream and a lane know the ids of moves: far longer than one takes."""
_LEAST_WINDOW_S = 0.1

Config = dict[str, Any]


class Asked(NamedTuple):
    """A stream, and its consumers by name."""

    stream: Config
    consumers: Mapping[str, Config] = {}

    @property
    def name(self) -> str:
        """Of the stream."""
        return str(self.stream["name"])


class Layout:
    """What is asked for on the servers."""

    def __init__(self, replicas: int, rate: float = 1.0) -> None:
        self.replicas = replicas
        self._rate = rate

    def nodes(self) -> Iterator[Asked]:
        """Yield what nodes need to know of each other, and of what operators have set."""
        yield self._own(names.NODES, "ef.node.>", max_age=int(KEPT_S * _NS))
        yield self._own(names.OPERATORS, "ef.set.>")

    def books(self, plan: Plan) -> Iterator[Asked]:
        """Yield what is kept beside the queues."""
        window = self._ns(max(plan.dedup_window_s, _LEAST_WINDOW_S))
        yield self._own(names.NOTES, "ef.note.>")
        yield self._own(names.LEDGER, "ef.ledger.>")
        yield self._own(names.AUDIT, "ef.audit.>", discard="new", a_subject=-1)
        yield self._own(names.DOOR, "ef.door.>", max_age=window, duplicate_window=window)

    def queues(self, plan: Plan) -> Iterator[Asked]:
        """Yield the queues, common last: capacities are what matters to whoever sends meanwhile."""
        wanted = [Queue(Kind.TOPIC, name) for name in plan.topics if name != COMMON]
        wanted += [
            Queue(Kind.LANE, name) for name, topic in plan.topics.items() if topic.lane_capacity
        ]
        for queue in (*wanted, names.COMMON_QUEUE):
            yield self._queue(queue, plan)

    def _own(
        self, name: str, subjects: str, *, discard: str = "old", a_subject: int = 1, **more: Any
    ) -> Asked:
        return Asked(
            self._stream(
                name=name,
                subjects=[subjects],
                retention="limits",
                discard=discard,
                max_msgs_per_subject=a_subject,
                **more,
            )
        )

    def _queue(self, queue: Queue, plan: Plan) -> Asked:
        topic = plan.topics[queue.topic]
        capacity = topic.capacity if queue.kind is Kind.TOPIC else topic.lane_capacity
        window_s = plan.dedup_window_s
        if queue != names.COMMON_QUEUE:
            window_s = max(window_s, _MOVES_REMEMBERED_S)
        stream = self._stream(
            name=names.stream(queue),
            subjects=[f"{names.head(queue)}.>"],
            retention="workqueue",
            discard="new",
            max_msgs=capacity,
            duplicate_window=self._ns(max(window_s, _LEAST_WINDOW_S)),
            allow_atomic=True,
        )
        tokens = "*.*.*"
        if queue.kind is Kind.LANE:
            subjects = {names.MOVER: f"{names.head(queue)}.*.{tokens}"}
        else:
            subjects = {rank: f"{names.head(queue)}.{rank}.{tokens}" for rank in names.RANKS}
        consumers = {
            name: {
                "durable_name": name,
                "filter_subject": subject,
                "ack_policy": "explicit",
                "ack_wait": self._ns(plan.lease_s),
                "max_deliver": -1,
                "max_ack_pending": capacity + _LEASED_AT_MOST,
            }
            for name, subject in subjects.items()
        }
        return Asked(stream, consumers)

    def _stream(self, **config: Any) -> Config:
        return {
            "storage": "file",
            "num_replicas": self.replicas,
            "allow_direct": True,
            **config,
        }

    def _ns(self, seconds: float) -> int:
        return int(seconds / self._rate * _NS)
