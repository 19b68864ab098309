"""What this node has counted, written before it lets go of what it counted (G8).

The counters of a node are one message, the latest one of its subject. What common has ever been
given is no counter: it is the number of its last message. After a crash between the record and
the acks the same leases end a second time; the record names them, so that they are counted once.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from eventflow.engine.jetstream import names
from eventflow.engine.jetstream.stored import Counters, Record, Unreadable, decode, encode
from eventflow.engine.jetstream.wire import Item, Refused
from eventflow.errors import EngineUnavailable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from eventflow.engine.jetstream.wire import Wire

_PAGE = 100
_UNSURE_MAX = 20_000
"""Ends remembered whose ack was never confirmed."""

Change = tuple[str, str, int]
"""Topic, counter, by how much."""


class Ledger:
    """The counters of all nodes; this node's can be changed."""

    def __init__(self, wire: Wire, node: str, now: float) -> None:
        self._wire = wire
        self._node = node
        self._own = Record(now, {}, [])
        self._unsure: dict[str, None] = {}
        self._others: dict[str, Record] = {}
        self._writing: asyncio.Future[None] | None = None
        self._next: asyncio.Future[None] | None = None

    async def load(self) -> None:
        """Read what all nodes have counted, this one in an earlier life too.

        Raises:
            EngineUnavailable: a record is of another format.
        """
        for message in await self._wire.read(names.LEDGER, "ef.ledger.*", 0, _PAGE):
            node = names.ref_of(message.subject)
            try:
                record = decode(message.body, Record, f"the ledger of node {node}")
            except Unreadable as unreadable:
                raise EngineUnavailable(str(unreadable)) from unreadable
            if node != self._node:
                self._others[node] = record
            else:
                self._own = record
                self._unsure = dict.fromkeys(record.unsure)
        # The first line says since when is counted, also if nothing ever is.
        await self.commit((), ())

    @property
    def since(self) -> float:
        """When the first node began to count."""
        return min(record.since for record in (self._own, *self._others.values()))

    @property
    def repeats(self) -> int:
        """Deliveries that came through twice."""
        return self._own.repeats + sum(record.repeats for record in self._others.values())

    def counters(self, topic: str) -> Counters:
        """Return a topic's counters, of all nodes."""
        total = Counters()
        for record in (self._own, *self._others.values()):
            one = record.topics.get(topic)
            if one is not None:
                total.created += one.created
                total.delivered += one.delivered
                total.discarded += one.discarded
                total.placed += one.placed
        return total

    def has(self, key: str) -> bool:
        """Return whether the end of this lease was counted before."""
        return key in self._unsure or any(key in one.unsure for one in self._others.values())

    async def commit(self, changes: Sequence[Change], keys: Sequence[str]) -> None:
        """Count, and make it durable together with what else is being counted.

        Raises:
            EngineUnavailable: not durable yet. It is counted all the same: with the next record.
        """
        for topic, name, by in changes:
            counters = self._own.topics.setdefault(topic, Counters())
            setattr(counters, name, getattr(counters, name) + by)
        self._unsure.update(dict.fromkeys(keys))
        while len(self._unsure) > _UNSURE_MAX:
            del self._unsure[next(iter(self._unsure))]
        await self._written()

    def sure(self, keys: Sequence[str]) -> None:
        """Forget keys: these leases have ended for good."""
        for key in keys:
            self._unsure.pop(key, None)

    async def _written(self) -> None:
        """Wait for a record that was begun from now on: one for all who wait."""
        if self._next is None:
            self._next = asyncio.ensure_future(self._write_next(self._writing))
        await asyncio.shield(self._next)

    async def _write_next(self, before: asyncio.Future[None] | None) -> None:
        if before is not None:
            await asyncio.wait([before])
        else:
            await asyncio.sleep(0)  # let all who settle now count first
        self._writing, self._next = self._next, None
        self._own.unsure = list(self._unsure)
        try:
            await self._wire.put(Item(f"ef.ledger.{self._node}", "", encode(self._own)))
        except Refused as refused:
            raise EngineUnavailable(f"{names.LEDGER}: {refused}") from refused
