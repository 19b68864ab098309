"""A node is changed while events flow: nothing lost, nothing run twice, no run broken off."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from eventflow import Event, EventFlow
from eventflow.app import build
from eventflow.config import parse
from eventflow.engine.protocol import Kind, Queue
from eventflow.errors import ConfigError, Orphaned
from eventflow.flow.handlers import Handler
from eventflow.storage.protocol import Actor
from eventflow.testing.harness import census, settle, started, virtual
from eventflow.testing.loop import run

if TYPE_CHECKING:
    from collections.abc import Callable

    from eventflow.delivery import Delivery

    Handlers = dict[str, Callable[..., Any]]

WHO = Actor("a tester")
EVERYWHERE = '[[routes]]\nmatch = "**"\ntopics = [{}]\n'


class Subject:
    """A node on virtual time, and the handlers that it had and has."""

    def __init__(self, seed: int, **settings: Any) -> None:
        self.seed = seed
        self.runs: Counter[str] = Counter()
        self.now: Counter[str] = Counter()
        """Runs going on, by topic."""
        self.most: Counter[str] = Counter()
        self.broken_off = 0
        self.versions: Counter[str] = Counter()
        self.run_s = 0.05
        self.built: dict[str, build.Built] = {}
        self.flow = EventFlow(engine="memory:", surroundings=virtual(seed))
        self.flow.topic("work", match="**", **settings)(self.handler("work", "v1"))
        self.functions: Handlers = {"work": self.handler("work", "v1")}

    def handler(self, topic: str, version: str) -> Callable[..., Any]:
        async def work(event: Event, delivery: Delivery) -> None:
            self.now[topic] += 1
            self.most[topic] = max(self.most[topic], self.now[topic])
            self.runs[delivery.id] += 1
            self.versions[version] += 1
            try:
                await asyncio.sleep(self.run_s)
            except asyncio.CancelledError:
                self.broken_off += 1
                raise
            finally:
                self.now[topic] -= 1

        return work

    async def change(self, toml: str, functions: Handlers) -> None:
        """Be what the text says, with these handlers."""
        declared: dict[str, dict[str, Any]] = {name: {} for name in functions}
        settings = parse(
            'engine.url = "memory:"\n' + toml, name="new", environ={}, declared=declared
        )
        known = {
            name: one
            for name, one in self.built.items()
            if self.functions.get(name) is functions.get(name)
        }
        wanted, self.built = build.wanted_of(settings, functions, known)
        self.functions = functions

        async def record() -> None:
            await asyncio.sleep(0.001)

        async with self.flow.flow.changing:
            await self.flow.flow.change(wanted, record)


def toml(topics: dict[str, dict[str, Any]]) -> str:
    text = ""
    for name, keys in topics.items():
        text += f"[topics.{name}]\n" + "".join(f"{key} = {value}\n" for key, value in keys.items())
    return text + EVERYWHERE.format(", ".join(f'"{name}"' for name in topics))


def events(first: int, count: int) -> list[Event]:
    return [Event(type="t.x", source="/test", id=str(n)) for n in range(first, first + count)]


def test_changes_at_random_lose_nothing_and_run_nothing_twice(seed: int) -> None:
    """Topics come, go and come back; concurrency, capacity, timeout and handler change."""
    chance = random.Random(seed)
    subject = Subject(seed, concurrency=4, capacity=50)

    def some() -> tuple[dict[str, dict[str, Any]], Handlers]:
        topics: dict[str, dict[str, Any]] = {}
        functions: Handlers = {}
        for name in ("work", "mail", "copy"):
            if name != "work" and chance.random() < 0.5:
                continue
            topics[name] = {
                "concurrency": chance.choice([1, 2, 4, 9]),
                "capacity": chance.choice([5, 50, 500]),
                "timeout": f'"{chance.choice([5, 60])}s"',
            }
            old = subject.functions.get(name)
            keep = old is not None and chance.random() < 0.5
            functions[name] = old if keep and old else subject.handler(name, "later")
        return topics, functions

    async def story() -> None:
        async with started(subject.flow) as flow:
            number = 0
            for _ in range(25):
                for _ in range(chance.randrange(4)):
                    count = chance.randrange(1, 40)
                    await flow.publish_many(events(number, count), wait_s=60)
                    number += count
                    await asyncio.sleep(chance.choice([0, 0.01, 0.2]))
                topics, functions = some()
                await subject.change(toml(topics), functions)
            every = {name: {"concurrency": 4} for name in ("work", "mail", "copy")}
            handlers = {name: subject.handler(name, "last") for name in every}
            await subject.change(toml(every), handlers)
            ledger = await settle(flow)
            assert ledger.unaccounted == 0
            assert ledger.topics["work"].delivered == number
            assert ledger.topics["common"].delivered == number
            created = sum(one.created for name, one in ledger.topics.items() if name != "common")
            assert len(subject.runs) == created
            assert sum(one.dead for one in ledger.topics.values()) == 0
            held = [name for name, one in flow.flow.stages.items() if one.leases()]
            assert held == []

    run(story(), seed=seed)
    assert set(subject.runs.values()) == {1}
    assert subject.broken_off == 0
    assert max(subject.most.values()) <= 9


@pytest.mark.parametrize(("before", "after"), [(8, 2), (2, 8)])
def test_concurrency_changes_without_breaking_a_run(before: int, after: int) -> None:
    subject = Subject(1, concurrency=before)
    seen: list[int] = []

    async def story() -> None:
        async with started(subject.flow) as flow:
            await flow.publish_many(events(0, 60))
            await asyncio.sleep(0.02)
            seen.append(subject.now["work"])
            await subject.change(toml({"work": {"concurrency": after}}), subject.functions)
            await asyncio.sleep(0.2)
            seen.append(subject.now["work"])
            subject.most.clear()
            await settle(flow)

    run(story())
    assert seen == [before, after]
    assert subject.most["work"] == after
    assert set(subject.runs.values()) == {1}
    assert subject.broken_off == 0


def test_another_handler_takes_over_within_the_concurrency() -> None:
    """Old runs finish with the old one; both together are never more than the topic may have."""
    subject = Subject(1, concurrency=4)
    subject.run_s = 9.0

    async def story() -> None:
        async with started(subject.flow) as flow:
            await flow.publish_many(events(0, 3))
            await asyncio.sleep(5)
            await subject.change(
                toml({"work": {"concurrency": 4, "timeout": '"1m"'}}),
                {"work": subject.handler("work", "v2")},
            )
            await flow.publish_many(events(3, 3))
            await asyncio.sleep(1)
            assert subject.versions == {"v1": 3, "v2": 1}
            await settle(flow)

    run(story())
    assert subject.versions == {"v1": 3, "v2": 3}
    assert subject.most["work"] == 4
    assert subject.broken_off == 0


class _Sink:
    """Remembers when it was opened and closed, and that nothing came outside of that."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.now = 0

    async def start(self) -> None:
        self.told.append("start")

    async def deliver(self, _event: Event, _delivery: Delivery) -> None:
        assert self.told == ["start"]
        self.now += 1
        await asyncio.sleep(3)
        self.now -= 1

    async def close(self) -> None:
        assert self.now == 0
        self.told.append("close")


