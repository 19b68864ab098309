"""What the table of the bench shows: medians, spreads, and each figure's share of its floor."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from bench.__main__ import asked, table
from bench.contestants import CONTESTANTS, Contestant

if TYPE_CHECKING:
    from collections.abc import Sequence

COST = ("per_s", "cpu_s")


def line(text: str, name: str) -> str:
    """Return the one line that is about this."""
    (found,) = [line for line in text.splitlines() if line.startswith(name)]
    return found


def test_a_figure_is_divided_by_the_same_figure_of_its_floor() -> None:
    """What has more figures than its floor is compared with the floor's first."""
    floor = Contestant("plain", ("x",), COST)
    ours = Contestant("ours", ("x",), (*COST, "drained_per_s"), floor="plain")
    runs = {
        "plain": [{"per_s": 1_000.0, "cpu_s": 0.5}] * 3,
        "ours": [{"per_s": p, "cpu_s": 0.75, "drained_per_s": 1_200.0} for p in (700, 800, 950)],
    }

    text = table([floor, ours], runs)

    assert line(text, "ours [per_s]").split()[2:] == ["800", "700", "…", "950", "0.80"]
    assert line(text, "ours [cpu_s]").split()[-1] == "1.50"
    assert line(text, "ours [drained_per_s]").split()[-1] == "1.20"
    assert line(text, "plain [per_s]").split()[-1] == "1,000"


@pytest.mark.parametrize("letters", ["abcdef", "gfedcba", ["cluster"]])
def test_a_floor_has_its_turn_before_it_is_divided_by(letters: Sequence[str]) -> None:
    known: set[str] = set()
    for one in asked(letters):
        assert not one.floor or one.floor in known, one
        known.add(one.name)


def test_on_servers_each_way_has_a_floor_of_as_many_hops() -> None:
    """`make bench CLUSTER=1`: nobody moves an event in one hop and is held against two."""
    hops = {one.name: one.arguments[-1] for one in CONTESTANTS["cluster"]}
    beside = {one.name: one.floor for one in CONTESTANTS["cluster"] if one.floor}

    assert len(beside) == 2
    assert all(hops[name] == hops[floor] for name, floor in beside.items())
