"""The life of a delivery, row by row: each checks the whole decision, numbers and all."""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventflow.clock import rfc3339
from eventflow.delivery import (
    CLEAN,
    COMMON,
    DELIVERED,
    Attempt,
    Dead,
    Decision,
    Delivery,
    Parked,
    Place,
    Queued,
    Reason,
    Retrying,
    Row,
    Tally,
)
from eventflow.event import Event
from eventflow.policy.backoff import Backoff
from eventflow.policy.decide import LAST_MOMENT, MAX_CRASHES, ROUTED, decide
from eventflow.policy.outcome import (
    CameDue,
    CommonFull,
    Failed,
    NoRoute,
    Outcome,
    Postponed,
    ReadyAgain,
    Routed,
    Started,
    Succeeded,
)
from eventflow.policy.values import Fullness, RecoveryPolicy, RetryPolicy, TopicPolicy

NOW = 1_800_000_000.0
DRAW = 0.5
POLICY = TopicPolicy()
FULLNESS = Fullness(queued=90, running=10, capacity=100, retrying=7, lane_capacity=20)


def a_delivery(
    tally: Tally = CLEAN,
    *,
    topic: str = "email",
    reason: Reason | None = None,
    expires_at: float | None = None,
    deliver_at: float | None = None,
    **rest: Any,
) -> Delivery:
    times = {"expirytime": expires_at, "deliverat": deliver_at}
    extensions = {name: rfc3339(at) for name, at in times.items() if at is not None}
    event = Event(type="user.registered", source="/shop", id="1", **extensions)
    return Delivery(event, "0190", topic, NOW - 60, tally=tally, reason=reason, **rest)


def refused(wish: Parked | Dead, refusals: int = 1, wait_s: float = 0.5) -> Retrying:
    """Return where it waits if storage does not take `wish`."""
    tally = msgspec.structs.replace(wish.tally, refusals=refusals)
    return Retrying(Row.STORAGE_REFUSED, tally, NOW + wait_s, Reason.STORAGE_DOWN, wish)


def stored(wish: Parked | Dead) -> tuple[Place, ...]:
    return (wish, refused(wish))


def lane(
    row: Row, reason: Reason, tally: Tally, due_at: float, full: tuple[Row, Reason] | None = None
) -> tuple[Place, ...]:
    """Return the lane with all that comes after it."""
    full_row, full_reason = full or (Row.RETRY_FULL, Reason.RETRY_FULL)
    return (
        Retrying(row, tally, due_at, reason),
        *stored(Parked(full_row, tally, due_at, full_reason)),
    )


BACKOFF = {"base_s": 1.0, "factor": 2.0, "max_s": 300.0, "jitter": "full", "draw": 0.5}
STORAGE = {**BACKOFF, "refusals": 0, "refused_wait_s": 0.5}
TOPIC = {"queued": 90, "running": 10, "capacity": 100}
LANE = {"max_in_queue_s": 600.0, "retrying": 7, "lane_capacity": 20}
RECOVERED = {**TOPIC, "low_water": 0.5, "due_at": NOW - 1}
EXPIRED = {**STORAGE, "expires_at": NOW, "decided_at": NOW}
DEAD_OF_AGE = Dead(Row.EXPIRED, CLEAN, Reason.EXPIRED)


class Line(NamedTuple):
    """One row of the table, for one delivery."""

    name: str
    delivery: Delivery
    outcome: Outcome
    tries: tuple[Place, ...]
    because: dict[str, Any]
    policy: TopicPolicy = POLICY


FAILED = Failed("TimeoutError", "took too long")
ONE = Tally(attempts=1)
LONG = Parked(Row.LONG_DELAY, ONE, NOW + 700, Reason.LONG_DELAY)


def parked(
    row: Row, reason: Reason, tally: Tally = CLEAN, due_at: float = NOW + 900
) -> tuple[Place, ...]:
    return stored(Parked(row, tally, due_at, reason))


def dead(row: Row, reason: Reason, tally: Tally = CLEAN) -> tuple[Place, ...]:
    return stored(Dead(row, tally, reason))


