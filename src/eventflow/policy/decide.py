"""What becomes of a delivery: DESIGN's table of its life, row by row.

    outcome     when                                becomes, in order of preference
    ---------   ---------------------------------   ------------------------------------------------
    CommonFull  any                                 parked (common_full), overflows +1
    Succeeded   any                                 delivered
    Routed      expired                             dead (expired)
                `deliverat` ahead                   the lane, else parked (scheduled)
                any                                 queued, else as "topic full"
    NoRoute     any                                 dead (unroutable)
    Started     expired                             dead (expired)
                3 crashes                           dead (poison)
                any                                 runs: no place at all
    Failed      permanent                           dead (permanent)
                attempts left                       the lane
                rounds left                         parked (retries_exhausted)
                none left                           dead (attempts_exhausted)
    Postponed   not counted, fewer than 100         the lane
                any                                 as Failed
    CameDue     storage had refused it              where it was to go, else the lane again
                expired                             dead (expired)
                any                                 queued, else as "topic full"
    ReadyAgain  expired                             dead (expired)
                any                                 queued

    topic full  overflows left                      the lane, overflows +1
                none left                           parked (overflow_exhausted)
    the lane    due within max_in_queue             retrying, else parked (retry_full)
                due later                           parked (long_delay)
    parked,     any                                 that, else retrying (storage_down) with the wish
    dead                                            to go there as soon as storage takes it

Common has no lane: what would go to one is parked, and what storage refuses stays leased.

`because` holds every number that was used, under a name that says its unit. Where several places
are named, those of all of them: which one was taken is in the row of the place itself.
tests/policy/test_decide.py is this table.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, assert_never

import msgspec

from eventflow.delivery import (
    CLEAN,
    COMMON,
    DELIVERED,
    Dead,
    Decision,
    Delivery,
    Parked,
    Queued,
    Reason,
    Retrying,
    Row,
    Tally,
)
from eventflow.policy.backoff import delay_s
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
from eventflow.policy.values import Fullness, TopicPolicy

if TYPE_CHECKING:
    from eventflow.delivery import Place

MAX_CRASHES = 3
"""Times a node may die while it runs a delivery; then the delivery is poison. The first start
after a crash is alone on its node, so the last two crashes are this delivery's doing."""

LAST_MOMENT = 253_402_300_799.0
"""9999-12-31T23:59:59Z, the last second RFC 3339 can name: nothing is due later than that."""

ROUTED = Queued(Row.ROUTED)
"""Where nearly every delivery goes first: one value for all of them."""

_DONE = (DELIVERED,)
_RECOVERED = {
    Reason.COMMON_FULL: Row.RECOVERED_COMMON,
    Reason.RETRIES_EXHAUSTED: Row.RECOVERED_ROUND,
    Reason.RETRY_FULL: Row.RECOVERED_OVERFLOW,
    Reason.OVERFLOW_EXHAUSTED: Row.RECOVERED_OVERFLOW,
}
"""The row by which a parked delivery comes back; for every other reason `RECOVERED_DUE`."""

_Numbers = dict[str, Any]


class _Given(msgspec.Struct, frozen=True, gc=False):
    """All that a decision is made from, the outcome aside."""

    delivery: Delivery
    policy: TopicPolicy
    fullness: Fullness
    now: float
    draw: float
    tally: Tally
    """The delivery's, with refusals from 0: where storage takes it, they are over."""
    in_lane: bool


