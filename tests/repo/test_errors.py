"""Error messages say what happened, with values, and what to do."""

from __future__ import annotations

import pytest

from eventflow import errors
from eventflow.errors import EventFlowError, QueueFull, UnknownName

RAISED = [
    value
    for value in vars(errors).values()
    if isinstance(value, type) and value.__module__ == errors.__name__
]


def tree() -> dict[str, tuple[int, str]]:
    """Return each name in the tree at the top of the module, its depth and what is said of it."""
    lines = [line for line in (errors.__doc__ or "").splitlines() if line.startswith("    ")]
    return {
        line.split()[0]: ((len(line) - len(line.lstrip()) - 4) // 2, line.strip().partition(" ")[2])
        for line in lines
    }


def test_the_tree_at_the_top_of_the_module_is_complete() -> None:
    """A new error appears in the docstring, or this fails."""
    assert set(tree()) == {error.__name__ for error in RAISED} >= {"EventFlowError"}


@pytest.mark.parametrize("error", RAISED)
def test_an_error_stands_in_the_tree_where_it_belongs(error: type[Exception]) -> None:
    depth, said = tree()[error.__name__]

    assert issubclass(error, EventFlowError)
    assert depth == error.__mro__.index(EventFlowError)
    assert said or error is EventFlowError
    assert error.__doc__


def test_queue_full_tells_what_to_do() -> None:
    error = QueueFull("orders", capacity=10_000, retry_after_s=2.0)

    assert str(error) == (
        "queue 'orders' is full (capacity 10000); nothing was stored. Send again in 2 s."
    )
    assert (error.queue, error.capacity, error.retry_after_s) == ("orders", 10_000, 2.0)


def test_a_misspelt_name_gets_its_right_one_back() -> None:
    error = UnknownName("topic", "emial", ["api", "db", "email"])

    assert str(error) == "there is no topic 'emial'. Did you mean 'email'?"


def test_a_name_like_no_other_gets_no_guess() -> None:
    assert str(UnknownName("topic", "zzz", ["api", "db"])) == "there is no topic 'zzz'."
