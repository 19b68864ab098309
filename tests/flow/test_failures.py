"""What an exception means: the table of causes, met with the exceptions of real handlers."""

from __future__ import annotations

import asyncio
import pickle
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest

from eventflow.errors import InvalidEvent, Permanent, RetryLater
from eventflow.flow.failures import (
    ERROR_MAX,
    TRACEBACK_MAX,
    answers_of,
    cut,
    describe,
    judge,
    outcome_of,
    timed_out,
)
from eventflow.policy.outcome import Failed, Outcome, Postponed
from eventflow.sinks.base import SinkError

NOW = 1_000.0


def raised(error: BaseException) -> BaseException:
    """Return the exception with the traceback of having been raised."""
    with pytest.raises(type(error)) as caught:
        raise error
    return caught.value


def failed(error: BaseException, **overrides: Any) -> Failed:
    outcome = outcome_of(raised(error), NOW, overrides)
    assert isinstance(outcome, Failed)
    return outcome


def test_an_unknown_exception_is_worth_another_try() -> None:
    outcome = failed(RuntimeError("no luck"))

    assert (outcome.cause, outcome.error, outcome.permanent) == ("RuntimeError", "no luck", False)
    assert not outcome.timed_out
    assert "raise error" in (outcome.traceback or "")


@pytest.mark.parametrize(
    "error", [TypeError("x"), KeyError("x"), InvalidEvent(["id: x"]), Permanent("never")]
)
def test_a_fault_that_stays_is_permanent(error: Exception) -> None:
    assert failed(error).permanent


def test_a_topic_has_its_own_word() -> None:
    assert not failed(KeyError("x"), KeyError="retry").permanent
    assert failed(RuntimeError("x"), RuntimeError="dead").permanent


def test_an_empty_message_is_the_name() -> None:
    assert failed(ConnectionResetError()).error == "ConnectionResetError"


@pytest.mark.parametrize("counted", [True, False])
def test_retry_later_postpones(*, counted: bool) -> None:
    outcome = outcome_of(RetryLater(30, count=counted, why="closed on Sundays"), NOW)

    assert outcome == Postponed(1_030.0, counted, "closed on Sundays")


def test_a_sink_says_itself_what_it_means() -> None:
    said = Failed("http 400", "bad", permanent=True, fingerprint="f")

    assert outcome_of(SinkError(said), NOW) == said


def test_retry_after_of_a_sink_becomes_a_time() -> None:
    said = Failed("http 429", "slow down")
    outcome = outcome_of(SinkError(said, retry_after="120"), NOW)

    assert isinstance(outcome, Failed)
    assert outcome.retry_at == 1_120.0


class Shaped(Exception):
    """As requests' and httpx's: the answer is in `response`."""

    def __init__(self, status: Any, **headers: str) -> None:
        super().__init__("refused")
        self.response = SimpleNamespace(status_code=status, headers=headers)


def of_aiohttp(status: int, cause: Exception | None = None) -> aiohttp.ClientResponseError:
    url = "http://example.com/"
    info: Any = SimpleNamespace(real_url=url, url=url, method="POST", headers={})
    headers: Any = {"Retry-After": "7"}
    error = aiohttp.ClientResponseError(info, (), status=status, headers=headers)
    error.__cause__ = cause
    return error


class TestAnAnswerOfAnHttpClient:
    @pytest.mark.parametrize("error", [Shaped(404), of_aiohttp(404)])
    def test_is_known_by_its_status(self, error: Exception) -> None:
        assert (failed(error).cause, failed(error).permanent) == ("http 404", False)

    @pytest.mark.parametrize("error", [Shaped(400), of_aiohttp(410)])
    def test_that_refuses_for_good_is_permanent(self, error: Exception) -> None:
        assert failed(error).permanent

    @pytest.mark.parametrize("error", [Shaped(429, **{"Retry-After": "7"}), of_aiohttp(503)])
    def test_says_when_to_try_again(self, error: Exception) -> None:
        assert failed(error).retry_at == NOW + 7

    @pytest.mark.parametrize("status", [200, 0, 700, None, "404", True])
    def test_that_is_none_is_not_taken_for_one(self, status: Any) -> None:
        assert failed(Shaped(status)).cause == "Shaped"

    def test_that_is_no_http_is_not_taken_for_a_400(self) -> None:
        """An answer that aiohttp can't read has 400 too: the target's trouble, not the event's."""
        outcome = failed(of_aiohttp(400, ValueError("bad status line")))

        assert (outcome.cause, outcome.permanent) == ("ClientResponseError", False)

    def test_can_be_overridden_by_its_name(self) -> None:
        assert not failed(Shaped(400), Shaped="retry").permanent


