"""Everything the engine has in memory: queues, lanes, counters, and what is remembered."""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING

from eventflow.delivery import COMMON
from eventflow.engine.embedded.dedup import Dedup
from eventflow.engine.embedded.queues import GONE, BoundedQueue, Lane, weigh
from eventflow.engine.embedded.run import Run
from eventflow.engine.protocol import Counts, Kind, Plan, Queue, TopicPlan

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from eventflow.engine.embedded.queues import Anchor, Entry


class Tallies:
    """A topic's counters that are not depths of a queue."""

    __slots__ = ("archived", "created", "dead", "delivered", "discarded", "parked")

    def __init__(
        self, created: int = 0, delivered: int = 0, discarded: int = 0, archived: int = 0
    ) -> None:
        self.created = created
        self.delivered = delivered
        self.discarded = discarded
        self.archived = archived
        self.parked = 0
        self.dead = 0

    def move_kept(self, state: str, by: int) -> None:
        """Count deliveries that came to storage (or left it, `by` negative)."""
        if state == "parked":
            self.parked += by
        else:
            self.dead += by


class State:
    """Queues and counters. Changed only by what is durable."""

    def __init__(self) -> None:
        self.plan = Plan(topics={COMMON: TopicPlan(0)})
        self.topics: dict[str, BoundedQueue] = {}
        self.lanes: dict[str, Lane] = {}
        self.tallies: dict[str, Tallies] = {}
        self.dedup = Dedup()
        self.memory_bytes = 0
        self.memory_reserved = 0
        self.passing = 0
        """Events on their way through common in one write: its capacity bounds them, too."""
        self.storage_bytes = 0
        self.storage_reserved = 0
        self.dead_bodies: list[int] = []
        """Batches of events that nothing needs any more. The committer takes them from here."""
        self.common = self.topic(COMMON)

    def topic(self, name: str) -> BoundedQueue:
        """Return the topic's queue, made if it is new."""
        found = self.topics.get(name)
        if found is None:
            found = self.topics[name] = BoundedQueue(Queue(Kind.TOPIC, name))
            self.lanes[name] = Lane(Queue(Kind.LANE, name))
            self.tallies[name] = Tallies()
        return found

    def lane(self, name: str) -> Lane:
        """Return the topic's lane of the retry queue."""
        self.topic(name)
        return self.lanes[name]

    def place(self, queue: Queue) -> BoundedQueue | Lane:
        """Return what a queue's name stands for."""
        return self.topic(queue.topic) if queue.kind is Kind.TOPIC else self.lane(queue.topic)

    def known(self, queue: Queue) -> BoundedQueue | Lane | None:
        """Return what a queue's name stands for, None where there is no such topic."""
        named: Mapping[str, BoundedQueue | Lane]
        named = self.topics if queue.kind is Kind.TOPIC else self.lanes
        return named.get(queue.topic)

    def add_run(self, run: Run) -> None:
        """Put a new run into its queue."""
        count = len(run)
        run.origin.row.live += count
        run.origin.body.live += count
        self.memory_bytes += run.size_bytes
        run.queue.add_run(run)

    def end(self, run: Run, spans: Sequence[tuple[int, int]]) -> int:
        """Let go of deliveries of a leased run; return how many."""
        count = sum(stop - start for start, stop in spans)
        if count == len(run):
            size = run.size_bytes
        else:
            size = sum([sum(run.weights[at:to]) for at, to in spans])
        run.size_bytes -= size
        self.memory_bytes -= size
        for start, stop in spans:
            run.end(start, stop)
        run.origin.row.live -= count
        self.unpin(run.origin.body, count)
        return count

    def add(self, entry: Entry, to: BoundedQueue | Lane) -> None:
        """Put a new entry into its place."""
        entry.row.live += 1
        entry.body.live += 1
        entry.live = True
        entry.in_lane = to.queue.kind is Kind.LANE
        self.memory_bytes += weigh(entry.delivery.event)
        to.add(entry)

    def forget(self, entry: Entry) -> None:
        """Let go of an entry that has been taken out of its place."""
        entry.live = False
        entry.row.live -= 1
        self.unpin(entry.body)
        self.memory_bytes -= weigh(entry.delivery.event)

    def rebase(self, entry: Entry, event_number: int, body: Anchor) -> None:
        """Let an entry's event stand in another batch of events."""
        body.live += 1
        self.unpin(entry.body)
        entry.body = body
        entry.event_number = event_number

    def unpin(self, body: Anchor, count: int = 1) -> None:
        """Need a batch of events so many times less; the last to need it lets it go."""
        body.live -= count
        if body.live == 0:
            self.dead_bodies.append(body.number)

    def parts(self) -> Iterator[Entry | Run]:
        """Yield every entry and run of every queue and lane."""
        for queue in self.topics.values():
            yield from queue.parts()
        for lane in self.lanes.values():
            yield from lane.parts()

    def entries(self) -> Iterator[Entry]:
        """Yield every entry of every queue and lane."""
        for queue in self.topics.values():
            yield from queue.entries()
        for lane in self.lanes.values():
            yield from lane.entries()

    def counts(self, name: str, *, walk: bool = False) -> Counts:
        """Return a topic's line of the ledger; with `walk`, its depths counted one by one."""
        queue, lane, tallies = self.topic(name), self.lanes[name], self.tallies[name]
        return Counts(
            created=tallies.created,
            delivered=tallies.delivered,
            discarded=tallies.discarded,
            archived=tallies.archived,
            queued=sum(map(_deliveries, chain(*queue.waiting))) if walk else queue.queued,
            running=queue.leased if not walk else _leased(queue),
            retrying=sum(1 for _ in lane.entries()) if walk else lane.queued + len(lane.running),
            parked=tallies.parked,
            dead=tallies.dead,
        )


def _deliveries(part: Entry | Run) -> int:
    return len(part) if isinstance(part, Run) else 1


def _leased(queue: BoundedQueue) -> int:
    gone = sum(run.states.count(GONE) for run in queue.runs.values())
    return len(queue.running) + sum(map(len, queue.runs.values())) - gone
