"""The wait before each retry."""

from __future__ import annotations

from itertools import pairwise
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventflow.errors import ConfigError
from eventflow.policy.backoff import Backoff, Jitter, ceiling_s, delay_s

EXACT = Backoff(jitter="none")
FULL = Backoff(jitter="full")
DRAWS = st.floats(0, 1, exclude_max=True)


def test_the_schedule_the_manual_promises() -> None:
    """Waits double from 1 s and stop growing at 300 s."""
    waits = [delay_s(EXACT, n, draw=0.9) for n in range(1, 12)]

    assert waits == [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]


def test_the_defaults_are_the_manuals() -> None:
    assert Backoff() == Backoff(base_s=1.0, factor=2.0, max_s=300.0, jitter="full")


@pytest.mark.parametrize("n", [1024, 1025, 1026, 1_000_000])
@pytest.mark.parametrize("base_s", [0.25, 1, 299.0])
def test_a_very_late_try_waits_the_cap(n: int, base_s: float) -> None:
    """No overflow, however often it has failed."""
    assert delay_s(Backoff(base_s=base_s, jitter="none"), n, draw=0) == 300


def test_whole_numbers_grow_no_faster_than_floats() -> None:
    """2 ** 1,000,000 as an int would take its time and not fit a float."""
    assert delay_s(Backoff(base_s=1, factor=2, max_s=300, jitter="none"), 1_000_000, draw=0) == 300


@pytest.mark.parametrize("n", [1, 2, 1_000_000])
def test_a_base_of_0_means_no_waiting(n: int) -> None:
    assert delay_s(Backoff(base_s=0, jitter="none"), n, draw=0.5) == 0


def test_a_base_at_the_cap_is_a_steady_wait() -> None:
    assert delay_s(Backoff(base_s=5, max_s=5, jitter="none"), 1, draw=0.5) == 5


def test_a_factor_of_1_keeps_the_ceiling() -> None:
    assert {ceiling_s(Backoff(base_s=7, factor=1), n) for n in (1, 2, 1_000_000)} == {7}


@pytest.mark.parametrize("n", [0, -1])
def test_there_is_no_wait_before_the_first_try(n: int) -> None:
    with pytest.raises(ValueError, match=f"n counts from 1, got {n}"):
        delay_s(EXACT, n, draw=0)


@pytest.mark.parametrize("draw", [-0.1, 1.1, float("nan")])
def test_a_draw_is_a_share(draw: float) -> None:
    with pytest.raises(ValueError, match="expected a number from 0 to 1"):
        delay_s(FULL, 1, draw)


@pytest.mark.parametrize(
    ("jitter", "waits"),
    [
        ("none", [4, 4, 4, 4, 4]),
        ("full", [0, 1, 2, 3, 3.996]),
        ("equal", [2, 2.5, 3, 3.5, 3.998]),
        ("decorrelated", [1, 3, 5, 7, 8.992]),
    ],
)
def test_the_formulas(jitter: Jitter, waits: list[float]) -> None:
    """After the third failure, the wait before having been 3 s."""
    backoff = Backoff(jitter=jitter)
    draws = (0, 0.25, 0.5, 0.75, 0.999)

    assert [delay_s(backoff, 3, draw, previous_s=3) for draw in draws] == pytest.approx(waits)


@pytest.mark.parametrize("previous_s", [None, 0.0, 0.5, -3.0, float("inf"), float("nan")])
def test_decorrelated_without_a_usable_wait_before_starts_from_the_base(
    previous_s: float | None,
) -> None:
    assert delay_s(Backoff(jitter="decorrelated"), 2, 0.5, previous_s) == 2


def test_a_first_decorrelated_wait_knows_none_before() -> None:
    """Round 2 does not grow from the quarter of an hour between the rounds."""
    assert delay_s(Backoff(jitter="decorrelated"), 1, 0.5, previous_s=900) == 2


@given(
    jitter=st.sampled_from(get_args(Jitter)),
    n=st.integers(1, 5_000),
    draw=DRAWS,
    base_s=st.floats(0, 300),
    factor=st.floats(1, 1e6),
    previous_s=st.none() | st.floats(0, 1e6),
)
def test_no_wait_is_longer_than_the_cap(
    jitter: Jitter, n: int, draw: float, base_s: float, factor: float, previous_s: float | None
) -> None:
    backoff = Backoff(base_s=base_s, factor=factor, jitter=jitter)

    assert 0 <= delay_s(backoff, n, draw, previous_s) <= 300


@pytest.mark.parametrize(
    ("jitter", "least", "most"), [("full", 0, 8), ("equal", 4, 8), ("decorrelated", 1, 12)]
)
def test_every_size_of_jitter_can_occur(jitter: Jitter, least: float, most: float) -> None:
    """No hole in the range: 1,000 even draws fall evenly, at most a thousandth apart."""
    backoff = Backoff(jitter=jitter)
    waits = sorted(delay_s(backoff, 4, n / 1000, previous_s=4) for n in range(1000))
    step = (most - least) / 1000

    assert waits[0] == least
    assert waits[-1] == pytest.approx(most - step)
    assert {round((b - a) / step, 6) for a, b in pairwise(waits)} == {1}


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"base_s": -1.0}, "base: expected 0 s or more, got -1.0"),
        ({"base_s": float("nan")}, "base: expected 0 s or more, got nan"),
        ({"factor": 0.5}, "factor: expected 1 or more, got 0.5"),
        ({"factor": float("inf")}, "factor: expected 1 or more, got inf"),
        ({"base_s": 2.0, "max_s": 1.0}, "max: expected at least base (2.0 s), got 1.0"),
        ({"jitter": "some"}, "jitter: expected none, full, equal, decorrelated, got 'some'"),
    ],
)
def test_a_shape_out_of_range_is_refused(settings: dict[str, float], problem: str) -> None:
    with pytest.raises(ConfigError) as raised:
        Backoff(**settings)  # type: ignore[arg-type]  # that is the point

    assert problem in raised.value.problems
