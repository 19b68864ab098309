"""Three servers, three nodes, load, and one fault after the other: nothing accepted is lost.

A run prints its seed and what was done. `EVENTFLOW_SEED=N` repeats it, as far as processes let it.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from tests.cluster.network import unshared
from tests.cluster.story import ACCEPTING_S, BALANCED_S, EMPTY_S, Setup, faults

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

RUNS = 10
RUN_S = 60.0
SHORT_S = 20.0
OFFERED_PER_S = 200


def hold_against_the_bars(found: dict[str, Any]) -> None:
    assert found["broken_promises"] == [], found
    assert found["offered_per_s"] >= OFFERED_PER_S
    assert found["accepted"] > found["offered"] / 10, "too little was accepted to prove anything"
    assert found["depths_looked_at"] > 0
    assert 0 <= found["accepting_again_s"] <= ACCEPTING_S, found
    assert 0 <= found["empty_s"] <= EMPTY_S, found


def hold_the_ledger_against_the_bars(found: dict[str, Any]) -> None:
    assert 0 <= found["balanced_s"] <= BALANCED_S, found
    assert found["dishonest_ledgers"] == 0, found


@pytest.mark.slow
@pytest.mark.timeout(420)
def test_a_few_faults_lose_nothing(tmp_path: Path, seed: int) -> None:
    """Without networks that can be cut, all other faults."""
    found = asyncio.run(faults(Setup(cuts=not unshared()), tmp_path, seed, SHORT_S))
    hold_against_the_bars(found)
    hold_the_ledger_against_the_bars(found)


@pytest.mark.prove
@pytest.mark.timeout(RUNS * 420)
def test_ten_runs_lose_nothing(
    tmp_path: Path, seed: int, proof: Callable[..., dict[str, Any]]
) -> None:
    assert unshared() == "", "the cuts are part of the proof"
    runs: list[dict[str, Any]] = []
    for number in range(RUNS):
        folder = tmp_path / str(number)
        folder.mkdir()
        print(f"run {number}, seed {seed + number}", flush=True)  # noqa: T201  # to repeat it
        runs.append(asyncio.run(faults(Setup(), folder, seed + number, RUN_S)))
        proof("faults", runs=runs)  # each time: a run that can't be made must not cost the others

    for found in runs:
        hold_against_the_bars(found)
    for found in runs:
        hold_the_ledger_against_the_bars(found)
