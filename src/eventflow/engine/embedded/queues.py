"""Bounded queues in memory: what is waiting, what is running, and room still promised.

A queue never looks at the journal. An `Entry` is one delivery in one place; moving it makes a new
entry with a greater number, so that entries of a queue are in the order in which they came.
"""

from __future__ import annotations

import heapq
from collections import deque
from math import inf
from typing import TYPE_CHECKING

from eventflow.policy.admission import reserve
from eventflow.policy.priority import share

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Iterator

    from eventflow.delivery import Delivery
    from eventflow.engine.protocol import Lease, Queue

RANKS = 4


class Anchor:
    """A row of the journal or of the bodies, and how many entries still need it."""

    __slots__ = ("live", "number", "size_bytes", "total")

    def __init__(self, number: int, size_bytes: int = 0, total: int = 0) -> None:
        self.number = number
        self.size_bytes = size_bytes
        self.live = 0
        self.total = total
        """Of a batch of events: how many it holds."""


class Entry:
    """One delivery in one place."""

    __slots__ = (
        "body",
        "delivery",
        "event_number",
        "in_lane",
        "lease",
        "live",
        "number",
        "row",
        "settling",
        "started",
        "until",
    )

    def __init__(
        self, number: int, event_number: int, delivery: Delivery, row: Anchor, body: Anchor
    ) -> None:
        self.number = number
        """Grows with every entry made: the order of entry."""
        self.event_number = event_number
        """Where its event stands in the bodies."""
        self.delivery = delivery
        self.row = row
        """The oldest journal row needed to know of this entry."""
        self.body = body
        """The batch of events that holds its event."""
        self.in_lane = False
        self.live = False
        """Whether it is in its place now."""
        self.settling = False
        """Whether a commit that moves it is under way."""
        self.lease: Lease | None = None
        self.until = 0.0
        self.started = False
        """Whether the journal says that it was leased."""

    def anchor_in(self, row: Anchor) -> None:
        """Need this row of the journal from now on, not the one before. Only while live."""
        if self.live:
            self.row.live -= 1
            self.row = row
            row.live += 1


class BoundedQueue:
    """A topic's queue: four priorities, first in first out within each."""

    __slots__ = (
        "capacity",
        "next_expiry",
        "position",
        "queue",
        "reserved",
        "running",
        "waiters",
        "waiting",
    )

    def __init__(self, queue: Queue) -> None:
        self.queue = queue
        self.capacity = 0
        self.waiting: tuple[deque[Entry], ...] = tuple(deque() for _ in range(RANKS))
        self.running: dict[int, Entry] = {}
        self.reserved = 0
        """Places promised to deliveries whose commit is under way."""
        self.position = 0
        """Where the next start stands in the frame of weights (G4)."""
        self.next_expiry = inf
        self.waiters: deque[asyncio.Future[None]] = deque()

    @property
    def queued(self) -> int:
        """How many are waiting."""
        return sum(map(len, self.waiting))

    @property
    def depth(self) -> int:
        """How many places are taken: waiting, leased and promised (G3)."""
        return self.queued + len(self.running) + self.reserved

    def has_room(self, rank: int) -> bool:
        """Return whether one more of this rank fits; the last tenth is for ranks 0 and 1."""
        kept_free = reserve(self.capacity) if rank > 1 else 0
        return self.depth < self.capacity - kept_free

    def add(self, entry: Entry) -> None:
        """Put an entry at the end of its priority."""
        self.waiting[entry.delivery.event.rank].append(entry)

    def put_back(self, entry: Entry) -> None:
        """Give a leased entry its old place: before all that came later."""
        line = self.waiting[entry.delivery.event.rank]
        if not line or line[0].number > entry.number:
            line.appendleft(entry)
            return
        at = next((i for i, other in enumerate(line) if other.number > entry.number), len(line))
        line.insert(at, entry)

    def take(self, frame: tuple[int, ...], limit: int) -> list[Entry]:
        """Take up to `limit` waiting entries, shared among the priorities as the frame says."""
        lines = self.waiting
        counts = (len(lines[0]), len(lines[1]), len(lines[2]), len(lines[3]))
        order, self.position = share(frame, self.position, counts, limit)
        return [lines[rank].popleft() for rank in order]

    def entries(self) -> Iterator[Entry]:
        """Yield every entry, running ones first, then by priority and order of entry."""
        yield from self.running.values()
        for line in self.waiting:
            yield from line

    def oldest(self) -> Entry | None:
        """Return the waiting entry that came first."""
        heads = [line[0] for line in self.waiting if line]
        return min(heads, key=lambda entry: entry.number, default=None)


class Lane:
    """A topic's part of the retry queue: ordered by due time."""

    __slots__ = ("capacity", "heap", "next_expiry", "queue", "reserved", "running", "waiters")

    def __init__(self, queue: Queue) -> None:
        self.queue = queue
        self.capacity = 0
        self.heap: list[tuple[float, int, Entry]] = []
        self.running: dict[int, Entry] = {}
        self.reserved = 0
        self.next_expiry = inf
        self.waiters: deque[asyncio.Future[None]] = deque()

    @property
    def queued(self) -> int:
        """How many are waiting to come due."""
        return len(self.heap)

    @property
    def depth(self) -> int:
        """How many places are taken: waiting, leased and promised (G3)."""
        return len(self.heap) + len(self.running) + self.reserved

    def has_room(self, rank: int) -> bool:
        """Return whether one more of this rank fits; the last tenth is for ranks 0 and 1."""
        kept_free = reserve(self.capacity) if rank > 1 else 0
        return self.depth < self.capacity - kept_free

    def add(self, entry: Entry) -> None:
        """Put an entry where its due time says."""
        heapq.heappush(self.heap, (entry.delivery.due_at or 0.0, entry.number, entry))

    put_back = add

    @property
    def next_due(self) -> float:
        """When the next entry comes due, seconds since 1970; infinity where there is none."""
        return self.heap[0][0] if self.heap else inf

    def take_due(self, now: float, limit: int) -> list[Entry]:
        """Take up to `limit` entries that are due, the earliest first."""
        found: list[Entry] = []
        while self.heap and self.heap[0][0] <= now and len(found) < limit:
            found.append(heapq.heappop(self.heap)[2])
        return found

    def entries(self) -> Iterator[Entry]:
        """Yield every entry, running ones first, then in no particular order."""
        yield from self.running.values()
        for _, _, entry in self.heap:
            yield entry
