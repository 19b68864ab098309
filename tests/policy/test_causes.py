"""What failures mean, how they group, and when a target wants to be asked again."""

from __future__ import annotations

import json
import sqlite3
import time
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import TYPE_CHECKING

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventflow.errors import InvalidEvent, Permanent
from eventflow.policy.causes import (
    Cause,
    fingerprint,
    of_exception,
    of_smtp,
    of_status,
    retry_after_at,
)
from eventflow.policy.expression import ExpressionError

if TYPE_CHECKING:
    from collections.abc import Iterator

NOW = 1_800_000_000.0


def names_of(kind: type[BaseException]) -> list[str]:
    """Return a class's MRO as `of_exception` wants it."""
    return [name for c in kind.__mro__ for name in (f"{c.__module__}.{c.__qualname__}", c.__name__)]


class OfALibrary(TimeoutError):
    pass


class OfTheUser(Exception):
    pass


class Missing(KeyError):
    pass


OfPydantic = type("ValidationError", (ValueError,), {})


@pytest.mark.parametrize(
    ("kind", "permanent", "trips_breaker"),
    [
        # connection errors, timeouts, SQL operational errors, and what nobody knows
        (ConnectionError, False, True),
        (ConnectionRefusedError, False, True),
        (BrokenPipeError, False, True),
        (TimeoutError, False, True),
        (OfALibrary, False, True),
        (sqlite3.OperationalError, False, True),
        (OSError, False, True),
        (RuntimeError, False, True),
        (ValueError, False, True),
        (OfTheUser, False, True),
        # integrity, data and validation errors, and the handler's own word
        (sqlite3.IntegrityError, True, False),
        (sqlite3.DataError, True, False),
        (msgspec.ValidationError, True, False),
        (msgspec.DecodeError, True, False),
        (OfPydantic, True, False),
        (json.JSONDecodeError, True, False),
        (UnicodeDecodeError, True, False),
        (InvalidEvent, True, False),
        (ExpressionError, True, False),
        (Permanent, True, False),
        # programming errors
        (TypeError, True, True),
        (IndentationError, True, True),
        (KeyError, True, True),
        (Missing, True, True),
        (AttributeError, True, True),
        (NameError, True, True),
        (UnboundLocalError, True, True),
        (IndexError, True, True),
        (ModuleNotFoundError, True, True),
        (NotImplementedError, True, True),
        (RecursionError, True, True),
        (AssertionError, True, True),
        (ZeroDivisionError, True, True),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else str(value),
)
def test_the_table_of_exceptions(
    kind: type[BaseException],
    permanent: bool,  # noqa: FBT001  # a column of the table
    trips_breaker: bool,  # noqa: FBT001  # a column of the table
) -> None:
    assert of_exception(names_of(kind)) == Cause(kind.__name__, permanent, trips_breaker)


@pytest.mark.parametrize(
    ("overrides", "permanent"),
    [
        ({"OfALibrary": "dead"}, True),
        ({f"{__name__}.OfALibrary": "dead"}, True),
        ({"TimeoutError": "dead"}, True),
        ({"builtins.OSError": "dead"}, True),  # it covers subclasses, the table's own too
        ({"TimeoutError": "dead", "OfALibrary": "retry"}, False),  # the most derived one counts
        ({"OSError": "retry", "TimeoutError": "dead"}, True),
        ({"Exception": "dead"}, True),
        ({"ConnectionError": "dead"}, False),
        ({}, False),
    ],
)
def test_a_topic_says_it_differently(
    overrides: dict[str, str],
    permanent: bool,  # noqa: FBT001  # a column of the table
) -> None:
    cause = of_exception(names_of(OfALibrary), overrides)  # type: ignore[arg-type]  # str is wider

    assert cause == Cause("OfALibrary", permanent, trips_breaker=True)


def test_a_programming_error_said_to_be_worth_a_retry_still_trips_the_breaker() -> None:
    assert of_exception(names_of(KeyError), {"LookupError": "retry"}) == Cause(
        "KeyError", permanent=False, trips_breaker=True
    )


def test_somebody_elses_permanent_is_not_ours() -> None:
    """`Permanent` and `InvalidEvent` are known by their full names."""
    assert not of_exception(["shop.Permanent", "Permanent", "Exception"]).permanent


@pytest.mark.parametrize("transient", ["ConnectionError", "TimeoutError", "OperationalError"])
def test_the_most_derived_name_that_is_known_counts(transient: str) -> None:
    names = ["shop.Slow", "Slow", transient, "KeyError", "LookupError"]

    assert of_exception(names) == Cause("Slow", permanent=False, trips_breaker=True)


def test_an_exception_has_a_name() -> None:
    with pytest.raises(ValueError, match="at least one class name"):
        of_exception([])


@pytest.mark.parametrize(
    ("statuses", "permanent", "trips_breaker"),
    [
        ((401, 403, 404, 408, 425, 429, 500, 501, 502, 503, 504, 507, 599), False, True),
        ((600, 999, 0, 99), False, True),
        ((300, 301, 302, 304, 307, 308), True, False),
        ((400, 402, 405, 406, 409, 410, 411, 413, 415, 418, 422, 426, 451, 499), True, False),
    ],
)
def test_the_table_of_statuses(
    statuses: tuple[int, ...],
    permanent: bool,  # noqa: FBT001  # a column of the table
    trips_breaker: bool,  # noqa: FBT001  # a column of the table
) -> None:
    for status in statuses:
        assert of_status(status) == Cause(f"http {status}", permanent, trips_breaker)


@pytest.mark.parametrize("status", [429, 503])
def test_retry_after_goes_along_where_another_try_is_worth_it(status: int) -> None:
    assert of_status(status, "120").retry_after == "120"
    assert of_status(410, "120").retry_after is None


@pytest.mark.parametrize(
    ("code", "permanent"),
    [
        *[(400, False), (421, False), (499, False), (600, False)],
        *[(500, True), (529, True), (531, True), (536, True), (554, True), (599, True)],
        *[(530, False), (534, False), (535, False), (538, False)],  # the login's
    ],
)
def test_the_table_of_smtp_replies(
    code: int,
    permanent: bool,  # noqa: FBT001  # a column of the table
) -> None:
    assert of_smtp(code) == Cause(f"smtp {code}", permanent, trips_breaker=not permanent)


@pytest.mark.parametrize("code", [421, 500, 535, 554, 599])
def test_what_comes_before_a_mail_is_about_no_mail(code: int) -> None:
    """A server that turns us away would make every delivery dead, one after the other."""
    assert of_smtp(code, session=True) == Cause(f"smtp {code}", permanent=False, trips_breaker=True)


def test_smtp_replies_that_smtp_does_not_have_are_worth_a_retry() -> None:
    assert not of_smtp(-1).permanent  # smtplib: the connection was lost


@pytest.mark.parametrize("success", [200, 202, 204, 299])
def test_a_success_is_no_failure(success: int) -> None:
    with pytest.raises(ValueError, match=f"expected a failure, got {success}"):
        of_status(success)
    with pytest.raises(ValueError, match=f"expected a failure, got {success}"):
        of_smtp(success)


@pytest.mark.parametrize(
    ("header", "wait_s"),
    [
        ("0", 0),
        ("120", 120),
        (" 120 ", 120),
        ("86400", 86_400),
        ("86401", 86_400),
        ("9" * 5_000, 86_400),
        ("Fri, 15 Jan 2027 08:05:00 GMT", 300),
        ("Friday, 15-Jan-27 08:05:00 GMT", 300),
        ("Fri Jan 15 08:05:00 2027", 300),
        ("Fri, 15 Jan 2027 07:55:00 GMT", 0),
        ("Sun, 06 Nov 1994 08:49:37 GMT", 0),
        ("Fri, 15 Jan 9999 08:05:00 GMT", 86_400),
        (None, None),
        ("", None),
        ("soon", None),
        ("-5", None),
        ("1.5", None),
        ("1e3", None),
        ("\u0661\u0662", None),  # digits, but not HTTP's
        ("inf", None),
        ("nan", None),
        ("Fri, 99 Jan 2027 08:05:00 GMT", None),
        ("Fri, 15 Jan 2027 08:05:00 +999999", None),
    ],
)
def test_both_forms_of_retry_after(header: str | None, wait_s: float | None) -> None:
    assert retry_after_at(header, NOW) == (None if wait_s is None else NOW + wait_s)


@pytest.fixture
def in_tokyo(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as context:
        context.setenv("TZ", "Asia/Tokyo")
        time.tzset()
        yield
    time.tzset()


@pytest.mark.usefixtures("in_tokyo")
def test_a_date_without_zone_is_utc_wherever_the_node_is() -> None:
    assert retry_after_at("Fri Jan 15 08:05:00 2027", NOW) == NOW + 300


def test_the_dates_above_are_five_minutes_from_now() -> None:
    at = datetime(2027, 1, 15, 8, 5, tzinfo=UTC)

    assert at.timestamp() == NOW + 300
    assert format_datetime(at, usegmt=True) == "Fri, 15 Jan 2027 08:05:00 GMT"


@given(st.text(max_size=80))
def test_no_header_does_harm(header: str) -> None:
    at = retry_after_at(header, NOW)

    assert at is None or NOW <= at <= NOW + 86_400


ALIKE = [
    [
        "no customer 17 in shard 4",
        "no customer 99018 in shard 12",
        "no  customer 5\tin shard 6",
    ],
    [
        "order 0b3d0f5e-8a0e-4c1f-9c38-3d3f1f6a1b2c is gone",
        "order FFFFFFFF-8A0E-4C1F-9C38-3D3F1F6A1B2C is gone",
    ],
    ["key 'a' is taken", 'key "c d" is taken', "key `e` is taken"],
    ["<Client object at 0x7f3c2a>", "<Client object at 0xdeadbeef00>"],
    ["commit deadbeef01 failed", "commit 0123456789abcdef0123456789abcdef01234567 failed"],
    ["no mailbox bob@example.com here", "no mailbox a.l+x@b.example here"],
    ["from 10.0.0.1:5432", "from 192.168.17.254:80"],
]


@pytest.mark.parametrize("messages", ALIKE, ids=lambda messages: messages[0])
def test_failures_that_look_alike_group(messages: list[str]) -> None:
    assert len({fingerprint("E", message) for message in messages}) == 1


def test_failures_that_differ_do_not() -> None:
    prints = {fingerprint("E", messages[0]) for messages in ALIKE}
    prints |= {
        fingerprint("F", ALIKE[0][0]),
        fingerprint("E", ALIKE[0][0], ["shop.send"]),
        fingerprint("E", ALIKE[0][0], ["shop.send_2"]),
        fingerprint("E", "can't open the file, it isn't there"),
        fingerprint("E", "can't close the file, it isn't there"),
        fingerprint("E", "defaced facade"),  # words, though of hexadecimal letters
        fingerprint("E", "defaced decade"),
    }

    assert len(prints) == len(ALIKE) + 7


def test_a_fingerprint_is_12_hexadecimal_digits_the_same_for_ever() -> None:
    """Groups outlive a restart and an upgrade."""
    assert fingerprint("TimeoutError", "no answer in 10 s", ["shop.send"]) == "372b26d8db66"


@given(st.text(), st.text(), st.lists(st.text(), max_size=3))
def test_any_text_has_a_fingerprint(kind: str, message: str, frames: list[str]) -> None:
    found = fingerprint(kind, message, frames)

    assert len(found) == 12
    assert set(found) <= set("0123456789abcdef")


def test_half_a_character_has_a_fingerprint_too() -> None:
    assert fingerprint("E", "\ud800") == fingerprint("E", "\udfff")


def test_a_long_hostile_message_takes_no_time() -> None:
    """Only its start is looked at: no pattern runs over a megabyte."""
    assert fingerprint("E", "'" * 1_000_000) == fingerprint("E", "'" * 500)