def test_an_old_sink_is_closed_after_its_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    sinks: list[_Sink] = []

    def made(topic: Any, function: Any) -> Handler:
        sinks.append(_Sink())
        return Handler.of_sink(sinks[-1], name="test", timeout_s=topic.timeout_s)

    monkeypatch.setattr(build, "_handler", made)
    subject = Subject(1, concurrency=2)
    subject.functions = {}
    told: list[list[list[str]]] = []

    async def story() -> None:
        async with started(subject.flow) as flow:
            await flow.publish_many(events(0, 2))
            await asyncio.sleep(1)
            await subject.change(toml({"work": {}}), {"work": made})
            told.append([list(sink.told) for sink in sinks])
            await settle(flow)
            told.append([list(sink.told) for sink in sinks])

    run(story())
    assert told == [[["start"], ["start"]], [["start", "close"], ["start"]]]
    assert [sink.told for sink in sinks] == [["start", "close"]] * 2


def test_a_smaller_capacity_lets_what_is_there_drain(caplog: pytest.LogCaptureFixture) -> None:
    """Nothing is dropped; what comes new waits in the lane until there is room."""
    subject = Subject(1, concurrency=1, capacity=100)

    async def story() -> None:
        async with started(subject.flow) as flow:
            await flow.flow.pause("work", WHO)
            await flow.publish_many(events(0, 60))
            await asyncio.sleep(1)
            await subject.change(toml({"work": {"capacity": 10}}), subject.functions)
            await flow.publish_many(events(60, 5))
            await asyncio.sleep(0.5)
            depth = flow.flow.tools.engine.depth("work")
            assert (depth.queued, depth.retrying, depth.capacity) == (60, 5, 10)
            await flow.flow.resume("work", WHO)
            assert (await settle(flow)).topics["work"].delivered == 65

    run(story())
    assert "queue.overfilled topic=work queue=topic deliveries=60 capacity=10" in caplog.text
    assert set(subject.runs.values()) == {1}


