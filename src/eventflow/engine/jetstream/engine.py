"""The JetStream engine: the promises G1 to G8, kept by streams on NATS servers."""

from __future__ import annotations

import asyncio
import random
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from eventflow.engine.jetstream import gate
from eventflow.engine.jetstream.access import context_of
from eventflow.engine.jetstream.answers import MORE_TIME
from eventflow.engine.jetstream.carrying import JetStreamCarrier
from eventflow.engine.jetstream.depths import FRESH_S
from eventflow.engine.jetstream.desk import Desk
from eventflow.engine.jetstream.doors import Doors
from eventflow.engine.jetstream.leasing import Line
from eventflow.engine.jetstream.ledger import FOLLOW_S
from eventflow.engine.jetstream.looking import Looking
from eventflow.engine.jetstream.membership import Membership
from eventflow.engine.jetstream.operators import Operators
from eventflow.engine.jetstream.placing import Placement
from eventflow.engine.jetstream.settling import Settlement
from eventflow.engine.jetstream.streams import Streams
from eventflow.engine.jetstream.watch import LOOK_S, Claim, Watch, first, kept
from eventflow.engine.jetstream.wire import Refused, Wire
from eventflow.engine.protocol import (
    Applied,
    Census,
    Counts,
    Depth,
    Fallback,
    Found,
    Kind,
    Lease,
    Placed,
    Placing,
    Plan,
    Queue,
    Receipt,
    Settled,
    Way,
)
from eventflow.engine.runs import Leases, Receipts
from eventflow.errors import BackupRefused, EngineUnavailable, StorageUnavailable
from eventflow.event import from_parts
from eventflow.policy.nodes import BEAT_S
from eventflow.policy.priority import frame

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
    from pathlib import Path

    from eventflow.clock import Clock
    from eventflow.config import NatsSettings
    from eventflow.engine.jetstream.leasing import Held
    from eventflow.engine.members import Member
    from eventflow.event import Event
    from eventflow.storage.protocol import Keeper


T = TypeVar("T")