DOOR = [
    Line(
        "a door that parks finds common full: due at once, and counted",
        a_delivery(topic=COMMON),
        CommonFull(),
        (Parked(Row.COMMON_FULL, Tally(overflows=1), NOW, Reason.COMMON_FULL),),
        {**TOPIC, "overflows": 1},
    ),
]

ROUTING = [
    Line(
        "a route matches: queued, or what follows where the topic is full",
        a_delivery(),
        Routed(),
        (ROUTED, *lane(Row.TOPIC_FULL, Reason.TOPIC_FULL, Tally(overflows=1), NOW + 0.5)),
        {
            **STORAGE,
            **TOPIC,
            **LANE,
            "overflows": 1,
            "max_overflows": 10,
            "wait_s": 0.5,
            "due_at": NOW + 0.5,
        },
    ),
    Line(
        "deliverat has come",
        a_delivery(deliver_at=NOW),
        Routed(),
        (ROUTED, *lane(Row.TOPIC_FULL, Reason.TOPIC_FULL, Tally(overflows=1), NOW + 0.5)),
        {
            **STORAGE,
            **TOPIC,
            **LANE,
            "overflows": 1,
            "max_overflows": 10,
            "wait_s": 0.5,
            "due_at": NOW + 0.5,
        },
    ),
    Line(
        "what it has counted goes along",
        a_delivery(Tally(replays=1)),
        Routed(),
        (
            Queued(Row.ROUTED, Tally(replays=1)),
            *lane(Row.TOPIC_FULL, Reason.TOPIC_FULL, Tally(overflows=1, replays=1), NOW + 0.5),
        ),
        {
            **STORAGE,
            **TOPIC,
            **LANE,
            "overflows": 1,
            "max_overflows": 10,
            "wait_s": 0.5,
            "due_at": NOW + 0.5,
        },
    ),
    Line(
        "no overflow allowed: a full topic parks at once",
        a_delivery(),
        Routed(),
        (ROUTED, *parked(Row.OVERFLOW_EXHAUSTED, Reason.OVERFLOW_EXHAUSTED, due_at=NOW + 0.5)),
        {
            **STORAGE,
            **TOPIC,
            "overflows": 1,
            "max_overflows": 0,
            "wait_s": 0.5,
            "due_at": NOW + 0.5,
        },
        TopicPolicy(RetryPolicy(max_overflows=0)),
    ),
    Line(
        "routed, but of no use any more",
        a_delivery(expires_at=NOW),
        Routed(),
        stored(DEAD_OF_AGE),
        EXPIRED,
    ),
    Line(
        "deliverat ahead, within max_in_queue",
        a_delivery(deliver_at=NOW + 600),
        Routed(),
        lane(
            Row.SCHEDULED,
            Reason.SCHEDULED,
            CLEAN,
            NOW + 600,
            full=(Row.SCHEDULED, Reason.SCHEDULED),
        ),
        {**STORAGE, **LANE, "wait_s": 600.0, "due_at": NOW + 600},
    ),
    Line(
        "deliverat ahead, further than max_in_queue",
        a_delivery(deliver_at=NOW + 601),
        Routed(),
        parked(Row.SCHEDULED, Reason.SCHEDULED, due_at=NOW + 601),
        {**STORAGE, "wait_s": 601.0, "due_at": NOW + 601, "max_in_queue_s": 600.0},
    ),
    Line(
        "no route matches",
        a_delivery(topic=COMMON),
        NoRoute(filter_errors=2),
        (Dead(Row.UNROUTABLE, CLEAN, Reason.UNROUTABLE),),
        {"filter_errors": 2},
    ),
]

STARTING = [
    Line("runs", a_delivery(), Started(), (), {}),
    Line("runs once more after two crashes", a_delivery(Tally(crashes=2)), Started(), (), {}),
    Line("runs in the last second", a_delivery(expires_at=NOW + 1), Started(), (), {}),
    Line(
        "runs, as a replay has lifted its expiry",
        a_delivery(expires_at=NOW, expiry_lifted=True),
        Started(),
        (),
        {},
    ),
    Line(
        "three crashes",
        a_delivery(Tally(crashes=3)),
        Started(),
        dead(Row.POISON, Reason.POISON, Tally(crashes=3)),
        {**STORAGE, "crashes": 3, "max_crashes": 3},
    ),
    Line(
        "expired while queued", a_delivery(expires_at=NOW), Started(), stored(DEAD_OF_AGE), EXPIRED
    ),
    Line(
        "expired in common",
        a_delivery(topic=COMMON, expires_at=NOW),
        Started(),
        (DEAD_OF_AGE,),
        {"expires_at": NOW, "decided_at": NOW},
    ),
]

