"""When the way back from storage is looked at: as seldom as it can be, and never not at all."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from eventflow.engine.protocol import Depth
from eventflow.flow.ledger import Ledger
from eventflow.flow.recovery import LOOK_AGAIN_S, LOOK_ANYWAY_S, Recovery
from eventflow.flow.topic import Topic
from eventflow.policy.values import TopicPolicy
from eventflow.telemetry.metrics import Metrics
from eventflow.testing.loop import run


class Stubs:
    """A storage that says when something is due, an engine that says how full a topic is."""

    def __init__(self, *, shared: bool) -> None:
        self.shared = shared
        self.due_at: float | None = None
        self.full = Depth(queued=10, capacity=10)
        self.looked: list[float] = []

    async def next_due(self, topic: str) -> float | None:
        assert topic == "email"
        self.looked.append(round(self.now_s()))
        return self.due_at

    def depth(self, topic: str) -> Depth:
        assert topic == "email"
        return self.full

    def now_s(self) -> float:
        return asyncio.get_running_loop().time()

    monotonic_s = now_s


def recovery(stubs: Any) -> Recovery:
    ledger = Ledger(Metrics(), stubs, 10)
    topic = Topic("email", TopicPolicy(), None)
    return Recovery(stubs, stubs, topic, ledger, stubs, lambda: 0.5)


@pytest.mark.parametrize("shared", [False, True])
def test_where_others_park_it_looks_unasked(*, shared: bool) -> None:
    stubs = Stubs(shared=shared)

    async def story() -> None:
        task = asyncio.create_task(recovery(stubs).run())
        await asyncio.sleep(2.5 * LOOK_ANYWAY_S)
        task.cancel()

    run(story())
    assert stubs.looked == ([0, 30, 60] if shared else [0])


def test_what_is_due_in_a_year_is_looked_at_before() -> None:
    """Clocks are set, and machines sleep."""
    stubs = Stubs(shared=False)
    stubs.due_at = 1e7

    async def story() -> None:
        task = asyncio.create_task(recovery(stubs).run())
        await asyncio.sleep(2.5 * LOOK_ANYWAY_S)
        task.cancel()

    run(story())
    assert stubs.looked == [0, 30, 60]


def test_what_comes_while_it_looks_is_looked_at_next() -> None:
    class Slow(Stubs):
        async def next_due(self, topic: str) -> float | None:
            await super().next_due(topic)
            await asyncio.sleep(1)
            return None

    stubs = Slow(shared=False)

    async def story() -> None:
        back = recovery(stubs)
        task = asyncio.create_task(back.run())
        await asyncio.sleep(0.5)
        back.nudge()
        await asyncio.sleep(10)
        task.cancel()

    run(story())
    assert stubs.looked == [0, 1]


def test_more_room_matters_only_to_what_waits_for_room() -> None:
    stubs = Stubs(shared=False)

    async def story() -> None:
        back = recovery(stubs)
        task = asyncio.create_task(back.run())
        await asyncio.sleep(1)
        back.more_room()  # nothing is parked
        await asyncio.sleep(1)
        assert stubs.looked == [0]

        stubs.due_at = stubs.now_s()
        back.nudge()
        await asyncio.sleep(LOOK_AGAIN_S / 2)
        assert stubs.looked == [0, 2]
        back.more_room()  # it is due, and the topic was full
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert stubs.looked == [0, 2, 2]
        task.cancel()

    run(story())