def test_a_group_of_one_is_that_one() -> None:
    """A task group wraps what its only failed task raised."""
    group = ExceptionGroup("g", [ExceptionGroup("h", [Permanent("no such user")])])

    assert (failed(group).cause, failed(group).error) == ("Permanent", "no such user")


def test_a_group_of_several_is_worth_another_try() -> None:
    group = ExceptionGroup("two", [Permanent("a"), OSError("b")])

    assert (failed(group).cause, failed(group).permanent) == ("ExceptionGroup", False)


def test_a_long_message_is_cut() -> None:
    error = failed(RuntimeError("x" * 3_000)).error

    assert len(error) == ERROR_MAX
    assert error.endswith("x…")


def test_a_message_that_fits_stays() -> None:
    assert cut("x" * ERROR_MAX) == "x" * ERROR_MAX


def test_of_a_long_traceback_beginning_and_end_are_kept() -> None:
    error = RuntimeError("z" * 6_000)
    error.__cause__ = raised(OSError("a" * 6_000))
    text = failed(error).traceback or ""

    assert len(text) == TRACEBACK_MAX
    assert text.startswith("Traceback (most recent call last)")
    assert text.endswith("zzz\n")
    assert "[...]" in text


def test_endless_recursion_has_a_short_traceback() -> None:
    def there() -> None:
        back()

    def back() -> None:
        there()

    with pytest.raises(RecursionError) as caught:
        there()
    outcome = failed(caught.value)

    assert outcome.permanent
    assert (outcome.traceback or "").count("File ") == 30


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise OSError("no words")


def test_an_exception_that_can_not_be_shown_still_is_a_failure() -> None:
    outcome = failed(Unspeakable())

    assert outcome.cause == "Unspeakable"
    assert outcome.error == "(its message can't be shown: __str__ raised OSError)"


def test_failures_at_different_places_look_different() -> None:
    def here() -> None:
        raise OSError("no")

    def there() -> None:
        raise OSError("no")

    prints = set()
    for place in (here, there, here):
        with pytest.raises(OSError, match="no") as caught:
            place()
        prints.add(failed(caught.value).fingerprint)

    assert len(prints) == 2


def test_what_is_known_of_an_exception_can_be_sent() -> None:
    """From a worker process: the outcome is the same on the other side."""
    for error in (RetryLater(5), Shaped(503), KeyError("x")):
        known = describe(raised(error))

        assert judge(pickle.loads(pickle.dumps(known)), NOW) == judge(known, NOW)  # noqa: S301


def test_a_timeout_shows_where_the_handler_waited() -> None:
    outcome = timed_out(raised(asyncio.CancelledError()), 10.0)

    assert outcome.cause == "timeout"
    assert outcome.error == "ran longer than its timeout of 10 s"
    assert outcome.timed_out
    assert not outcome.permanent
    assert "raise error" in (outcome.traceback or "")


class TestAnswersOfABatch:
    def test_none_is_well_for_all(self) -> None:
        assert answers_of(None, 3) == [None, None, None]

    def test_an_exception_is_for_its_own_event(self) -> None:
        error = OSError("no")

        assert answers_of((None, error), 2) == (None, error)

    @pytest.mark.parametrize(
        ("returned", "got"),
        [
            ([None], "1 outcomes for 2 events"),
            ([None, None, None], "3 outcomes for 2 events"),
            ([], "0 outcomes for 2 events"),
            ([None, "sent"], "a value of type str among the outcomes"),
            ([None, OSError], "a value of type type among the outcomes"),
            (2, "a value of type int"),
            ({"ok": True}, "a value of type dict"),
        ],
    )
    def test_anything_else_says_nothing_sure(self, returned: Any, got: str) -> None:
        with pytest.raises(TypeError) as caught:
            answers_of(returned, 2)

        assert str(caught.value).startswith(f"the batch handler returned {got}. Nothing sure is")
        outcome: Outcome = outcome_of(caught.value, NOW)
        assert isinstance(outcome, Failed)
        assert outcome.permanent
