"""Whether what is to be moved has room, and what to say if not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventflow.policy.admission import room
from eventflow.policy.fitting import Need, least_capacity, no_room, storage_full, too_large


def need(ordinary: int = 0, urgent: int = 0, there: int = 0, capacity: int = 100) -> Need:
    where = "the queue of topic 'email'"
    return Need(where, "[topics.email] capacity", ordinary, urgent, there, capacity)


@pytest.mark.parametrize(
    ("wanted", "fits"),
    [
        (need(90), True),
        (need(91), False),
        (need(90, 10), True),
        (need(90, 11), False),
        (need(0, 100), True),
        (need(40, there=50), True),
        (need(40, 10, there=51), False),
        (need(9, capacity=9), True),
        (need(10, capacity=10), False),
    ],
)
def test_the_last_tenth_is_for_the_urgent(wanted: Need, fits: bool) -> None:  # noqa: FBT001  # a table
    assert (no_room(wanted) is None) is fits


@given(
    st.builds(
        need,
        st.integers(0, 300),
        st.integers(0, 300),
        st.integers(0, 300),
        st.integers(1, 1_000),
    )
)
def test_what_fits_is_what_a_queue_lets_in(wanted: Need) -> None:
    """What is there, then the ordinary, then the urgent: as the queue itself decides."""
    depth = wanted.there
    let_in = room(depth, wanted.capacity, 2, wanted.ordinary)
    depth += let_in
    let_in += room(depth, wanted.capacity, 0, wanted.urgent)
    fits = let_in == wanted.coming
    assert (no_room(wanted) is None) is fits


@given(st.builds(need, st.integers(1, 300), st.integers(0, 300), st.integers(0, 300)))
def test_the_least_capacity_fits_and_no_smaller_one_does(wanted: Need) -> None:
    least = least_capacity(wanted)
    assert wanted.fits(least)
    assert not wanted.fits(least - 1)


def test_an_empty_queue_needs_nothing() -> None:
    assert no_room(need(0, 0, there=500)) is None


def test_what_does_not_fit_says_how_to_make_room() -> None:
    assert no_room(need(9_500, 300, there=200, capacity=10_000)) == (
        "the queue of topic 'email': 9,800 deliveries are to come, 200 are there, and it holds "
        "10,000, the last 1,000 for critical and high alone. Set [topics.email] capacity to "
        "10,777 or more; it can be lowered once they are delivered. Or start a node on the file "
        "until less is left."
    )


def test_what_is_too_large_for_a_message() -> None:
    assert too_large(0, 10, 100) is None
    said = too_large(2, 1_048_900, 1_048_576)
    assert said is not None
    assert "Set max_payload of the servers to 2MB or more" in said


def test_storage_that_is_too_small() -> None:
    assert storage_full(100, 900, 1_000) is None
    said = storage_full(3 * 2**20, 2**20, 2**20)
    assert said is not None
    assert 'Set [storage] max_size to "4MiB" or more' in said