RUNNING = [
    Line("handler returned", a_delivery(), Succeeded(), (DELIVERED,), {}),
    Line("handler returned late", a_delivery(expires_at=NOW), Succeeded(), (DELIVERED,), {}),
    Line(
        "failed, attempts left",
        a_delivery(),
        FAILED,
        lane(Row.RETRY, Reason.HANDLER_ERROR, ONE, NOW + 0.5),
        {
            **STORAGE,
            **LANE,
            "cause": "TimeoutError",
            "attempts": 1,
            "max_attempts": 5,
            "wait_s": 0.5,
            "due_at": NOW + 0.5,
        },
    ),
    Line(
        "failed, its last attempt but one: what else it has counted is kept",
        a_delivery(Tally(3, rounds=2, overflows=4, crashes=1, replays=2, postponed=5)),
        FAILED,
        lane(
            Row.RETRY,
            Reason.HANDLER_ERROR,
            Tally(4, rounds=2, overflows=4, crashes=1, replays=2, postponed=5),
            NOW + 4,
        ),
        {
            **STORAGE,
            **LANE,
            "cause": "TimeoutError",
            "attempts": 4,
            "max_attempts": 5,
            "wait_s": 4.0,
            "due_at": NOW + 4,
        },
    ),
    Line(
        "failed, to wait longer than max_in_queue",
        a_delivery(),
        FAILED,
        (LONG, refused(LONG, wait_s=700)),
        {
            "base_s": 1400.0,
            "factor": 2.0,
            "max_s": 1400.0,
            "jitter": "full",
            "draw": 0.5,
            "refusals": 0,
            "refused_wait_s": 700.0,
            "cause": "TimeoutError",
            "attempts": 1,
            "max_attempts": 5,
            "wait_s": 700.0,
            "due_at": NOW + 700,
            "max_in_queue_s": 600.0,
        },
        TopicPolicy(RetryPolicy(backoff=Backoff(base_s=1400.0, max_s=1400.0))),
    ),
    Line(
        "the target said Retry-After",
        a_delivery(),
        Failed("http 429", "slow down", retry_at=NOW + 60),
        lane(Row.RETRY_LATER, Reason.RETRY_LATER, ONE, NOW + 60),
        {
            **STORAGE,
            **LANE,
            "cause": "http 429",
            "attempts": 1,
            "max_attempts": 5,
            "retry_at": NOW + 60,
            "wait_s": 60.0,
            "due_at": NOW + 60,
        },
    ),
    Line(
        "the target said a time that is over: now",
        a_delivery(),
        Failed("http 503", "back soon", retry_at=NOW - 60),
        lane(Row.RETRY_LATER, Reason.RETRY_LATER, ONE, NOW),
        {
            **STORAGE,
            **LANE,
            "cause": "http 503",
            "attempts": 1,
            "max_attempts": 5,
            "retry_at": NOW - 60,
            "wait_s": 0.0,
            "due_at": NOW,
        },
    ),
    Line(
        "the target said Retry-After, longer than max_in_queue",
        a_delivery(),
        Failed("http 429", "slow down", retry_at=NOW + 3600),
        parked(Row.LONG_DELAY, Reason.LONG_DELAY, ONE, NOW + 3600),
        {
            **STORAGE,
            "cause": "http 429",
            "attempts": 1,
            "max_attempts": 5,
            "retry_at": NOW + 3600,
            "wait_s": 3600.0,
            "due_at": NOW + 3600,
            "max_in_queue_s": 600.0,
        },
    ),
    Line(
        "permanent",
        a_delivery(Tally(attempts=2)),
        Failed("http 410", "gone", permanent=True, retry_at=NOW + 5),
        dead(Row.PERMANENT, Reason.PERMANENT, Tally(attempts=3)),
        {**STORAGE, "cause": "http 410", "attempts": 3},
    ),
    Line(
        "attempts used up, a round left",
        a_delivery(Tally(attempts=4)),
        FAILED,
        parked(Row.RETRIES_EXHAUSTED, Reason.RETRIES_EXHAUSTED, Tally(attempts=5)),
        {
            **STORAGE,
            "cause": "TimeoutError",
            "attempts": 5,
            "max_attempts": 5,
            "rounds": 1,
            "max_rounds": 2,
            "after_s": 900.0,
            "due_at": NOW + 900,
        },
    ),
    Line(
        "attempts used up, and the target asked for longer than a round's rest",
        a_delivery(Tally(attempts=4)),
        Failed("http 429", "slow down", retry_at=NOW + 3600),
        parked(Row.RETRIES_EXHAUSTED, Reason.RETRIES_EXHAUSTED, Tally(attempts=5), NOW + 3600),
        {
            **STORAGE,
            "cause": "http 429",
            "attempts": 5,
            "max_attempts": 5,
            "rounds": 1,
            "max_rounds": 2,
            "after_s": 900.0,
            "retry_at": NOW + 3600,
            "due_at": NOW + 3600,
        },
    ),
    Line(
        "attempts used up, no round left",
        a_delivery(Tally(attempts=4, rounds=2)),
        FAILED,
        dead(Row.ATTEMPTS_EXHAUSTED, Reason.ATTEMPTS_EXHAUSTED, Tally(attempts=5, rounds=2)),
        {
            **STORAGE,
            "cause": "TimeoutError",
            "attempts": 5,
            "max_attempts": 5,
            "rounds": 2,
            "max_rounds": 2,
        },
    ),
    Line(
        "the limits were lowered below what it has used",
        a_delivery(Tally(attempts=4, rounds=2)),
        FAILED,
        dead(Row.ATTEMPTS_EXHAUSTED, Reason.ATTEMPTS_EXHAUSTED, Tally(attempts=5, rounds=2)),
        {
            **STORAGE,
            "cause": "TimeoutError",
            "attempts": 5,
            "max_attempts": 1,
            "rounds": 2,
            "max_rounds": 1,
        },
        TopicPolicy(RetryPolicy(max_attempts=1), RecoveryPolicy(max_rounds=1)),
    ),
]

