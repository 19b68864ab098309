"""Group commit: what comes while one transaction is on its way rides in the next.

Nothing waits when the journal is idle, and under load a commit grows to what arrived during the
one before. Each `Txn` is applied to the queues once its commit is durable, in the order in which
they were given.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from typing import TYPE_CHECKING, Any, TypeVar

import apsw

from eventflow.engine.embedded.journal import Change, Commit, StorageUnit, Work
from eventflow.engine.embedded.queues import Anchor
from eventflow.engine.embedded.space import Space
from eventflow.errors import EngineUnanswered, EngineUnavailable
from eventflow.storage.disk import no_room

if TYPE_CHECKING:
    from collections.abc import Callable

    from eventflow.engine.embedded.journal import Desk, Journal
    from eventflow.engine.embedded.writer import Writer
    from eventflow.event import Event

T = TypeVar("T")

STILL_S = 1.0
"""How long a fault is told after the last commit that failed, though others succeed."""
SOON_S = 0.002
"""How long what nobody waits for (that something was started) may wait for a commit to ride in."""


class Txn:
    """A change, and what to do on the event loop when it is durable or has failed."""

    __slots__ = ("apply", "change", "done", "events", "numbered", "undo", "units", "work")

    def __init__(
        self,
        apply: Callable[[Txn, Anchor], None] | None = None,
        undo: Callable[[], None] | None = None,
    ) -> None:
        self.change = Change()
        self.units: list[StorageUnit] = []
        self.work: list[Work] = []
        self.events: list[Event] = []
        """New events. Those of all transactions of a commit share a row."""
        self.numbered: Callable[[int], None] | None = None
        """Told before the commit where the first of them stands there."""
        self.apply = apply
        """Called with this and the commit's row, when it is durable; `row.body` has `events`."""
        self.undo = undo
        """Called when nothing of it happened."""
        self.done: asyncio.Future[None] | None = None

    @property
    def reads(self) -> bool:
        """Whether it changes nothing."""
        changes = self.events or self.units or not self.change.is_empty
        return bool(self.work) and not changes and all(work.reads for work in self.work)

    def let_go(self) -> None:
        """Keep no longer whom it told: they hold it, too, and nobody but the collector would."""
        self.apply = self.undo = self.numbered = None