def decide(  # noqa: C901  # a case an outcome
    delivery: Delivery,
    outcome: Outcome,
    policy: TopicPolicy,
    fullness: Fullness,
    now: float,
    draw: float,
) -> Decision:
    """Return where a delivery goes next, and why.

    Args:
        delivery: As it is now. After `Routed`: the new one, in the topic it is routed to. After
            `CommonFull`: the one it would be in common.
        outcome: What has happened to it.
        policy: Of its topic.
        fullness: Of its topic, as far as known; only told in `because`, never decided by.
        now: Seconds since 1970.
        draw: A number in [0, 1): the only chance in it.

    Returns:
        Places in order of preference, for the engine to take the first that has room. None for a
        `Started` that is to run, and only then.
    """
    tally = delivery.tally
    if tally.refusals:
        tally = msgspec.structs.replace(tally, refusals=0)
    given = _Given(
        delivery, policy, fullness, now, draw, tally, in_lane=isinstance(outcome, CameDue)
    )
    match outcome:
        case Succeeded():
            return Decision(_DONE, {})
        case CommonFull():
            return _common_full(given)
        case Routed():
            return _routed(given)
        case Started():
            return _started(given)
        case Failed():
            return _failed(given, outcome)
        case Postponed():
            return _postponed(given, outcome)
        case CameDue():
            return _came_due(given)
        case ReadyAgain():
            return _ready_again(given)
        case NoRoute():
            dead = Dead(Row.UNROUTABLE, tally, Reason.UNROUTABLE)
            return _stored(given, dead, {"filter_errors": outcome.filter_errors})
        case _:
            assert_never(outcome)


def _common_full(given: _Given) -> Decision:
    full = given.fullness
    overflows = given.tally.overflows + 1
    tally = msgspec.structs.replace(given.tally, overflows=overflows)
    numbers = {
        "queued": full.queued,
        "running": full.running,
        "capacity": full.capacity,
        "overflows": overflows,
    }
    # Due at once: it waits for nothing but room, and the earliest due comes back first.
    return _stored(given, Parked(Row.COMMON_FULL, tally, given.now, Reason.COMMON_FULL), numbers)


def _routed(given: _Given) -> Decision:
    if _is_expired(given):
        return _expired(given)
    deliver_at = given.delivery.event.deliver_at
    if deliver_at is not None and deliver_at > given.now:
        return _scheduled(given, deliver_at)
    queued = ROUTED if given.tally == CLEAN else Queued(Row.ROUTED, given.tally)
    return _preferring(queued, _topic_full(given, Row.TOPIC_FULL))


def _started(given: _Given) -> Decision:
    if _is_expired(given):
        return _expired(given)
    crashes = given.tally.crashes
    if crashes >= MAX_CRASHES:
        poison = Dead(Row.POISON, given.tally, Reason.POISON)
        return _stored(given, poison, {"crashes": crashes, "max_crashes": MAX_CRASHES})
    return Decision((), {})


def _failed(given: _Given, failed: Failed) -> Decision:
    attempts = given.tally.attempts + 1
    tally = msgspec.structs.replace(given.tally, attempts=attempts)
    numbers: _Numbers = {"cause": failed.cause, "attempts": attempts}
    if failed.permanent:
        return _stored(given, Dead(Row.PERMANENT, tally, Reason.PERMANENT), numbers)
    numbers["max_attempts"] = given.policy.retry.max_attempts
    if failed.retry_at is not None:
        return _again_at(given, tally, failed.retry_at, numbers)
    if attempts >= given.policy.retry.max_attempts:
        return _exhausted(given, tally, given.now, numbers)
    wait_s = _wait_s(given, attempts)
    lane = Retrying(Row.RETRY, tally, given.now + wait_s, Reason.HANDLER_ERROR)
    return _to_lane(given, lane, numbers | _backoff_numbers(given) | {"wait_s": wait_s})


def _postponed(given: _Given, postponed: Postponed) -> Decision:
    before = given.tally
    most = given.policy.retry.max_postponed
    numbers: _Numbers = {}
    if not postponed.counted:
        numbers = {"postponed": before.postponed, "max_postponed": most}
        if before.postponed < most:
            tally = msgspec.structs.replace(before, postponed=before.postponed + 1)
            numbers["postponed"] = tally.postponed
            return _later(given, tally, postponed.until, numbers)
    tally = msgspec.structs.replace(before, attempts=before.attempts + 1)
    numbers |= {"attempts": tally.attempts, "max_attempts": given.policy.retry.max_attempts}
    return _again_at(given, tally, postponed.until, numbers)


