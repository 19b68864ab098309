"""All stages of one node together: start, change, drain, stop."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from eventflow.delivery import COMMON
from eventflow.engine.protocol import Plan, TopicPlan
from eventflow.errors import EngineUnavailable, Orphaned, UnknownName
from eventflow.flow.audit import seal
from eventflow.flow.gate import Gate
from eventflow.flow.ingress import Ingress, Rules
from eventflow.flow.ledger import Ledger
from eventflow.flow.router import RouterStage
from eventflow.flow.slots import Runner
from eventflow.flow.stages import TopicStages
from eventflow.flow.supervise import cancel, supervise
from eventflow.flow.topic import Topic, Topics
from eventflow.policy.nodes import ROLES, Role
from eventflow.policy.values import TopicPolicy
from eventflow.telemetry import names
from eventflow.telemetry.logging import log

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence

    from eventflow.clock import Clock
    from eventflow.engine.protocol import Engine, Lease, Run
    from eventflow.flow.handlers import Handler
    from eventflow.flow.schemas import Schemas
    from eventflow.policy.routing import Router
    from eventflow.storage.protocol import Actor, Overrides, Storage
    from eventflow.telemetry.metrics import Metrics

READY_S = 10.0
"""A topic's loop that has not gone round for so long makes the node unready."""
_POLL_S = 0.01


@dataclass(frozen=True, slots=True)
class Shape:
    """What a node is configured to be, beside its topics and routes."""

    plan: Plan
    rules: Rules = field(default_factory=Rules)
    history_max: int = 100_000
    common: TopicPolicy = field(default_factory=TopicPolicy)
    roles: Collection[str] = ROLES
    """What this node does of the work. Fixed at its start."""


@dataclass(frozen=True, slots=True)
class Tools:
    """What the stages work with: all time and chance among it."""

    engine: Engine
    storage: Storage
    clock: Clock
    draw: Callable[[], float]
    """Draws a number in [0, 1)."""
    metrics: Metrics
    overrides: Overrides
    """What operators have set: of this node, or of all on the same servers."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a node is to be from now on."""

    shape: Shape
    topics: Sequence[Topic]
    """All that are configured, common left out."""
    routes: Router
    schemas: Schemas


