"""What the book lets a death leave of calls that were not answered."""

from __future__ import annotations

import pytest

from eventflow import Event
from eventflow.delivery import Delivery
from eventflow.engine.protocol import Way
from eventflow.testing.simulation import Broken
from eventflow.testing.simulation.book import Book, Found

EVENTS = [Event(type="order", source="/shop", id=id) for id in ("1", "2")]
ALL = [Found(Delivery(event, f"new-{event.id}", "api", 0.0), "queued") for event in EVENTS]


@pytest.fixture
def book() -> Book:
    """A book that has a call under way, of a new event and one from before an earlier death."""
    book = Book(refs={"1": {"old"}})
    book.begin("accept", (EVENTS, [Way(("api",), [0, 1], 2)], None))
    return book


def test_a_call_may_let_in_anew_what_an_earlier_death_made_forgotten(book: Book) -> None:
    book.reopened(ALL, 10.0)
    assert book.refs == {"1": {"old", "new-1"}, "2": {"new-2"}}
    assert set(book.known) == {"new-1.api", "new-2.api"}


def test_it_may_know_it_as_a_duplicate_too(book: Book) -> None:
    book.reopened(ALL[1:], 10.0)
    assert set(book.known) == {"new-2.api"}


def test_it_may_not_let_in_what_this_process_has_let_in(book: Book) -> None:
    book.accepted_at_s["1"] = 5.0
    with pytest.raises(Broken, match=r"new-1\.api is \('queued', 0\) after a death"):
        book.reopened(ALL, 10.0)


def test_it_may_not_let_in_a_part_of_what_is_new(book: Book) -> None:
    with pytest.raises(Broken, match="a death left 1 of 2 events accepted at once"):
        book.reopened(ALL[:1], 10.0)
