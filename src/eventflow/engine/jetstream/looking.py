"""Finding, walking, counting: what is there, as the server shows it (G8)."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from eventflow.delivery import COMMON, Delivery
from eventflow.engine.jetstream import names
from eventflow.engine.jetstream.marks import within
from eventflow.engine.jetstream.stored import Unreadable, decode
from eventflow.engine.jetstream.wire import Missing, Refused
from eventflow.engine.protocol import Census, Counts, Depth, Found, Kind, Queue
from eventflow.errors import EngineUnavailable
from eventflow.storage.protocol import Turnover

if TYPE_CHECKING:
    from collections.abc import Mapping

    from eventflow.engine.jetstream.desk import Desk
    from eventflow.engine.jetstream.stored import Note
    from eventflow.engine.jetstream.wire import Message

_PAGE = 500
_ALL = 10**9
_NONE = Turnover()
_AGAIN_S = (0.05, 0.3, 1.0)
"""After what pauses the ledger is looked at again while it does not balance."""


class Looking:
    """Reads the queues without changing anything."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._stored: Mapping[str, Turnover] = {}
        self._missing: Mapping[str, int] = {}
        """By topic: how many more had come to storage before it was put back."""

    async def find(self, ref: str) -> list[Found]:
        """Return the deliveries of an event that are in a queue or lane."""
        found = await asyncio.gather(
            *(self._find_in(queue, ref) for queue in self._desk.depths.gauges)
        )
        return [one for one in found if one is not None]

    async def _find_in(self, queue: Queue, ref: str) -> Found | None:
        if not ref or set(ref) & set(".*> \t\r\n"):
            return None  # no ref, and no token of a subject
        subject = f"{names.head(queue)}.*.*.*.{ref}"
        message = await self._desk.wire.get(names.stream(queue), seq=1, next_by_subj=subject)
        if message is None or message.seq in self._desk.gone(queue):
            return None
        note = None
        if self._desk.notes.may_have(queue, ref):
            note = await self._desk.notes.find(queue, ref, message.seq)
        return self._found(queue, message, {} if note is None else {message.seq: note})

    async def walk(self, queue: Queue, after: int, limit: int) -> list[Found]:
        """Return a page of a queue in order of entry."""
        if queue not in self._desk.depths.gauges:
            return []
        stream, subjects = names.stream(queue), f"{names.head(queue)}.>"
        notes = await self._desk.notes.all(queue)
        found: list[Found] = []
        while len(found) < limit:
            wanted = min(_PAGE, limit - len(found))
            try:
                page = await self._desk.wire.read(stream, subjects, after, wanted)
            except (Missing, Refused):
                break
            gone = self._desk.gone(queue)
            found += [self._found(queue, one, notes) for one in page if one.seq not in gone]
            if len(page) < wanted:
                break
            after = page[-1].seq
        return found

    def _found(self, queue: Queue, message: Message, notes: Mapping[int, Note]) -> Found:
        where = f"{names.stream(queue)} {message.seq}"
        held = self._desk.book.of(queue, self._desk.clock.now_s()).get(message.seq)
        try:
            if held is not None:
                delivery = held.delivery
            elif message.seq in notes:
                delivery = notes[message.seq].delivery
            else:
                delivery = decode(message.body, Delivery, where)
        except Unreadable as unreadable:
            raise EngineUnavailable(str(unreadable)) from unreadable
        state = "retrying" if queue.kind is Kind.LANE else "queued" if held is None else "running"
        return Found(delivery, state, message.seq)

    def depth(self, topic: str) -> Depth:
        """Return how full a topic is, as this node knows it now."""
        queue = Queue(Kind.TOPIC, topic)
        own = self._desk.depths.gauge(queue)
        lane = self._desk.depths.gauge(Queue(Kind.LANE, topic))
        running = len(self._desk.book.of(queue, self._desk.clock.now_s()))
        return Depth(
            queued=max(0, own.held - running),
            running=running,
            retrying=lane.held,
            capacity=own.capacity,
            lane_capacity=lane.capacity,
        )

    async def census(self, *, walk: bool) -> Census:
        """Return the ledger.

        Streams, storage and the records of all nodes can't be looked at in one moment. What is
        moving meanwhile is told; of what other nodes have begun since their latest record nothing
        is known here, so a ledger that does not balance is looked at again before it is believed.
        """
        census = await self._census(walk=walk)
        for pause_s in _AGAIN_S:
            if all(abs(one.unaccounted) <= census.moving for one in census.topics.values()):
                break
            await asyncio.sleep(pause_s)
            census = await self._census(walk=walk)
        return census

    async def _census(self, *, walk: bool) -> Census:
        desk = self._desk
        before = desk.ledger.moves(desk.plan.lease_s)
        await desk.depths.settle()
        await desk.forgets.carry_out()
        await self.look_into_storage()
        names_known = {queue.topic for queue in desk.depths.gauges}
        names_known |= self._stored.keys() | self._missing.keys() | desk.plan.topics.keys()
        await desk.ledger.refresh()
        topics = {}
        for topic in sorted(names_known):
            depth = await self._walked(topic) if walk else self.depth(topic)
            topics[topic] = self._counts(topic, depth)
        begun = desk.ledger.moves(desk.plan.lease_s).ever - before.ever
        return Census(desk.ledger.since, topics, desk.ledger.repeats, before.now + begun)

    async def look_into_storage(self) -> None:
        """Learn what storage holds and has counted, for `counts`."""
        storage, marks = self._desk.storage, self._desk.ledger.marks
        of = "storage:" if storage.shared else f"storage of {self._desk.node}:"
        before = marks.now()  # what others see meanwhile is not missing
        self._stored = await storage.turnover()
        self._missing = {
            topic: marks.lost(of + topic, self._stored.get(topic, _NONE).arrived, before)
            for topic in self._stored.keys() | within(of, before)
        }

    def counts(self, topic: str) -> Counts:
        """Return a topic's line of the ledger as this node knows it now, at most 1 s old."""
        return self._counts(topic, self.depth(topic))

    def _counts(self, topic: str, depth: Depth) -> Counts:
        counters = self._desk.ledger.counters(topic)
        stored = self._stored.get(topic, _NONE)
        came = sum(self._came(Queue(kind, topic)) for kind in (Kind.TOPIC, Kind.LANE))
        came += stored.arrived - stored.forgotten + self._missing.get(topic, 0)
        created = counters.created + came - counters.moved
        delivered = counters.delivered
        if topic == COMMON:
            straight = sum(
                self._from_doors(queue.topic)
                for queue in self._desk.depths.gauges
                if queue.kind is Kind.TOPIC and queue.topic != COMMON
            )
            created += straight
            delivered += straight
        return Counts(
            created=created,
            delivered=delivered,
            discarded=stored.discarded + counters.discarded,
            archived=counters.archived,
            queued=depth.queued,
            running=depth.running,
            retrying=depth.retrying,
            parked=stored.parked,
            dead=stored.dead,
        )

    def _came(self, queue: Queue) -> int:
        """Return how many messages a queue or lane was ever given."""
        gauge = self._desk.depths.gauge(queue)
        return gauge.last_seq + gauge.missing

    def _from_doors(self, topic: str) -> int:
        """Return how many events doors have stored in a topic's stream: all that nobody put there.

        Nodes put them there, or they are back from storage.
        """
        put = self._desk.ledger.counters(topic).placed + self._stored.get(topic, _NONE).forgotten
        return max(0, self._came(Queue(Kind.TOPIC, topic)) - put)

    async def _walked(self, topic: str) -> Depth:
        states = [found.state for found in await self.walk(Queue(Kind.TOPIC, topic), 0, _ALL)]
        lane = await self.walk(Queue(Kind.LANE, topic), 0, _ALL)
        return Depth(states.count("queued"), states.count("running"), len(lane))
