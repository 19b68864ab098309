"""A handler that blocks the loop is named while it is at it, and its block measured."""

from __future__ import annotations

import asyncio
import logging
import threading
from time import monotonic
from typing import TYPE_CHECKING, Any

import pytest

from eventflow import testing
from eventflow.event import Event
from eventflow.flow.handlers import Handler
from eventflow.flow.watchdog import BEAT_S, LIMIT_S, BlockDetector
from eventflow.telemetry import names
from eventflow.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

EVENT = Event(type="user.registered", source="/shop")


async def innocent(_event: Event) -> None:
    await asyncio.sleep(0)


class Watched:
    """A loop with a watchdog, and what it logged."""

    def __init__(self, caplog: pytest.LogCaptureFixture, limit_s: float) -> None:
        self.metrics = Metrics()
        self.watchdog = BlockDetector(self.metrics, limit_s=limit_s)
        self._caplog = caplog
        caplog.set_level(logging.INFO)

    async def run(self, handler: Callable[[Event], Awaitable[None]]) -> None:
        """Run a handler on the watched loop, and let the loop go on for two beats."""
        self.watchdog.start()
        try:
            await handler(EVENT)
            went_on = asyncio.get_running_loop().create_future()
            asyncio.get_running_loop().call_later(2 * BEAT_S, went_on.set_result, None)
            await went_on
        finally:
            self.watchdog.stop()

    def block(self, at_least_s: float, times: int = 1) -> None:
        """Do what a blocking call does: keep the thread, let others of the process run.

        Goes on until the watchdog has said so, however busy the machine is.
        """
        until = monotonic() + at_least_s
        while monotonic() < until or len(self.found) < times:
            threading.Event().wait(0.01)
            assert monotonic() < until + 10, "the watchdog says nothing"

    @property
    def found(self) -> list[dict[str, Any]]:
        return self.logged("handler.blocked") + self.logged("loop.blocked")

    def logged(self, name: str) -> list[dict[str, Any]]:
        lines = [vars(record)["eventflow"] for record in self._caplog.records]
        return [line.fields for line in lines if line.name == name]


@pytest.mark.parametrize(
    ("limit_s", "blocked_s"),
    [(0.1, 0.15), pytest.param(LIMIT_S, 0.3, marks=pytest.mark.slow)],
)
async def test_a_blocking_handler_is_named_with_its_stack(
    caplog: pytest.LogCaptureFixture, limit_s: float, blocked_s: float
) -> None:
    watched = Watched(caplog, limit_s)

    async def greedy(_event: Event) -> None:
        watched.block(blocked_s)

    for topic, function in (("email", greedy), ("db", innocent)):
        watched.watchdog.watch(topic, Handler.of_function(function, timeout_s=10))
    await watched.run(greedy)
    (found,) = watched.logged("handler.blocked")
    (resumed,) = watched.logged("loop.resumed")

    assert found["topic"] == "email"
    assert found["handler"].endswith("greedy")
    assert limit_s < found["blocked_s"] <= resumed["blocked_s"]
    assert "watched.block(blocked_s)" in found["stack"]
    assert found["advice"].startswith("handler for topic 'email' blocks the event loop: ")
    assert "async def handler(event): await client.get(...)     # does not" in found["advice"]
    assert resumed["topic"] == "email"
    assert blocked_s <= resumed["blocked_s"] < blocked_s + 10
    assert watched.metrics.counted(names.LOOP_BLOCKED) == {
        ("email",): pytest.approx(resumed["blocked_s"], abs=0.001)
    }


@pytest.mark.slow
async def test_a_block_is_one_incident_however_long(caplog: pytest.LogCaptureFixture) -> None:
    watched = Watched(caplog, 0.1)

    async def greedy(_event: Event) -> None:
        watched.block(0.5)

    watched.watchdog.watch("email", Handler.of_function(greedy, timeout_s=10))
    await watched.run(greedy)

    assert len(watched.logged("handler.blocked")) == 1
    assert len(watched.logged("loop.resumed")) == 1


@pytest.mark.slow
async def test_each_block_is_an_incident(caplog: pytest.LogCaptureFixture) -> None:
    watched = Watched(caplog, 0.1)

    async def greedy(_event: Event) -> None:
        for times in (1, 2):
            watched.block(0.15, times)
            went_on = asyncio.get_running_loop().create_future()
            asyncio.get_running_loop().call_later(2 * BEAT_S, went_on.set_result, None)
            await went_on

    watched.watchdog.watch("email", Handler.of_function(greedy, timeout_s=10))
    await watched.run(greedy)

    assert len(watched.logged("handler.blocked")) == 2
    assert len(watched.logged("loop.resumed")) == 2


async def test_a_block_outside_of_handlers_is_told_too(caplog: pytest.LogCaptureFixture) -> None:
    watched = Watched(caplog, 0.1)

    async def unknown(_event: Event) -> None:
        watched.block(0.15)

    await watched.run(unknown)
    (found,) = watched.logged("loop.blocked")

    assert "watched.block(0.15)" in found["stack"]
    assert set(watched.metrics.counted(names.LOOP_BLOCKED)) == {("unknown",)}


@pytest.mark.slow
async def test_a_busy_loop_is_not_blocked(caplog: pytest.LogCaptureFixture) -> None:
    """Many short turns are what a loop is for."""
    watched = Watched(caplog, 1.0)

    async def diligent(event: Event) -> None:
        until = asyncio.get_running_loop().time() + 1.3
        while asyncio.get_running_loop().time() < until:
            await innocent(event)

    watched.watchdog.watch("email", Handler.of_function(diligent, timeout_s=10))
    await watched.run(diligent)

    assert caplog.records == []
    assert watched.metrics.counted(names.LOOP_BLOCKED) == {}


def test_what_several_topics_share_names_all_of_them(caplog: pytest.LogCaptureFixture) -> None:
    """One function for two topics: its code does not say for which of them it runs."""
    watched = Watched(caplog, 0.1)

    async def shared(_event: Event) -> None:
        watched.block(0.15)

    for topic in ("email", "db"):
        watched.watchdog.watch(topic, Handler.of_function(shared, timeout_s=10))
    asyncio.run(watched.run(shared))
    (found,) = watched.logged("handler.blocked")

    assert found["topic"] == "email, db"


def test_on_a_virtual_loop_there_is_no_watchdog() -> None:
    async def story() -> None:
        watchdog = BlockDetector(Metrics())
        before = threading.active_count()
        watchdog.start()
        await asyncio.sleep(3_600)

        assert threading.active_count() == before
        watchdog.stop()

    testing.run(story())


async def test_it_leaves_nothing_behind() -> None:
    watchdog = BlockDetector(Metrics())
    before = threading.active_count()
    watchdog.start()
    watchdog.start()  # once more changes nothing
    assert threading.active_count() == before + 1
    watchdog.stop()

    assert threading.active_count() == before
