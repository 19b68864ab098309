"""All stages of one node together: start, drain, stop."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from eventflow.delivery import COMMON
from eventflow.engine.protocol import Plan, TopicPlan
from eventflow.errors import EngineUnavailable, UnknownName
from eventflow.flow.audit import seal
from eventflow.flow.gate import Gate
from eventflow.flow.ingress import Ingress, Rules
from eventflow.flow.ledger import Ledger
from eventflow.flow.recovery import Recovery
from eventflow.flow.retry_lane import RetryLane
from eventflow.flow.router import RouterStage
from eventflow.flow.schemas import Schemas
from eventflow.flow.slots import Runner
from eventflow.flow.topic import Topic
from eventflow.flow.worker import Worker
from eventflow.policy.values import TopicPolicy
from eventflow.telemetry import names
from eventflow.telemetry.logging import log

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping, Sequence

    from eventflow.clock import Clock
    from eventflow.engine.protocol import Engine, Lease, Run
    from eventflow.flow.settler import Settler
    from eventflow.policy.routing import Router
    from eventflow.storage.protocol import Actor, Storage
    from eventflow.telemetry.metrics import Metrics

RESTART_S = 1.0
"""How long after a stage failed it is started again."""
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


@dataclass(frozen=True, slots=True)
class Tools:
    """What the stages work with: all time and chance among it."""

    engine: Engine
    storage: Storage
    clock: Clock
    draw: Callable[[], float]
    """Draws a number in [0, 1)."""
    metrics: Metrics


class Flow:
    """The stages of one node."""

    def __init__(
        self,
        tools: Tools,
        shape: Shape,
        topics: Sequence[Topic],
        routes: Router,
        schemas: Schemas | None = None,
    ) -> None:
        self.tools = tools
        self.shape = shape
        common = Topic(
            COMMON,
            shape.common,
            None,
            concurrency=0,
            capacity=shape.plan.topics[COMMON].capacity,
            lane_capacity=0,
        )
        self.topics: dict[str, Topic] = {COMMON: common, **{topic.name: topic for topic in topics}}
        self.ledger = Ledger(tools.metrics, tools.clock, shape.history_max)
        self.ledger.on_parked = self.nudge
        self.gate = Gate()
        self.ingress = Ingress(
            tools.engine,
            tools.storage,
            routes,
            self.topics,
            schemas or Schemas(),
            shape.rules,
            tools.clock,
            self.ledger,
        )
        self.router = RouterStage(
            tools.engine, routes, self.topics, self.ledger, tools.clock, tools.draw
        )
        self.workers: dict[str, Worker] = {}
        self.lanes: dict[str, RetryLane] = {}
        self.recoveries: dict[str, Recovery] = {}
        self.runners: dict[str, Runner] = {}
        self.hurry = asyncio.Event()
        """Set: `stop` waits no longer for what runs, but releases it at once."""
        self._stopped = False
        self._leasing: list[asyncio.Task[None]] = []
        self._slots: list[asyncio.Task[None]] = []
        self._settlers: list[asyncio.Task[None]] = []

    # life --------------------------------------------------------------------

    async def start(self) -> None:
        """Tell the engine its queues, and let every stage go."""
        engine = self.tools.engine
        applied = await engine.apply(self.shape.plan)
        for name in applied.orphans:
            await self._keep_orphan(name)
        for name, values in (await self.tools.storage.overrides()).items():
            if name in self.topics and values.get("paused"):
                self.topics[name].pause()
        loop = asyncio.get_running_loop()
        for topic in self.topics.values():
            topic.round_at = loop.time()
            await self._start_topic(topic)
        self._leasing.append(self._supervise("router", COMMON, self.router.run))
        self._settlers.append(self._supervise("router", COMMON, self.router.settler.run))
        self._settlers.append(self._supervise("leases", COMMON, self._extend))
        self._settlers.append(self._supervise("audit", COMMON, partial(seal, self.tools.storage)))

    async def _keep_orphan(self, name: str) -> None:
        census = await self.tools.engine.census()
        counts = census.topics[name]
        waiting = counts.queued + counts.running
        self.topics[name] = Topic(name, TopicPolicy(), None, orphan=True)
        kept = waiting + counts.retrying + counts.parked + counts.dead
        log(names.TOPIC_ORPHANED, topic=name, deliveries=kept)

    async def _start_topic(self, topic: Topic) -> None:
        tools = self.tools
        recovery = Recovery(
            tools.engine, tools.storage, topic, self.ledger, tools.clock, tools.draw
        )
        self.recoveries[topic.name] = recovery
        tools.metrics.add_topic(topic.name)
        self._leasing.append(self._supervise("recovery", topic.name, recovery.run))
        if topic.handler is None:
            return
        runner = Runner(topic.handler, topic.name, topic.concurrency, tools.clock, tools.metrics)
        await runner.start()
        worker = Worker(
            tools.engine, topic, runner, self.gate, self.ledger, tools.clock, tools.draw
        )
        worker.on_room = recovery.nudge
        lane = RetryLane(tools.engine, topic, self.ledger, tools.clock, tools.draw)
        self.runners[topic.name] = runner
        self.workers[topic.name] = worker
        self.lanes[topic.name] = lane
        self._leasing.append(self._supervise("worker", topic.name, worker.fetch))
        self._leasing.append(self._supervise("retry_lane", topic.name, lane.run))
        self._settlers.append(self._supervise("worker", topic.name, worker.settler.run))
        self._settlers.append(self._supervise("retry_lane", topic.name, lane.settler.run))
        for number in range(topic.concurrency):
            run = partial(worker.slot, number)
            self._slots.append(self._supervise("slot", topic.name, run))

    def _supervise(
        self, stage: str, topic: str, run: Callable[[], Coroutine[Any, Any, None]]
    ) -> asyncio.Task[None]:
        """Run a stage for ever: should it fail, that is EventFlow's fault, and it goes on."""

        async def go() -> None:
            while True:
                try:
                    await run()
                except Exception as error:  # noqa: BLE001  # logged with its traceback
                    log(names.STAGE_FAILED, stage=stage, topic=topic, error=error)
                    await asyncio.sleep(RESTART_S)

        return asyncio.create_task(go(), name=f"{stage}:{topic}")

    async def _extend(self) -> None:
        """Keep the leases of what is being run or settled (G5)."""
        while True:
            await asyncio.sleep(self.shape.plan.lease_s / 3)
            leases = self._held()
            if leases:
                await self.tools.engine.extend(leases)

    def _held(self) -> list[Lease | Run]:
        held = self.router.settler.leases()
        for worker in self.workers.values():
            held += worker.leases()
        for lane in self.lanes.values():
            held += lane.settler.leases()
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
        return sum(len(worker.running) for worker in self.workers.values())

    async def stop(self, drain_s: float) -> int:
        """Lease nothing more, let running handlers finish, release the rest; return how many.

        What is released has used up no attempt and counts no crash. Stopping twice does nothing.
        """
        self.ingress.stopping = True
        if self._stopped:
            return 0
        self._stopped = True
        await _cancel(self._leasing)
        for worker in self.workers.values():
            worker.release_fetched()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(drain_s):
                while self.running and not self.hurry.is_set():  # noqa: ASYNC110  # either of two
                    await asyncio.sleep(_POLL_S)
        released = self.running
        await _cancel(self._slots)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(drain_s, 5.0)):
                for settler in self._all_settlers():
                    await settler.flush()
        await _cancel(self._settlers)
        for runner in self.runners.values():
            await runner.close()
        return released

    def _all_settlers(self) -> list[Settler[Any]]:
        return [
            self.router.settler,
            *(worker.settler for worker in self.workers.values()),
            *(lane.settler for lane in self.lanes.values()),
        ]

    # acts of operators -------------------------------------------------------

    def nudge(self, topic: str) -> None:
        """Let recovery look soon: something was parked in this topic, or made due."""
        recovery = self.recoveries.get(topic)
        if recovery is not None:
            recovery.nudge()

    async def pause(self, name: str, by: Actor) -> None:
        """Start none of the topic's deliveries until resumed, over restarts too. Audited.

        Raises:
            UnknownName: there is no such topic, or it is common: its doors would only fill up.
        """
        topic = self._operable(name)
        if not topic.paused:
            await self.tools.storage.override(name, {"paused": True}, by)
            topic.pause()
            log(names.TOPIC_PAUSED_LOG, topic=name, by=by.name, why=by.why)

    async def resume(self, name: str, by: Actor) -> None:
        """Start the topic's deliveries again. Audited.

        Raises:
            UnknownName: there is no such topic.
        """
        topic = self._operable(name)
        if topic.paused and not topic.orphan:
            await self.tools.storage.override(name, None, by)
            topic.resume()
            log(names.TOPIC_RESUMED, topic=name, by=by.name, why=by.why)

    def _operable(self, name: str) -> Topic:
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
            if not topic.paused and still > READY_S and (topic.handler or name == COMMON):
                reasons.append(f"topic {name!r}: its loop has not gone round for {still:.0f} s")
        return reasons


async def _cancel(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    tasks.clear()


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
