"""What holds a delivery, what is next, and when: a case a line."""

from __future__ import annotations

import pytest

from eventflow.app.outlook import Outlook, Surroundings, outlook
from eventflow.clock import rfc3339
from eventflow.delivery import Dead, Delivery, Reason, Row, Tally
from eventflow.engine.protocol import Depth
from eventflow.event import Event

NOW = 1_795_507_200.0
LATER = NOW + 60
TIME = rfc3339(LATER)
EVENT = Event(type="a.b", source="/s", id="1")
ROOM = Depth(queued=1, running=1, capacity=10)
FULL = Depth(queued=6, running=2, capacity=10)
WISH = Dead(Row.PERMANENT, Tally(), Reason.PERMANENT)


def delivery(
    topic: str = "email", due_at: float | None = None, wish: Dead | None = None
) -> Delivery:
    return Delivery(EVENT, "r", topic, NOW, due_at=due_at, wish=wish)


@pytest.mark.parametrize(
    ("one", "state", "around", "expected"),
    [
        (
            delivery("common"),
            "queued",
            Surroundings(ROOM, NOW),
            Outlook(None, "is routed to its topics", None),
        ),
        (
            delivery(),
            "queued",
            Surroundings(ROOM, NOW, concurrency=4),
            Outlook(None, "runs as soon as topic 'email' starts it", None),
        ),
        (
            delivery(),
            "queued",
            Surroundings(FULL, NOW, concurrency=2),
            Outlook(
                "all 2 slots of topic 'email' are taken, and 6 deliveries wait in it",
                "runs as soon as topic 'email' starts it",
                None,
            ),
        ),
        (
            delivery(),
            "queued",
            Surroundings(FULL, NOW, concurrency=2, paused=True),
            Outlook("topic 'email' is paused", "runs as soon as topic 'email' starts it", None),
        ),
        (
            delivery(),
            "queued",
            Surroundings(ROOM, NOW, paused=True, orphan=True),
            Outlook(
                "topic 'email' is not in the configuration any more, so nothing of it runs",
                "runs as soon as topic 'email' starts it",
                None,
            ),
        ),
        (
            delivery(),
            "running",
            Surroundings(FULL, NOW, paused=True),
            Outlook(None, "ends when its handler does, or at the topic's timeout", None),
        ),
        (
            delivery(due_at=LATER),
            "retrying",
            Surroundings(FULL, NOW),
            Outlook(
                f"its time has not come: {TIME}",
                "goes back into topic 'email' if that has room then",
                LATER,
            ),
        ),
        (
            delivery(due_at=LATER, wish=WISH),
            "retrying",
            Surroundings(FULL, NOW),
            Outlook(
                f"its time has not come: {TIME}", "goes to storage, if that takes it then", LATER
            ),
        ),
        (
            delivery(due_at=LATER),
            "parked",
            Surroundings(FULL, NOW, paused=True),
            Outlook(
                f"its time has not come: {TIME}; and topic 'email' is paused",
                "comes back into topic 'email'",
                LATER,
            ),
        ),
        (
            delivery(due_at=NOW - 1),
            "parked",
            Surroundings(FULL, NOW),
            Outlook(
                "topic 'email' is filled 80% (6 queued, 2 running of 10); it has to be below 50%",
                "comes back into topic 'email'",
                NOW - 1,
            ),
        ),
        (
            delivery(due_at=NOW - 1),
            "parked",
            Surroundings(ROOM, NOW),
            Outlook(None, "comes back into topic 'email'", NOW - 1),
        ),
        (
            delivery(due_at=NOW - 1),
            "parked",
            Surroundings(ROOM, NOW, node_runs=False),
            Outlook("its node is not running", "comes back into topic 'email'", NOW - 1),
        ),
        (
            delivery(),
            "dead",
            Surroundings(FULL, NOW, paused=True, node_runs=False),
            Outlook(None, "nothing, unless a person replays or discards it", None),
        ),
    ],
)
def test_what_is_ahead(one: Delivery, state: str, around: Surroundings, expected: Outlook) -> None:
    assert outlook(one, state, around) == expected
