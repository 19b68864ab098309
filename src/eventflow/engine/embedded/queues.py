"""Bounded queues in memory: what is waiting, what is running, and room still promised.

A queue never looks at the journal. An `Entry` is one delivery in one place; moving it makes a new
entry with a greater number, so that entries of a queue are in the order in which they came.
"""

from __future__ import annotations

import heapq
from array import array
from collections import deque
from itertools import groupby
from math import inf
from operator import attrgetter
from typing import TYPE_CHECKING, NamedTuple

from eventflow.event import sizes_of
from eventflow.policy.admission import reserve
from eventflow.policy.priority import share

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Iterator, Sequence

    from eventflow.delivery import Delivery
    from eventflow.engine.embedded.run import Run
    from eventflow.engine.protocol import Lease, Queue
    from eventflow.event import Event

RANKS = 4

OUT, SETTLING, GONE = 0, 1, 2
"""What a leased run says of each of its deliveries: leased with it, its commit under way, no part
of the run any more."""

OVERHEAD_BYTES = 136
"""Of an event beside its own size, towards the memory limit."""


class Anchor:
    """A row of the journal or of the bodies, and how many entries still need it."""

    __slots__ = ("body", "live", "number", "size_bytes", "total")

    def __init__(self, number: int, size_bytes: int = 0, total: int = 0) -> None:
        self.number = number
        self.size_bytes = size_bytes
        self.live = 0
        self.total = total
        """Of events: how many the row holds."""
        self.body: Anchor | None = None
        """Of a row of the journal: that of the events its commit brought."""


def weigh(event: Event) -> int:
    """Return the bytes that an event counts towards the memory limit."""
    return OVERHEAD_BYTES + event.size_bytes


def weights_of(events: Sequence[Event]) -> array[int]:
    """Return what each event counts towards the memory limit, in bytes."""
    return array("Q", [OVERHEAD_BYTES + size for size in sizes_of(events)])


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


class Alarm(NamedTuple):
    """When somebody looks again though nothing has come."""

    at: float
    """Of the event loop's time. Not every loop's handle says it."""
    handle: asyncio.Handle


