"""What this node has counted, written before it lets go of what it counted (G8).

The counters of a node are one message, the latest one of its subject; `counting` says what is in
them. The records of the other nodes are read five times a second, so that each node can show the
ledger of all; that of a node which has died is never dropped.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from math import inf
from typing import TYPE_CHECKING, NamedTuple

from eventflow.engine.jetstream import names
from eventflow.engine.jetstream.counting import NOTHING, stands
from eventflow.engine.jetstream.ends import REMEMBERED_MAX, REMEMBERED_S, Ends, Told
from eventflow.engine.jetstream.marks import Marks
from eventflow.engine.jetstream.stored import Counters, Record, Unreadable, decode, encode
from eventflow.engine.jetstream.wire import EXPECTED_OTHERWISE, HORIZON_S, Item, Refused
from eventflow.errors import EngineUnavailable
from eventflow.telemetry.logging import log
from eventflow.telemetry.names import UNREADABLE

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from eventflow.engine.carrying import Carriage
    from eventflow.engine.jetstream.counting import Change, End
    from eventflow.engine.jetstream.wire import Message, Wire

_PAGE = 100
FRESH_S = 1.5
"""How old what is known of the other nodes may be where something is counted.

Less than servers are gone that forget acks: what ends a second time after that was in a record
before, which has been read since.
"""
FOLLOW_S = 0.2
"""How often others' records are read: each names its node's latest ends."""
_ASK_AGAIN_S = 0.2
_READS = int(HORIZON_S / _ASK_AGAIN_S)
"""How often a node reads its own record at its start until it is the latest."""
SILENT_S = 60.0
"""After what time without a record a node that has counted an end, too, is taken for dead.

One that lives takes its count back within a second or two. Less than `REMEMBERED_S`.
"""
DETOUR_EVERY_S = 1.0
"""How often a topic's detours are noted."""


class Other(NamedTuple):
    """The record of another node."""

    seq: int
    """Of the message it stands in."""
    record: Record
    ends: Told
    """What is named in it, however long ago that was."""
    came_at: float
    """When this node first saw it, by its event loop's clock."""


_NO_RECORD = Record(inf, {}, b"")
_UNKNOWN = Other(0, _NO_RECORD, Told(_NO_RECORD), -inf)


class Moves(NamedTuple):
    """How much is between two places, or has been."""

    now: int
    ever: int
    """Never less than before: what has grown between two looks was on its way between them."""