class JetStreamEngine:
    """Queues on NATS servers. See `Engine` for the promises."""

    groups = True
    """Gathered before, small requests of several topics would all have to go through common."""

    def __init__(
        self,
        desk: Desk,
        streams: Streams,
        draw_bits: Callable[[int], int],
        watch: Watch,
        durability: str,
    ) -> None:
        """`open_engine` is the way to make one."""
        self._durability = durability
        self._watch = watch
        self._desk = desk
        self._streams = streams
        self._doors = Doors(desk, draw_bits)
        self._looking = Looking(desk)
        self._placement = Placement(desk)
        self._lines: dict[Queue, Line] = {}
        self._begun: set[asyncio.Future[Any]] = set()
        self._applying = asyncio.Lock()
        self._loaded = False
        self._membership = Membership(desk.wire, desk.clock)
        self.overrides = Operators(desk.wire, desk.storage, draw_bits)
        """What operators have set, for all nodes."""
        self._life = f"{draw_bits(64):016x}"
        self._loops: list[asyncio.Future[None]] = []
        """What goes on until it is closed."""
        self._keeping = False
        self._closing: asyncio.Future[None] | None = None
        self.storage: Keeper = desk.storage

    async def join(self, me: Member) -> None:
        """Take this node's name among those on the same servers, and be heard from now on.

        Raises:
            NameInUse: another node has it.
            EngineUnavailable: no answer, or the servers refuse the stream for it.
        """
        with self._declaring():
            await self._streams.declare_nodes()
        await self._membership.join(me, self._life)
        await self.overrides.load()
        self._loops.append(asyncio.ensure_future(self._beat()))

    async def apply(self, plan: Plan) -> Applied:
        self._check_open()
        async with self._applying:
            desk = self._desk
            self._watch.check_payload(plan.max_event_bytes)
            with self._declaring():
                await self._streams.declare(plan)
            if not self._loaded:
                await desk.ledger.load()
                await desk.notes.load()
                await desk.untold.load()
                await self._doors.refresh()
                self._loaded = True
            desk.plan = plan
            desk.frame = frame(plan.weights)
            desk.storage.resize(plan.storage_max_bytes)
            for queue in await self._streams.present():
                gauge = desk.depths.know(queue)
                topic = plan.topics.get(queue.topic)
                if topic is not None:
                    in_queue = queue.kind is Kind.TOPIC
                    gauge.capacity = topic.capacity if in_queue else topic.lane_capacity
            await desk.depths.refresh()
            await self._looking.look_into_storage()
            if not self._keeping:
                await self._watch.look(at_start=True)
                self._keeping = True
                loops = (self._keep(), self._look(), self._follow(), self._tell())
                self._loops += map(asyncio.ensure_future, loops)
        held = {queue.topic for queue, gauge in desk.depths.gauges.items() if gauge.held}
        kept = {topic for (topic, _), (count, _) in (await desk.storage.totals()).items() if count}
        return Applied(tuple(sorted((held | kept) - plan.topics.keys())))

    async def accept(
        self, events: Sequence[Event], ways: Sequence[Way] = (), *, fallback: Fallback | None = None
    ) -> Receipts:
        self._check_open()
        topic = self._only_topic(len(events), ways)
        given, straight = await self._begin(self._doors.accept(events, topic, fallback))
        refs = [receipt.ref or "" for receipt in given]
        return Receipts(refs, given, _of_new(ways, given) if straight else ())

    def _only_topic(self, count: int, ways: Sequence[Way]) -> str | None:
        """Return the one topic that all events go to; None: there are several, or not all known."""
        topics = {topic for way in ways for topic in way.topics}
        if len(topics) != 1 or sum(len(way.indexes) for way in ways) != count:
            return None
        (topic,) = topics
        return topic if topic in self._desk.plan.topics else None

    async def lease(self, queue: Queue, *, limit: int, wait_s: float) -> Leases:
        self._check_open()
        if queue not in self._desk.depths.gauges:
            await asyncio.sleep(wait_s / self._desk.rate)
            return Leases()
        line = self._lines.get(queue)
        if line is None:
            line = self._lines[queue] = Line(queue, self._desk)
        found = await line.lease(limit, wait_s / self._desk.rate)
        return Leases([self._lease(held) for held in found])

    @staticmethod
    def _lease(held: Held) -> Lease:
        lease = held.lease = Lease(held.delivery, held.queue, held)
        return lease

    async def start(self, leases: Sequence[Lease]) -> Sequence[bool]:
        self._check_open()
        now = self._desk.clock.now_s()
        held = [lease.token for lease in leases if lease.token.valid(now)]
        await asyncio.gather(*(self._desk.note(one, started=True) for one in held))
        now = self._desk.clock.now_s()
        return [lease.token.valid(now) for lease in leases]

    async def settle(self, acts: Sequence[Any]) -> Sequence[Settled]:
        self._check_open()
        return await self._begin(Settlement(self._desk, acts).run())

    async def extend(self, leases: Sequence[Any]) -> Sequence[bool]:
        self._check_open()
        now = self._desk.clock.now_s()
        held: list[Held] = [lease.token for lease in leases]
        asked = [one for one in held if one.valid(now)]
        answers = self._desk.wire.answers
        try:
            taken = await answers.give([(one.reply, MORE_TIME) for one in asked])
        except EngineUnavailable:
            taken = [False] * len(asked)
        for one, more in zip(asked, taken, strict=True):
            if more:
                one.until = now + self._desk.lease_s
        now = self._desk.clock.now_s()
        return [one.valid(now) for one in held]

    async def place(self, items: Sequence[Placing]) -> Sequence[Placed]:
        self._check_open()
        return await self._begin(self._placement.place(items))

    async def find(self, ref: str) -> Sequence[Found]:
        self._check_open()
        return await self._looking.find(ref)

    async def walk(self, queue: Queue, *, after: Any = None, limit: int = 1000) -> Sequence[Found]:
        self._check_open()
        return await self._looking.walk(queue, after or 0, limit)

    def depth(self, topic: str) -> Depth:
        return self._looking.depth(topic)

    async def census(self, *, walk: bool = False) -> Census:
        self._check_open()
        return await self._looking.census(walk=walk)

    def carrier(self) -> JetStreamCarrier:
        """Return what puts all of a file here; the node's name is then that of the move."""
        return JetStreamCarrier(self._desk, self._streams, self._desk.node)

    # what a node shows of it ---------------------------------------------------------

    @property
    def durability(self) -> str:
        """What acceptance survives: "fsync", "os", or "unknown" where servers were not asked."""
        return self._durability

    @property
    def doubts(self) -> Sequence[gate.Verdict]:
        """What of the servers is not as it should be, though this node runs."""
        return (*self._watch.doubts, *self._desk.unread())

    def watch(self, committed: Callable[[float, int], None]) -> None:
        """Have told of each batch accepted how long it took, in seconds, and how many waited."""
        self._doors.committed = committed

    def counts(self, topic: str) -> Counts:
        """Return a topic's line of the ledger, at most a second old."""
        return self._looking.counts(topic)

    def ref_of(self, source: str, id: str) -> str | None:
        """Return the ref under which this node accepted an event, while that is remembered."""
        return self._doors.ref_of(from_parts(id, source, "").key)

    def dedup_window_s(self) -> float:
        """Return how far back duplicates are known, in seconds (G2)."""
        return self._desk.plan.dedup_window_s

    def oldest_at(self, topic: str) -> float | None:
        """Return when the oldest delivery in a topic's queue came, None where there is none."""
        return self._desk.depths.gauge(Queue(Kind.TOPIC, topic)).first_at

    def on_override(self, told: Callable[[], None]) -> None:
        """Have told when another node's operator has set something."""
        self.overrides.changed = told
        told()  # there may be something since they were read

    def announce(self, url: str) -> None:
        """Let the other nodes, and those who ask them, know where this node's door is."""
        self._membership.announce(url)

    def members(self) -> Sequence[Member]:
        """Return the nodes on these servers, those that have gone lately too; a second old."""
        return self._membership.members()

    @property
    def fault(self) -> str | None:
        """What keeps this node from doing anything, None while nothing does."""
        holder = self._membership.lost
        if holder is not None:
            return f"another node has its name now: {holder}"
        return self._desk.wire.fault

    @property
    def broken(self) -> bool:
        """Whether only another process can go on."""
        return self._membership.lost is not None

    async def backup(self, path: Path) -> NoReturn:
        """Refuse: the servers keep the queues.

        Raises:
            BackupRefused: always.
        """
        raise BackupRefused(
            str(path),
            "the queues are on NATS servers",
            "Back up the servers, and what [storage] url names.",
        )

    async def close(self) -> None:
        if self._closing is None:
            self._closing = asyncio.ensure_future(self._close())
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        desk = self._desk
        desk.closing = True
        for line in self._lines.values():
            line.wake()
        if self._begun:
            await asyncio.wait(self._begun)
        await asyncio.gather(*(_if_possible(line.end()) for line in self._lines.values()))
        for loop in self._loops:
            loop.cancel()
        if self._loops:
            await asyncio.wait(self._loops)
        await desk.finish()
        if desk.ledger.is_dated and desk.wire.client.is_connected:
            await _if_possible(desk.ledger.commit())
        await desk.untold.close()
        await desk.notes.close()
        await self._membership.leave()
        await desk.wire.close()
        await desk.storage.close()

    async def cut_off(self) -> None:
        """Be gone as after a crash of this process: nothing is ended, nothing given back."""
        self._desk.closing = True
        for loop in self._loops:
            loop.cancel()
        await self._desk.wire.close()

    # inside ------------------------------------------------------------------------

    async def _begin(self, work: Coroutine[Any, Any, T]) -> T:
        """Do what is to be ended also where whoever asked for it goes away."""
        doing = asyncio.ensure_future(work)
        self._begun.add(doing)
        doing.add_done_callback(self._begun.discard)
        return await asyncio.shield(doing)

    def _check_open(self) -> None:
        if self._closing is not None or self._desk.closing:
            raise EngineUnavailable("it is closed")
        # Not where the servers are away: who waits a little may be spared to do it again.
        if self._membership.lost is not None:
            raise EngineUnavailable(self.fault or "it is closed")

    @contextmanager
    def _declaring(self) -> Iterator[None]:
        try:
            yield
        except Refused as refused:
            raise EngineUnavailable(
                f"the NATS servers refuse what is asked of them ({refused}). Nothing was accepted"
            ) from refused

    # They end at `closing`, too: `wait_for` of Python 3.11 may swallow that a task is cancelled.

    async def _beat(self) -> None:
        while not self._desk.closing:
            await asyncio.sleep(BEAT_S)
            await _if_possible(self._membership.beat())
            await _if_possible(self.overrides.refresh())

    async def _look(self) -> None:
        while not self._desk.closing:
            await asyncio.sleep(LOOK_S)
            await _if_possible(self._watch.look())

    async def _follow(self) -> None:
        """Read others' records often enough to see each end in one, whatever else takes long."""
        while not self._desk.closing:
            await asyncio.sleep(FOLLOW_S)
            await _if_possible(self._desk.ledger.refresh())

    async def _tell(self) -> None:
        """Write audit rows that wait: after a long outage there are many."""
        while not self._desk.closing:
            await asyncio.sleep(FRESH_S)
            await _if_possible(self._desk.untold.carry_out())

    async def refresh(self) -> None:
        """Learn what the servers and the other nodes say; asked for every second."""
        await _if_possible(self._desk.depths.refresh())
        await _if_possible(self._desk.ledger.refresh())
        await _if_possible(self._doors.refresh())

    async def _keep(self) -> None:
        """Every second: how full the streams are, and what nobody asked for goes back."""
        while not self._desk.closing:
            await asyncio.sleep(FRESH_S)
            await self.refresh()
            await _if_possible(self._desk.forgets.carry_out())
            await _if_possible(self._looking.look_into_storage())
            if self._desk.ledger.is_dated:
                await _if_possible(self._desk.ledger.commit())
            self._desk.forget_gone()
            for line in list(self._lines.values()):
                await _if_possible(line.tidy())


