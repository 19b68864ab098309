"""Planted faults: the simulation has to see each of them, soon."""

from __future__ import annotations

import os
from concurrent.futures import ProcessPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
from tests.simulation.faults import FAULTS
from tests.simulation.shop import order, shop
from tests.simulation.test_days import WHOLE

from eventflow.errors import JournalUnreadable
from eventflow.testing.simulation import Broken, simulate

if TYPE_CHECKING:
    from collections.abc import Callable

SEEDS = 200


def days_until_seen(name: str, first: int) -> int:
    """Return how many days it took to see a fault; more than 200 if it was not seen."""
    with FAULTS[name]():
        for nth in range(SEEDS):
            try:
                simulate(shop, order, seed=first + nth, **WHOLE)
            except (Broken, JournalUnreadable):
                return nth + 1
    return SEEDS + 1


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_each_planted_fault_is_seen(proof: Callable[..., dict[str, Any]]) -> None:
    assert len(FAULTS) >= 10
    first = 1
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        found = pool.map(days_until_seen, FAULTS, [first] * len(FAULTS))
        days = dict(zip(FAULTS, found, strict=True))
    proof("planted-faults", first_seed=first, days_until_seen=days)
    assert max(days.values()) <= SEEDS, days
