"""What this node has counted, written before it lets go of what it counted (G8).

The counters of a node are one message, the latest one of its subject. What common has ever been
given is no counter: it is the number of its last message. The records of the other nodes are read
anew every second, so that each node can show the ledger of all; that of a node which has died is
never dropped.

A lease may end a second time: after a crash between the record and the acks, and because a server
that is killed forgets acks of its last moments, though it had confirmed them. So ends are
remembered for longer than a lease, the latest of them in the record too, and counted once.
"""

from __future__ import annotations

import asyncio
from itertools import islice
from math import inf
from typing import TYPE_CHECKING, NamedTuple

from eventflow.engine.jetstream import names
from eventflow.engine.jetstream.stored import Counters, Record, Unreadable, decode, encode
from eventflow.engine.jetstream.wire import Item, Refused
from eventflow.errors import EngineUnavailable
from eventflow.telemetry.logging import log
from eventflow.telemetry.names import UNREADABLE

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from eventflow.engine.carrying import Carriage
    from eventflow.engine.jetstream.wire import Message, Wire

_PAGE = 100
REMEMBERED_S = 120.0
"""How long a confirmed end is remembered by this node: for several leases."""
UNSURE_S = 3_600.0
"""How long one that is not confirmed: for longer than servers are usually gone."""
REMEMBERED_MAX = 200_000
DETOUR_EVERY_S = 1.0
"""How often a topic's detours are noted."""
RECORDED_MAX = 2_000
"""Ends in the record, for whoever leases one of them again.

Those that no server has confirmed come first: they are leased again for sure, by any node, after a
whole lease, when thousands of others have ended. Then the latest of the confirmed.
"""

Change = tuple[str, str, int]
"""Topic, counter, by how much."""


class Other(NamedTuple):
    """The record of another node."""

    seq: int
    """Of the message it stands in."""
    record: Record
    unsure: frozenset[bytes]
    """Ends that it counts: asked for at each settlement."""


_UNKNOWN = Other(0, Record(inf, {}, b""), frozenset())


