"""An event's trouble as a story: a sentence for each row of its trail, with the numbers used.

The trail says it for programs, in the words of DESIGN's table; this is the same for people.
Nothing is added: a number that is not in the row is not in the sentence. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

Numbers = Mapping[str, Any]


class Step(msgspec.Struct, frozen=True, gc=False):
    """One step of the story."""

    at: str
    """RFC 3339, as the row has it."""
    topic: str
    text: str
    because: Numbers
    """Every number the decision used; durations in microseconds, as the row has them."""


def story(rows: list[Mapping[str, Any]]) -> list[Step]:
    """Return the steps of audit rows, decoded, in their order."""
    return [
        Step(str(row.get("at", "")), str(row.get("topic", "")), sentence(row), _because(row))
        for row in rows
    ]


def sentence(row: Mapping[str, Any]) -> str:
    """Return what a row tells, as a sentence without its time."""
    what = str(row.get("what", "")).removeprefix("delivery.")
    tell = TOLD.get(what)
    if tell is None:
        text = f"{what}: from {row.get('from', '?')} to {row.get('to', '?')}"
    else:
        text = tell(row)
    return text[0].upper() + text[1:] + _goes_to(row, what)


def _because(row: Mapping[str, Any]) -> Numbers:
    found = row.get("because")
    return found if isinstance(found, Mapping) else {}


def _goes_to(row: Mapping[str, Any], what: str) -> str:
    """Return the end of a sentence: where the delivery went and until when."""
    if what in _ENDED:
        return ""
    due = row.get("due_at")
    match row.get("to"):
        case "retrying":
            text = "; it waits in the retry queue"
        case "parked":
            text = "; parked in storage"
        case "dead":
            return "; dead"
        case "queued":
            return "; back in its queue"
        case _:
            return ""
    waits = _because(row).get("wait_us")
    if due is None:
        return text
    return f"{text} until {due}{f' ({_span(waits)})' if waits is not None else ''}"


def _span(micros: Any) -> str:
    """Return microseconds as people say them."""
    try:
        seconds = float(micros) / 1e6
    except (TypeError, ValueError):
        return str(micros)
    for size, unit in ((86_400.0, "d"), (3_600.0, "h"), (60.0, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.3g} {unit}"
    if seconds >= 1:
        return f"{seconds:.3g} s"
    return f"{seconds * 1e3:.3g} ms" if seconds >= 0.001 else "less than 1 ms"


def _failure(row: Mapping[str, Any]) -> str:
    """Return what an attempt failed with."""
    attempt = row.get("attempt")
    if not isinstance(attempt, Mapping):
        return str(_because(row).get("cause", ""))
    cause, error = str(attempt.get("cause", "")), str(attempt.get("error", ""))
    outcome = attempt.get("outcome")
    said = cause if not error or error == cause else f"{cause}: {error}"
    return f"timeout ({said})" if outcome == "timeout" and "imeout" not in said else said


def _of(numbers: Numbers, name: str, most: str) -> str:
    return f"{numbers.get(name, '?')} of {numbers.get(most, '?')}"


def _attempt(row: Mapping[str, Any]) -> str:
    numbers = _because(row)
    count = numbers.get("attempts", "?")
    most = numbers.get("max_attempts")
    return f"attempt {count}" + (f" of {most}" if most is not None else "")


def _retry(row: Mapping[str, Any]) -> str:
    return f"{_attempt(row)} failed: {_failure(row)}"


def _retry_later(row: Mapping[str, Any]) -> str:
    postponed = _because(row).get("postponed")
    asked = f"it asked to be tried again later: {_failure(row)}"
    if postponed is None:
        return f"{_attempt(row)}: {asked}"
    return (
        f"{asked} (for the {postponed}. time of {_because(row).get('max_postponed')}, not counted)"
    )


def _rounds(row: Mapping[str, Any]) -> str:
    return f"{_retry(row)}; round {_of(_because(row), 'rounds', 'max_rounds')} is used up"


def _door(row: Mapping[str, Any]) -> str:
    numbers = _because(row)
    return (
        f"the common queue was full when it came ({numbers.get('queued')} queued, "
        f"{numbers.get('running')} running of {numbers.get('capacity')})"
    )


def _full(row: Mapping[str, Any]) -> str:
    numbers = _because(row)
    return (
        f"topic {row.get('topic')!r} was full ({numbers.get('queued')} queued, "
        f"{numbers.get('running')} running of {numbers.get('capacity')}): "
        f"overflow {_of(numbers, 'overflows', 'max_overflows')}"
    )


def _lane_full(row: Mapping[str, Any]) -> str:
    numbers = _because(row)
    return (
        f"the topic's lane of the retry queue was full "
        f"({_of(numbers, 'retrying', 'lane_capacity')})"
    )


def _long(row: Mapping[str, Any]) -> str:
    most = _span(_because(row).get("max_in_queue_us"))
    return f"it has to wait longer than the retry queue keeps anything ({most})"


def _back(row: Mapping[str, Any]) -> str:
    numbers = _because(row)
    return (
        f"recovered from storage: its time had come, and the topic had room "
        f"({numbers.get('queued')} queued, {numbers.get('running')} running of "
        f"{numbers.get('capacity')}, low water {numbers.get('low_water')})"
    )


def _back_round(row: Mapping[str, Any]) -> str:
    return f"{_back(row)}; round {_of(_because(row), 'rounds', 'max_rounds')} begins"


def _died(row: Mapping[str, Any]) -> str:
    tally = row.get("tally")
    crashes = tally.get("crashes", "?") if isinstance(tally, Mapping) else "?"
    return f"its node died while it ran: crash {crashes}"


def _refused(row: Mapping[str, Any]) -> str:
    return f"storage would not take it (refusal {_because(row).get('refusals', '?')})"


def _by(verb: str) -> Callable[[Mapping[str, Any]], str]:
    def tell(row: Mapping[str, Any]) -> str:
        why = row.get("why")
        return f"{verb} by {row.get('by')}" + (f": {why}" if why else "")

    return tell


_ENDED = {"node_died", "discarded", "replaced"}
TOLD: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "common_full": _door,
    "unroutable": lambda _: "no route takes it",
    "topic_full": _full,
    "still_full": _full,
    "overflow_exhausted": _full,
    "retry_full": _lane_full,
    "long_delay": _long,
    "scheduled": lambda _: "it is to be delivered later (`deliverat`)",
    "retry": _retry,
    "retry_later": _retry_later,
    "permanent": lambda row: (
        f"attempt {_because(row).get('attempts')} failed for good: {_failure(row)}"
    ),
    "retries_exhausted": _rounds,
    "attempts_exhausted": _rounds,
    "node_died": _died,
    "poison": lambda row: (
        f"its node died {_of(_because(row), 'crashes', 'max_crashes')} times while it ran"
    ),
    "recovered_common": _back,
    "recovered_round": _back_round,
    "recovered_overflow": _back,
    "recovered_due": _back,
    "expired": lambda row: f"its time is over: it expired at {_because(row).get('expires_at')}",
    "storage_refused": _refused,
    "replayed": _by("replayed"),
    "replaced": _by("replaced"),
    "discarded": _by("discarded"),
}