def _of_new(ways: Sequence[Way], receipts: Sequence[Receipt]) -> list[Way]:
    """Return the ways of the events that are no duplicates."""
    new = [
        way._replace(indexes=[n for n in way.indexes if not receipts[n].duplicate]) for way in ways
    ]
    return [way for way in new if way.indexes]


async def _if_possible(work: Awaitable[Any]) -> None:
    with suppress(EngineUnavailable, StorageUnavailable, Refused):  # the next second tries again
        await work


async def open_engine(  # noqa: PLR0913  # all a node has to say
    url: str,
    *,
    storage: Keeper,
    clock: Clock,
    node: str,
    access: NatsSettings | None = None,
    encrypted: bool = False,
    replicas: int = 1,
    monitor: str = "",
    durability: str = "fsync",
    rate: float = 1.0,
    draw_bits: Callable[[int], int] = random.getrandbits,
) -> JetStreamEngine:
    """Connect to NATS servers. Nothing is declared there before `apply`.

    Args:
        url: Of one or more servers, separated by commas.
        storage: What is parked and dead; closed with the engine.
        clock: Tells the time.
        node: This node's name, the same in its next life.
        access: How it logs in.
        encrypted: Whether nothing may go in the clear.
        replicas: How many servers hold each stream: 1, 3 or 5.
        monitor: URLs of the servers' monitoring ports, separated by commas; "" for none.
        durability: What acceptance is to survive, see G1: "fsync" or "os".
        rate: How many of the clock's seconds pass in a real one. For tests.
        draw_bits: Draws so many random bits.

    Raises:
        ConfigError: a file that the node logs in with can't be used.
        EngineUnavailable: no server answers or takes this node, or one keeps less than is wanted.
    """
    wire = await Wire.connect(url, replicas, access, encrypted=encrypted)
    claim = Claim(durability, replicas, monitor)
    context = None if access is None else context_of(access)

    async def ask() -> Sequence[gate.Verdict]:
        return await first(wire, claim, context)

    try:
        found = await ask()
        gate.insist(found)
    except BaseException:
        await wire.close()
        raise
    desk = Desk(wire, storage, clock, node, rate)
    streams = Streams(wire, replicas, rate)
    watch = Watch(wire, streams, clock if rate == 1 else None, found, ask)
    return JetStreamEngine(desk, streams, draw_bits, watch, kept(found, monitor))
