"""What all parts of the engine share: the connection, the time, and what this node has leased."""

from __future__ import annotations

import asyncio
import logging
from math import inf
from typing import TYPE_CHECKING, Any

from eventflow.engine.jetstream import gate
from eventflow.engine.jetstream.answers import ACK, give_back
from eventflow.engine.jetstream.depths import Depths
from eventflow.engine.jetstream.forgets import Forgets
from eventflow.engine.jetstream.leasing import Book, is_topic
from eventflow.engine.jetstream.ledger import Ledger
from eventflow.engine.jetstream.notes import Notes
from eventflow.engine.jetstream.stored import Note
from eventflow.engine.jetstream.untold import Untold
from eventflow.engine.moves import crash_row
from eventflow.engine.protocol import Plan
from eventflow.policy.priority import frame
from eventflow.telemetry.logging import log
from eventflow.telemetry.names import UNREADABLE

if TYPE_CHECKING:
    from collections.abc import Collection, Coroutine, Sequence

    from eventflow.clock import Clock
    from eventflow.engine.jetstream.leasing import Held
    from eventflow.engine.jetstream.wire import Wire
    from eventflow.engine.protocol import Queue
    from eventflow.storage.protocol import Keeper

_SAFETY = 0.01
"""Part of a lease that this node takes off: the server's began a little earlier."""
_GONE_S = 120.0
"""How long an acked message is known here, in real seconds.

The server lets go of it a moment later; one that is killed may bring it back when it is started.
"""

_UNREAD_S = 120.0
"""How long a message that can't be read is told of, in real seconds."""
_NEVER = (-inf, "")

_log = logging.getLogger(__name__)


class Desk:
    """See the module."""

    def __init__(self, wire: Wire, storage: Keeper, clock: Clock, node: str, rate: float) -> None:
        self.wire = wire
        self.storage = storage
        self.clock = clock
        self.node = node
        self.rate = rate
        """How many of the clock's seconds pass in a real one: 1 but in tests."""
        self.plan = Plan(topics={})
        self.frame = frame(self.plan.weights)
        self.notes = Notes(wire)
        self.book = Book()
        self.ledger = Ledger(wire, node, clock.now_s())
        self.depths = Depths(wire, self.ledger.marks)
        self.forgets = Forgets(storage, self.ledger)
        self.closing = False
        self._unread: dict[str, tuple[float, str]] = {}
        """By stream: the last message found that this release can't read, and when."""
        self._gone: dict[Queue, dict[int, float]] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self.untold = Untold(wire, storage, node, self.left_unread)

    @property
    def lease_s(self) -> float:
        """How long a lease lasts here."""
        return self.plan.lease_s * (1 - _SAFETY)

    def later(self, work: Coroutine[Any, Any, Any]) -> None:
        """Do something that nobody waits for, before the engine is closed."""
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._over)

    def _over(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            # What was leased comes again when its lease is over: nothing is lost by it.
            _log.warning("left undone: %r", error)

    async def finish(self) -> None:
        """Wait for all that nobody waits for."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    # leases ------------------------------------------------------------------------

    async def nak(self, replies: Sequence[str], delay_s: float = 0.0) -> None:
        """Give messages back to the server, for `delay_s` seconds of the clock.

        One that the server does not hear of comes again when its lease is over.
        """
        word = give_back(delay_s / self.rate)
        await self.wire.answers.give([(reply, word) for reply in replies])

    async def give_back(self, leases: Sequence[Held]) -> None:
        """Give back deliveries as if they had never been leased, in order of entry."""
        ordered = sorted(leases, key=lambda held: held.seq)
        # The note first: whoever leases it next must find that this was no run.
        await asyncio.gather(
            *(self.note(held, started=False) for held in ordered if is_topic(held.queue))
        )
        now = self.clock.now_s()
        valid = [held for held in ordered if now < held.until]
        # One after the other on one connection: the server hands them out in the order of NAKs.
        await self.nak([held.reply for held in valid])
        for held in ordered:
            held.ended = True
            self.book.remove(held)

    async def note(self, held: Held, *, started: bool) -> None:
        """Keep what is new of a delivery that stays where it is."""
        await self.notes.write(held.queue, Note(held.seq, held.times, started, held.delivery))

    async def acked(self, leases: Sequence[Held]) -> list[bool]:
        """End leases; for each whether the server said so."""
        done = await self.wire.answers.give([(held.reply, ACK) for held in leases])
        at = asyncio.get_running_loop().time()
        ended: dict[Queue, list[Held]] = {}
        for held, sure in zip(leases, done, strict=True):
            if sure:
                ended.setdefault(held.queue, []).append(held)
            held.ended = True
            self.book.remove(held)
        for queue, some in ended.items():
            self._gone.setdefault(queue, {}).update((held.seq, at) for held in some)
            self.depths.gauge(queue).left(len(some))
            self.notes.drop(queue, [held.delivery.ref for held in some])
        return done

    def left_unread(self, stream: str, what: str) -> None:
        """Say that a message is left to nodes that can read it: once while there are such."""
        now = asyncio.get_running_loop().time()
        if now - self._unread.get(stream, _NEVER)[0] > _UNREAD_S:
            log(UNREADABLE, where=stream, reason=what)
        self._unread[stream] = (now, what)

    def unread(self) -> list[gate.Verdict]:
        """Return what was left so lately, by stream."""
        since = asyncio.get_running_loop().time() - _UNREAD_S
        return [
            gate.unread(stream, what) for stream, (at, what) in self._unread.items() if at > since
        ]

    def gone(self, queue: Queue) -> Collection[int]:
        """Return which messages this node has acked: the server may still show them."""
        return self._gone.setdefault(queue, {})

    def forget_gone(self) -> None:
        """Forget acks that the server has carried out long ago."""
        limit = asyncio.get_running_loop().time() - _GONE_S
        for seqs in self._gone.values():
            for seq in [seq for seq, at in seqs.items() if at < limit]:
                del seqs[seq]

    # the trail ----------------------------------------------------------------------

    async def tell_of_crash(self, held: Held, now: float) -> None:
        """Write the audit row of a run that died."""
        await self.untold.tell([crash_row(held.delivery, now)])