def _again_at(given: _Given, tally: Tally, at: float, numbers: _Numbers) -> Decision:
    """Go on at the time that somebody named, unless the attempts are used up."""
    if tally.attempts < given.policy.retry.max_attempts:
        return _later(given, tally, at, numbers)
    at = min(at, LAST_MOMENT)
    return _exhausted(given, tally, at, numbers | {"retry_at": at})


def _later(given: _Given, tally: Tally, at: float, numbers: _Numbers) -> Decision:
    at = min(at, LAST_MOMENT)
    due_at = max(at, given.now)
    lane = Retrying(Row.RETRY_LATER, tally, due_at, Reason.RETRY_LATER)
    return _to_lane(given, lane, numbers | {"retry_at": at, "wait_s": due_at - given.now})


def _exhausted(given: _Given, tally: Tally, not_before: float, numbers: _Numbers) -> Decision:
    """Rest until the next round, or end. A time the target has named is kept to here as well."""
    recovery = given.policy.recovery
    numbers |= {"rounds": tally.rounds, "max_rounds": recovery.max_rounds}
    if tally.rounds >= recovery.max_rounds:
        dead = Dead(Row.ATTEMPTS_EXHAUSTED, tally, Reason.ATTEMPTS_EXHAUSTED)
        return _stored(given, dead, numbers)
    due_at = max(given.now + recovery.after_s, not_before)
    parked = Parked(Row.RETRIES_EXHAUSTED, tally, due_at, Reason.RETRIES_EXHAUSTED)
    return _stored(given, parked, numbers | {"after_s": recovery.after_s, "due_at": due_at})


def _came_due(given: _Given) -> Decision:
    if given.delivery.wish is not None:
        return _stored(given, given.delivery.wish, {})
    if _is_expired(given):
        return _expired(given)
    return _preferring(Queued(Row.DUE, given.tally), _topic_full(given, Row.STILL_FULL))


def _topic_full(given: _Given, row: Row) -> Decision:
    """Say where a delivery waits that finds no room: overflows 1 to `max_overflows` in the lane."""
    overflows, most = given.tally.overflows + 1, given.policy.retry.max_overflows
    wait_s = _wait_s(given, overflows)
    due_at = given.now + wait_s
    full = given.fullness
    numbers = {
        "queued": full.queued,
        "running": full.running,
        "capacity": full.capacity,
        "overflows": overflows,
        "max_overflows": most,
        **_backoff_numbers(given),
        "wait_s": wait_s,
    }
    if overflows > most:
        reason = Reason.OVERFLOW_EXHAUSTED
        parked = Parked(Row.OVERFLOW_EXHAUSTED, given.tally, due_at, reason)
        return _stored(given, parked, numbers | {"due_at": due_at})
    tally = msgspec.structs.replace(given.tally, overflows=overflows)
    return _to_lane(given, Retrying(row, tally, due_at, Reason.TOPIC_FULL), numbers)


def _scheduled(given: _Given, due_at: float) -> Decision:
    most_s = given.policy.retry.max_in_queue_s
    wait_s = due_at - given.now
    numbers = {"due_at": due_at, "wait_s": wait_s, "max_in_queue_s": most_s}
    parked = Parked(Row.SCHEDULED, given.tally, due_at, Reason.SCHEDULED)
    if wait_s > most_s:
        return _stored(given, parked, numbers)
    lane = Retrying(Row.SCHEDULED, given.tally, due_at, Reason.SCHEDULED)
    return _lane_or(given, lane, parked, numbers)


