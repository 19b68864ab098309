"""What EventFlow asks of an engine, and nothing more.

The promises G1 to G8 are the contract. Each has tests of the same number in
`eventflow.testing.engine_contract`, and every engine runs all of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import msgspec

from eventflow.delivery import Attempt, Delivery, Parked, Place
from eventflow.event import Event  # noqa: TC001  # the signatures are for readers at run time

if TYPE_CHECKING:
    from eventflow.engine.runs import Leases, Receipts


class Kind(StrEnum):
    """What a queue is: a topic's own queue (common's too), or its lane of the retry queue."""

    TOPIC = "topic"
    LANE = "lane"


class Queue(NamedTuple):
    """A queue of the engine."""

    kind: Kind
    topic: str


class TopicPlan(msgspec.Struct, frozen=True, gc=False):
    """What an engine has to know of a topic."""

    capacity: int
    """Deliveries the queue holds, leased ones included. At least 1."""
    lane_capacity: int = 0
    """Deliveries the topic's lane of the retry queue holds. Common has none."""


class Plan(msgspec.Struct, frozen=True, gc=False):
    """The queues an engine keeps. "common" must be among the topics."""

    topics: Mapping[str, TopicPlan]
    dedup_window_s: float = 600.0
    dedup_max: int = 500_000
    memory_limit_bytes: int = 512 * 2**20
    weights: tuple[int, int, int, int] = (64, 16, 4, 1)
    """Shares of starts among critical, high, normal and low (G4). Each at least 1."""
    lease_s: float = 30.0
    storage_max_bytes: int = 10 * 2**30
    max_event_bytes: int = 0
    """Of the data of an event that may come; 0: the engine need not know."""


class Applied(msgspec.Struct, frozen=True, gc=False):
    """What became of a plan."""

    orphans: tuple[str, ...] = ()
    """Topics that still hold deliveries but are not in the plan: kept as they are."""


class Receipt(msgspec.Struct, frozen=True, gc=False):
    """The answer to one accepted event."""

    ref: str | None
    """None for a duplicate whose first one's ref is not known any more."""
    duplicate: bool = False
    parked: bool = False
    """It took the `Fallback`: it is in secondary storage, and comes to common from there."""


class Way(NamedTuple):
    """Where some of the events that are being accepted go, if nothing waits in common."""

    topics: tuple[str, ...]
    indexes: Sequence[int]
    """Which events of those given, growing."""
    rank: int
    """The priority of all of them: 0 is critical."""


class Lease(msgspec.Struct, frozen=True, gc=False):
    """The right to settle one delivery, until it runs out."""

    delivery: Delivery
    queue: Queue
    token: Any
    """Opaque to everyone but the engine that gave it."""


class Run(Protocol):
    """Plain deliveries of one topic, leased together: they have met no trouble and were accepted at
    once, so that nothing sets them apart but their events. Each is known by its index.
    """  # noqa: D205  # one thought

    @property
    def events(self) -> Sequence[Event]:
        """Their events, in order of entry."""
        ...

    @property
    def accepted_at(self) -> float:
        """When they were accepted, seconds since 1970."""
        ...

    def __len__(self) -> int:
        """How many they are."""
        ...

    def refs(self, start: int, stop: int) -> Sequence[str]:
        """Return the refs of some of them."""
        ...

    def delivery(self, index: int) -> Delivery:
        """Return one of them, for a handler that asks for it."""
        ...

    def lease(self, index: int) -> Lease:
        """Take one out: from now on it is settled and extended by itself, not with the run."""
        ...


class Note(msgspec.Struct, frozen=True, gc=False):
    """What a settlement leaves behind in the delivery and in the audit trail."""

    because: Mapping[str, Any]
    attempt: Attempt | None = None
    """Joins the delivery's history."""
    traceback: str | None = None


class Fallback(msgspec.Struct, frozen=True, gc=False):
    """Where accepted events go if common has no room for them."""

    place: Parked
    note: Note | None = None


class Settle(msgspec.Struct, frozen=True, gc=False):
    """End a lease: the delivery goes to the first of `tries` that has room."""

    lease: Lease
    tries: tuple[Place, ...]
    note: Note | None = None


class Target(msgspec.Struct, frozen=True, gc=False):
    """One topic that a common delivery is routed to."""

    topic: str
    tries: tuple[Place, ...]
    note: Note | None = None


