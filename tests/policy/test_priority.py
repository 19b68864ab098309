"""Shares of starts among the priorities, and the bound on waiting (G4)."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventflow.policy.priority import frame, pick, share

WEIGHTS = (64, 16, 4, 1)
FRAME = frame(WEIGHTS)

weights = st.lists(st.integers(1, 12), min_size=4, max_size=4).map(tuple)
startable = st.lists(st.booleans(), min_size=4, max_size=4).filter(any)
counts = st.lists(st.integers(0, 30), min_size=4, max_size=4)


def test_a_frame_holds_each_rank_as_often_as_its_weight() -> None:
    assert len(FRAME) == 85
    assert [FRAME.count(rank) for rank in range(4)] == [64, 16, 4, 1]


def test_a_frame_spreads_each_rank_evenly() -> None:
    """The gaps between the slots of a rank differ by one at most, around the end too."""
    for rank, allowed in enumerate([{1, 2}, {5, 6}, {21, 22}, {85}]):
        slots = [place for place, found in enumerate(FRAME * 2) if found == rank]
        gaps = {b - a for a, b in pairwise(slots)}

        assert gaps == allowed, rank


def test_a_small_frame_in_full() -> None:
    assert frame((3, 1, 1)) == (0, 0, 1, 2, 0)
    assert frame((1, 1, 1, 1)) == (0, 1, 2, 3)


@pytest.mark.parametrize("wrong", [(), (1, 0, 1, 1), (1, 1, -1, 1)])
def test_a_weight_below_1_is_refused(wrong: tuple[int, ...]) -> None:
    """Its rank would wait for ever."""
    with pytest.raises(ValueError, match="expected whole numbers of at least 1"):
        frame(wrong)


def test_nothing_startable_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(ValueError, match="got none"):
        pick(FRAME, 0, [False] * 4)


def test_all_waiting_share_as_the_weights_say() -> None:
    order, position = share(FRAME, 0, [1000] * 4, 850)

    assert [order.count(rank) for rank in range(4)] == [640, 160, 40, 10]
    assert position == 0


def test_one_rank_alone_keeps_the_position() -> None:
    """It costs nobody anything: who comes next finds the frame where it was."""
    assert share(FRAME, 17, [0, 0, 50, 0], 20) == ([2] * 20, 17)
    assert pick(FRAME, 17, [False, False, True, False]) == (2, 17)


def test_nothing_waiting_starts_nothing() -> None:
    assert share(FRAME, 3, [0, 0, 0, 0], 20) == ([], 3)
    assert share(FRAME, 3, [5, 5, 5, 5], 0) == ([], 3)


def test_a_position_of_a_longer_frame_still_works() -> None:
    """Weights can change while a queue has a position."""
    assert share((0, 1), 84, [2, 2], 4)[0] == [0, 1, 0, 1]


@given(weights, st.integers(0, 200), st.lists(startable, min_size=1, max_size=150))
def test_a_rank_startable_all_the_while_gets_its_weight_of_starts(
    weights: tuple[int, ...], position: int, changing: list[list[bool]]
) -> None:
    """In any sum(weights) starts in a row, however the others come and go."""
    slots, total = frame(weights), sum(weights)
    starts = []
    for can in changing * (total // len(changing) + 2):
        rank, position = pick(slots, position, can)
        starts.append((rank, can))

    for rank, weight in enumerate(weights):
        for begin in range(len(starts) - total + 1):
            window = starts[begin : begin + total]
            if all(can[rank] for _, can in window):
                assert sum(started == rank for started, _ in window) >= weight


@given(weights, st.integers(0, 200), counts, st.integers(0, 150))
def test_sharing_a_batch_is_picking_one_by_one(
    weights: tuple[int, ...], position: int, waiting: list[int], limit: int
) -> None:
    slots, at, left = frame(weights), position, list(waiting)
    picked: list[int] = []
    while len(picked) < limit and any(left):
        rank, at = pick(slots, at, [count > 0 for count in left])
        left[rank] -= 1
        picked.append(rank)

    assert share(slots, position, waiting, limit) == (picked, at)


@given(startable, st.integers(0, 84))
def test_only_what_is_startable_starts(can: list[bool], position: int) -> None:
    rank, after = pick(FRAME, position, can)

    assert can[rank]
    assert 0 <= after < len(FRAME)
