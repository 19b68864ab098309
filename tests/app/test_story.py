"""The trail as sentences: those of a real life, and one for each row of DESIGN's table."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from eventflow import Event, EventFlow, Permanent
from eventflow.app.story import TOLD, sentence
from eventflow.config import RecoverySettings, RetrySettings
from eventflow.delivery import Row
from eventflow.testing.harness import settle, started, virtual
from eventflow.testing.loop import run

if TYPE_CHECKING:
    from collections.abc import Mapping

SILENT = {Row.ROUTED, Row.DUE, Row.DELIVERED, Row.RELEASED}
"""Rows that write nothing into the trail."""


def told(handler: Any, **settings: Any) -> Mapping[str, Any]:
    """Return what is shown of an event whose handler does that, once all is over."""
    shown: list[Mapping[str, Any]] = []

    async def life() -> None:
        flow = EventFlow(engine="memory:", surroundings=virtual(seed=3))
        flow.topic("email", match="user.*", **settings)(handler)
        async with started(flow):
            receipt = await flow.publish(Event(type="user.registered", source="/shop", id="7"))
            await settle(flow)
            found = await flow.door.event(str(receipt.ref))
            assert found is not None
            shown.append(found)

    run(life(), seed=3)
    return shown[0]


def test_a_life_of_trouble_is_told_with_its_numbers() -> None:
    async def send(event: Event) -> None:
        raise ConnectionError("no route to host")

    shown = told(
        send,
        retry={"max_attempts": 2, "base": "1s", "jitter": "none"},
        recovery={"max_rounds": 2, "after": "15m"},
    )
    texts = [step.text for step in shown["story"]]

    assert texts[0].startswith(
        "Attempt 1 of 2 failed: ConnectionError: no route to host; it waits in the retry queue "
        "until "
    )
    assert texts[0].endswith("(1 s)")
    assert texts[1].startswith(
        "Attempt 2 of 2 failed: ConnectionError: no route to host; round 1 of 2 is used up; "
        "parked in storage until "
    )
    assert texts[2].startswith("Recovered from storage: its time had come, and the topic had room")
    assert texts[2].endswith("; round 2 of 2 begins; back in its queue")
    assert texts[4] == (
        "Attempt 2 of 2 failed: ConnectionError: no route to host; round 2 of 2 is used up; dead"
    )
    assert shown["story"][0].because["base_us"] == 1_000_000
    (place,) = shown["deliveries"]
    assert (place["state"], place["held_by"], place["next_at"]) == ("dead", None, None)


def test_what_failed_for_good_says_so() -> None:
    async def send(event: Event) -> None:
        raise Permanent("no such customer")

    (step,) = told(send)["story"]
    assert step.text == "Attempt 1 failed for good: Permanent: no such customer; dead"


def test_acts_name_who_and_why() -> None:
    row = {
        "what": "delivery.replayed",
        "by": "ada",
        "why": "mended",
        "from": "dead",
        "to": "parked",
    }
    assert sentence(row) == "Replayed by ada: mended; parked in storage"
    row = {"what": "delivery.discarded", "by": "ada", "why": "", "from": "dead", "to": "discarded"}
    assert sentence(row) == "Discarded by ada"


def test_what_was_parked_at_the_door_says_why() -> None:
    numbers = {"queued": 90, "running": 10, "capacity": 100}
    row = {"what": "delivery.common_full", "topic": "common", "to": "parked", "because": numbers}
    assert sentence(row) == (
        "The common queue was full when it came (90 queued, 10 running of 100); parked in storage"
    )


@pytest.mark.parametrize(
    ("wait_us", "said"),
    [
        (748, "less than 1 ms"),
        (5_120, "5.12 ms"),
        (1_500_000, "1.5 s"),
        (900_000_000, "15 min"),
        (7_200_000_000, "2 h"),
    ],
)
def test_a_wait_is_said_in_a_unit_that_fits(wait_us: int, said: str) -> None:
    row = {"what": "delivery.scheduled", "to": "retrying", "due_at": "noon"}
    text = sentence(row | {"because": {"wait_us": wait_us}})
    assert text.endswith(f"it waits in the retry queue until noon ({said})")


@pytest.mark.parametrize("row", sorted(set(Row) - SILENT))
def test_every_row_has_words_of_its_own(row: Row) -> None:
    """Even where a row of the trail holds less than it should, nothing fails."""
    text = sentence({"what": f"delivery.{row}", "topic": "email", "from": "a", "to": "b"})

    assert "from a to b" not in text


def test_a_row_of_another_release_is_told_plainly() -> None:
    assert sentence({"what": "delivery.sung", "from": "a", "to": "b"}) == "Sung: from a to b"


PAGE = Path(__file__).parents[2] / "docs" / "concepts" / "life-of-a-delivery.md"


def test_the_page_about_it_has_every_word_of_the_trail() -> None:
    page = PAGE.read_text()
    assert [word for word in TOLD if f"`{word}` |" not in page] == []


def test_the_page_about_it_has_the_numbers_of_the_settings() -> None:
    attempts, rounds = RetrySettings().max_attempts, RecoverySettings().max_rounds
    said = f"{attempts} attempts a round, {rounds} rounds: a delivery is run {attempts * rounds} "
    assert said in PAGE.read_text()