class Route(msgspec.Struct, frozen=True, gc=False):
    """End a lease on common: a new delivery in each topic, all in one settlement.

    Where a topic has no place at all (storage refuses), common's delivery stays leased with
    those topics owed: the answer says which, and only those are routed next.
    """

    lease: Lease
    targets: tuple[Target, ...]


class Finish(msgspec.Struct, frozen=True, gc=False):
    """Some of a run have ended well: they are delivered."""

    run: Run
    spans: Sequence[tuple[int, int]]
    """First index and the one after the last, of each stretch."""


Act = Settle | Route | Finish


class Settled(msgspec.Struct, frozen=True, gc=False):
    """The answer to one act."""

    taken: Place | None = None
    """Where the delivery went; None: it stayed where it was, still leased."""
    refused: str | None = None
    """Why nothing was taken: what storage said, or "full"."""
    lost: bool = False
    """The lease had run out: somebody else decides about this delivery (G6), or may have been
    given it. An engine whose server forgets who held what can't tell a late settlement that ended
    the delivery from one that came too late: it then says lost. So lost means "not known to be
    ended by this act", and whoever counts takes it for that."""
    owed: tuple[str, ...] = ()
    """Of a `Route`: the topics that had no place."""
    routed: tuple[Place | None, ...] = ()
    """Of a `Route`: what each target took, in their order; None where it is owed."""


class Placing(msgspec.Struct, frozen=True, gc=False):
    """Bring a delivery from secondary storage back into its topic's queue."""

    delivery: Delivery
    """As storage holds it."""
    place: Place
    """`Queued`, or `Dead` where it has expired meanwhile."""
    note: Note | None = None


class Placed(StrEnum):
    """What became of a `Placing`."""

    PLACED = "placed"
    FULL = "full"
    """No room: storage keeps it."""
    ALREADY = "already"
    """Storage holds no such hop any more: it was recovered, replayed or discarded before."""


class Depth(msgspec.Struct, frozen=True, gc=False):
    """How full a topic is."""

    queued: int = 0
    running: int = 0
    retrying: int = 0
    capacity: int = 0
    lane_capacity: int = 0


class Counts(msgspec.Struct, frozen=True, gc=False):
    """One topic's line of the ledger. All but the depths never go back, nor start again.

    But for those of a cluster whose servers or nodes were killed: what two nodes have counted one
    of them takes back, and where two of one delivery meet, `created` is one less. While a delivery
    moves it is one too many.
    """

    created: int = 0
    delivered: int = 0
    discarded: int = 0
    archived: int = 0
    queued: int = 0
    running: int = 0
    retrying: int = 0
    parked: int = 0
    dead: int = 0

    @property
    def live(self) -> int:
        """Deliveries that are in a queue, its lane or storage."""
        return self.queued + self.running + self.retrying + self.parked + self.dead

    @property
    def unaccounted(self) -> int:
        """Deliveries that were created and are in no place.

        Anything but 0 while nothing moves is a bug, or something was taken away from outside: a
        database put back to a backup, a stream removed.
        """
        return self.created - (
            self.delivered
            + self.discarded
            + self.archived
            + self.queued
            + self.running
            + self.retrying
            + self.parked
            + self.dead
        )


def unaccounted(lines: Iterable[Counts]) -> int:
    """Return what is missing in all, or what is too much as a negative number: whichever is more.

    Never nearer to 0 than a line of it: in a sum, one that a topic misses would hide one that
    another has too many.
    """
    off = [line.unaccounted for line in lines]
    missing = sum(n for n in off if n > 0)
    extra = sum(n for n in off if n < 0)
    return missing if missing >= -extra else extra


class Census(msgspec.Struct, frozen=True, gc=False):
    """The whole ledger."""

    since: float
    """When counting began, seconds since 1970."""
    topics: Mapping[str, Counts]
    repeats: int = 0
    moving: int = 0

    @property
    def unaccounted(self) -> int:
        """Of all topics: what is missing, or too much (negative), whichever is more."""
        return unaccounted(self.topics.values())


class Found(msgspec.Struct, frozen=True, gc=False):
    """A delivery, and where it is now."""

    delivery: Delivery
    state: str
    """"queued", "running", "retrying"."""
    cursor: Any = None
    """What to give `walk` as `after` to go on behind this one."""


