"""Clocks that follow a virtual loop or a hand."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from eventflow.clock import rfc3339
from eventflow.testing import EPOCH_S, ManualClock, VirtualClock, run

if TYPE_CHECKING:
    from eventflow.clock import Clock


def test_tests_begin_with_the_year_2026() -> None:
    assert rfc3339(EPOCH_S) == "2026-01-01T00:00:00.000000Z"


def test_both_are_clocks() -> None:
    """The annotations are for mypy; both begin at the same time."""
    manual: Clock = ManualClock()
    virtual: Clock = VirtualClock()

    async def now() -> float:
        return virtual.now_s()

    assert run(now()) == manual.now_s() == EPOCH_S


def test_a_virtual_clock_goes_with_its_loop() -> None:
    clock = VirtualClock(epoch_s=1_000)

    async def three_days() -> tuple[float, float]:
        before = clock.now_s()
        await asyncio.sleep(3 * 86_400)
        return before, clock.now_s()

    assert run(three_days()) == (1_000, 1_000 + 3 * 86_400)


def test_one_virtual_clock_begins_anew_with_every_run() -> None:
    clock = VirtualClock()

    async def an_hour() -> float:
        await asyncio.sleep(3600)
        return clock.now_s()

    assert run(an_hour()) == run(an_hour()) == EPOCH_S + 3600


def test_without_a_loop_a_virtual_clock_has_no_time() -> None:
    with pytest.raises(RuntimeError, match="no running event loop"):
        VirtualClock().now_s()


async def test_on_a_real_loop_a_virtual_clock_says_what_it_needs() -> None:
    with pytest.raises(TypeError, match="expected a running VirtualLoop, got"):
        VirtualClock().now_s()


def test_a_manual_clock_moves_only_when_told() -> None:
    clock = ManualClock(start_s=100)
    assert (clock.now_s(), clock.now_s()) == (100, 100)

    clock.advance(0)
    clock.advance(29.5)
    assert clock.now_s() == 129.5


@pytest.mark.parametrize("seconds", [-0.1, float("inf"), float("nan")])
def test_time_runs_forward_by_finite_steps(seconds: float) -> None:
    clock = ManualClock(start_s=100)

    with pytest.raises(ValueError, match="expected 0 or more seconds, got"):
        clock.advance(seconds)
    assert clock.now_s() == 100
