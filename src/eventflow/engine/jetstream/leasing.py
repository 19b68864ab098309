"""Leasing from one queue or lane: by the frame of weights, or by what is due.

A node leases what is asked for and no more: what it fetched ahead would count as started when it
dies. The exception is what a waiting request brings when nobody asks any more. It stays here for
whoever asks next, and is given back if nobody does for a third of a lease.
"""

from __future__ import annotations

import asyncio
import heapq
from collections import Counter, deque
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from eventflow.delivery import COMMON, Delivery
from eventflow.engine.jetstream import names
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

    def __init__(self, queue: Queue, message: Msg, delivery: Delivery, until: float) -> None:
        told = message.metadata
        self.queue = queue
        self.delivery = delivery
        self.reply = message.reply
        self.seq: int = told.sequence.stream
        self.times: int = told.num_delivered
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
        made = await asyncio.gather(*(self._lease(one) for one in came))
        return [held for held in made if held is not None]

    async def _lease(self, came: Came) -> Held | None:
        message, desk = came.message, self._desk
        if await self._had(came):
            return None
        where = f"{names.stream(self.queue)} {message.metadata.sequence.stream}"
        try:
            delivery = decode(message.data, Delivery, where)
        except Unreadable as unreadable:
            # A node of another release wrote it: others may read it, and this one must not end it.
            desk.unreadable = str(unreadable)
            await desk.nak(message.reply, _BACK_LATER_S)
            return None
        held = Held(self.queue, message, delivery, came.since + desk.lease_s)
        if held.times > 1 or desk.notes.may_have(self.queue, delivery.ref):
            note = await desk.notes.find(self.queue, delivery.ref, held.seq)
            now = desk.clock.now_s()
            held.delivery, crashed = as_leased(self.queue, delivery, note, held.times, now)
            if crashed:
                await desk.tell_of_crash(held, now)
        desk.book.add(held)
        return held

    async def _had(self, came: Came) -> bool:
        """Whether this node has ended it, or holds it: a server that was killed has forgotten it.

        What it had confirmed in its last moments comes again, as if for the first time.
        """
        message, desk = came.message, self._desk
        seq = message.metadata.sequence.stream
        if desk.is_gone(self.queue, seq):
            await desk.wire.confirm(message.reply)
            return True
        held = desk.book.of(self.queue, came.since).get(seq)
        if held is None:
            return False
        held.reply, held.times = message.reply, message.metadata.num_delivered
        held.until = came.since + desk.lease_s
        return True

    # a lane ------------------------------------------------------------------------

    async def _take_due(self, limit: int) -> list[Held]:
        (tap,), (stash,) = self._taps, self._stash
        while True:
            messages = await tap.now(_LANE_PULL)
            since = self._desk.clock.now_s()
            came = [*stash, *(Came(message, since) for message in messages)]
            stash.clear()
            await asyncio.gather(*(self._sort(one) for one in came))
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

    async def _sort(self, came: Came) -> None:
        """Keep what is due, send the rest back until it is."""
        held = await self._lease(came)
        if held is None:
            return
        self._desk.book.remove(held)  # it is leased once it is handed out
        now = self._desk.clock.now_s()
        told = (came.message.headers or {}).get(DUE, "0")
        due_at = float(told) if held.delivery.due_at is None else held.delivery.due_at
        if due_at - now > _SOON_S * self._desk.rate:
            await self._desk.nak(held.reply, due_at - now)
        else:
            heapq.heappush(self._due, (due_at, held.seq, held.times, held))

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
        with suppress(TimeoutError):
            await asyncio.wait_for(self._something.wait(), wait_s)

    def _bring(self, rank: int) -> Any:
        def came(message: Msg) -> None:
            self._stash[rank].append(Came(message, self._desk.clock.now_s()))
            self._something.set()

        return came

    async def tidy(self) -> None:
        """Give back what was brought and nobody asked for."""
        if self._asking == 0:
            async with self._taking:
                await self._drop_stale(self._desk.clock.now_s())

    async def _drop_stale(self, now: float) -> None:
        limit_s = self._desk.lease_s / 3
        for stash in self._stash:
            while stash and now - stash[0].since > limit_s:
                came = stash.popleft()
                if now - came.since < self._desk.lease_s:
                    held = await self._lease(came)
                    if held is not None:
                        await self._desk.give_back([held])


class Book:
    """What this node has leased, by queue and sequence: what runs."""

    def __init__(self) -> None:
        self._held: dict[Queue, dict[int, Held]] = {}

    def add(self, held: Held) -> None:
        """Note a lease; an older one on the same message has run out."""
        self._held.setdefault(held.queue, {})[held.seq] = held

    def remove(self, held: Held) -> None:
        """Note that a lease has ended."""
        of_queue = self._held.get(held.queue, {})
        if of_queue.get(held.seq) is held:
            del of_queue[held.seq]

    def of(self, queue: Queue, now: float) -> dict[int, Held]:
        """Return the leases of a queue that have not run out."""
        of_queue = self._held.get(queue, {})
        for held in [held for held in of_queue.values() if not held.valid(now)]:
            if not held.settling:
                del of_queue[held.seq]
        return of_queue


def is_topic(queue: Queue) -> bool:
    """Whether runs are counted there: a topic's own queue, not common's and no lane."""
    return queue.kind is Kind.TOPIC and queue.topic != COMMON