class Engine(Protocol):
    """Named, bounded queues whose deliveries are leased, not popped. It moves batches.

    G1  When `accept` has returned, the event survives a crash of every process and a power cut.
        `durability = "os"` gives up the power cut, "memory:" the crash too.
    G2  The same (source, id) accepted again within the dedup window is answered "duplicate" and
        stored once. After a crash, ids of events that have left common may be forgotten.
    G3  A queue never holds more than its capacity, leased ones included. The last tenth of it is
        for critical and high. What does not fit is said so at once and stored nowhere.
    G4  Among priorities with something startable, starts are shared by `weights`; low gets at
        least one start in their sum. Within a priority: by entry into this queue.
    G5  A lease lasts `lease_s` unless extended; once it has run out the delivery is leased again,
        with one more crash counted.
    G6  Settling late loses nothing: it ends the delivery or says that the lease was lost.
    G7  Moving never loses and never merges: the next place holds the delivery before the old one
        forgets it, both fenced by hop.
    G8  The counts are true: a full walk of the queues finds them.
    """

    groups: bool
    """Whether calls of `accept` that come at once share a write: then nobody has to gather them."""

    async def apply(self, plan: Plan) -> Applied:
        """Keep these queues from now on. Idempotent; also for changes while running.

        A queue that holds more than its new capacity keeps it, and takes no more until there is
        room. A topic that is not in the plan keeps its queues as they are.
        """
        ...

    async def accept(
        self, events: Sequence[Event], ways: Sequence[Way] = (), *, fallback: Fallback | None = None
    ) -> Receipts:
        """Store the events in common, all or none of them (G1, G2, G3).

        Where nothing waits in common, none is a duplicate and all of `ways` have room, an engine
        may let them take these at once, in the same durable write: they then count as accepted,
        routed and arrived. The answer says so. An engine need not.

        Where common, or the memory limit, has no room for all that are new, they take `fallback`,
        again all or none: deliveries in common, hop 0, that storage holds before this returns.
        They count as accepted in every way: G1 and G2 hold, the ledger has them as created.

        Raises:
            QueueFull: there is no room for all of them, or storage would not take the fallback.
            EngineUnavailable: they could not be made durable. Nothing was stored; where an engine
                can't know that any more, the sender's next attempt is a duplicate (G2).
        """
        ...

    async def lease(self, queue: Queue, *, limit: int, wait_s: float) -> Leases:
        """Lease up to `limit` deliveries, waiting at most `wait_s` seconds for the first.

        From a lane only what is due; that may always be settled back into the lane, which can't
        be full for what it holds already. A topic's deliveries count as started, except those that
        were there at a crash (`tally.crashes`): for these call `start` when they really run.
        """
        ...

    async def start(self, leases: Sequence[Lease]) -> Sequence[bool]:
        """Make it durable that these run now; False for each lease that was lost.

        Should the node die before they are settled, it is counted against them.

        Raises:
            EngineUnavailable: it could not be made durable; don't run them.
        """
        ...

    async def settle(self, acts: Sequence[Act]) -> Sequence[Settled]:
        """End leases (G6, G7). A refused park or dead fails only its own act.

        Raises:
            EngineUnavailable: nothing of it happened. To be raised only where that is known: if
                the acts may have been sent, the answer is `lost`, and the lease runs out.
        """
        ...

    async def extend(self, leases: Sequence[Lease | Run]) -> Sequence[bool]:
        """Let the leases last `lease_s` from now (of a run: those it still holds).

        False for each that was lost.
        """
        ...

    async def place(self, items: Sequence[Placing]) -> Sequence[Placed]:
        """Bring parked deliveries back from storage: put first, then storage forgets that hop."""
        ...

    async def find(self, ref: str) -> Sequence[Found]:
        """Return the deliveries of an event that are in a queue or lane."""
        ...

    async def walk(self, queue: Queue, *, after: Any = None, limit: int = 1000) -> Sequence[Found]:
        """Return a queue's deliveries in order of entry, a page at a time.

        `after` is the `cursor` of the last one of the page before, None for the first page.
        """
        ...

    def depth(self, topic: str) -> Depth:
        """Return how full a topic is, as this node knows it now."""
        ...

    async def census(self, *, walk: bool = False) -> Census:
        """Return the ledger; with `walk`, depths counted by a full walk instead of by counters."""
        ...

    async def close(self) -> None:
        """Release everything. What is leased stays leased until it runs out or is reopened."""
        ...