class Flow:
    """The stages of one node."""

    def __init__(self, tools: Tools, wanted: Wanted) -> None:
        self.tools = tools
        self.shape = shape = wanted.shape
        common = Topic(COMMON, shape.common, None, concurrency=0, lane_capacity=0)
        common.capacity = shape.plan.topics[COMMON].capacity
        self.topics = Topics({COMMON: common, **{one.name: one for one in wanted.topics}})
        self.ledger = Ledger(tools.metrics, tools.clock, shape.history_max)
        self.ledger.on_parked = self.nudge
        self.gate = Gate()
        self.ingress = Ingress(
            tools.engine,
            tools.storage,
            wanted.routes,
            self.topics,
            wanted.schemas,
            shape.rules,
            tools.clock,
            self.ledger,
        )
        self.ingress.accepts = "accept" in shape.roles
        self.router = RouterStage(
            tools.engine, wanted.routes, self.topics, self.ledger, tools.clock, tools.draw
        )
        self.stages: dict[str, TopicStages] = {}
        """Of common, of each topic with a handler, and of such as have gone and still run."""
        self.hurry = asyncio.Event()
        """Set: `stop` waits no longer for what runs, but releases it at once."""
        self.changing = asyncio.Lock()
        """Held by whoever changes settings, those of people and of files alike."""
        self.on_handler: Callable[[str, Handler], None] = lambda _topic, _handler: None
        """Told each handler before it runs."""
        self._stopped = False
        self._routing: list[asyncio.Task[None]] = []
        self._others: list[asyncio.Task[None]] = []
        self._leaving: set[asyncio.Task[None]] = set()

    # life --------------------------------------------------------------------

    async def start(self) -> None:
        """Tell the engine its queues, and let every stage go.

        Raises:
            ConfigError: a handler or sink can't be used.
        """
        applied = await self.tools.engine.apply(self.shape.plan)
        for name in applied.orphans:
            await self._tell_orphan(self.topics[name])
        for name, values in (await self.tools.overrides.overrides()).items():
            if name in self.topics and values.get("paused"):
                self.topics[name].pause()
        runners = await self._runners(
            {
                topic.name: (topic.handler, topic.concurrency)
                for topic in self.topics.values()
                if topic.handler is not None and self._delivers
            }
        )
        for topic in list(self.topics.values()):
            if topic.name == COMMON or topic.handler is not None:
                self._stages_of(topic).begin(runners.get(topic.name))
        if "route" in self.shape.roles:
            self._routing.append(supervise("router", COMMON, self.router.run))
        self._others.append(supervise("router", COMMON, self.router.settler.run))
        self._others.append(supervise("leases", COMMON, self._extend))
        self._others.append(supervise("audit", COMMON, partial(seal, self.tools.storage)))

    async def _tell_orphan(self, topic: Topic) -> None:
        counts = (await self.tools.engine.census()).topics[topic.name]
        log(names.TOPIC_ORPHANED, topic=topic.name, deliveries=counts.live)

    async def _runners(self, wanted: Mapping[str, tuple[Handler, int]]) -> dict[str, Runner]:
        """Return started runners by topic: all of them, or none is left open."""
        runners: dict[str, Runner] = {}
        try:
            for name, (handler, concurrency) in wanted.items():
                tools = self.tools
                runner = Runner(handler, name, concurrency, tools.clock, tools.metrics)
                runners[name] = runner
                await runner.start()
                self.on_handler(name, handler)
        except BaseException:
            for runner in runners.values():
                await runner.close()
            raise
        return runners

    def _stages_of(self, topic: Topic) -> TopicStages:
        found = self.stages.get(topic.name)
        if found is None:
            found = TopicStages(
                self.tools,
                topic,
                self.ledger,
                self.gate,
                recovers="recover" in self.shape.roles,
            )
            self.stages[topic.name] = found
        return found

    async def _extend(self) -> None:
        """Keep the leases of what is being run or settled (G5)."""
        while True:
            await asyncio.sleep(self.shape.plan.lease_s / 3)
            leases = self._held()
            if not leases:
                continue
            extended = await self.tools.engine.extend(leases)
            lost = [one for one, kept in zip(leases, extended, strict=True) if not kept]
            if lost:
                for stages in self.stages.values():
                    stages.lose(lost)

    def _held(self) -> list[Lease | Run]:
        held = self.router.settler.leases()
        for stages in self.stages.values():
            held += stages.leases()
        return held

    async def drain(self) -> None:
        """Wait until common and the topics are empty. What is retrying or parked waits on."""
        while self._occupied():  # noqa: ASYNC110  # asks the engine: no one event says it
            await asyncio.sleep(_POLL_S)

    def _occupied(self) -> int:
        depths = [
            self.tools.engine.depth(name) for name, topic in self.topics.items() if not topic.orphan
        ]
        return sum(depth.queued + depth.running for depth in depths)

    @property
    def running(self) -> int:
        """How many handlers are being run now."""
        return sum(stages.running for stages in self.stages.values())

    async def stop(self, drain_s: float) -> int:
        """Lease nothing more, let running handlers finish, release the rest; return how many.

        What is released has used up no attempt and counts no crash. Stopping twice does nothing.
        """
        self.ingress.stopping = True
        if self._stopped:
            return 0
        self._stopped = True
        all_stages = list(self.stages.values())
        await cancel([*self._routing, *(task for each in all_stages for task in each.rest())])
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(drain_s):
                while self.running and not self.hurry.is_set():  # noqa: ASYNC110  # either of two
                    await asyncio.sleep(_POLL_S)
        released = self.running
        for stages in all_stages:
            await stages.break_off()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(drain_s, 5.0)):
                await self.router.settler.flush()
                for stages in all_stages:
                    await stages.flush()
        await cancel([*self._others, *self._leaving])
        for stages in all_stages:
            await stages.end()
        return released

    # changes while it runs ---------------------------------------------------

    async def change(self, wanted: Wanted, record: Callable[[], Awaitable[None]]) -> None:
        """Be what is wanted from now on; called by who holds `changing`. No run is broken off.

        Args:
            wanted: All of it, not only what is different.
            record: Makes the change durable and audited, once it is known that it can be made.

        Raises:
            ConfigError: a handler or sink can't be used. Nothing was changed.
            StorageUnavailable: it could not be recorded. Nothing was changed.
            EngineUnavailable: the node is stopping, or the engine can't be told.
        """
        self._check_going()
        runners = await self._runners(self._new_runners(wanted.topics))
        try:
            await record()
            await self.tools.engine.apply(wanted.shape.plan)
            self._check_going()
        except BaseException:
            for runner in runners.values():
                await runner.close()
            raise
        for topic in self._turn_over(wanted, runners):
            stages = self.stages.get(topic.name)
            ending = [] if stages is None else stages.leave()
            leaving = asyncio.create_task(self._leave(topic, ending), name=f"leaving:{topic.name}")
            self._leaving.add(leaving)
            leaving.add_done_callback(self._leaving.discard)

    def _check_going(self) -> None:
        if self._stopped:
            raise EngineUnavailable("the node is stopping")

    @property
    def _delivers(self) -> bool:
        return "deliver" in self.shape.roles

    def _new_runners(self, topics: Sequence[Topic]) -> dict[str, tuple[Handler, int]]:
        """Return what needs a runner of its own: a handler that is new, or more processes."""
        found: dict[str, tuple[Handler, int]] = {}
        for new in topics if self._delivers else ():
            old, handler = self.topics.get(new.name), new.handler
            assert handler is not None  # noqa: S101  # what is configured has one
            if (
                old is None
                or old.handler is None
                or replace(old.handler, timeout_s=handler.timeout_s) != handler
                or (handler.mode == "process" and old.concurrency != new.concurrency)
            ):
                found[new.name] = handler, new.concurrency
        return found

    def _turn_over(self, wanted: Wanted, runners: Mapping[str, Runner]) -> list[Topic]:
        """Change everything at once, between two events; return the topics that have gone."""
        self.shape = shape = wanted.shape
        self.ledger.history.limit = shape.history_max
        common = self.topics[COMMON]
        common.policy, common.capacity = shape.common, shape.plan.topics[COMMON].capacity
        for new in wanted.topics:
            topic = self.topics.setdefault(new.name, new)
            topic.become(new)
            self._go_on(topic, runners.get(topic.name))
        for topic in (common, *(self.topics[new.name] for new in wanted.topics)):
            self._tell_fullness(topic)
        self.router.routes = self.ingress.routes = wanted.routes
        self.ingress.rules, self.ingress.schemas = shape.rules, wanted.schemas
        kept = {COMMON, *(topic.name for topic in wanted.topics)}
        gone = [topic for name, topic in self.topics.items() if name not in kept]
        for topic in gone:
            topic.leave()
        return gone

    def _go_on(self, topic: Topic, runner: Runner | None) -> None:
        known = topic.name in self.stages
        stages = self._stages_of(topic)
        if runner is not None and not (known and stages.going):
            stages.begin(runner)
        elif runner is not None:
            stages.run_with(runner)
        elif not (known and stages.going):
            stages.begin(None)
        elif topic.handler is not None and self._delivers:
            stages.adjust(topic.handler)
        stages.recovery.nudge()

    def _tell_fullness(self, topic: Topic) -> None:
        depth = self.tools.engine.depth(topic.name)
        queues = {
            "topic": (depth.queued + depth.running, depth.capacity),
            "lane": (depth.retrying, depth.lane_capacity),
        }
        for queue, (held, capacity) in queues.items():
            if held > capacity:
                log(
                    names.QUEUE_OVERFULL,
                    topic=topic.name,
                    queue=queue,
                    deliveries=held,
                    capacity=capacity,
                )

    async def _leave(self, topic: Topic, ending: list[asyncio.Task[None]]) -> None:
        """Let what runs finish, then forget the topic if it holds nothing: else it is kept."""
        stages = self.stages.get(topic.name)
        await cancel(ending)
        if stages is not None:
            await stages.idle()
            await stages.flush()
        async with self.changing:
            if not topic.orphan or self.topics.get(topic.name) is not topic:
                return  # it is back, or gone altogether
            if (await self.tools.engine.census()).topics[topic.name].live:
                await self._tell_orphan(topic)
                return
            del self.topics[topic.name]
            if stages is not None:
                del self.stages[topic.name]
                await stages.end()

    # acts of operators -------------------------------------------------------

    def nudge(self, topic: str) -> None:
        """Let recovery look soon: something was parked in this topic, or made due."""
        stages = self.stages.get(topic)
        if stages is not None:
            stages.recovery.nudge()

    async def pause(self, name: str, by: Actor) -> None:
        """Start none of the topic's deliveries until resumed, over restarts too. Audited.

        Raises:
            UnknownName: there is no such topic, or it is common: its doors would only fill up.
        """
        async with self.changing:
            topic = self.operable(name)
            if not topic.held:
                kept = dict((await self.tools.overrides.overrides()).get(name, {}))
                await self.tools.overrides.override(name, kept | {"paused": True}, by)
                topic.pause()
                log(names.TOPIC_PAUSED_LOG, topic=name, by=by.name, why=by.why)

    async def resume(self, name: str, by: Actor) -> None:
        """Start the topic's deliveries again. Audited.

        Raises:
            UnknownName: there is no such topic.
            Orphaned: it has gone from the configuration, and nobody would run them.
        """
        async with self.changing:
            topic = self.operable(name)
            if topic.orphan:
                raise Orphaned(name)
            if topic.held:
                kept = dict((await self.tools.overrides.overrides()).get(name, {}))
                kept.pop("paused", None)
                await self.tools.overrides.override(name, kept or None, by)
                topic.resume()
                log(names.TOPIC_RESUMED, topic=name, by=by.name, why=by.why)

    def follow(self, paused: Collection[str]) -> None:
        """Pause and resume as operators of other nodes have said; by who holds `changing`."""
        for name, topic in self.topics.items():
            if name == COMMON or topic.orphan or topic.held == (name in paused):
                continue
            if name in paused:
                topic.pause()
            else:
                topic.resume()

    def operable(self, name: str) -> Topic:
        """Return a topic that people may change.

        Raises:
            UnknownName: there is no such topic, or it is common.
        """
        topics = [known for known in self.topics if known != COMMON]
        if name not in topics:
            raise UnknownName("topic", name, topics)
        return self.topics[name]

    # how it is ---------------------------------------------------------------

    def unready(self) -> list[str]:
        """Return why the node is not ready, a sentence each; empty: it is."""
        reasons = ["the node is stopping"] if self.ingress.stopping else []
        fault = getattr(self.tools.engine, "fault", None)
        if fault is not None:
            reasons.append(str(EngineUnavailable(fault)))
        now = asyncio.get_running_loop().time()
        for name, topic in self.topics.items():
            still = now - topic.round_at
            role: Role = "route" if name == COMMON else "deliver"
            goes_round = role in self.shape.roles and (topic.handler or name == COMMON)
            if not topic.paused and still > READY_S and goes_round:
                reasons.append(f"topic {name!r}: its loop has not gone round for {still:.0f} s")
        return reasons


def plan_of(topics: Sequence[Topic], common_capacity: int, **limits: Any) -> Plan:
    """Return what the engine has to know of these topics.

    Args:
        topics: The topics, common left out.
        common_capacity: Events that common holds.
        **limits: Further fields of `Plan`.
    """
    queues: Mapping[str, TopicPlan] = {
        COMMON: TopicPlan(common_capacity),
        **{topic.name: TopicPlan(topic.capacity, topic.lane_capacity) for topic in topics},
    }
    return Plan(queues, **limits)
