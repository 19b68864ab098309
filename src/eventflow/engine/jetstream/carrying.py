"""Putting what a file held into streams, as it is: the target's half of `eventflow move`.

How far it has come stands in a ledger record under the name of the move: the same record that will
hold the file's counters. A batch is put, then the record; so after a kill one batch a queue may be
there without the record saying so. While no node runs, what is there is found by its subject,
however long ago that was; ids alone are known for minutes only.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import msgspec

from eventflow.engine.carrying import name_of
from eventflow.engine.jetstream import names
from eventflow.engine.jetstream.membership import living
from eventflow.engine.jetstream.publishing import put_each
from eventflow.engine.jetstream.settling import item
from eventflow.engine.jetstream.stored import Counters, Record, Unreadable, decode
from eventflow.engine.jetstream.wire import Item, Refused, Stored
from eventflow.engine.protocol import Kind
from eventflow.errors import EngineUnavailable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from eventflow.delivery import Delivery
    from eventflow.engine.carrying import Carriage
    from eventflow.engine.jetstream.desk import Desk
    from eventflow.engine.jetstream.streams import Streams
    from eventflow.engine.protocol import Census, Queue

_HEADERS_BYTES = 512
"""What a message has beside its body: ids and a batch's name, with room to spare."""
_AT_ONCE = 64
"""Questions to the server that are on their way at one time."""


class JetStreamCarrier:
    """`Carrier` on streams. The name of its engine's node is that of the move."""

    def __init__(self, desk: Desk, streams: Streams, node: str) -> None:
        self._desk = desk
        self._streams = streams
        self._node = node

    @property
    def largest_bytes(self) -> int:
        return self._desk.wire.client.max_payload

    def size_bytes(self, queue: Queue, delivery: Delivery) -> int:
        return len(item(queue, delivery).body) + _HEADERS_BYTES

    async def found(self) -> Carriage | None:
        try:
            told = await self._desk.wire.get(
                names.LEDGER, last_by_subj=names.ledger_subject(self._node)
            )
        except Refused:  # there is no such stream yet
            return None
        if told is None:
            return None
        try:
            return decode(told.body, Record, f"the record of {self._node}").move
        except Unreadable as unreadable:
            raise EngineUnavailable(str(unreadable)) from unreadable

    async def held(self) -> Mapping[Queue, int]:
        return {queue: int(state["messages"]) for queue, state in (await self._states()).items()}

    async def given(self) -> Mapping[Queue, int]:
        return {queue: int(state["last_seq"]) for queue, state in (await self._states()).items()}

    async def _states(self) -> dict[Queue, Mapping[str, Any]]:
        queues = await self._streams.present()
        told = await asyncio.gather(
            *(self._desk.wire.ask(f"STREAM.INFO.{names.stream(queue)}") for queue in queues)
        )
        return {queue: one["state"] for queue, one in zip(queues, told, strict=True)}

    async def remember(self, ids: Sequence[tuple[str, str]]) -> None:
        items = [Item(f"ef.door.{key}", key, ref.encode()) for key, ref in ids]
        for outcome in await put_each(self._desk.wire, items):
            if isinstance(outcome, Refused):
                raise EngineUnavailable(f"{names.DOOR} takes no more: {outcome}")
            if not isinstance(outcome, Stored):
                raise outcome

    async def runners(self) -> Sequence[str]:
        queues = await self._streams.present()
        told = await asyncio.gather(
            *(self._desk.wire.ask(f"CONSUMER.LIST.{names.stream(queue)}") for queue in queues)
        )
        taken = [
            f"somebody who takes deliveries from {names.stream(queue)}"
            for queue, one in zip(queues, told, strict=True)
            if any(_is_taking(consumer) for consumer in one.get("consumers") or [])
        ]
        nodes = await living(self._desk.wire, self._desk.clock)
        return [f"node {node.name!r} ({node.where})" for node in nodes] or taken[:1]

    async def note(self, carriage: Carriage) -> None:
        await self._desk.ledger.carry(carriage)

    async def put(self, queue: Queue, deliveries: Sequence[Delivery], *, anew: bool) -> None:
        items = [item(queue, delivery) for delivery in deliveries]
        if anew:
            there = await self._there(queue, items)
            items = [one for one, known in zip(items, there, strict=True) if not known]
        outcomes = await put_each(self._desk.wire, items)
        doubtful: list[Item] = []
        for one, outcome in zip(items, outcomes, strict=True):
            if isinstance(outcome, Refused):
                raise EngineUnavailable(f"{names.stream(queue)} takes no more: {outcome}")
            if not isinstance(outcome, Stored):
                raise outcome
            if outcome.duplicate:
                doubtful.append(one)
        await self._put_gone(queue, doubtful)

    async def _put_gone(self, queue: Queue, items: Sequence[Item]) -> None:
        """Put what the server knows by its id, but holds no more: somebody has emptied a stream."""
        there = await self._there(queue, items)
        for one, known in zip(items, there, strict=True):
            if not known:
                try:
                    await self._desk.wire.put(one._replace(id=""))
                except Refused as refused:
                    raise EngineUnavailable(
                        f"{names.stream(queue)} takes no more: {refused}"
                    ) from refused

    async def _there(self, queue: Queue, items: Sequence[Item]) -> list[bool]:
        """Return for each whether the stream holds it."""
        some = asyncio.Semaphore(_AT_ONCE)
        stream = names.stream(queue)

        async def one(subject: str) -> bool:
            async with some:
                return await self._desk.wire.get(stream, last_by_subj=subject) is not None

        return await asyncio.gather(*(one(each.subject) for each in items))

    async def finish(self, carriage: Carriage, census: Census) -> None:
        topics = {
            topic: Counters(
                # Storage counts what has come to it, as streams do.
                created=counts.created - counts.parked - counts.dead,
                delivered=counts.delivered,
                discarded=counts.discarded,
                archived=counts.archived,
            )
            for topic, counts in census.topics.items()
        }
        for queue, given in (await self.given()).items():
            if queue.topic in topics:
                # What this move has put there: nobody else has put anything meanwhile.
                came = given - carriage.given.get(name_of(queue), 0)
                topics[queue.topic].created -= came
                if queue.kind is Kind.TOPIC:
                    topics[queue.topic].placed = came
        await self._desk.ledger.carry(
            msgspec.structs.replace(carriage, finished=True), census.since, topics
        )


def _is_taking(consumer: Mapping[str, Any]) -> bool:
    return bool(consumer.get("num_waiting"))
