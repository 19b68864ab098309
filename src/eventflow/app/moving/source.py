"""The file of a stopped node, read in the parts in which it is moved.

Each part is read in order from behind a cursor, so that a move can go on in its midst. The file
does not change while it is marked, so a cursor means the same in every process.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from operator import itemgetter
from typing import TYPE_CHECKING, NamedTuple

from eventflow.engine.embedded import open_stopped
from eventflow.engine.protocol import Census, Kind, Queue
from eventflow.storage.protocol import Filter

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path
    from typing import Any, TypeVar

    from eventflow.clock import Clock
    from eventflow.delivery import Delivery
    from eventflow.engine.embedded import EmbeddedEngine
    from eventflow.storage.protocol import AuditRow, Kept, Verdict

    T = TypeVar("T")

BATCH = 500
"""Deliveries that go together: what one atomic batch of the servers carries best."""
BATCH_BYTES = 4 * 2**20
"""Their events, at most, unless a single one is larger: a transaction of storage must be short."""
_PAGE = 5_000
_KEPT = 250
_ROWS = 1_000


class Batch(NamedTuple):
    """Deliveries of one queue that follow each other there."""

    deliveries: Sequence[Delivery]
    last: int
    """Cursor behind the last one."""


class Source:
    """What a file holds. Made by `opened`."""

    def __init__(self, path: Path, engine: EmbeddedEngine, census: Census) -> None:
        self.path = path
        self.census = census
        self._engine = engine

    @property
    def queues(self) -> Sequence[Queue]:
        """The queues and lanes that hold something; common is the last one."""
        topics = sorted(self.census.topics, key=lambda name: (name == "common", name))
        lanes = [Queue(Kind.LANE, name) for name in topics if self.census.topics[name].retrying]
        return [
            *lanes,
            *(Queue(Kind.TOPIC, name) for name in topics if self._queued(name)),
        ]

    def count(self, queue: Queue) -> int:
        """Return how many deliveries a queue holds."""
        if queue.kind is Kind.LANE:
            return self.census.topics[queue.topic].retrying
        return self._queued(queue.topic)

    def _queued(self, topic: str) -> int:
        counts = self.census.topics[topic]
        return counts.queued + counts.running

    async def batches(self, queue: Queue, after: int) -> AsyncIterator[Batch]:
        """Yield what a queue holds behind a cursor, in order of entry."""
        while page := await self._engine.walk(queue, after=after, limit=_PAGE):
            for some in _cut(page, lambda one: one.delivery.event.size_bytes):
                after = some[-1].cursor
                yield Batch([one.delivery for one in some], after)

    async def kept(self, after: str) -> AsyncIterator[Sequence[Kept]]:
        """Yield what is parked and dead behind a delivery's id, in order of ids."""
        behind: str | None = after
        while behind is not None:
            page, behind = await self._engine.storage.along(
                Filter(), after=behind or None, limit=_KEPT
            )
            for some in _cut(page, lambda one: one.size_bytes):
                yield some

    async def rows(self, chain: str, seq: int) -> AsyncIterator[Sequence[AuditRow]]:
        """Yield the audit trail behind a chain and number, chain after chain."""
        position = (chain, seq)
        while page := await self._engine.storage.behind(position, _ROWS):
            position = (page[-1].chain, page[-1].seq)
            yield page

    async def ids(self, since: float) -> AsyncIterator[Sequence[tuple[str, str]]]:
        """Yield key and ref of events accepted since a time that are still somewhere, some at once.

        The file knows no others: it forgets an event with its last delivery.
        """
        found: dict[str, str] = {}
        for queue in self.queues:
            async for batch in self.batches(queue, -1):
                found |= {
                    one.event.key: one.ref for one in batch.deliveries if one.accepted_at > since
                }
        async for some in self.kept(""):
            found |= {
                one.delivery.event.key: one.delivery.ref
                for one in some
                if one.delivery.accepted_at > since
            }
        pairs = sorted(found.items(), key=itemgetter(1))  # refs grow with time
        for start in range(0, len(pairs), BATCH):
            yield pairs[start : start + BATCH]

    async def overrides(self) -> Mapping[str, Mapping[str, Any]]:
        """Return the settings made at run time, by topic."""
        return await self._engine.storage.overrides()

    async def kept_bytes(self) -> int:
        """Return what is parked and dead counts towards `max_size`."""
        return sum(size for _, size in (await self._engine.storage.totals()).values())

    async def heads(self) -> Sequence[str]:
        """Return the ends of the chains of the audit trail."""
        return await self._engine.storage.heads()

    async def verify(self) -> Verdict:
        """Check the audit trail against its hashes."""
        return await self._engine.storage.verify()


def _cut(items: Iterable[T], size_bytes: Callable[[T], int]) -> Iterator[Sequence[T]]:
    """Yield the items in pieces of at most `BATCH`, and of `BATCH_BYTES` where possible."""
    piece: list[T] = []
    held = 0
    for one in items:
        size = size_bytes(one)
        if piece and (len(piece) == BATCH or held + size > BATCH_BYTES):
            yield piece
            piece, held = [], 0
        piece.append(one)
        held += size
    if piece:
        yield piece


@asynccontextmanager
async def opened(path: Path, *, clock: Clock) -> AsyncIterator[Source]:
    """Open the file to read what it holds; nothing is changed.

    Raises:
        JournalInUse: its node is running.
        JournalUnreadable: damaged, not a journal, or of a newer version.
    """
    engine = await open_stopped(path, clock=clock)
    try:
        yield Source(path, engine, await engine.census(walk=True))
    finally:
        await engine.close()