class Committer:
    """Owns the journal: the only one that gives its writer anything to do."""

    def __init__(
        self, journal: Journal, writer: Writer, last_commit: int, dead_bodies: list[int]
    ) -> None:
        self._loop = asyncio.get_running_loop()  # asked for at each commit it would be felt
        self.journal = journal
        self.writer = writer
        self.rows: deque[Anchor] = deque()
        """Rows of the journal, oldest first."""
        self.journal_bytes = 0
        self.dead_bodies = dead_bodies
        """Batches of events that nothing needs any more: the next commit deletes them."""
        self.fault: str | None = None
        """Why the last commit failed; None while all is well."""
        self._failed_s = 0.0
        self._trying: asyncio.TimerHandle | None = None
        self.broken = False
        """The file failed in a way that only reopening it mends."""
        self.before_commit: Callable[[Txn], None] | None = None
        """Adds what is to ride along, such as records of starts."""
        self.next_number = 1
        self.on_commit: Callable[[float, int], None] | None = None
        """Told seconds and transactions of each commit: for metrics."""
        self._last_commit = last_commit
        self._waiting: list[Txn] = []
        self._busy = False
        self._reads = False
        """Whether nothing may be changed by the commit under way."""
        self._batch: list[Txn] = []
        self._dropping: list[int] = []
        self._row = Anchor(0)
        self._started_s = 0.0
        self._soon: asyncio.TimerHandle | None = None
        self._owed = False
        """Whether something wants to ride that came while a commit was under way."""
        self._space = Space(journal, self._give_back)
        self._space_due = False

    def take_numbers(self, count: int) -> int:
        """Return the first of `count` numbers that no entry has had before."""
        first = self.next_number
        self.next_number += count
        return first

    def submit(self, txn: Txn) -> asyncio.Future[None]:
        """Let `txn` ride in the next commit.

        The future ends when it is durable and applied.

        Raises:
            EngineUnavailable: (from the future) nothing of it happened.
        """
        txn.done = self._loop.create_future()
        self._waiting.append(txn)
        self.kick()
        return txn.done

    def kick(self) -> None:
        """See to it that a commit comes soon."""
        if not self._busy:
            self._busy = True
            self._loop.call_soon(self._go)

    def kick_soon(self) -> None:
        """See to it that a commit comes within `SOON_S`; one that comes before will do."""
        if self._busy:
            self._owed = True  # that one has begun without it
        elif self._soon is None:
            self._soon = self._loop.call_later(SOON_S, self._now)

    def _now(self) -> None:
        self._soon = None
        self._owed = self._busy
        self.kick()

    async def work(
        self,
        call: Callable[[Desk], T],
        landed: Callable[[], None] | None = None,
        *,
        reads: bool = False,
    ) -> T:
        """Run a function inside a commit and return what it returned, or raise what it raised.

        Args:
            call: Run by the writer.
            landed: Called on the loop when what `call` did is durable, whoever still waits.
            reads: Whether it changes nothing.
        """
        work = Work(call, reads)

        def apply(_: Txn, row: Anchor) -> None:
            del row
            if landed is not None and work.error is None:
                landed()

        txn = Txn(apply)
        txn.work.append(work)
        await self.submit(txn)
        if work.error is not None:
            raise work.error
        result: T = work.result
        return result

    async def idle(self) -> None:
        """Wait until everything given so far is durable, or has failed."""
        while (self._busy or self._waiting or self._soon is not None) and not self.broken:
            with contextlib.suppress(EngineUnavailable):
                await self.submit(Txn())

    def shut(self, why: str) -> None:
        """Take nothing any more."""
        self._space.close()
        if self._trying is not None:
            self._trying.cancel()
            self._trying = None
        self.fault = self.fault or why
        self.broken = True

    def _go(self) -> None:
        batch = self._next()
        if not self._reads:
            if self._soon is not None:
                self._soon.cancel()
                self._soon = None
            self._owed = False
            if self.before_commit is not None and not self.journal.read_only:
                rider = Txn()
                self.before_commit(rider)
                if rider.change.records or rider.change.audit:
                    batch.append(rider)
        if self.broken or not batch:
            self._busy = False
            self._fail(batch, EngineUnavailable(self.fault or "closed"))
            self._go_on()  # who reads has waited where nothing wants to ride any more
            return
        self._batch = batch
        commit = self._commit_of(batch)
        self._started_s = self._loop.time()
        self.writer.run(lambda: self.journal.commit(commit), self._landed)

    def _next(self) -> list[Txn]:
        """Return who goes now: all that wait.

        While nothing can be written, who only reads goes without the others, in turns with them
        and with what wants to ride.
        """
        waiting, self._waiting = self._waiting, []
        apart = self.fault is not None and not self.broken
        readers = [txn for txn in waiting if txn.reads] if apart else []
        if not readers:
            self._reads = False
            return waiting
        others = [txn for txn in waiting if not txn.reads]
        self._reads = not ((others or self._owed) and self._reads)
        now, self._waiting = (readers, others) if self._reads else (others, readers)
        return now

    def _commit_of(self, batch: list[Txn]) -> Commit:
        change = Change()
        units: list[StorageUnit] = []
        work: list[Work] = []
        self._last_commit += 1
        self._row = Anchor(self._last_commit)
        self._number_events(batch, change)
        for txn in batch:
            change.join(txn.change)
            units += txn.units
            work += txn.work
        # A file that is only read keeps what it could drop, and is asked nothing that would write.
        reads = self._reads or self.journal.read_only
        self._dropping = [] if reads else self.dead_bodies[:]
        if not self._reads:
            self.dead_bodies.clear()
        return Commit(
            number=self._last_commit,
            next_number=self.next_number,
            change=change,
            units=units,
            work=work,
            drop_rows_below=0 if reads else self._drop_rows(),
            drop_bodies=self._dropping,
        )

    def _number_events(self, batch: list[Txn], change: Change) -> None:
        """Put the new events of all transactions into one row."""
        events: list[Event] = []
        for txn in batch:
            events += txn.events
        if not events:
            return
        first = at = self.take_numbers(len(events))
        for txn in batch:
            if txn.numbered is not None:
                txn.numbered(at)
                at += len(txn.events)
        change.bodies.append((first, events))
        self._row.body = Anchor(first, total=len(events))

    def _drop_rows(self) -> int:
        """Forget the rows at the front that nothing needs; return the first that stays."""
        dropped = False
        while len(self.rows) > 1 and self.rows[0].live == 0:
            self.journal_bytes -= self.rows.popleft().size_bytes
            dropped = True
        return self.rows[0].number if dropped else 0

    def _landed(self, size: Any, error: BaseException | None) -> None:
        batch, self._batch = self._batch, []
        self._busy = False
        if error is None:
            self._row.size_bytes = size
            if size:  # an empty commit writes nothing, so it proves nothing
                self._recover()
                self.rows.append(self._row)
                self.journal_bytes += size
            self._apply(batch)
        else:
            self.dead_bodies += self._dropping
            self._note(error)
            self._fall(batch, self.fault or str(error))
        if error is None:
            self._space.changed()
        if self._space_due:
            self._give_back()
        else:
            self._go_on()

    def _fall(self, batch: list[Txn], why: str) -> None:
        """Let fail what was in a commit that has failed, and what may stand on it."""
        waiting, self._waiting = self._waiting, []
        readers = [txn for txn in (*batch, *waiting) if txn.reads]
        if self._reads or self.broken:
            self._fail(readers, EngineUnavailable(why))
        else:  # they go again: the fault is not theirs
            self._waiting = readers
        # After a failed sync the journal may hold all the same what its next reader will find.
        lost = EngineUnanswered(why) if self.broken else EngineUnavailable(why)
        self._fail([txn for txn in batch if not txn.reads], lost)
        # What waits was not written. The answer to a duplicate stands on what has just failed.
        self._fail([txn for txn in waiting if not txn.reads], EngineUnavailable(why))

    def _go_on(self) -> None:
        """See to what came meanwhile."""
        if self._waiting:
            self.kick()
        elif self._owed:
            self.kick_soon()

    def _give_back(self) -> None:
        """Give back a piece of unused space: now, or when the commit on its way is done."""
        self._space_due = self._busy
        if not self._busy and not self.broken:
            self._busy = True
            self.writer.run(self._space.piece, self._given_back)

    def _given_back(self, more: Any, error: BaseException | None) -> None:
        self._busy = False
        if error is not None and no_room(error) is None:
            self._note(error)
        self._space.went_on(more=bool(more))
        self._go_on()

    def _apply(self, batch: list[Txn]) -> None:
        if self.on_commit is not None:
            self.on_commit(self._loop.time() - self._started_s, len(batch))
        for txn in batch:
            if txn.apply is not None:
                txn.apply(txn, self._row)
            txn.let_go()
            if txn.done is not None and not txn.done.done():
                txn.done.set_result(None)

    def _recover(self) -> None:
        """Say that all is well again, unless it has just failed: what is small may still fit."""
        if self.fault is not None and self._loop.time() >= self._failed_s + STILL_S:
            self.fault = None

    def _try_later(self) -> None:
        """See whether the disk has room again: a node that says it has none is sent nothing."""
        if self._trying is None and not self.broken:
            self._trying = self._loop.call_later(STILL_S, self._try)

    def _try(self) -> None:
        self._trying = None
        if self.fault is not None and not self.broken:
            self.writer.run(self.journal.try_room, self._tried)

    def _tried(self, _: Any, error: BaseException | None) -> None:
        if self.broken:
            return
        if error is not None:
            self._note(error)
            return
        self._recover()
        if self.fault is None:
            self.kick_soon()  # what was to ride when a commit failed has nobody else to wait for
        else:  # something has failed meanwhile
            self._try_later()

    def _note(self, error: BaseException) -> None:
        self._failed_s = self._loop.time()
        full = no_room(error)
        if full is not None:
            self.fault = full
            self._try_later()
        elif isinstance(error, apsw.Error):
            # After a failed write or fsync the pages' fate is unknown: only reopening tells.
            self.fault = f"the journal's file failed: {error}"
            self.broken = True
        else:
            self.fault = f"{type(error).__name__}: {error}"
            self.broken = True

    @staticmethod
    def _fail(batch: list[Txn], error: EngineUnavailable) -> None:
        for txn in batch:
            if txn.undo is not None:
                txn.undo()
            txn.let_go()
            if txn.done is not None and not txn.done.done():
                txn.done.set_exception(error)
                txn.done.exception()  # some callers don't wait: that is no fault of theirs