POSTPONED = [
    Line(
        "RetryLater",
        a_delivery(),
        Postponed(NOW + 30, counted=True),
        lane(Row.RETRY_LATER, Reason.RETRY_LATER, ONE, NOW + 30),
        {
            **STORAGE,
            **LANE,
            "attempts": 1,
            "max_attempts": 5,
            "retry_at": NOW + 30,
            "wait_s": 30.0,
            "due_at": NOW + 30,
        },
    ),
    Line(
        "RetryLater(count=False)",
        a_delivery(Tally(attempts=4, postponed=99)),
        Postponed(NOW + 30, counted=False),
        lane(Row.RETRY_LATER, Reason.RETRY_LATER, Tally(attempts=4, postponed=100), NOW + 30),
        {
            **STORAGE,
            **LANE,
            "postponed": 100,
            "max_postponed": 100,
            "retry_at": NOW + 30,
            "wait_s": 30.0,
            "due_at": NOW + 30,
        },
    ),
    Line(
        "RetryLater(count=False) for the 101st time: it counts",
        a_delivery(Tally(attempts=3, postponed=100)),
        Postponed(NOW + 30, counted=False),
        lane(Row.RETRY_LATER, Reason.RETRY_LATER, Tally(attempts=4, postponed=100), NOW + 30),
        {
            **STORAGE,
            **LANE,
            "postponed": 100,
            "max_postponed": 100,
            "attempts": 4,
            "max_attempts": 5,
            "retry_at": NOW + 30,
            "wait_s": 30.0,
            "due_at": NOW + 30,
        },
    ),
    Line(
        "RetryLater for just as long as max_in_queue",
        a_delivery(),
        Postponed(NOW + 600, counted=False),
        lane(Row.RETRY_LATER, Reason.RETRY_LATER, Tally(postponed=1), NOW + 600),
        {
            **STORAGE,
            **LANE,
            "postponed": 1,
            "max_postponed": 100,
            "retry_at": NOW + 600,
            "wait_s": 600.0,
            "due_at": NOW + 600,
        },
    ),
    Line(
        "RetryLater for longer than max_in_queue",
        a_delivery(),
        Postponed(NOW + 601, counted=False),
        parked(Row.LONG_DELAY, Reason.LONG_DELAY, Tally(postponed=1), NOW + 601),
        {
            **STORAGE,
            "postponed": 1,
            "max_postponed": 100,
            "retry_at": NOW + 601,
            "wait_s": 601.0,
            "due_at": NOW + 601,
            "max_in_queue_s": 600.0,
        },
    ),
    Line(
        "RetryLater for ever: until the last moment that has a name",
        a_delivery(),
        Postponed(float("inf"), counted=False),
        parked(Row.LONG_DELAY, Reason.LONG_DELAY, Tally(postponed=1), LAST_MOMENT),
        {
            **STORAGE,
            "postponed": 1,
            "max_postponed": 100,
            "retry_at": LAST_MOMENT,
            "wait_s": LAST_MOMENT - NOW,
            "due_at": LAST_MOMENT,
            "max_in_queue_s": 600.0,
        },
    ),
    Line(
        "RetryLater with the last attempt, a round left",
        a_delivery(Tally(attempts=4)),
        Postponed(NOW + 30, counted=True),
        parked(Row.RETRIES_EXHAUSTED, Reason.RETRIES_EXHAUSTED, Tally(attempts=5)),
        {
            **STORAGE,
            "attempts": 5,
            "max_attempts": 5,
            "rounds": 1,
            "max_rounds": 2,
            "after_s": 900.0,
            "retry_at": NOW + 30,
            "due_at": NOW + 900,
        },
    ),
    Line(
        "RetryLater with the last attempt of the last round",
        a_delivery(Tally(attempts=4, rounds=2)),
        Postponed(NOW + 30, counted=True),
        dead(Row.ATTEMPTS_EXHAUSTED, Reason.ATTEMPTS_EXHAUSTED, Tally(attempts=5, rounds=2)),
        {
            **STORAGE,
            "attempts": 5,
            "max_attempts": 5,
            "rounds": 2,
            "max_rounds": 2,
            "retry_at": NOW + 30,
        },
    ),
]

