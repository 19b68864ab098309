"""Bodies are exact both ways, and one of another release is refused in words."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventflow.clock import rfc3339
from eventflow.delivery import CLEAN, Attempt, Dead, Delivery, Parked, Reason, Row, Tally, topic_of
from eventflow.errors import StorageUnavailable
from eventflow.event import Event, from_parts
from eventflow.storage.rows import decode, encode, kept_of, micros, seconds

TEXT = st.text(max_size=20)
TIMES = st.floats(0, 4e9)
TALLIES = st.builds(Tally, *[st.integers(0, 100)] * 7)
EVENTS = st.builds(
    from_parts,
    TEXT,
    TEXT,
    TEXT,
    st.none() | st.binary(max_size=50),
    *[st.none() | TEXT] * 4,
    st.none() | st.dictionaries(TEXT, TEXT | st.integers(-(2**31), 2**31 - 1) | st.booleans()),
)
WISHES = st.none() | st.one_of(
    st.builds(Parked, st.sampled_from(Row), TALLIES, TIMES, st.sampled_from(Reason)),
    st.builds(Dead, st.sampled_from(Row), TALLIES, st.sampled_from(Reason)),
)
ATTEMPTS = st.builds(Attempt, TIMES, TIMES, TEXT, TEXT, TEXT, TEXT, st.integers(1, 9))
DELIVERIES = st.builds(
    Delivery,
    event=EVENTS,
    ref=TEXT,
    topic=TEXT,
    accepted_at=TIMES,
    hop=st.integers(0, 2**62),
    entered_at=TIMES,
    tally=TALLIES,
    due_at=st.none() | st.floats(allow_nan=False),
    reason=st.none() | st.sampled_from(Reason),
    history=st.lists(ATTEMPTS, max_size=3).map(tuple),
    traceback=st.none() | TEXT,
    expiry_lifted=st.booleans(),
    wish=WISHES,
    owed=st.lists(TEXT, max_size=2).map(tuple),
)


@given(DELIVERIES)
def test_a_delivery_comes_back_as_it_was(delivery: Delivery) -> None:
    back = decode(encode(delivery))

    assert back == delivery
    assert type(back.wish) is type(delivery.wish)


def test_one_that_met_no_trouble_shares_its_tally() -> None:
    """By which a worker tells at once that it may run: for nearly all."""
    delivery = Delivery(from_parts("1", "/shop", "order.placed"), "r1", "mail", 1.0)
    assert decode(encode(delivery)).tally is CLEAN


@given(DELIVERIES.filter(lambda delivery: "." not in delivery.ref))
def test_its_id_tells_its_topic(delivery: Delivery) -> None:
    assert topic_of(delivery.id) == delivery.topic


def test_every_field_of_a_delivery_is_among_those_tried() -> None:
    """A new field must come back too: say here what it may hold."""
    tried = {
        *("event", "ref", "topic", "accepted_at", "hop", "entered_at", "tally", "due_at"),
        *("reason", "history", "traceback", "expiry_lifted", "wish", "owed"),
    }

    assert set(Delivery.__struct_fields__) == tried


def test_a_body_of_an_older_release_lacks_what_is_new() -> None:
    """Fields go by name: what was not there yet has its default."""
    event = Event(type="t", source="/s", id="1")
    old = msgspec.msgpack.encode([1, {"event": event, "ref": "r", "topic": "t", "accepted_at": 1}])

    assert decode(old) == Delivery(event, "r", "t", 1.0)


def test_another_format_is_refused_in_words() -> None:
    body = msgspec.msgpack.encode([2, "something new", "and more"])

    with pytest.raises(StorageUnavailable) as caught:
        decode(body, "delivery r1.email")

    assert str(caught.value) == (
        "secondary storage is unavailable: delivery r1.email is written in format 2, this "
        "EventFlow reads format 1; it was left as it is. Run the EventFlow that wrote it"
    )


@pytest.mark.parametrize(
    "body", [b"", b"\x90", b"\xff", b"\x92\x01\xc0", msgspec.msgpack.encode([1])]
)
def test_a_damaged_body_is_named(body: bytes) -> None:
    with pytest.raises(StorageUnavailable, match=r"delivery x is damaged \(.+\); it was left"):
        decode(body, "delivery x")


@given(st.binary(max_size=40))
def test_any_bytes_are_read_or_refused(body: bytes) -> None:
    try:
        decode(body)
    except StorageUnavailable:
        return
    raise AssertionError("random bytes made a delivery")


def test_size_counts_event_history_and_traceback_in_bytes() -> None:
    event = Event(type="t", source="/s", id="1", data=b"12345")
    bare = Delivery(event, "r", "t", 0.0)
    attempt = Attempt(0.0, 0.0, "failed", "http 503", "schön", "f")
    failed = msgspec.structs.replace(bare, history=(attempt, attempt), traceback="é" * 10)

    assert kept_of(bare, "dead", 1.0).size_bytes == event.size_bytes
    one = 32 + len("failed") + len("http 503") + len("schön".encode()) + len("f")
    assert kept_of(failed, "dead", 1.0).size_bytes == event.size_bytes + 2 * one + 20


@given(st.floats(0, 253_402_300_799))
def test_microseconds_lose_nothing_that_was_rounded_to_them(at: float) -> None:
    """A `Kept` that comes back from storage is equal to the one that went in."""
    since = kept_of(Delivery(Event(type="t", source="/s"), "r", "t", 0.0), "dead", at).since

    assert seconds(micros(since)) == since or since > 2**33  # after 2242 doubles are coarser


@given(st.floats(0, 253_402_300_799))
def test_no_time_is_more_than_half_a_microsecond_off(at: float) -> None:
    assert abs(micros(at) - Fraction(at) * 10**6) <= Fraction(1, 2)


@pytest.mark.parametrize(
    ("at", "same_as"),
    [(math.inf, 253_402_300_799.0), (1e300, 253_402_300_799.0), (-5.0, 0.0), (math.nan, 0.0)],
)
def test_a_time_that_is_none_is_moved_to_one(at: float, same_as: Any) -> None:
    """`RetryLater(inf)` parks a delivery for good; it must not fail the commit."""
    assert micros(at) == micros(same_as)
    assert rfc3339(seconds(micros(at)))
