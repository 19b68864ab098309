"""One process of a simulated node: it starts, events come, trouble comes, it dies or stops."""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import apsw

from eventflow.app.eventflow import Surroundings
from eventflow.engine.embedded import open_engine
from eventflow.engine.embedded.writer import InlineWriter
from eventflow.errors import (
    EngineUnavailable,
    InvalidEvent,
    QueueFull,
    StorageUnavailable,
    Unroutable,
)
from eventflow.storage.protocol import Actor, Filter
from eventflow.storage.shelf import Shelf
from eventflow.testing.simulation.book import Broken, walk
from eventflow.testing.simulation.watch import Watched
from eventflow.testing.simulation.weather import Burst, DiskFull, Doing, Dying, Wave

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from eventflow.app.eventflow import EventFlow
    from eventflow.delivery import Delivery
    from eventflow.event import Event
    from eventflow.flow.handlers import Handler
    from eventflow.storage.protocol import Kept
    from eventflow.testing.crash_vfs import DiskImage
    from eventflow.testing.simulation.day import Day

WALK_EVERY = 200
"""Steps between two full walks of all queues and storage (G8)."""
LONGEST_S = 40 * 86_400.0
"""Virtual time after the trouble in which everything has to come to its end."""
_OPERATOR = Actor("operator", "the simulation")
_AGAIN = 0.1
"""How probable it is that a batch is sent together with the one before."""
_LATE_S = 1.0
"""How long before a run it may have been decided that it is to be run."""
_MORE = 20
"""Events published at once in a day that was too short."""
_WALKS = 3
"""Walks tried for one that no call ended in: only that one can be held against the book."""
_ENDURES_S = 20.0
"""A death waits so long for the disk operation it is to come at; then it comes anyhow."""


class Died(Exception):  # it is an event of the simulation, not an error of the code
    """The process is gone."""