WISH = Parked(Row.RETRIES_EXHAUSTED, Tally(attempts=5), NOW + 800, Reason.RETRIES_EXHAUSTED)

DUE = [
    Line(
        "due: queued, or once more into the lane",
        a_delivery(Tally(attempts=2, overflows=1), reason=Reason.TOPIC_FULL),
        CameDue(),
        (
            Queued(Row.DUE, Tally(attempts=2, overflows=1)),
            *lane(Row.STILL_FULL, Reason.TOPIC_FULL, Tally(attempts=2, overflows=2), NOW + 1),
        ),
        {
            **STORAGE,
            **TOPIC,
            **LANE,
            "overflows": 2,
            "max_overflows": 10,
            "wait_s": 1.0,
            "due_at": NOW + 1,
        },
    ),
    Line(
        "due, the tenth overflow still waits in the lane",
        a_delivery(Tally(overflows=9)),
        CameDue(),
        (
            Queued(Row.DUE, Tally(overflows=9)),
            *lane(Row.STILL_FULL, Reason.TOPIC_FULL, Tally(overflows=10), NOW + 150),
        ),
        {
            **STORAGE,
            **TOPIC,
            **LANE,
            "overflows": 10,
            "max_overflows": 10,
            "wait_s": 150.0,
            "due_at": NOW + 150,
        },
    ),
    Line(
        "due, the eleventh is parked",
        a_delivery(Tally(overflows=10)),
        CameDue(),
        (
            Queued(Row.DUE, Tally(overflows=10)),
            *parked(
                Row.OVERFLOW_EXHAUSTED,
                Reason.OVERFLOW_EXHAUSTED,
                Tally(overflows=10),
                NOW + 150,
            ),
        ),
        {
            **STORAGE,
            **TOPIC,
            "overflows": 11,
            "max_overflows": 10,
            "wait_s": 150.0,
            "due_at": NOW + 150,
        },
    ),
    Line(
        "due, but of no use any more",
        a_delivery(expires_at=NOW),
        CameDue(),
        stored(DEAD_OF_AGE),
        EXPIRED,
    ),
    Line(
        "storage had refused it twice: asked again",
        a_delivery(Tally(attempts=5, refusals=2), reason=Reason.STORAGE_DOWN, wish=WISH),
        CameDue(),
        (WISH, refused(WISH, refusals=3, wait_s=2.0)),
        {**BACKOFF, "refusals": 2, "refused_wait_s": 2.0},
    ),
    Line(
        "storage had refused it: its wish stands, expired or not",
        a_delivery(Tally(attempts=5, refusals=1), expires_at=NOW - 9, wish=WISH),
        CameDue(),
        (WISH, refused(WISH, refusals=2, wait_s=1.0)),
        {**BACKOFF, "refusals": 1, "refused_wait_s": 1.0},
    ),
    Line(
        "queued again: the refusals in a row are over",
        a_delivery(Tally(overflows=10, refusals=4)),
        CameDue(),
        (
            Queued(Row.DUE, Tally(overflows=10)),
            Parked(
                Row.OVERFLOW_EXHAUSTED, Tally(overflows=10), NOW + 150, Reason.OVERFLOW_EXHAUSTED
            ),
            refused(
                Parked(
                    Row.OVERFLOW_EXHAUSTED,
                    Tally(overflows=10),
                    NOW + 150,
                    Reason.OVERFLOW_EXHAUSTED,
                ),
                refusals=5,
                wait_s=8.0,
            ),
        ),
        {
            **BACKOFF,
            **TOPIC,
            "overflows": 11,
            "max_overflows": 10,
            "wait_s": 150.0,
            "due_at": NOW + 150,
            "refusals": 4,
            "refused_wait_s": 8.0,
        },
    ),
]

