"""The stages of one topic in this node: begun, changed and ended while others go on.

    begin      recovery, lane and worker go; common has recovery alone
    run_with   another handler: slots of the old one end after the run they are in
    resize     as many slots as the topic may have now
    rest       nothing more is leased; what runs goes on
    leave      as `rest`, and no handler any more: the topic has gone
    break_off  what still runs is given back: the node stops
    end        nothing of it is left

Slots of an old handler and of its successor together are never more than the topic's
concurrency: a new one begins as an old one ends. No run is broken off, and none begins twice.
"""

from __future__ import annotations

import asyncio
from functools import partial
from itertools import count
from typing import TYPE_CHECKING

from eventflow.flow.recovery import Recovery
from eventflow.flow.retry_lane import RetryLane
from eventflow.flow.supervise import cancel, supervise
from eventflow.flow.worker import Worker
from eventflow.telemetry import names
from eventflow.telemetry.logging import log

if TYPE_CHECKING:
    from collections.abc import Sequence

    from eventflow.engine.protocol import Lease, Run
    from eventflow.flow.gate import Gate
    from eventflow.flow.handlers import Handler
    from eventflow.flow.ledger import Ledger
    from eventflow.flow.node import Tools
    from eventflow.flow.slots import Runner
    from eventflow.flow.topic import Topic

    Task = asyncio.Task[None]


class TopicStages:
    """Recovery, retry lane and worker of one topic, and the tasks they run in."""

    def __init__(
        self, tools: Tools, topic: Topic, ledger: Ledger, gate: Gate, *, recovers: bool = True
    ) -> None:
        self.topic = topic
        self._recovers = recovers
        engine, clock, draw = tools.engine, tools.clock, tools.draw
        self.recovery = Recovery(engine, tools.storage, topic, ledger, clock, draw)
        self.worker = Worker(engine, topic, gate, ledger, clock, draw)
        self.worker.on_room = self.recovery.more_room
        self.lane = RetryLane(engine, topic, ledger, clock, draw)
        self._runner: Runner | None = None
        self._numbers = count()
        self._slots: dict[int, tuple[Task, Runner]] = {}
        self._leasing: list[Task] = []
        self._settling: list[Task] = []
        self._retiring: set[Task] = set()
        tools.metrics.add_topic(topic.name)

    # life --------------------------------------------------------------------

    def begin(self, runner: Runner | None) -> None:
        """Let them go, with a runner that has been started; None: no handler is run here."""
        name = self.topic.name
        self.topic.round_at = asyncio.get_running_loop().time()
        if self._recovers:
            self._leasing.append(supervise("recovery", name, self.recovery.run))
        if runner is None:
            return
        if not self._settling:
            self._settling.append(supervise("worker", name, self.worker.settler.run))
            self._settling.append(supervise("retry_lane", name, self.lane.settler.run))
        self._leasing.append(supervise("worker", name, self.worker.fetch))
        self._leasing.append(supervise("retry_lane", name, self.lane.run))
        self.run_with(runner)

    def rest(self) -> list[Task]:
        """Lease nothing more, and give back what has not been started. What runs goes on.

        Returns:
            Tasks that are ending.
        """
        leasing, self._leasing = self._leasing, []
        for task in leasing:
            task.cancel()
        self.worker.release_fetched()
        return leasing

    def leave(self) -> list[Task]:
        """Rest, and let the handler go once what runs has ended: the topic has gone."""
        self.run_with(None)
        return self.rest()

    async def break_off(self) -> None:
        """End every run there is now: it is given back, as if it had not been leased."""
        self._retire()
        await cancel([task for task, _ in self._slots.values()], again_s=None)

    async def idle(self) -> None:
        """Wait until the runs that `leave` left going have ended."""
        while self._retiring:
            await asyncio.gather(*self._retiring)

    async def flush(self) -> None:
        """Wait until all that could be settled is."""
        await self.worker.settler.flush()
        await self.lane.settler.flush()

    async def end(self) -> None:
        """End the tasks that are left, once nothing runs and what ran has been settled."""
        await self.idle()
        settling, self._settling = self._settling, []
        await cancel(settling)

    # changes -----------------------------------------------------------------

    def run_with(self, runner: Runner | None) -> None:
        """Run each delivery that is started from now on with this handler; None: start none."""
        self.worker.leave(list(self._slots))
        self._retire()
        self._runner = runner
        stuck = [old for old in self.worker.runners if old.stuck]
        self.worker.runners = stuck if runner is None else [*stuck, runner]
        self.resize()

    def adjust(self, handler: Handler) -> None:
        """Run with the same function but another timeout, and in as many slots as may be now."""
        if self._runner is not None:
            self._runner.handler = handler
        self.resize()

    def resize(self) -> None:
        """Have as many slots as the topic may have now."""
        runner = self._runner
        if runner is None:
            return
        wanted = self.topic.concurrency
        runner.resize(wanted)
        leaving = self.worker.leaving
        staying = [n for n, (_, own) in self._slots.items() if own is runner and n not in leaving]
        if len(staying) > wanted:
            idle_first = sorted(staying, key=lambda number: number in self.worker.running)
            self.worker.leave(idle_first[: len(staying) - wanted])
        for _ in range(wanted - len(self._slots)):
            self._add(runner)

    def _add(self, runner: Runner) -> None:
        number = next(self._numbers)
        task = supervise("slot", self.topic.name, partial(self.worker.slot, number, runner))
        self._slots[number] = task, runner
        task.add_done_callback(partial(self._left, number))

    def _left(self, number: int, task: Task) -> None:
        self.worker.leaving.discard(number)
        del self._slots[number]
        if not task.cancelled():
            self.resize()

    def _retire(self) -> None:
        """Let go of the handler as soon as the last run with it has ended."""
        old, self._runner = self._runner, None
        if old is None:
            return
        tasks = [task for task, own in self._slots.values() if own is old]
        retiring = asyncio.create_task(_close(old, tasks), name=f"retiring:{self.topic.name}")
        self._retiring.add(retiring)
        retiring.add_done_callback(self._retiring.discard)

    # how it is ---------------------------------------------------------------

    def leases(self) -> list[Lease | Run]:
        """Return every lease that is held, for them to be extended (G5)."""
        return [*self.worker.leases(), *self.lane.settler.leases()]

    def lose(self, lost: Sequence[Lease | Run]) -> None:
        """Start nothing more of what was leased and lost."""
        self.worker.lose(lost)

    @property
    def going(self) -> bool:
        """Whether it leases: begun, and not at rest."""
        return bool(self._leasing)

    @property
    def running(self) -> int:
        """How many runs there are now."""
        return len(self.worker.running)


async def _close(runner: Runner, slots: list[Task]) -> None:
    """Wait until its slots have ended, and close a runner."""
    await asyncio.gather(*slots, return_exceptions=True)
    try:
        await runner.close()
    except Exception as error:  # noqa: BLE001  # of a sink's library: nobody waits for it any more
        log(names.STAGE_FAILED, stage="handler", topic=runner.topic, error=error)
