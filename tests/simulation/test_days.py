"""Whole days of a node on virtual time: what must hold is held at every step."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tests.simulation.shop import order, shop

from eventflow.delivery import Row
from eventflow.testing.simulation import Report, simulate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

NOT_YET = {Row.REPLACED, Row.COMMON_FULL, Row.RECOVERED_COMMON}
"""Rows that nothing takes so far; the last two no day does: its doors refuse, and its router is
never so slow that common fills. `tests/flow/test_door_parking.py` takes them."""
SMALL: dict[str, Any] = {"events": 120, "hours": 0.1, "deaths": 1}


def a_day(seed: int) -> Report:
    """Return how a day was; for another process."""
    return simulate(shop, order, seed=seed, events=1_500)


def test_a_short_day_keeps_all_promises(seed: int) -> None:
    report = simulate(shop, order, seed=seed, **SMALL)
    assert report.events >= 120
    assert report.deaths >= 1
    assert report.rows["delivered"] > 0


def test_the_same_seed_takes_the_same_steps(seed: int) -> None:
    reports = [simulate(shop, order, seed=seed, **SMALL) for _ in range(2)]
    assert reports[0] == reports[1]
    assert simulate(shop, order, seed=seed + 1, **SMALL).trace != reports[0].trace


@pytest.mark.slow
def test_the_same_seed_takes_the_same_steps_in_another_process(seed: int) -> None:
    script = f"from tests.simulation.test_days import a_day; print(a_day({seed}))"
    told = {
        subprocess.run(  # our own interpreter and code
            [sys.executable, "-c", script],
            cwd=Path(__file__).parents[2],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for hash_seed in ("1", "2")
    }
    assert len(told) == 1


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_hundred_days(proof: Callable[..., dict[str, Any]]) -> None:
    """The same ones each time, so that a change is judged by itself; `make prove` draws others."""
    hold_days(range(1, 201), proof, "simulation-200")


@pytest.mark.prove
@pytest.mark.timeout(1_800)
def test_a_thousand_days(seed: int, proof: Callable[..., dict[str, Any]]) -> None:
    first = seed % 1_000_000
    hold_days(range(first, first + 1_000), proof, "simulation-1000")


def hold_days(seeds: range, proof: Callable[..., dict[str, Any]], name: str) -> None:
    """Live through many days, and see that they were hard enough."""
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        reports = list(pool.map(a_day, seeds, chunksize=5))
    rows: Counter[str] = Counter()
    for report in reports:
        rows.update(report.rows)
        assert report.events >= 1_000, report
        assert report.steps >= 10_000, report
        assert report.deaths >= 3, report
        assert report.outages >= 2, report
        assert report.walks >= report.steps // 250, report
    proof(
        name,
        seeds=[seeds.start, seeds.stop - 1],
        steps=total(report.steps for report in reports),
        events=total(report.events for report in reports),
        deaths=total(report.deaths for report in reports),
        outages=total(report.outages for report in reports),
        repeats=total(report.repeats for report in reports),
        shares_compared=total(report.shares for report in reports),
        rows=dict(rows),
    )
    never = {row for row in Row if not rows[row.value]} - NOT_YET
    assert not never, f"rows that were never taken: {sorted(never)}"


def total(numbers: Iterable[int]) -> int:
    """Return the sum."""
    return sum(numbers)