USED = Tally(attempts=5, rounds=1, overflows=7, crashes=1, replays=1, postponed=3)


def back(reason: Reason, row: Row, tally: Tally = USED, **numbers: int) -> Line:
    return Line(
        f"parked {reason}",
        a_delivery(USED, reason=reason, due_at=NOW - 1),
        ReadyAgain(),
        (Queued(row, tally),),
        {**RECOVERED, **numbers},
    )


PARKED = [
    back(
        Reason.RETRIES_EXHAUSTED,
        Row.RECOVERED_ROUND,
        Tally(attempts=0, rounds=2, overflows=0, crashes=1, replays=1, postponed=3),
        rounds=2,
        max_rounds=2,
    ),
    back(Reason.COMMON_FULL, Row.RECOVERED_COMMON),
    *(
        back(
            reason,
            Row.RECOVERED_OVERFLOW,
            Tally(attempts=5, rounds=1, overflows=0, crashes=1, replays=1, postponed=3),
        )
        for reason in (Reason.RETRY_FULL, Reason.OVERFLOW_EXHAUSTED)
    ),
    *(
        back(reason, Row.RECOVERED_DUE)
        for reason in (Reason.LONG_DELAY, Reason.SCHEDULED, Reason.REPLAYED)
    ),
    Line(
        "parked for no reason that is known",
        a_delivery(USED, due_at=NOW - 1),
        ReadyAgain(),
        (Queued(Row.RECOVERED_DUE, USED),),
        RECOVERED,
    ),
    Line(
        "parked, but of no use any more: storage has it already",
        a_delivery(reason=Reason.LONG_DELAY, expires_at=NOW),
        ReadyAgain(),
        (DEAD_OF_AGE,),
        {"expires_at": NOW, "decided_at": NOW},
    ),
]

TABLE = [*DOOR, *ROUTING, *STARTING, *RUNNING, *POSTPONED, *DUE, *PARKED]


@pytest.mark.parametrize("line", TABLE, ids=lambda line: line.name)
def test_the_life_of_a_delivery(line: Line) -> None:
    decision = decide(line.delivery, line.outcome, line.policy, FULLNESS, NOW, DRAW)

    assert decision.tries == line.tries
    assert decision.because == line.because


NOT_DECIDED_HERE = {
    Row.NODE_DIED: "the engine's, when it finds a lease that nobody holds any more",
    Row.REPLAYED: "an operator's",
    Row.REPLACED: "an operator's: replayed with an edit",
    Row.DISCARDED: "an operator's",
    Row.RELEASED: "a stage's, when a lease ends without a run",
}


