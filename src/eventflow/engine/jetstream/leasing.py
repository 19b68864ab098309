"""Leasing from one queue or lane: by the frame of weights, or by what is due.

A node leases what is asked for and no more: what it fetched ahead would count as started when it
dies. The exception is what a waiting request brings when nobody asks any more. It stays here for
whoever asks next, and is given back if nobody does within a second: another node may have room. A
node that stops waits for its last requests to end, a second at most, and gives back what they
brought; else others would get that only when its lease is over.
"""

from __future__ import annotations

import asyncio
import heapq
from collections import Counter, deque
from contextlib import suppress
from math import inf
from typing import TYPE_CHECKING, Any

from eventflow.delivery import COMMON, Delivery
from eventflow.engine.jetstream import names
from eventflow.engine.jetstream.answers import ACK, give_back, told_by
from eventflow.engine.jetstream.notes import as_leased
from eventflow.engine.jetstream.pulling import Tap
from eventflow.engine.jetstream.stored import DUE, Unreadable, decode
from eventflow.engine.protocol import Kind
from eventflow.policy.priority import share

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nats.aio.msg import Msg

    from eventflow.engine.jetstream.desk import Desk
    from eventflow.engine.protocol import Lease, Queue

WAIT_S = 1.0
"""How long one request waits at the server before it is asked anew, in real seconds."""
UNASKED_S = 1.0
"""How long what was brought waits for somebody to ask, in real seconds."""
_LANE_PULL = 200
_SOON_S = 0.02
"""What is due so soon is kept here instead of being sent back for that time."""
_BACK_LATER_S = 30.0
"""When a message that this release can't read is looked at again."""
_LANDING_S = 0.02
"""How long a message may take from the server to here, in real seconds."""


class Held:
    """One delivery that this node has leased: the token of its `Lease`."""

    __slots__ = (
        "delivery",
        "ended",
        "lease",
        "queue",
        "reply",
        "seq",
        "settling",
        "times",
        "until",
    )

    def __init__(
        self, queue: Queue, reply: str, seq: int, times: int, delivery: Delivery, until: float
    ) -> None:
        self.queue = queue
        self.delivery = delivery
        self.reply = reply
        self.seq = seq
        self.times = times
        self.until = until
        """Until when it is ours, by this node's clock: a little before the server's."""
        self.settling = False
        self.ended = False
        self.lease: Lease | None = None

    def valid(self, now: float) -> bool:
        """Whether this lease still decides about its delivery."""
        return not self.ended and now < self.until


class Came:
    """A message that a request brought."""

    __slots__ = ("message", "since")

    def __init__(self, message: Msg, since: float) -> None:
        self.message = message
        self.since = since


