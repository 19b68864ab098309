"""What a run costs beside the handler itself: it is paid for every event."""

from __future__ import annotations

import asyncio
from time import perf_counter
from typing import TYPE_CHECKING, Any

import pytest

from eventflow.clock import SystemClock
from eventflow.delivery import Delivery
from eventflow.event import Event
from eventflow.flow.handlers import Batch, Handler
from eventflow.flow.slots import Runner
from eventflow.telemetry import names
from eventflow.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from collections.abc import Callable

DELIVERY = Delivery(Event(type="user.registered", source="/shop"), "ref", "email", 0.0)


async def noop(event: Event) -> None: ...
async def noop_batch(events: list[Event]) -> None: ...
def noop_sync(event: Event) -> None: ...


async def failing(_event: Event) -> None:
    raise ConnectionError("no route to host")


async def cost_us(function: Callable[..., Any], runs: int) -> float:
    """Return microseconds a run, the best of five rounds."""
    handler = Handler.of_function(function, timeout_s=10)
    runner = Runner(handler, "email", 1, SystemClock(), Metrics())
    best_s = float("inf")
    for _ in range(5):
        start = perf_counter()
        for _ in range(runs):
            await runner.run(0, DELIVERY)
        best_s = min(best_s, perf_counter() - start)
    await runner.close()
    return round(best_s / runs * 1e6, 3)


async def batch_cost_us(size: int) -> float:
    """Return microseconds an event of a batch."""
    handler = Handler.of_function(noop_batch, timeout_s=10, batch=Batch())
    runner = Runner(handler, "email", 1, SystemClock(), Metrics())
    start = perf_counter()
    for _ in range(200):
        await runner.run_batch(0, [DELIVERY] * size)
    await runner.close()
    return round((perf_counter() - start) / 200 / size * 1e6, 3)


def observe_cost_us(size: int) -> float:
    """Return microseconds a value of a batch that goes into a histogram."""
    metrics, values = Metrics(), [n * 0.00137 % 1 for n in range(size)]
    start = perf_counter()
    for _ in range(1_000):
        metrics.observe(names.HANDLER_SECONDS, values, "email")
    return round((perf_counter() - start) / 1_000 / size * 1e6, 4)


@pytest.mark.prove
def test_a_run_costs_little_beside_its_handler(proof: Callable[..., dict[str, Any]]) -> None:
    async def measured() -> dict[str, float]:
        return {
            "async_us": await cost_us(noop, 50_000),
            "failing_us": await cost_us(failing, 2_000),
            "thread_us": await cost_us(noop_sync, 2_000),
            "batch_of_500_us": await batch_cost_us(500),
            "histogram_of_500_us": observe_cost_us(500),
        }

    figures = proof("a-run-of-a-handler", **asyncio.run(measured()))["figures"]

    assert figures["async_us"] <= 1.5
    assert figures["batch_of_500_us"] <= 0.2