def test_every_row_is_decided_here_or_said_to_be_elsewhere() -> None:
    decided = {place.row for line in TABLE for place in line.tries}

    assert decided | NOT_DECIDED_HERE.keys() == set(Row)
    assert decided & NOT_DECIDED_HERE.keys() == set()


def test_everyday_deliveries_share_one_place() -> None:
    """A thousand events routed at once make no thousand values that say the same."""
    decision = decide(a_delivery(), Routed(), POLICY, FULLNESS, NOW, DRAW)

    assert decision.tries[0] is ROUTED
    assert Queued(Row.ROUTED) == ROUTED


def test_the_last_moment_is_the_last_that_has_a_name() -> None:
    assert rfc3339(LAST_MOMENT) == "9999-12-31T23:59:59.000000Z"


# ---------------------------------------------------------------- what holds for all of them

tallies = st.builds(
    Tally,
    attempts=st.integers(0, 6),
    rounds=st.integers(1, 3),
    overflows=st.integers(0, 12),
    crashes=st.integers(0, 4),
    replays=st.integers(0, 2),
    postponed=st.integers(0, 101),
    refusals=st.integers(0, 3),
)
moments = st.none() | st.sampled_from([NOW - 9, NOW, NOW + 9, NOW + 6000])
deliveries = st.builds(
    a_delivery,
    tallies,
    topic=st.sampled_from(["email", COMMON]),
    reason=st.none() | st.sampled_from(Reason),
    expires_at=moments,
    deliver_at=moments,
    due_at=st.just(NOW),
    entered_at=st.just(NOW - 5),
    wish=st.none() | st.just(WISH),
    history=st.sampled_from([(), (Attempt(NOW - 9, NOW - 8, "failed"),)]),
)
outcomes = st.one_of(
    st.sampled_from(
        [Succeeded(), CommonFull(), Routed(), NoRoute(), CameDue(), Started(), ReadyAgain()]
    ),
    st.builds(Failed, st.just("E"), st.just("e"), permanent=st.booleans(), retry_at=moments),
    st.builds(Postponed, moments.map(lambda at: at or NOW), counted=st.booleans()),
)
policies = st.builds(
    TopicPolicy,
    st.builds(
        RetryPolicy,
        max_attempts=st.integers(1, 5),
        backoff=st.builds(
            Backoff,
            max_s=st.sampled_from([1.0, 300.0, 9000.0]),
            jitter=st.sampled_from(["none", "full", "equal", "decorrelated"]),
        ),
        max_overflows=st.integers(0, 10),
    ),
    st.builds(RecoveryPolicy, max_rounds=st.integers(1, 3)),
)
draws = st.floats(0, 1, exclude_max=True)


def any_decision(
    delivery: Delivery, outcome: Outcome, policy: TopicPolicy, draw: float
) -> Decision:
    return decide(delivery, outcome, policy, FULLNESS, NOW, draw)


@given(deliveries, outcomes, policies, draws)
def test_the_same_again_decides_the_same(
    delivery: Delivery, outcome: Outcome, policy: TopicPolicy, draw: float
) -> None:
    first = any_decision(delivery, outcome, policy, draw)

    assert any_decision(delivery, outcome, policy, draw) == first


@given(deliveries, outcomes, policies, draws)
def test_because_is_flat_and_finite(
    delivery: Delivery, outcome: Outcome, policy: TopicPolicy, draw: float
) -> None:
    """It goes into the audit trail as JSON, which has no infinity."""
    because = any_decision(delivery, outcome, policy, draw).because

    assert all(isinstance(v, str | int | float | bool | None) for v in because.values())
    assert msgspec.json.decode(msgspec.json.encode(because)) == because