class Ledger:
    """The counters of all nodes; this node's can be changed."""

    def __init__(self, wire: Wire, node: str, now: float) -> None:
        self._wire = wire
        self._node = node
        self._subject = names.ledger_subject(node)
        self._now = now
        self._own = Record(now, {}, b"")
        self._last_seq = 0
        """Of the message in which this node's latest record stands."""
        self._ends = Ends()
        self._to_tell = False
        """Whether two nodes counted one end, and this one's record does not say so yet."""
        self.marks = Marks()
        self._others: dict[str, Other] = {}
        self._by_others: dict[bytes, float] = {}
        """What stood in their records, the latest last: when it did, by the event loop's clock."""
        self._fresh_at = -inf
        """When this node last began to read what all others had counted, and could."""
        self._reading: asyncio.Future[None] | None = None
        self._moves = self._told = Moves(0, 0)
        """Of this node: just now, and as the others know it."""
        self._writing: asyncio.Future[None] | None = None
        self._next: asyncio.Future[None] | None = None

    async def load(self) -> None:
        """Read what all nodes have counted, this one in an earlier life too.

        Raises:
            EngineUnavailable: this node's record is of another format, or no answer; or a file is
                being moved here.
        """
        await self.refresh()
        for other in self._others.values():
            _refuse_half_moved(other.record)
        for _ in range(_READS):
            if await self._go_on():
                return
            await asyncio.sleep(_ASK_AGAIN_S)
        raise EngineUnavailable(
            f"{self._subject} in {names.LEDGER} changes while it is read: "
            f"the servers do not agree yet, or another node has this name"
        )

    async def _go_on(self) -> bool:
        """Read this node's record and write it again, so that it says since when is counted.

        Returns:
            False: it was not the latest. A server that others have left behind can't know that.
        """
        own = await self._latest(self._subject)
        if own is not None:
            try:
                self._own = _read(own)
            except Unreadable as unreadable:
                raise EngineUnavailable(str(unreadable)) from unreadable
            self._ends.load(self._own, self._now)
            self.marks.heard(self._own.marks)
            self._moves = Moves(0, self._own.begun)
            for node, other in self._others.items():
                self._take_back(node, other.ends)
        self._last_seq = own.seq if own else 0
        try:
            await self._put()
        except Refused as refused:
            if refused.code in EXPECTED_OTHERWISE:
                return False
            raise EngineUnavailable(f"{names.LEDGER}: {refused}") from refused
        return True

    async def refresh(self) -> None:
        """Read what the other nodes have counted since.

        Raises:
            EngineUnavailable: no answer.
        """
        began = asyncio.get_running_loop().time()
        after = 0
        while True:
            page = await self._wire.read(names.LEDGER, "ef.ledger.*", after, _PAGE)
            for message in page:
                if message.subject != self._subject:
                    self._take(message)
            if len(page) < _PAGE:
                break
            after = page[-1].seq
        # Any server may have answered, also one that is behind. Of nodes that live the leader is
        # asked.
        alive = [n for n, one in self._others.items() if began - one.came_at < REMEMBERED_S]
        latest = await asyncio.gather(*(self._latest(names.ledger_subject(node)) for node in alive))
        for found in latest:
            if found is not None:
                self._take(found)
        for node, other in self._others.items():
            if began - other.came_at > SILENT_S:
                self._take_back(node, other.ends, dead=True)
        self._fresh_at = began
        self._forget_others(began)

    def _forget_others(self, now: float) -> None:
        """Forget what stood in their records long ago."""
        while self._by_others:
            first = next(iter(self._by_others))
            few = len(self._by_others) <= REMEMBERED_MAX
            if few and now - self._by_others[first] < REMEMBERED_S:
                break
            del self._by_others[first]

    async def freshen(self) -> None:
        """Know what the others had counted `FRESH_S` ago: before something is counted here.

        Raises:
            EngineUnavailable: no answer for as long as that is tried.
        """
        loop = asyncio.get_running_loop()
        asked_at = loop.time()
        while asked_at - self._fresh_at > FRESH_S:
            if self._reading is None or self._reading.done():
                self._reading = asyncio.ensure_future(self.refresh())
            try:
                await asyncio.shield(self._reading)
            except EngineUnavailable:
                if loop.time() - asked_at > HORIZON_S:
                    raise
                await asyncio.sleep(_ASK_AGAIN_S)

    async def _latest(self, subject: str) -> Message | None:
        return await self._wire.get(names.LEDGER, last_by_subj=subject)

    def _take(self, message: Message) -> None:
        node = names.ref_of(message.subject)
        known = self._others.get(node, _UNKNOWN)
        if known.seq >= message.seq:
            return
        try:
            record = _read(message)
        except Unreadable as unreadable:
            # A node of a later release: what it counted up to here is all that is known of it.
            log(UNREADABLE, where=names.LEDGER, reason=str(unreadable))
            record = known.record
        came_at = asyncio.get_running_loop().time()
        ends = Told(record)
        self._others[node] = Other(message.seq, record, ends, came_at)
        for key in ends:
            self._by_others.pop(key, None)
            self._by_others[key] = came_at
        self.marks.heard(record.marks)
        self._take_back(node, ends)

    def _take_back(self, node: str, ends: Told, *, dead: bool = False) -> None:
        """Count no longer what another node has counted, too, and whose count stands."""
        for key in ends:
            if key not in self._ends:
                continue
            mine, theirs = self._ends.counted_as(key), ends.counted_as(key)
            if NOTHING in {mine, theirs}:
                continue
            if stands(self._node, node, dead=dead):
                self._ends.contest(key)  # for the other to find it, however long ago it was
            else:
                self._add(mine, -1)
                self._ends.take_back(key)
            self._to_tell = True

    def _add(self, end: End, by: int) -> None:
        counters = self._own.topics.setdefault(end.topic, Counters())
        setattr(counters, end.counter, getattr(counters, end.counter) + by)

    @property
    def since(self) -> float:
        """When the first node began to count."""
        return min(record.since for record in self._records())

    @property
    def repeats(self) -> int:
        """Deliveries that came through twice."""
        return sum(one.repeated for record in self._records() for one in record.topics.values())

    def begin(self, deliveries: int) -> None:
        """Say that so many deliveries begin to move: they may be seen in two places, or in none."""
        now, ever = self._moves
        self._moves = Moves(now + deliveries, ever + deliveries)

    def over(self, deliveries: int) -> None:
        """Say that so many of them are in one place again."""
        now, ever = self._moves
        self._moves = Moves(now - deliveries, ever)

    @property
    def is_dated(self) -> bool:
        """Whether the others have to be told: how much is moving, also that something still is."""
        moves = self._moves.now > 0 or self._moves != self._told
        return moves or self._to_tell or self.marks.have_grown

    def moves(self, lease_s: float) -> Moves:
        """Return what all nodes move; of the others, as their latest records say.

        A node that has said nothing for a lease moves nothing: it tells every second while it does.
        """
        now, ever = self._moves
        since = asyncio.get_running_loop().time() - lease_s
        for other in self._others.values():
            now += other.record.moving if other.came_at > since else 0
            ever += other.record.begun
        return Moves(now, ever)

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
                total.moved += one.moved
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
            await self.commit()

    def has(self, key: bytes) -> bool:
        """Return whether this end was counted before."""
        if key in self._ends or key in self._by_others:
            return True
        return any(key in one.ends for one in self._others.values())

    def end(self, ends: Mapping[bytes, End], now: float) -> None:
        """Count these ends, durably with the next record."""
        for end, count in Counter(ends.values()).items():
            self._add(end, count)
        self._ends.add(ends, now)

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

    async def commit(self, changes: Sequence[Change] = ()) -> None:
        """Count, and make it durable together with what else is being counted.

        Raises:
            EngineUnavailable: not durable yet. It is counted all the same: with the next record.
        """
        for topic, name, by in changes:
            counters = self._own.topics.setdefault(topic, Counters())
            setattr(counters, name, getattr(counters, name) + by)
        await self._written()

    def sure(self, keys: Sequence[bytes], now: float) -> None:
        """Note that the server has confirmed these ends."""
        self._ends.confirm(keys, now)

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
        try:
            await self._put()
        except Refused as refused:
            if refused.code not in EXPECTED_OTHERWISE:
                raise EngineUnavailable(f"{names.LEDGER}: {refused}") from refused
            # It is there already, after no answer; or an earlier one came late.
            latest = await self._latest(self._subject)
            self._last_seq = latest.seq if latest else 0
            await self._put_again()

    async def _put_again(self) -> None:
        try:
            await self._put()
        except Refused as refused:
            raise EngineUnavailable(f"{names.LEDGER}: {refused}") from refused

    async def _put(self) -> None:
        """Write the record behind the one that this node knows to be its latest.

        What is under way for long, where servers are cut off from each other, must not come behind
        what was written later: after a crash this node would go on from that.
        """
        self._own.ends, self._own.sure, self._own.kinds = self._ends.recorded()
        self._own.marks = self.marks.now()
        to_tell, self._to_tell = self._to_tell, False
        told = self._moves
        self._own.moving, self._own.begun = told
        headers = {"Nats-Expected-Last-Subject-Sequence": str(self._last_seq)}
        body, marks = encode(self._own), self._own.marks
        try:
            stored = await self._wire.put(Item(self._subject, "", body, headers))
        except BaseException:
            self._to_tell |= to_tell
            raise
        self._last_seq = stored.seq
        self._told = told
        self.marks.told(marks)


def _read(message: Message) -> Record:
    return decode(message.body, Record, f"the ledger of node {names.ref_of(message.subject)}")


def _refuse_half_moved(record: Record) -> None:
    move = record.move
    if move is not None and not move.finished:
        raise EngineUnavailable(
            f"the move of {move.source} to these servers has not ended; nothing was started. "
            f"Run the same `eventflow move` again where that file is: it goes on where it was"
        )