class Life:
    """One process."""

    def __init__(self, day: Day) -> None:
        self._day = day
        self._clock = day.clock
        self._dying: Dying | None = None
        self._dies_now = False
        self.image: DiskImage | None = None
        """What the disk holds after the death."""
        self.now_s = 0.0
        """How long it has lived."""
        self._walk_at = math.inf
        self._walk_due: asyncio.Event
        self._flow: EventFlow
        self._opened: Watched | None = None

    # the event loop's every step ------------------------------------------------

    def look(self) -> None:
        """Die, if it is time to."""
        day = self._day
        disk = day.disk
        if day.book.broken is not None:
            raise day.book.broken
        if day.trace.steps >= self._walk_at:
            self._walk_due.set()
        if self._dies_now or disk.is_cut:
            self.now_s = self._loop.time()
            self._day.book.frozen = True
            power = self._dying is not None and self._dying.manner == "power"
            self.image = disk.crash(self._day.chance) if power else disk.killed()
            if not disk.is_cut:
                disk.cut_after(0)
            raise Died

    def bury(self) -> None:
        """Let go of the file, as the end of a process does."""
        if self._opened is not None:
            self._opened.journal.close(clean=False)

    @property
    def _watched(self) -> Watched:
        assert self._opened is not None, "the node has opened no engine yet"
        return self._opened

    # from start to end ----------------------------------------------------------

    async def main(self) -> None:
        """Live."""
        day = self._day
        self._loop = asyncio.get_running_loop()
        self._more = asyncio.Event()
        day.runs.running.clear()
        day.weights.forget()
        day.disk.heal()  # whoever starts it again has made room
        self._flow = flow = day.build(self._surroundings())
        await flow.start()
        self._tasks = tasks = [
            asyncio.create_task(self._publish(), name="publisher"),
            asyncio.create_task(self._walk(), name="walker"),
        ]
        self._call(day.calling.values())
        try:
            restarts = await self._befall()
            if not restarts:
                await self._come_to_an_end()
        finally:
            for task in tasks:
                task.cancel()
        for answer in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(answer, Exception):
                raise answer
        await flow.stop(5.0)
        self.now_s = self._loop.time()
        day.over = not restarts

    def _at(self) -> float:
        return self._day.elapsed_s + self._loop.time()

    async def _befall(self) -> bool:
        """Let everything happen at its time; return whether it stops to be started again."""
        day = self._day
        moments = day.weather.times
        while day.next_moment < len(moments):
            at_s, what = moments[day.next_moment]
            await asyncio.sleep(max(0.0, at_s - self._at()))
            day.next_moment += 1
            if isinstance(what, Burst):
                self._burst(what.events)
            elif isinstance(what, Wave):
                self._call(self._made(what.events))
            elif isinstance(what, Dying):
                self._arm(what)
            elif isinstance(what, DiskFull):
                self._fill(what)
            elif isinstance(what, Doing) and await self._do(what):
                return True
        await asyncio.sleep(max(0.0, day.weather.calm_at_s - self._at()))
        return False

    def _burst(self, count: int) -> None:
        self._day.waiting += self._made(count)
        self._more.set()

    def _made(self, count: int) -> list[Event]:
        """Return the next events of the day."""
        day = self._day
        events = []
        for _ in range(count):
            event = day.make(day.chance, day.next_event, self._clock.now_s())
            if day.next_event in day.weather.poisons:
                day.poisons.add(event.id)
            events.append(event)
            day.next_event += 1
        return events

    def _fill(self, what: DiskFull) -> None:
        """Fill the disk, or free it."""
        if what.full:
            self._day.disk.fail_write(apsw.SQLITE_FULL)
        else:
            self._day.disk.heal()

    def _arm(self, dying: Dying) -> None:
        """Die at one of the next disk operations, or a little later."""
        if self._dying is not None:
            return
        self._dying = dying
        if dying.manner == "bad_sync":
            self._day.disk.fail_sync(1)
        else:
            self._day.disk.cut_after(dying.after_ops)
        self._loop.call_later(_ENDURES_S, self._die)

    def _die(self) -> None:
        self._dies_now = True

    async def _do(self, doing: Doing) -> bool:
        flow, storage = self._flow, self._watched.storage
        try:
            match doing.act:
                case "restart":
                    return self._dying is None  # a death that is on its way comes first
                case "pause":
                    await flow.flow.pause(doing.topic, _OPERATOR)
                    self._loop.call_later(90, self._resume, doing.topic)
                case "replay" | "discard":
                    ids = await storage.ids(Filter(topic=doing.topic))
                    some = self._day.chance.sample(sorted(ids), min(len(ids), 5))
                    if doing.act == "replay":
                        await storage.replay(some, _OPERATOR)
                        flow.flow.nudge(doing.topic)
                    else:
                        await storage.discard(some[:1], _OPERATOR)
        except (EngineUnavailable, StorageUnavailable):
            return False  # the operator is told so, and does without
        return False

    async def _resume_all(self) -> None:
        """Resume what a death kept the operator from resuming: a pause outlives the process."""
        paused = [doing.topic for doing in self._day.weather.doings if doing.act == "pause"]
        for topic in dict.fromkeys(paused):  # no set: its order is another in each process
            await self._flow.flow.resume(topic, _OPERATOR)

    def _resume(self, topic: str) -> None:
        async def resume() -> None:
            with suppress(EngineUnavailable):  # a full disk: all are resumed in the end
                await self._flow.flow.resume(topic, _OPERATOR)

        self._resuming = asyncio.ensure_future(resume())

    # publishing -----------------------------------------------------------------

    async def _publish(self) -> None:
        """Publish what waits until it is acknowledged, under the same ids."""
        day = self._day
        if day.waiting:
            self._more.set()
        while True:
            await self._more.wait()
            self._more.clear()
            while day.waiting:
                if not day.batch_size:  # what was not answered is sent again just so
                    day.batch_size = min(day.chance.choice((1, 3, 20)), len(day.waiting))
                batch = day.waiting[: day.batch_size]
                if day.chance.random() < _AGAIN:
                    batch += day.last_batch  # as clients do that had no answer
                try:
                    await self._flow.publish_many(batch)
                except (QueueFull, EngineUnavailable):
                    await asyncio.sleep(day.chance.uniform(0.5, 5.0))
                    continue
                except (InvalidEvent, Unroutable):
                    self._published()
                    continue
                if not day.book.frozen:
                    day.acknowledged |= {event.id for event in batch}
                    day.last_batch = batch[:20]
                    self._published()

    def _published(self) -> None:
        """Go on to the next batch."""
        del self._day.waiting[: self._day.batch_size]
        self._day.batch_size = 0

    def _call(self, events: Iterable[Event]) -> None:
        """Let webhooks call, all at once."""
        self._day.calling |= {event.id: event for event in events}
        self._tasks += [
            asyncio.create_task(self._bring(event), name=f"webhook {event.id}")
            for event in list(events)
        ]

    async def _bring(self, event: Event) -> None:
        """Bring an event, as a webhook does whose door parks, until that is answered."""
        day = self._day
        while True:
            try:
                await self._flow.flow.ingress.accept([event], park=True)
            except (QueueFull, EngineUnavailable):
                await asyncio.sleep(day.chance.uniform(0.5, 5.0))
                continue
            except (InvalidEvent, Unroutable):
                del day.calling[event.id]
                return
            if not day.book.frozen:
                day.acknowledged.add(event.id)
                del day.calling[event.id]
            return

    # its surroundings -----------------------------------------------------------

    def _surroundings(self) -> Surroundings:
        chance = random.Random(self._day.chance.getrandbits(32))
        return Surroundings(
            clock=self._clock,
            random_source=chance,
            environ={},
            writer=partial(InlineWriter, self._commit_takes_s),
            engine=self._open,
            handler=self._under_weather,
        )

    def _commit_takes_s(self) -> float:
        return self._day.chance.random() * self._day.weather.commit_s

    async def _open(self, settings: Any, clock: Any, draw_bits: Any, writer: Any) -> Any:
        day = self._day
        engine = await open_engine(
            str(settings.engine.path),
            clock=clock,
            draw_bits=draw_bits,
            durability=settings.engine.durability,
            writer=writer,
            vfs=day.disk.name,
            shelf=self._shelf,
        )
        watched = Watched(engine, engine.storage, day.book, day.trace, day.weights, clock)
        watched.policy_of = lambda topic: self._flow.flow.topics[topic].policy
        self._opened = watched
        await self._look_at_all(engine)
        return watched

    async def _look_at_all(self, engine: Any) -> None:
        names = list((await engine.census()).topics)
        found = await walk(engine, engine.storage, names)
        self._day.book.reopened(found, self._clock.now_s())
        await self._hold_counts()

    def _shelf(self, connection: Any) -> Shelf:
        life = self

        class Weathered(Shelf):
            """A storage that refuses while the weather says so."""

            def keep(self, items: Sequence[Kept]) -> None:
                life.refuse()
                super().keep(items)

            def forget(self, pairs: Sequence[tuple[str, int]]) -> list[bool]:
                life.refuse()
                return super().forget(pairs)

        return Weathered(connection)

    def refuse(self) -> None:
        """Refuse, while storage is in trouble."""
        at = self._at()
        if any(span.has(at) for span in self._day.weather.refusals):
            raise StorageUnavailable("the weather")

    def _under_weather(self, topic: str, handler: Handler) -> Handler:
        """Return a handler that has its destination's trouble, and notes its runs."""
        inner, day = handler.function, self._day
        wants, batched = handler.wants_delivery, handler.batch is not None

        async def run(given: Any, told: Any) -> Any:
            events, deliveries = (given, told) if batched else ((given,), (told,))
            self._begin_runs(deliveries)
            ends = [False] * len(events)
            try:
                trouble = await self._meet_weather(topic)
                if trouble is not None:
                    raise trouble
                if any(event.id in day.poisons for event in events):
                    self._dies_now = True
                    await asyncio.sleep(1.0)  # it doesn't live so long
                answer = inner(given, told) if wants else inner(given)
                if asyncio.iscoroutine(answer):
                    answer = await answer
                said = answer if batched and answer is not None else [None] * len(events)
                ends = [one is None for one in said]
                return answer
            finally:
                self._end_runs(deliveries, ends)

        return replace(handler, function=run, wants_delivery=True, mode="async")

    def _begin_runs(self, deliveries: Sequence[Delivery]) -> None:
        day = self._day
        for delivery in deliveries if not day.book.frozen else ():
            id = delivery.id
            day.trace.step("handler", id, delivery.attempt)
            if id in day.runs.running:
                day.book.broken = Broken(f"{id} is run twice at the same time")
            expires_at = delivery.expires_at
            if expires_at is not None and expires_at + _LATE_S < self._clock.now_s():
                day.book.broken = Broken(f"{id} is run, and expired at {expires_at}")
            day.runs.start(id)
            self._check(delivery.topic)

    def _end_runs(self, deliveries: Sequence[Delivery], ends: Sequence[bool]) -> None:
        day = self._day
        for delivery, well in zip(deliveries, ends, strict=True) if not day.book.frozen else ():
            id = delivery.id
            day.trace.step("handled", id, well)
            day.runs.end(id, well=well)
            self._check(delivery.topic)

    def _check(self, topic: str) -> None:
        """Hold a topic against G3 and the ledger; what is raised in a handler would be its own."""
        try:
            self._watched.check(topic)
        except Broken as error:
            self._day.book.broken = self._day.book.broken or error

    async def _meet_weather(self, topic: str) -> Exception | None:
        """Take the time that a destination takes; return its trouble, if it is in any."""
        chance = self._day.chance
        match self._day.weather.manner(topic, self._at()):
            case "down":
                return ConnectionError("the destination is down")
            case "flaky" if chance.random() < 0.6:
                return ConnectionError("the destination is flaky")
            case "slow":
                await asyncio.sleep(chance.uniform(1.0, 15.0))
            case _:
                if chance.random() < 0.3:
                    await asyncio.sleep(chance.choice((0.01, 0.1, 0.4)))
        return None

    # looking at the whole ---------------------------------------------------------

    async def _walk(self) -> None:
        """Walk everything every so many steps (G8)."""
        self._walk_due = asyncio.Event()
        self._walk_at = self._day.trace.steps + WALK_EVERY
        while True:
            await self._walk_due.wait()
            self._walk_due.clear()
            self._walk_at += WALK_EVERY
            # On a full disk nothing can be read either; the next walk comes soon enough.
            with contextlib.suppress(EngineUnavailable, StorageUnavailable):
                await self._hold_counts()

    async def _hold_counts(self) -> None:
        day, engine = self._day, self._watched
        census = await engine.census()
        walked = await engine.census(walk=True)
        counted = await engine.census()
        if day.book.frozen:
            return
        if walked.topics != counted.topics:
            raise Broken(f"walked {walked}, counted {counted}")
        if counted.unaccounted:
            raise Broken(f"unaccounted: {counted}")
        day.walks += 1
        names = list(census.topics)
        for _ in range(_WALKS):
            ends = day.book.ends
            found = await walk(engine, engine.storage, names)
            if day.book.ends != ends:
                continue  # what ended while storage was read may be in the book and not in `found`
            if day.book.quiet and not day.book.early:
                day.book.compare(found)
                day.compared += 1
            return

    async def _come_to_an_end(self) -> None:
        """Wait until nothing waits any more, and the day was long enough."""
        day = self._day
        await self._resume_all()
        end = self._loop.time() + LONGEST_S
        pause_s = 1.0
        while True:
            census = await self._watched.census()
            left = sum(c.queued + c.running + c.retrying + c.parked for c in census.topics.values())
            if not left and not day.waiting and not day.calling:
                steps, events = day.trace.steps, len(day.acknowledged)
                if steps >= day.weather.least_steps and events >= day.weather.least_events:
                    await self._hold_counts()
                    return
                self._burst(_MORE)
                end, pause_s = self._loop.time() + LONGEST_S, 1.0
            if self._loop.time() > end:
                raise Broken(f"after {LONGEST_S:g} s there still wait: {census}")
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 1.3, 300.0)