@given(deliveries, outcomes, policies, draws)
def test_outside_common_the_last_place_never_needs_storage(
    delivery: Delivery, outcome: Outcome, policy: TopicPolicy, draw: float
) -> None:
    """Whatever storage does, there is a place to ask for: the lane, with the wish kept."""
    tries = any_decision(delivery, outcome, policy, draw).tries
    stored_at = [n for n, place in enumerate(tries) if isinstance(place, Parked | Dead)]

    if delivery.topic == COMMON:
        assert not any(isinstance(place, Retrying) for place in tries)
    elif isinstance(outcome, ReadyAgain):
        assert len(tries) == 1  # storage has it already
    elif stored_at:
        last = tries[-1]
        assert stored_at == [len(tries) - 2]
        assert isinstance(last, Retrying)
        assert last.wish == tries[-2]
        assert last.tally.refusals == delivery.tally.refusals + 1


@given(deliveries, outcomes, policies, draws)
def test_only_a_start_may_decide_nothing(
    delivery: Delivery, outcome: Outcome, policy: TopicPolicy, draw: float
) -> None:
    tries = any_decision(delivery, outcome, policy, draw).tries

    assert tries or isinstance(outcome, Started)


@given(deliveries, outcomes, policies, draws)
def test_nothing_waits_in_the_lane_longer_than_it_may(
    delivery: Delivery, outcome: Outcome, policy: TopicPolicy, draw: float
) -> None:
    """Storage being down is the exception: there is nowhere else to wait."""
    for place in any_decision(delivery, outcome, policy, draw).tries:
        if isinstance(place, Retrying) and place.wish is None:
            assert NOW <= place.due_at <= NOW + policy.retry.max_in_queue_s


@given(deliveries, outcomes, policies, draws)
def test_an_overflow_never_uses_up_an_attempt(
    delivery: Delivery, outcome: Outcome, policy: TopicPolicy, draw: float
) -> None:
    attempted = isinstance(outcome, Failed | Postponed)
    for place in any_decision(delivery, outcome, policy, draw).tries:
        if not attempted and isinstance(place, Retrying | Parked | Dead) and place != WISH:
            assert place.tally.attempts == delivery.tally.attempts or delivery.wish is not None
        if isinstance(place, Retrying) and place.reason is Reason.TOPIC_FULL:
            assert place.tally.overflows == delivery.tally.overflows + 1
            assert place.tally.overflows <= policy.retry.max_overflows


def test_ten_runs_in_all_by_default() -> None:
    """5 attempts a round, 2 rounds: a story from the first failure to the end."""
    delivery, runs, rows = a_delivery(), 0, []
    while True:
        decision = decide(delivery, FAILED, POLICY, FULLNESS, NOW, DRAW)
        runs += 1
        place = decision.tries[0]
        rows.append(place.row)
        if isinstance(place, Dead):
            break
        assert isinstance(place, Retrying | Parked)
        delivery = msgspec.structs.replace(delivery, tally=place.tally, reason=place.reason)
        if isinstance(place, Parked):
            again = decide(delivery, ReadyAgain(), POLICY, FULLNESS, NOW, DRAW).tries[0]
            assert isinstance(again, Queued)
            delivery = msgspec.structs.replace(delivery, tally=again.tally)

    assert runs == 10
    assert rows == [
        *([Row.RETRY] * 4),
        Row.RETRIES_EXHAUSTED,
        *([Row.RETRY] * 4),
        Row.ATTEMPTS_EXHAUSTED,
    ]


def test_poison_needs_three_crashes() -> None:
    crashed = [
        bool(decide(a_delivery(Tally(crashes=n)), Started(), POLICY, FULLNESS, NOW, DRAW).tries)
        for n in range(5)
    ]

    assert crashed == [False, False, False, True, True]
    assert MAX_CRASHES == 3


def test_decorrelated_jitter_grows_from_the_wait_before() -> None:
    """In the lane since 40 s: between 1 s and 120 s. Nothing before it: between 1 s and 3 s."""
    policy = TopicPolicy(RetryPolicy(backoff=Backoff(jitter="decorrelated")))
    waited = a_delivery(Tally(overflows=3), entered_at=NOW - 40)
    failed = a_delivery(
        Tally(attempts=1), entered_at=NOW - 1, history=(Attempt(NOW - 13, NOW - 11, "failed"),)
    )
    waits = [
        decide(delivery, outcome, policy, FULLNESS, NOW, draw=0.5).because["wait_s"]
        for delivery, outcome in ((waited, CameDue()), (failed, FAILED), (a_delivery(), FAILED))
    ]

    assert waits == [60.5, 15.5, 2.0]
