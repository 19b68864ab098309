"""Room in bounded queues, and what a door says when there is none."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventflow.policy.admission import door_open, reserve, retry_after_s, room


@pytest.mark.parametrize(
    ("capacity", "kept"), [(0, 0), (1, 0), (9, 0), (10, 1), (19, 1), (20, 2), (10_000, 1000)]
)
def test_the_reserve_is_a_tenth_rounded_down(capacity: int, kept: int) -> None:
    assert reserve(capacity) == kept


@pytest.mark.parametrize(
    ("depth", "rank", "incoming", "fit"),
    [
        (0, 2, 5, 5),
        (0, 2, 100, 90),
        (0, 1, 100, 100),
        (85, 3, 10, 5),
        (89, 2, 10, 1),
        (90, 2, 10, 0),
        (90, 3, 10, 0),
        (90, 1, 5, 5),
        (90, 0, 20, 10),
        (100, 0, 1, 0),
        (120, 0, 1, 0),  # the capacity was lowered
        (50, 0, 0, 0),
    ],
)
def test_the_last_tenth_is_for_critical_and_high(
    depth: int, rank: int, incoming: int, fit: int
) -> None:
    assert room(depth, 100, rank, incoming) == fit


@given(
    depth=st.integers(0, 50),
    capacity=st.integers(1, 40),
    rank=st.integers(0, 3),
    incoming=st.integers(0, 60),
)
def test_a_batch_is_let_in_as_one_by_one(
    depth: int, capacity: int, rank: int, incoming: int
) -> None:
    one_by_one = 0
    while one_by_one < incoming and room(depth + one_by_one, capacity, rank, 1):
        one_by_one += 1

    assert room(depth, capacity, rank, incoming) == one_by_one


@pytest.mark.parametrize(
    ("used", "open_"), [(0, True), (949, True), (950, False), (1000, False), (2000, False)]
)
def test_doors_close_at_95_percent_of_storage(used: int, *, open_: bool) -> None:
    assert door_open(used, 1000) is open_


@pytest.mark.parametrize(
    ("excess", "drain_per_s", "wait_s"),
    [
        (10, 100, 1),
        (100, 100, 1),
        (101, 100, 2),
        (1_000, 10, 100),
        (10, 0.5, 20),
        (1_000_000, 1, 300),
        (1, 0, 300),
        (1, -1, 300),
        (1, float("nan"), 300),
        (0, 5, 1),
        (-5, 5, 1),
        (5, 1e-320, 300),
    ],
)
def test_retry_after_is_whole_seconds_from_the_drain_rate(
    excess: float, drain_per_s: float, wait_s: int
) -> None:
    found = retry_after_s(excess, drain_per_s)

    assert found == wait_s
    assert isinstance(found, int)
