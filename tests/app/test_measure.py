"""Measuring a configuration: which events are made up for it, where, and how late they are."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

import pytest

from eventflow.app.measure.lateness import Lateness
from eventflow.app.measure.samples import Samples, bodies, event_bytes, samples_of
from eventflow.app.measure.trial import folder_of, with_plain_topics
from eventflow.config import Settings, parse
from eventflow.event import Event

if TYPE_CHECKING:
    from pathlib import Path

SINK = 'sink = { type = "file", path = "x" }'


def settings(text: str) -> Settings:
    return parse(text, name="eventflow.toml", environ={})


def test_each_pattern_gets_a_type_that_it_takes() -> None:
    found = samples_of(
        settings(f"""
            [topics.users]
            match = ["user.*", "user.made"]
            {SINK}
            [topics.all]
            {SINK}
            [[routes]]
            match = "shop.**.paid"
            topics = ["all", "users"]
        """)
    )

    types = ("user.bench", "user.made", "shop.bench.paid")
    assert found == Samples(types, ("users", "all"), ())


def test_a_topic_that_no_made_up_event_reaches_is_named() -> None:
    """What a filter asks of the data can't be guessed; what is not measured has to be said."""
    found = samples_of(
        settings(f"""
            [topics.all]
            match = "**"
            {SINK}
            [topics.french]
            {SINK}
            [topics.idle]
            {SINK}
            [[routes]]
            match = "user.*"
            when = "event.data.country == 'FR'"
            topics = ["french"]
        """)
    )

    assert (found.reached, found.missed) == (("all",), ("french", "idle"))
    assert samples_of(settings(f"[topics.idle]\n{SINK}")).types == ()


def test_without_topics_there_are_three() -> None:
    assert samples_of(with_plain_topics(settings(""))).reached == ("a", "b", "c")


def test_events_are_made_in_batches_and_never_twice() -> None:
    batches = [json.loads(body) for body in bodies(("a.x", "b.x"), 5, 2)]
    warm = [json.loads(body) for body in bodies(("a.x", "b.x"), 5, 2, prefix="warm")]

    assert [len(batch) for batch in batches] == [2, 2, 1]
    every = [event for batch in [*batches, *warm] for event in batch]
    assert len({event["id"] for event in every}) == 10
    assert [event["type"] for batch in batches for event in batch] == ["a.x", "b.x"] * 2 + ["a.x"]
    assert len(next(bodies(("a.x",), 1, 1))) == event_bytes(("a.x",)) + len("[]")


def test_the_disk_is_that_of_the_journal(tmp_path: Path) -> None:
    """A folder that a node would still have to make is not made for it."""
    there = tmp_path / "there"
    there.mkdir()
    made = settings(f'[engine]\nurl = "sqlite:{there}/not/yet/flow.db"')

    assert folder_of(made) == there
    assert folder_of(settings('[engine]\nurl = "memory:"')) is None


async def test_lateness_counts_from_when_an_event_should_have_been_sent() -> None:
    late = Lateness()
    now = time.monotonic()
    for ago_s in (1.0, 2.0, 3.0, 4.0):
        await late.handle(Event(type="a", source="/b", data={"sent_at": now - ago_s}))
    await late.handle(Event(type="a", source="/b", data={"note": ""}))

    assert late.at_s(0.5) == pytest.approx(3.0, abs=0.5)
    assert late.at_s(1.0) == pytest.approx(4.0, abs=0.5)
    assert late.figures()["events"] == 4


def test_what_was_to_be_sent_before_is_left_out() -> None:
    late = Lateness()
    early = Event(type="a", source="/b", data={"sent_at": time.monotonic()})
    late.take(early)
    late.begin()
    late.take(early)

    assert late.figures() == {}
    with pytest.raises(ValueError, match="no event said"):
        late.at_s(0.5)