class BoundedQueue:
    """A topic's queue: four priorities, first in first out within each."""

    __slots__ = (
        "alarm",
        "capacity",
        "counts",
        "in_runs",
        "next_expiry",
        "position",
        "queue",
        "reserved",
        "running",
        "runs",
        "waiters",
        "waiting",
    )

    def __init__(self, queue: Queue) -> None:
        self.queue = queue
        self.capacity = 0
        self.waiting: tuple[deque[Entry | Run], ...] = tuple(deque() for _ in range(RANKS))
        self.counts = [0] * RANKS
        """Deliveries waiting, by priority."""
        self.running: dict[int, Entry] = {}
        self.runs: dict[int, Run] = {}
        """Leased runs by their number."""
        self.in_runs = 0
        """Deliveries that are part of those."""
        self.reserved = 0
        """Places promised to deliveries whose commit is under way."""
        self.position = 0
        """Where the next start stands in the frame of weights (G4)."""
        self.next_expiry = inf
        self.waiters: deque[asyncio.Future[None]] = deque()
        self.alarm: Alarm | None = None
        """When the waiters look again though nothing has come; one for all, and left standing."""

    @property
    def queued(self) -> int:
        """How many are waiting."""
        return sum(self.counts)

    @property
    def leased(self) -> int:
        """How many are leased."""
        return len(self.running) + self.in_runs

    @property
    def depth(self) -> int:
        """How many places are taken: waiting, leased and promised (G3)."""
        return sum(self.counts) + len(self.running) + self.in_runs + self.reserved

    def has_room(self, rank: int, count: int = 1) -> bool:
        """Return whether so many of this rank fit; the last tenth is for ranks 0 and 1."""
        kept_free = reserve(self.capacity) if rank > 1 else 0
        return self.depth + count <= self.capacity - kept_free

    def add(self, entry: Entry) -> None:
        """Put an entry at the end of its priority."""
        rank = entry.delivery.event.rank
        self.waiting[rank].append(entry)
        self.counts[rank] += 1

    def add_run(self, run: Run) -> None:
        """Put a run at the end of its priority."""
        self.waiting[run.rank].append(run)
        self.counts[run.rank] += len(run)

    def put_back(self, entry: Entry) -> None:
        """Give a leased entry its old place: before all that came later."""
        rank = entry.delivery.event.rank
        line = self.waiting[rank]
        self.counts[rank] += 1
        if not line or line[0].number > entry.number:
            line.appendleft(entry)
            return
        at = next((i for i, other in enumerate(line) if other.number > entry.number), len(line))
        line.insert(at, entry)

    def take(self, frame: tuple[int, ...], limit: int) -> list[Entry | Run]:
        """Take up to `limit` waiting deliveries, shared among the priorities as the frame says."""
        ranks = [rank for rank, count in enumerate(self.counts) if count]
        if len(ranks) <= 1:
            return self._take_of(ranks[0], limit) if ranks else []
        order, self.position = share(frame, self.position, self.counts, limit)
        taken: list[Entry | Run] = []
        for rank, same in groupby(order):
            taken += self._take_of(rank, sum(1 for _ in same))
        return taken

    def _take_of(self, rank: int, limit: int) -> list[Entry | Run]:
        """Take the first ones of one priority; the last run may have to be cut."""
        line = self.waiting[rank]
        left = limit
        taken: list[Entry | Run] = []
        while left and line:
            head = line[0]
            size = 1 if isinstance(head, Entry) else len(head)
            if size > left and not isinstance(head, Entry):
                taken.append(head.cut(left))
                left = 0
            else:
                taken.append(line.popleft())
                left -= size
        self.counts[rank] -= limit - left
        return taken

    def entries(self) -> Iterator[Entry]:
        """Yield every entry, running ones first, then by priority and order of entry.

        For those of a run: what they would be by themselves.
        """
        for part in self.parts():
            if isinstance(part, Entry):
                yield part
                continue
            for index in range(len(part)):
                if not part.states or part.states[index] != GONE:
                    yield part.entry(index)

    def parts(self) -> Iterator[Entry | Run]:
        """Yield every entry and run."""
        yield from self.running.values()
        yield from self.runs.values()
        for line in self.waiting:
            yield from line

    def find(self, ref: str) -> Iterator[Entry]:
        """Yield the deliveries of an event."""
        for part in self.parts():
            if isinstance(part, Entry):
                if part.delivery.ref == ref:
                    yield part
            elif (index := part.has(ref)) is not None:
                yield part.entry(index)

    def page(self, after: int, limit: int) -> list[Entry]:
        """Return up to `limit` entries that came after number `after`, in order of entry."""
        parts = sorted(self.parts(), key=attrgetter("number"))
        found: list[Entry] = []
        end = 0
        for part in parts:
            # What a run starts with may be followed by what has been taken out of it.
            if len(found) >= limit and part.number >= end:
                break
            if isinstance(part, Entry):
                found += [part] if part.number > after else []
            elif part.number + len(part) > after:
                end = max(end, part.number + len(part))
                found += [
                    part.entry(index)
                    for index in range(max(0, after + 1 - part.number), len(part))
                    if not part.states or part.states[index] != GONE
                ]
        return sorted(found, key=attrgetter("number"))[:limit]

    def oldest_at(self) -> float | None:
        """Return when the one that has waited longest came, None where none waits."""
        heads = [line[0] for line in self.waiting if line]
        head = min(heads, key=lambda part: part.number, default=None)
        if head is None:
            return None
        return head.delivery.entered_at if isinstance(head, Entry) else head.entered_at


class Lane:
    """A topic's part of the retry queue: ordered by due time."""

    __slots__ = (
        "alarm",
        "capacity",
        "heap",
        "next_expiry",
        "queue",
        "reserved",
        "running",
        "waiters",
    )

    def __init__(self, queue: Queue) -> None:
        self.queue = queue
        self.capacity = 0
        self.heap: list[tuple[float, int, Entry]] = []
        self.running: dict[int, Entry] = {}
        self.reserved = 0
        self.next_expiry = inf
        self.waiters: deque[asyncio.Future[None]] = deque()
        self.alarm: Alarm | None = None
        """When the waiters look again though nothing has come; one for all, and left standing."""

    @property
    def queued(self) -> int:
        """How many are waiting to come due."""
        return len(self.heap)

    @property
    def leased(self) -> int:
        """How many are leased."""
        return len(self.running)

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

    def parts(self) -> Iterator[Entry]:
        """Yield every entry, running ones first, then in no particular order."""
        yield from self.running.values()
        for _, _, entry in self.heap:
            yield entry

    entries = parts

    def find(self, ref: str) -> Iterator[Entry]:
        """Yield the deliveries of an event."""
        return (entry for entry in self.parts() if entry.delivery.ref == ref)

    def page(self, after: int, limit: int) -> list[Entry]:
        """Return up to `limit` entries that came after number `after`, in order of entry."""
        behind = (entry for entry in self.parts() if entry.number > after)
        return heapq.nsmallest(limit, behind, key=attrgetter("number"))
