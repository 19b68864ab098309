"""What each row of DESIGN's life of a delivery may do to its counts: said once more, on purpose.

`policy.decide` decides; this judges. It shares no code with it, so that a fault in one of them
shows: what a move does to attempts, rounds, overflows and the rest is held against this table.

    row                                     attempts  rounds  overflows  others
    routed, due, released                   same      same    same
    common_full                             same      same    +1
    topic_full, still_full                  same      same    +1         at most `max_overflows`
    overflow_exhausted                      same      same    same       `max_overflows` used up
    retry_full, long_delay, storage_refused as the row it stands in for
    scheduled                               same      same    same
    retry                                   +1        same    same       below `max_attempts`
    retry_later                             +1 or not same    same       else postponed +1
    permanent                               +1        same    same
    retries_exhausted                       = max     same    same       rounds left
    attempts_exhausted                      = max     = max   same
    poison                                  same      same    same       3 crashes
    expired                                 same      same    same       past its `expirytime`
    recovered_round                         0         +1      0
    recovered_overflow                      same      same    0
    recovered_due, recovered_common         same      same    same
    replayed                                0         1       0          replays +1
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from eventflow.delivery import Parked, Reason, Retrying, Row

if TYPE_CHECKING:
    from eventflow.delivery import Delivery, Place, Tally
    from eventflow.policy.values import TopicPolicy

_CRASHES = 3
_SAME = (0, 0, 0)
_OVERFLOW = (0, 0, 1)
_FAILED = (1, 0, 0)
_CHANGES: dict[Row, tuple[tuple[int, int, int], ...]] = {
    Row.COMMON_FULL: (_OVERFLOW,),
    Row.ROUTED: (_SAME,),
    Row.DUE: (_SAME,),
    Row.TOPIC_FULL: (_OVERFLOW,),
    Row.STILL_FULL: (_OVERFLOW,),
    Row.OVERFLOW_EXHAUSTED: (_SAME,),
    Row.RETRY_FULL: (_SAME, _OVERFLOW, _FAILED),
    Row.LONG_DELAY: (_SAME, _OVERFLOW, _FAILED),
    Row.SCHEDULED: (_SAME,),
    Row.RETRY: (_FAILED,),
    Row.RETRY_LATER: (_FAILED, _SAME),
    Row.PERMANENT: (_FAILED,),
    Row.RETRIES_EXHAUSTED: (_FAILED,),
    Row.ATTEMPTS_EXHAUSTED: (_FAILED,),
    Row.POISON: (_SAME,),
    Row.EXPIRED: (_SAME,),
    Row.UNROUTABLE: (_SAME,),
    Row.RECOVERED_DUE: (_SAME,),
    Row.RECOVERED_COMMON: (_SAME,),
}
"""By row: what may be added to attempts, rounds and overflows."""
_COMES_BACK = {
    Reason.COMMON_FULL: Row.RECOVERED_COMMON,
    Reason.RETRIES_EXHAUSTED: Row.RECOVERED_ROUND,
    Reason.RETRY_FULL: Row.RECOVERED_OVERFLOW,
    Reason.OVERFLOW_EXHAUSTED: Row.RECOVERED_OVERFLOW,
}
_RECOVERIES = {*_COMES_BACK.values(), Row.RECOVERED_DUE}


def broken_by(
    before: Delivery, place: Place, policy: TopicPolicy, now: float, slack_s: float = 0.0
) -> str | None:
    """Return what is wrong with a move, in a sentence; None: it is lawful.

    Args:
        before: The delivery as it was.
        place: Where it went, with its counts there.
        policy: Of its topic.
        now: Seconds since 1970.
        slack_s: How long ago the move may have been decided.
    """
    tally: Tally | None = getattr(place, "tally", None)
    if tally is None:
        return None  # delivered or released: nothing is counted any more
    wished = place
    if place.row is Row.STORAGE_REFUSED:
        if not (isinstance(place, Retrying) and place.wish is not None):
            return "it waits for storage and has nowhere to go"
        if tally.refusals != before.tally.refusals + 1:
            return f"refusals {before.tally.refusals} became {tally.refusals}"
        wished, tally = place.wish, place.wish.tally
    if before.wish is not None:  # what it does was counted when storage refused first
        return None if wished == before.wish else f"it wished {before.wish}, and went {wished}"
    return _counts(before.tally, tally, wished.row) or _reached(
        before, wished, tally, policy, now, slack_s
    )


def _counts(old: Tally, new: Tally, row: Row) -> str | None:
    numbers = (new.attempts - old.attempts, new.rounds - old.rounds, new.overflows - old.overflows)
    match row:
        case Row.RECOVERED_ROUND:
            lawful = (new.attempts, new.rounds, new.overflows) == (0, old.rounds + 1, 0)
        case Row.RECOVERED_OVERFLOW:
            lawful = numbers[:2] == (0, 0) and new.overflows == 0
        case Row.REPLAYED:
            lawful = (new.attempts, new.rounds, new.overflows) == (0, 1, 0)
            lawful = lawful and new.replays == old.replays + 1
        case _:
            lawful = numbers in _CHANGES[row]
    if new.crashes != old.crashes and row is not Row.REPLAYED:
        return f"{row.value}: crashes {old.crashes} became {new.crashes}"
    return None if lawful else f"{row.value}: {old} became {new}"


def _reached(  # what a limit is held against
    before: Delivery, place: Place, tally: Tally, policy: TopicPolicy, now: float, slack_s: float
) -> str | None:
    retry, rounds = policy.retry, policy.recovery.max_rounds
    if place.row in _RECOVERIES:
        wanted = _COMES_BACK.get(before.reason, Row.RECOVERED_DUE) if before.reason else place.row
        if place.row is not wanted:
            return f"{place.row.value}: it was parked for {before.reason}"
    full = tally.attempts == retry.max_attempts
    checks: dict[Row, bool] = {
        Row.TOPIC_FULL: tally.overflows <= retry.max_overflows,
        Row.STILL_FULL: tally.overflows <= retry.max_overflows,
        Row.OVERFLOW_EXHAUSTED: tally.overflows == retry.max_overflows,
        Row.RETRY: tally.attempts < retry.max_attempts,
        Row.RETRIES_EXHAUSTED: full and tally.rounds < rounds,
        Row.ATTEMPTS_EXHAUSTED: full and tally.rounds >= rounds,
        Row.POISON: tally.crashes >= _CRASHES,
        Row.EXPIRED: before.expires_at is not None and before.expires_at <= now,
    }
    if not checks.get(place.row, True):
        return f"{place.row.value}: not with {tally}, {retry.max_attempts=}, {rounds=}"
    if isinstance(place, Retrying) and place.due_at - now > retry.max_in_queue_s + slack_s:
        return f"{place.row.value}: due in {place.due_at - now:g} s is too late for a lane"
    if isinstance(place, Parked) and place.row is Row.LONG_DELAY:
        wait_s = place.due_at - now + slack_s
        return None if wait_s > retry.max_in_queue_s else f"parked for {wait_s:g} s only"
    return None
