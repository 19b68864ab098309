"""The handlers that tests are written with do what they say."""

from __future__ import annotations

import pytest

from eventflow.delivery import Delivery
from eventflow.errors import RetryLater
from eventflow.event import Event
from eventflow.flow.handlers import Handler
from eventflow.testing.handlers import FailsTimes, Recorder, Scripted

EVENT = Event(type="user.registered", source="/shop")
FIRST = Delivery(EVENT, "one", "email", 0.0)
SECOND = Delivery(EVENT, "two", "email", 0.0)


async def how(handler: Recorder, delivery: Delivery) -> str:
    """Return how one run ends: the exception's text, or "well"."""
    try:
        await handler(delivery.event, delivery)
    except Exception as error:  # noqa: BLE001  # any may be asked for
        return str(error)
    return "well"


@pytest.mark.parametrize("handler", [Recorder(), FailsTimes(1), Scripted([None])])
def test_they_are_handlers_that_take_the_delivery(handler: Recorder) -> None:
    made = Handler.of_function(handler, timeout_s=10)

    assert (made.mode, made.wants_delivery) == ("async", True)


async def test_a_recorder_remembers_every_run() -> None:
    handler = Recorder()
    for delivery in (FIRST, SECOND, FIRST):
        assert await how(handler, delivery) == "well"

    assert handler.deliveries == handler.succeeded == [FIRST, SECOND, FIRST]
    assert handler.events == [EVENT] * 3
    assert handler.runs == {FIRST.id: 2, SECOND.id: 1}
    assert handler.attempts == {1: 1, 2: 1}


async def test_fails_times_counts_by_delivery() -> None:
    handler = FailsTimes(2)
    ends = [await how(handler, delivery) for delivery in (FIRST, SECOND, FIRST, FIRST, SECOND)]

    assert ends == ["the test says no"] * 3 + ["well", "the test says no"]
    assert handler.succeeded == [FIRST]


async def test_fails_times_raises_what_it_is_told() -> None:
    assert await how(FailsTimes(1, OSError("disk")), FIRST) == "disk"
    assert await how(FailsTimes(1, lambda: OSError("new each time")), FIRST) == "new each time"
    assert await how(FailsTimes(0), FIRST) == "well"


async def test_scripted_follows_its_script_and_stays_at_its_end() -> None:
    handler = Scripted([RetryLater(60), OSError("no"), None])

    assert [await how(handler, FIRST) for _ in range(5)] == [
        "asked to be tried again in 60 s",
        "no",
        "well",
        "well",
        "well",
    ]
    assert await how(handler, SECOND) == "asked to be tried again in 60 s"


def test_a_script_says_something() -> None:
    with pytest.raises(ValueError, match="expected at least one, got none"):
        Scripted([])
