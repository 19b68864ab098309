"""How many parked deliveries come back, told as stories."""

from __future__ import annotations

from typing import TypedDict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventflow.policy.recovery import batch_size, room_below, share_per_s
from eventflow.policy.values import Fullness, RecoveryPolicy

POLICY = RecoveryPolicy()
HALF_EMPTY = Fullness(queued=100, running=0, capacity=1000)
IDLE = Fullness(queued=0, running=0, capacity=1000)


class Traffic(TypedDict):
    delivered_per_s: float
    topic_rate: float | None
    new_waiting: bool


def traffic(delivered: float, rate_per_s: float | None = None, *, new: bool = False) -> Traffic:
    return {"delivered_per_s": delivered, "topic_rate": rate_per_s, "new_waiting": new}


@pytest.mark.parametrize(
    ("queued", "running", "capacity", "low_water", "room"),
    [
        (0, 0, 1000, 0.5, 500),
        (400, 16, 1000, 0.5, 84),
        (484, 16, 1000, 0.5, 0),
        (900, 0, 1000, 0.5, 0),
        (0, 0, 1, 0.5, 1),  # a topic with one place recovers too
        (0, 1, 1, 0.5, 0),
        (0, 0, 30, 0.1, 3),  # 0.1 * 30 is 3.0000000000000004
        (2, 0, 5, 0.5, 1),  # 2 < 2.5
        (3, 0, 5, 0.5, 0),
        (9, 0, 10, 1.0, 1),
    ],
)
def test_room_ends_at_low_water(
    queued: int, running: int, capacity: int, low_water: float, room: int
) -> None:
    assert room_below(Fullness(queued, running, capacity), low_water) == room


@pytest.mark.parametrize(
    ("fullness", "policy", "going_on", "per_s"),
    [
        # of the topic's rate: its share while new ones wait, else all of it
        (HALF_EMPTY, POLICY, traffic(7, rate_per_s=50, new=True), 5),
        (HALF_EMPTY, POLICY, traffic(7, rate_per_s=50), 50),
        (IDLE, POLICY, traffic(0, rate_per_s=50), 50),
        # without one: of what it delivered, of 1/s at least
        (HALF_EMPTY, POLICY, traffic(200, new=True), 20),
        (HALF_EMPTY, POLICY, traffic(200), 200),
        (HALF_EMPTY, POLICY, traffic(0.2, new=True), 0.1),
        (HALF_EMPTY, POLICY, traffic(0), 1),
        # an empty queue has shown no limit: twice as much
        (IDLE, POLICY, traffic(0), 2),
        (IDLE, POLICY, traffic(200), 400),
        (IDLE, POLICY, traffic(200, new=True), 20),
        # an absolute rate stands whatever happens
        (IDLE, RecoveryPolicy(rate_per_s=3), traffic(200, rate_per_s=50), 3),
        (HALF_EMPTY, RecoveryPolicy(rate_per_s=0), traffic(200), 0),
    ],
)
def test_the_share(
    fullness: Fullness, policy: RecoveryPolicy, going_on: Traffic, per_s: float
) -> None:
    assert share_per_s(fullness, policy, **going_on) == pytest.approx(per_s)


def test_a_share_of_less_than_one_a_step_adds_up() -> None:
    """0.1/s, looked at twice a second: one every 10 s, and none is lost on the way."""
    slow = traffic(1, new=True)
    budget, came = 0.0, []
    for _ in range(60):
        allowed, budget = batch_size(HALF_EMPTY, POLICY, **slow, elapsed_s=0.5, budget=budget)
        came.append(allowed)

    assert [step + 1 for step, allowed in enumerate(came) if allowed] == [20, 40, 60]
    assert set(came) == {0, 1}


def test_above_low_water_nothing_comes_back() -> None:
    full = Fullness(queued=500, running=0, capacity=1000)

    allowed, _ = batch_size(full, POLICY, **traffic(100), elapsed_s=1, budget=50)

    assert allowed == 0


def test_what_was_not_used_is_kept_for_ten_seconds_of_share() -> None:
    allowed, budget = batch_size(HALF_EMPTY, POLICY, **traffic(20), elapsed_s=3600, budget=0)

    assert (allowed, budget) == (200, 0)


def test_saved_while_idle_does_not_push_out_new_ones() -> None:
    """A budget saved at 100 % is cut to ten seconds of the share that holds now."""
    new = traffic(20, new=True)

    assert batch_size(HALF_EMPTY, POLICY, **new, elapsed_s=0, budget=200) == (20, 0)


def test_a_clock_set_back_earns_nothing_and_costs_nothing() -> None:
    step = batch_size(HALF_EMPTY, POLICY, **traffic(20), elapsed_s=-60, budget=0.5)

    assert step == (0, 0.5)


def test_an_idle_topic_with_a_long_line_in_storage_gets_up_to_speed() -> None:
    """100,000 parked, 1,000/s possible: back within five minutes, not within a day at 1/s."""
    parked, budget, seconds = 100_000, 0.0, 0
    last_ten = [0] * 10
    while parked > 0:
        seconds += 1
        lately = traffic(sum(last_ten) / 10)
        allowed, budget = batch_size(
            Fullness(0, 0, 10_000), POLICY, **lately, elapsed_s=1, budget=budget
        )
        parked -= allowed
        last_ten = [*last_ten[1:], min(allowed, 1000)]

    assert seconds < 300


@given(
    st.builds(Fullness, st.integers(0, 1200), st.integers(0, 50), st.integers(1, 1000)),
    st.floats(0.01, 1),
    st.builds(traffic, st.floats(0, 1e6), st.none() | st.floats(0, 1e6), new=st.booleans()),
    st.floats(0, 1e5),
    st.floats(0, 1e7),
)
def test_never_above_low_water_and_never_more_than_the_share(
    fullness: Fullness, low_water: float, going_on: Traffic, elapsed_s: float, budget: float
) -> None:
    policy = RecoveryPolicy(low_water=low_water)
    depth = fullness.queued + fullness.running
    rate = share_per_s(fullness, policy, **going_on)

    allowed, left = batch_size(fullness, policy, **going_on, elapsed_s=elapsed_s, budget=budget)

    assert allowed >= 0
    assert left >= 0
    assert allowed == 0 or depth + allowed - 1 < low_water * fullness.capacity
    assert allowed + left <= max(1.0, rate * 10) * (1 + 1e-9)
    assert allowed + left <= (budget + rate * elapsed_s) * (1 + 1e-9) + 1e-9