class Line:
    """What all who lease from one queue or lane have in common."""

    def __init__(self, queue: Queue, desk: Desk) -> None:
        self.queue = queue
        self._desk = desk
        self._stash: list[deque[Came]] = [deque() for _ in self._consumers]
        stream = names.stream(queue)
        self._taps = [
            Tap(desk.wire, stream, consumer, self._bring(rank))
            for rank, consumer in enumerate(self._consumers)
        ]
        self._taking = asyncio.Lock()
        self._something = asyncio.Event()
        self._asking = 0
        self._asked_at = asyncio.get_running_loop().time()
        """When somebody asked last, by the event loop's clock."""
        self._position = 0
        self._due: list[tuple[float, int, int, Held]] = []
        """Of a lane: what is here and due, or all but, the earliest first."""

    @property
    def _consumers(self) -> Sequence[str]:
        return names.RANKS if self.queue.kind is Kind.TOPIC else (names.MOVER,)

    async def lease(self, limit: int, wait_s: float) -> list[Held]:
        """Lease up to `limit`, waiting up to `wait_s` real seconds for the first."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + wait_s
        self._asking += 1
        try:
            while not self._desk.closing:
                self._something.clear()
                found = await self._without_loss(limit)
                left = deadline - loop.time()
                if found or left <= 0:
                    return found
                await asyncio.gather(
                    *(tap.wait(self._wanted, min(left, WAIT_S)) for tap in self._taps)
                )
                await self._wait(min(left, WAIT_S, self._until_due()))
            return []
        finally:
            self._asking -= 1
            self._asked_at = loop.time()

    def wake(self) -> None:
        """Let those who wait look again."""
        self._something.set()

    async def _without_loss(self, limit: int) -> list[Held]:
        """Take what is there. If the caller is gone meanwhile, it is given back."""
        taking = asyncio.ensure_future(self._take_in_turn(limit))
        try:
            return await asyncio.shield(taking)
        except asyncio.CancelledError:
            taking.add_done_callback(self._left_behind)
            raise

    def _left_behind(self, taking: asyncio.Future[list[Held]]) -> None:
        if not taking.cancelled() and taking.exception() is None and taking.result():
            self._desk.later(self._desk.give_back(taking.result()))

    async def _take_in_turn(self, limit: int) -> list[Held]:
        async with self._taking:
            now = self._desk.clock.now_s()
            await self._drop_stale(now)
            if self.queue.kind is Kind.LANE:
                return await self._take_due(limit)
            return await self._take(limit)

    # a topic's queue, or common's ----------------------------------------------------

    async def _take(self, limit: int) -> list[Held]:
        in_hand = self._stash
        open_ranks = [True] * len(self._taps)
        waited = False
        while True:
            waiting = [
                limit if may_have else len(hand)
                for may_have, hand in zip(open_ranks, in_hand, strict=True)
            ]
            order, position = share(self._desk.frame, self._position, waiting, limit)
            wanted = Counter(order)
            short = {
                rank: count - len(in_hand[rank])
                for rank, count in wanted.items()
                if count > len(in_hand[rank])
            }
            if not short and not order and not waited and any(tap.waits for tap in self._taps):
                # It may be on its way here, in answer to a request that waited.
                waited = True
                await asyncio.sleep(_LANDING_S)
                continue
            if not short:
                break
            pulled = await asyncio.gather(
                *(self._taps[rank].now(count) for rank, count in short.items())
            )
            since = self._desk.clock.now_s()
            for (rank, count), messages in zip(short.items(), pulled, strict=True):
                open_ranks[rank] = len(messages) >= count
                in_hand[rank].extend(Came(message, since) for message in messages)
        self._position = position
        return await self._held([in_hand[rank].popleft() for rank in order])

    async def _held(self, came: Sequence[Came]) -> list[Held]:
        """Return what has come, as this node holds it; without what it had ended or holds already.

        What a server had confirmed in its last moments before it was killed comes again, as if for
        the first time.
        """
        desk, queue, found = self._desk, self.queue, []
        lease_s, gone, book, notes = desk.lease_s, desk.gone(queue), desk.book, desk.notes
        again: list[str] = []
        with_notes: list[Held] = []
        for one in came:
            reply = one.message.reply
            seq, times = told_by(reply)
            if seq in gone:
                again.append(reply)
                continue
            old = book.get(queue, seq, one.since)
            if old is not None:
                old.reply, old.times = reply, times
                old.until = one.since + lease_s
                continue
            try:
                delivery = decode(one.message.data, Delivery, "")
            except Unreadable as unreadable:
                # A node of another release wrote it: others may read it; this one must not end it.
                desk.left_unread(names.stream(queue), f"message {seq}{unreadable}")
                await desk.nak([reply], _BACK_LATER_S)
                continue
            held = Held(queue, reply, seq, times, delivery, one.since + lease_s)
            if times > 1 or notes.may_have(queue, delivery.ref):
                with_notes.append(held)
            found.append(held)
            book.add(held)
        await asyncio.gather(*(self._with_note(held) for held in with_notes))
        await desk.wire.answers.give([(reply, ACK) for reply in again])
        return found

    async def _with_note(self, held: Held) -> None:
        desk, delivery = self._desk, held.delivery
        note = await desk.notes.find(self.queue, delivery.ref, held.seq)
        now = desk.clock.now_s()
        held.delivery, crashed = as_leased(self.queue, delivery, note, held.times, now)
        if crashed:
            await desk.tell_of_crash(held, now)

    # a lane ------------------------------------------------------------------------

    async def _take_due(self, limit: int) -> list[Held]:
        (tap,), (stash,) = self._taps, self._stash
        while True:
            messages = await tap.now(_LANE_PULL)
            since = self._desk.clock.now_s()
            came = [*stash, *(Came(message, since) for message in messages)]
            stash.clear()
            await self._sort(came)
            if len(messages) < _LANE_PULL:
                break
        found: list[Held] = []
        now = self._desk.clock.now_s()
        while self._due and self._due[0][0] <= now and len(found) < limit:
            held = heapq.heappop(self._due)[-1]
            if held.valid(now):  # else it comes again, or has already
                self._desk.book.add(held)
                found.append(held)
        return found

    async def _sort(self, came: Sequence[Came]) -> None:
        """Keep what is due, send the rest back until it is."""
        headers = {one.message.reply: one.message.headers or {} for one in came}
        back: list[tuple[str, bytes]] = []
        for held in await self._held(came):
            self._desk.book.remove(held)  # it is leased once it is handed out
            now = self._desk.clock.now_s()
            due_at = held.delivery.due_at
            if due_at is None:
                due_at = float(headers[held.reply].get(DUE, "0"))
            if due_at - now > _SOON_S * self._desk.rate:
                back.append((held.reply, give_back((due_at - now) / self._desk.rate)))
            else:
                heapq.heappush(self._due, (due_at, held.seq, held.times, held))
        await self._desk.wire.answers.give(back)

    # waiting ------------------------------------------------------------------------

    @property
    def _wanted(self) -> int:
        return 1 if self.queue.kind is Kind.TOPIC else _LANE_PULL

    def _until_due(self) -> float:
        """Return real seconds until what is here is due."""
        if not self._due:
            return WAIT_S
        left = self._due[0][0] - self._desk.clock.now_s()
        return max(0.0, left / self._desk.rate) + 0.001

    async def _wait(self, wait_s: float) -> None:
        with suppress(TimeoutError):  # `wait_for` of Python 3.11 may swallow a cancellation
            async with asyncio.timeout(wait_s):
                await self._something.wait()

    def _bring(self, rank: int) -> Any:
        def came(message: Msg) -> None:
            self._stash[rank].append(Came(message, self._desk.clock.now_s()))
            self._something.set()

        return came

    async def tidy(self) -> None:
        """Give back what was brought and nobody asked for."""
        unasked_s = asyncio.get_running_loop().time() - self._asked_at
        if self._asking == 0 and unasked_s > UNASKED_S:
            await self._give_back()

    async def end(self) -> None:
        """Give back what is here, once no request can bring anything more. Nobody asks now."""
        await asyncio.gather(*(tap.rest() for tap in self._taps))
        await self._give_back()

    async def _give_back(self) -> None:
        async with self._taking:
            due, self._due = self._due, []
            now = self._desk.clock.now_s()
            await self._desk.give_back([item[-1] for item in due if item[-1].valid(now)])
            await self._drop_stale(now, older_than_s=0.0)

    async def _drop_stale(self, now: float, *, older_than_s: float | None = None) -> None:
        """Give back what came so long ago that there is hardly time to run it."""
        limit_s = self._desk.lease_s / 3 if older_than_s is None else older_than_s
        for stash in self._stash:
            old: list[Came] = []
            while stash and now - stash[0].since >= limit_s:
                old.append(stash.popleft())
            valid = [came for came in old if now - came.since < self._desk.lease_s]
            held = await self._held(valid)
            if held:
                await self._desk.give_back(held)


class Book:
    """What this node has leased, by queue and sequence: what runs."""

    def __init__(self) -> None:
        self._held: dict[Queue, dict[int, Held]] = {}
        self._soonest: dict[Queue, float] = {}
        """Before this time none of a queue's leases runs out."""

    def add(self, held: Held) -> None:
        """Note a lease; an older one on the same message has run out."""
        self._held.setdefault(held.queue, {})[held.seq] = held
        self._soonest[held.queue] = min(held.until, self._soonest.get(held.queue, inf))

    def remove(self, held: Held) -> None:
        """Note that a lease has ended."""
        of_queue = self._held.get(held.queue, {})
        if of_queue.get(held.seq) is held:
            del of_queue[held.seq]

    def get(self, queue: Queue, seq: int, now: float) -> Held | None:
        """Return the lease on a message, if it has not run out."""
        held = self._held.get(queue, {}).get(seq)
        return held if held is not None and held.valid(now) else None

    def of(self, queue: Queue, now: float) -> dict[int, Held]:
        """Return the leases of a queue that have not run out."""
        of_queue = self._held.get(queue, {})
        if now >= self._soonest.get(queue, inf):
            for held in [held for held in of_queue.values() if not held.valid(now)]:
                if not held.settling:
                    del of_queue[held.seq]
            self._soonest[queue] = min((held.until for held in of_queue.values()), default=inf)
        return of_queue


def is_topic(queue: Queue) -> bool:
    """Whether runs are counted there: a topic's own queue, not common's and no lane."""
    return queue.kind is Kind.TOPIC and queue.topic != COMMON