class TestATopicThatGoes:
    """It stays as an orphan while it holds something, and goes on when it is back."""

    def test_what_runs_finishes_and_what_waits_is_kept(self) -> None:
        subject = Subject(1, concurrency=2)
        subject.run_s = 5

        async def story() -> None:
            async with started(subject.flow) as flow:
                await flow.publish_many(events(0, 6))
                await asyncio.sleep(1)
                functions = {"mail": subject.handler("mail", "v1")}
                work = subject.functions["work"]
                await subject.change(toml({"mail": {}}), functions)
                await asyncio.sleep(60)
                counts = (await census(flow)).topics["work"]
                assert (counts.delivered, counts.queued, counts.running) == (2, 4, 0)
                topic = flow.flow.topics["work"]
                assert (topic.orphan, topic.paused) == (True, True)
                assert flow.flow.unready() == []
                with pytest.raises(Orphaned, match="Put it back into the configuration"):
                    await flow.flow.resume("work", WHO)
                await flow.publish_many(events(6, 1))
                await asyncio.sleep(60)
                assert (await census(flow)).topics["work"].queued == 4
                await subject.change(toml({"work": {}}), {"work": work})
                assert (await settle(flow)).topics["work"].delivered == 6

        run(story())
        assert set(subject.runs.values()) == {1}
        assert subject.broken_off == 0

    def test_an_empty_one_is_forgotten(self) -> None:
        subject = Subject(1)

        async def story() -> None:
            async with started(subject.flow) as flow:
                await flow.publish_many(events(0, 6))
                await settle(flow)
                await subject.change(toml({"mail": {}}), {"mail": subject.handler("mail", "v1")})
                await asyncio.sleep(1)
                assert set(flow.flow.topics) == {"common", "mail"}
                assert set(flow.flow.stages) == {"common", "mail"}
                assert (await census(flow)).topics["work"].delivered == 6

        run(story())

    def test_back_before_its_runs_have_ended(self) -> None:
        """Gone and back at once, again and again: one run each, and never more at once."""
        subject = Subject(1, concurrency=2)
        subject.run_s = 5
        work = subject.functions["work"]

        async def story() -> None:
            async with started(subject.flow) as flow:
                await flow.publish_many(events(0, 20))
                for _ in range(6):
                    await asyncio.sleep(1)
                    await subject.change(
                        toml({"mail": {}}), {"mail": subject.handler("mail", "v1")}
                    )
                    await subject.change(toml({"work": {"concurrency": 2}}), {"work": work})
                assert (await settle(flow)).topics["work"].delivered == 20

        run(story())
        assert set(subject.runs.values()) == {1}
        assert subject.most["work"] == 2
        assert subject.broken_off == 0

    def test_its_parked_and_retrying_deliveries_are_kept(self) -> None:
        subject = Subject(1)

        async def fails(event: Event) -> None:
            raise ConnectionError("no")

        async def story() -> None:
            flow = EventFlow(engine="memory:", surroundings=virtual(1))
            flow.topic("work", match="**", retry={"max_attempts": 1 if False else 5})(fails)
            subject.flow = flow
            async with started(flow):
                await flow.publish_many(events(0, 3))
                await asyncio.sleep(0.1)
                await subject.change(toml({"mail": {}}), {"mail": subject.handler("mail", "v1")})
                await asyncio.sleep(3600)
                found = await flow.flow.tools.engine.walk(Queue(Kind.LANE, "work"))
                assert len(found) == 3
                await subject.change(toml({"work": {}}), {"work": subject.handler("work", "v2")})
                assert (await settle(flow)).topics["work"].delivered == 3

        run(story())


def test_a_handler_that_can_not_be_used_changes_nothing() -> None:
    subject = Subject(1)

    class Shut(_Sink):
        async def start(self) -> None:
            raise ConfigError(["it can't be opened"])

    async def story() -> None:
        async with started(subject.flow) as flow:
            shut = Shut()
            wanted, _ = build.wanted_of(flow.settings, {"work": subject.functions["work"]})
            topic = wanted.topics[0]
            topic.handler = Handler.of_sink(shut, name="shut", timeout_s=1)
            before = flow.flow.topics["work"].handler

            async def never() -> None:
                raise AssertionError

            with pytest.raises(ConfigError, match="can't be opened"):
                await flow.flow.change(wanted, never)
            assert shut.told == ["close"]
            assert flow.flow.topics["work"].handler is before
            await flow.publish_many(events(0, 1))
            assert (await settle(flow)).topics["work"].delivered == 1

    run(story())