def _ready_again(given: _Given) -> Decision:
    if _is_expired(given):
        dead, because = _expiry(given)
        return Decision((dead,), because)  # it is in storage, which can't refuse what it has
    tally, reason = given.tally, given.delivery.reason
    row = Row.RECOVERED_DUE if reason is None else _RECOVERED.get(reason, Row.RECOVERED_DUE)
    numbers: _Numbers = {"queued": given.fullness.queued, "running": given.fullness.running}
    numbers |= {
        "capacity": given.fullness.capacity,
        "low_water": given.policy.recovery.low_water,
        "due_at": given.delivery.due_at,
    }
    if row is Row.RECOVERED_ROUND:
        rounds = tally.rounds + 1
        tally = msgspec.structs.replace(tally, attempts=0, rounds=rounds, overflows=0)
        numbers |= {"rounds": rounds, "max_rounds": given.policy.recovery.max_rounds}
    elif row is Row.RECOVERED_OVERFLOW:
        tally = msgspec.structs.replace(tally, overflows=0)
    return Decision((Queued(row, tally),), numbers)


def _to_lane(given: _Given, lane: Retrying, numbers: _Numbers) -> Decision:
    """Wait in the lane, or in storage where that is too long or the lane too full."""
    tally, due_at, most_s = lane.tally, lane.due_at, given.policy.retry.max_in_queue_s
    numbers |= {"due_at": due_at, "max_in_queue_s": most_s}
    if due_at - given.now > most_s:
        parked = Parked(Row.LONG_DELAY, tally, due_at, Reason.LONG_DELAY)
        return _stored(given, parked, numbers)
    return _lane_or(given, lane, Parked(Row.RETRY_FULL, tally, due_at, Reason.RETRY_FULL), numbers)


def _lane_or(given: _Given, lane: Retrying, parked: Parked, numbers: _Numbers) -> Decision:
    if given.delivery.topic == COMMON:
        return _stored(given, parked, numbers)
    full = given.fullness
    numbers |= {"retrying": full.retrying, "lane_capacity": full.lane_capacity}
    return _preferring(lane, _stored(given, parked, numbers))


def _stored(given: _Given, wish: Parked | Dead, numbers: _Numbers) -> Decision:
    """Go to secondary storage, or wait in the lane for it to answer again."""
    if given.delivery.topic == COMMON:
        return Decision((wish,), numbers)
    refusals = given.delivery.tally.refusals + 1
    wait_s = _wait_s(given, refusals)
    tally = msgspec.structs.replace(wish.tally, refusals=refusals)
    due_at = given.now + wait_s
    lane = Retrying(Row.STORAGE_REFUSED, tally, due_at, Reason.STORAGE_DOWN, wish)
    refused = {"refusals": refusals - 1, "refused_wait_s": wait_s}
    return Decision((wish, lane), numbers | _backoff_numbers(given) | refused)


def _preferring(place: Place, otherwise: Decision) -> Decision:
    return Decision((place, *otherwise.tries), otherwise.because)


def _is_expired(given: _Given) -> bool:
    expires_at = given.delivery.expires_at
    return expires_at is not None and expires_at <= given.now


def _expired(given: _Given) -> Decision:
    return _stored(given, *_expiry(given))


def _expiry(given: _Given) -> tuple[Dead, _Numbers]:
    dead = Dead(Row.EXPIRED, given.tally, Reason.EXPIRED)
    return dead, {"expires_at": given.delivery.expires_at, "decided_at": given.now}


def _wait_s(given: _Given, n: int) -> float:
    return delay_s(given.policy.retry.backoff, n, given.draw, _previous_wait_s(given))


def _previous_wait_s(given: _Given) -> float | None:
    """Return how long it last waited, for decorrelated jitter, which grows from that.

    Nothing keeps it, so it is read from the times: between the last failure and its coming into
    this queue; for what is in the lane, since it came there.
    """
    delivery = given.delivery
    if given.in_lane:
        return given.now - delivery.entered_at
    if delivery.history:
        return delivery.entered_at - delivery.history[-1].ended_at
    return None


def _backoff_numbers(given: _Given) -> _Numbers:
    backoff = given.policy.retry.backoff
    return {
        "base_s": backoff.base_s,
        "factor": backoff.factor,
        "max_s": backoff.max_s,
        "jitter": backoff.jitter,
        "draw": given.draw,
    }