class Ledger:
    """The counters of all nodes; this node's can be changed."""

    def __init__(self, wire: Wire, node: str, now: float) -> None:
        self._wire = wire
        self._subject = names.ledger_subject(node)
        self._now = now
        self._own = Record(now, {}, b"")
        self._ended: dict[bytes, float] = {}
        """By lease, the latest last: when its end was confirmed, by this node's clock."""
        self._unsure: dict[bytes, float] = {}
        """By lease: when its end was counted that no server has confirmed."""
        self._others: dict[str, Other] = {}
        self._writing: asyncio.Future[None] | None = None
        self._next: asyncio.Future[None] | None = None

    async def load(self) -> None:
        """Read what all nodes have counted, this one in an earlier life too.

        Raises:
            EngineUnavailable: this node's record is of another format, or no answer; or a file is
                being moved here.
        """
        own = await self._wire.get(names.LEDGER, last_by_subj=self._subject)
        if own is not None:
            try:
                self._own = _read(own)
            except Unreadable as unreadable:
                raise EngineUnavailable(str(unreadable)) from unreadable
            self._unsure = dict.fromkeys(_fences(self._own), self._now)
        await self.refresh()
        for other in self._others.values():
            _refuse_half_moved(other.record)
        # The first line says since when is counted, also if nothing ever is.
        await self.commit(())

    async def refresh(self) -> None:
        """Read what the other nodes have counted since.

        Raises:
            EngineUnavailable: no answer.
        """
        after = 0
        while True:
            page = await self._wire.read(names.LEDGER, "ef.ledger.*", after, _PAGE)
            for message in page:
                if message.subject != self._subject:
                    self._take(message)
            if len(page) < _PAGE:
                return
            after = page[-1].seq

    def _take(self, message: Message) -> None:
        node = names.ref_of(message.subject)
        known = self._others.get(node, _UNKNOWN)
        if known.seq == message.seq:
            return
        try:
            record = _read(message)
        except Unreadable as unreadable:
            # A node of a later release: what it counted up to here is all that is known of it.
            log(UNREADABLE, where=names.LEDGER, reason=str(unreadable))
            record = known.record
        self._others[node] = Other(message.seq, record, frozenset(_fences(record)))

    @property
    def since(self) -> float:
        """When the first node began to count."""
        return min(record.since for record in self._records())

    @property
    def repeats(self) -> int:
        """Deliveries that came through twice."""
        return sum(one.repeated for record in self._records() for one in record.topics.values())

    def _records(self) -> Iterator[Record]:
        yield self._own
        for other in self._others.values():
            yield other.record

    def counters(self, topic: str) -> Counters:
        """Return a topic's counters, of all nodes."""
        total = Counters()
        for record in self._records():
            one = record.topics.get(topic)
            if one is not None:
                total.created += one.created
                total.delivered += one.delivered
                total.discarded += one.discarded
                total.placed += one.placed
                total.archived += one.archived
        return total

    def detoured_at(self, topic: str) -> float:
        """Return when a node last sent events of this topic through common for want of room."""
        return max(record.detours.get(topic, -inf) for record in self._records())

    async def detour(self, topic: str, now: float) -> None:
        """Note such a detour, durably before the first of a second is taken.

        Raises:
            EngineUnavailable: it is not durable yet.
        """
        if now - self._own.detours.get(topic, -inf) >= DETOUR_EVERY_S:
            self._own.detours[topic] = now
            await self.commit(())

    def has(self, key: bytes) -> bool:
        """Return whether the end of this lease was counted before."""
        if key in self._ended or key in self._unsure:
            return True
        return any(key in one.unsure for one in self._others.values())

    def remember(self, keys: Sequence[bytes], now: float) -> None:
        """Remember that these leases are being ended, and counted with the next record."""
        for key in keys:
            self._ended.pop(key, None)
            self._unsure.pop(key, None)  # to be the latest
            self._unsure[key] = now
        self._forget(now)

    async def carry(
        self,
        move: Carriage,
        since: float | None = None,
        topics: Mapping[str, Counters] | None = None,
    ) -> None:
        """Note how far a move has come; at its end with all that its file had counted.

        Raises:
            EngineUnavailable: it could not be made durable.
        """
        self._own.move = move
        if since is not None:
            self._own.since = since
        if topics is not None:
            self._own.topics = dict(topics)
        await self._written()

    async def commit(self, changes: Sequence[Change]) -> None:
        """Count, and make it durable together with what else is being counted.

        Raises:
            EngineUnavailable: not durable yet. It is counted all the same: with the next record.
        """
        for topic, name, by in changes:
            counters = self._own.topics.setdefault(topic, Counters())
            setattr(counters, name, getattr(counters, name) + by)
        await self._written()

    def sure(self, keys: Sequence[bytes], now: float) -> None:
        """Note that the server has confirmed these ends; forget those of long ago."""
        for key in keys:
            if self._unsure.pop(key, None) is not None:
                self._ended[key] = now
        self._forget(now)

    def _forget(self, now: float) -> None:
        for ends, for_s in ((self._ended, REMEMBERED_S), (self._unsure, UNSURE_S)):
            while ends:
                first = next(iter(ends))
                if now - ends[first] < for_s and len(ends) <= REMEMBERED_MAX:
                    break
                del ends[first]

    def _recorded(self) -> bytes:
        unsure = list(islice(reversed(self._unsure), RECORDED_MAX))
        sure = islice(reversed(self._ended), RECORDED_MAX - len(unsure))
        return b"".join([*reversed(list(sure)), *reversed(unsure)])

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
        self._own.unsure = self._recorded()
        try:
            await self._wire.put(Item(self._subject, "", encode(self._own)))
        except Refused as refused:
            raise EngineUnavailable(f"{names.LEDGER}: {refused}") from refused


def _read(message: Message) -> Record:
    return decode(message.body, Record, f"the ledger of node {names.ref_of(message.subject)}")


def _refuse_half_moved(record: Record) -> None:
    move = record.move
    if move is not None and not move.finished:
        raise EngineUnavailable(
            f"the move of {move.source} to these servers has not ended; nothing was started. "
            f"Run the same `eventflow move` again where that file is: it goes on where it was"
        )


def _fences(record: Record) -> list[bytes]:
    size = names.FENCE_BYTES
    return [record.unsure[at : at + size] for at in range(0, len(record.unsure), size)]
