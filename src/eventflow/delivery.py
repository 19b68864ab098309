"""The delivery: one event on its way to one topic, and the places it can be in.

    queued      in its topic queue, or in common
    retrying    in its topic's lane of the retry queue, until it is due
    parked      in secondary storage, will be tried again
    dead        in secondary storage, will not be tried again unless replayed
    delivered   its handler has returned: only counted

A `Place` is where a decision wants a delivery to go next, with the counts it will have there and
the row of DESIGN's table that says so. A decision names several: the engine takes the first that
has room. All of these are frozen values; moving a delivery makes a new one with a greater hop.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any

import msgspec

from eventflow.event import Event

COMMON = "common"
"""The reserved topic whose handler is the router."""


class Reason(StrEnum):
    """Why a delivery is where it is."""

    # waiting in the retry queue
    TOPIC_FULL = "topic_full"
    HANDLER_ERROR = "handler_error"
    RETRY_LATER = "retry_later"
    STORAGE_DOWN = "storage_down"
    SCHEDULED = "scheduled"
    # parked
    COMMON_FULL = "common_full"
    RETRY_FULL = "retry_full"
    OVERFLOW_EXHAUSTED = "overflow_exhausted"
    LONG_DELAY = "long_delay"
    RETRIES_EXHAUSTED = "retries_exhausted"
    REPLAYED = "replayed"
    # dead
    UNROUTABLE = "unroutable"
    PERMANENT = "permanent"
    ATTEMPTS_EXHAUSTED = "attempts_exhausted"
    POISON = "poison"
    EXPIRED = "expired"


class Row(StrEnum):
    """The rows of DESIGN section 3, the life of a delivery: which one a decision took."""

    COMMON_FULL = "common_full"
    RECOVERED_COMMON = "recovered_common"
    ROUTED = "routed"
    UNROUTABLE = "unroutable"
    TOPIC_FULL = "topic_full"
    DUE = "due"
    STILL_FULL = "still_full"
    OVERFLOW_EXHAUSTED = "overflow_exhausted"
    RETRY_FULL = "retry_full"
    LONG_DELAY = "long_delay"
    SCHEDULED = "scheduled"
    DELIVERED = "delivered"
    RETRY = "retry"
    RETRY_LATER = "retry_later"
    PERMANENT = "permanent"
    RETRIES_EXHAUSTED = "retries_exhausted"
    ATTEMPTS_EXHAUSTED = "attempts_exhausted"
    NODE_DIED = "node_died"
    POISON = "poison"
    RECOVERED_ROUND = "recovered_round"
    RECOVERED_OVERFLOW = "recovered_overflow"
    RECOVERED_DUE = "recovered_due"
    EXPIRED = "expired"
    STORAGE_REFUSED = "storage_refused"
    REPLAYED = "replayed"
    REPLACED = "replaced"
    DISCARDED = "discarded"
    RELEASED = "released"


class Tally(msgspec.Struct, frozen=True, array_like=True, gc=False, omit_defaults=True):
    """What is counted about a delivery. Numbers are DESIGN section 3's."""

    attempts: int = 0
    """Runs of this round that ended with an outcome of their own."""
    rounds: int = 1
    """Which round this is, counted from 1."""
    overflows: int = 0
    """Times it found its topic full, since it was last let in from storage."""
    crashes: int = 0
    """Times its node died while it ran."""
    replays: int = 0
    """Times a person made it due again."""
    postponed: int = 0
    """Times a handler asked for `RetryLater(count=False)`."""
    refusals: int = 0
    """Times in a row that storage would not take it."""


CLEAN = Tally()
"""The tally of a delivery that has met no trouble: shared, since nearly all have it."""


class Attempt(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One run of a handler that ended in something else than success."""

    started_at: float
    ended_at: float
    outcome: str
    """"failed", "timeout", "permanent", "retry_later" or "crashed"."""
    cause: str = ""
    """What kind of failure: an exception's name, or a status such as "http 503"."""
    error: str = ""
    """Its message, cut at 2,000 characters."""
    fingerprint: str = ""
    """The same for failures that look alike: what groups them."""
    round: int = 1


class Queued(msgspec.Struct, frozen=True, gc=False, tag_field="in", tag="queued"):
    """In the topic's queue."""

    row: Row
    tally: Tally = CLEAN


class Parked(msgspec.Struct, frozen=True, gc=False, tag_field="in", tag="parked"):
    """In secondary storage until `due_at`, then recovered where the topic has room."""

    row: Row
    tally: Tally
    due_at: float
    reason: Reason


class Dead(msgspec.Struct, frozen=True, gc=False, tag_field="in", tag="dead"):
    """In secondary storage until a person decides."""

    row: Row
    tally: Tally
    reason: Reason


class Retrying(msgspec.Struct, frozen=True, gc=False, tag_field="in", tag="retrying"):
    """In the topic's lane of the retry queue, until `due_at`."""

    row: Row
    tally: Tally
    due_at: float
    reason: Reason
    wish: Parked | Dead | None = None
    """With reason `storage_down`: where it goes as soon as storage takes it."""


class Delivered(msgspec.Struct, frozen=True, gc=False, tag_field="in", tag="delivered"):
    """Nowhere any more: the handler has returned."""

    row: Row = Row.DELIVERED


class Released(msgspec.Struct, frozen=True, gc=False, tag_field="in", tag="released"):
    """Back at the head of its queue as if it had never been leased: nothing is counted."""

    row: Row = Row.RELEASED


Place = Queued | Retrying | Parked | Dead | Delivered | Released

DELIVERED = Delivered()
RELEASED = Released()


class Delivery(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """One event on its way to one topic."""

    event: Event
    ref: str
    """EventFlow's own id of the accepted event (UUIDv7)."""
    topic: str
    accepted_at: float
    """Seconds since 1970: when the event was accepted."""
    hop: int = 0
    """Grows by one at each move and never goes back."""
    entered_at: float = 0.0
    """When it came to the place it is in."""
    tally: Tally = CLEAN
    due_at: float | None = None
    """When it may be tried again, while retrying or parked."""
    reason: Reason | None = None
    """Why it is where it is, once something kept it from being delivered at once."""
    history: tuple[Attempt, ...] = ()
    """Every attempt that did not succeed, oldest first."""
    traceback: str | None = None
    """Of the last failure that had one, cut at 8,000 characters."""
    expiry_lifted: bool = False
    """A replay clears the event's `expirytime`."""
    wish: Parked | Dead | None = None
    """Where it goes as soon as storage takes it: the place storage refused."""
    owed: tuple[str, ...] = ()
    """In common: the topics that had no place for it yet. Only those are routed next."""

    @property
    def id(self) -> str:
        """`<ref>.<topic>`."""
        return f"{self.ref}.{self.topic}"

    @property
    def attempt(self) -> int:
        """Which run of this round the next (or current) one is, counted from 1."""
        return self.tally.attempts + 1

    @property
    def expires_at(self) -> float | None:
        """When it is dead if it has not been delivered: the event's `expirytime`."""
        if self.event.extensions is None or self.expiry_lifted:
            return None
        return self.event.expires_at


def topic_of(id: str) -> str:
    """Return the topic of a delivery by its id: a ref has no dot."""
    return id.partition(".")[2]


class Decision(msgspec.Struct, frozen=True, gc=False):
    """Where a delivery goes next, and why."""

    tries: tuple[Place, ...]
    """In order of preference: the engine takes the first that has room."""
    because: dict[str, Any]
    """Every number the decision used: what `explain` and the audit row show."""
