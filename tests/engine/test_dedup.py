"""What is remembered of accepted ids: exactly the last so many, and none that was taken back."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from eventflow.engine.embedded.dedup import Dedup, key_of

LONG = "x" * 200
"""An id that is known by its digest."""


def keys(*ids: str) -> list[str | bytes]:
    return [key_of("/shop", id) for id in ids]


def refs(*ids: str) -> list[str]:
    return [f"ref of {id}" for id in ids]


def test_the_last_so_many_are_remembered_and_no_more() -> None:
    dedup = Dedup(window_s=600.0, limit=3)
    dedup.remember(keys("a", "b"), refs("a", "b"), 1.0)
    dedup.remember(keys("c", LONG), refs("c", LONG), 2.0)

    assert len(dedup) == 3
    assert dedup.all_new(keys("a"))
    assert [dedup.ref(key) for key in keys("b", "c", LONG)] == refs("b", "c", LONG)


def test_a_window_that_is_over_lets_go_of_all_of_a_batch() -> None:
    dedup = Dedup(window_s=10.0, limit=3)
    dedup.remember(keys("a", "b"), refs("a", "b"), 1.0)
    dedup.remember(keys("c"), refs("c"), 5.0)
    dedup.prune(11.0)

    assert len(dedup) == 1
    assert dedup.all_new(keys("a", "b"))
    assert dedup.ref(key_of("/shop", "c")) == "ref of c"


def test_what_was_taken_back_and_came_again_goes_with_its_later_batch() -> None:
    dedup = Dedup(window_s=600.0, limit=3)
    dedup.remember(keys("a", "b"), ["first", "b"], 1.0)
    dedup.forget(keys("a", "b"))
    dedup.remember(keys("a"), ["second"], 2.0)
    dedup.remember(keys("c", "d", "e"), refs("c", "d", "e"), 3.0)
    assert dedup.all_new(keys("a", "b"))

    dedup = Dedup(window_s=10.0, limit=3)
    dedup.remember(keys("a", "b"), ["first", "b"], 1.0)
    dedup.forget(keys("a", "b"))
    dedup.remember(keys("a"), ["second"], 5.0)
    dedup.prune(11.0)

    assert len(dedup) == 1
    assert dedup.ref(key_of("/shop", "a")) == "second"


BATCHES = st.lists(st.lists(st.sampled_from("abcdefgh"), unique=True, min_size=1), max_size=20)


@given(batches=BATCHES, limit=st.integers(1, 8))
def test_it_is_a_first_in_first_out_of_so_many(batches: list[list[str]], limit: int) -> None:
    """As a plain list of pairs would: what is remembered is refused, all else is appended."""
    dedup = Dedup(window_s=600.0, limit=limit)
    plain: list[str] = []
    for now, ids in enumerate(batches):
        assert dedup.all_new(keys(*ids)) == (not set(ids) & set(plain))
        fresh = [id for id in ids if id not in plain]
        if fresh:
            dedup.remember(keys(*fresh), refs(*fresh), float(now))
            plain = (plain + fresh)[-limit:]
        assert len(dedup) == len(plain)
        assert [dedup.ref(key) for key in keys(*plain)] == refs(*plain)
