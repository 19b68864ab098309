"""What the engine's state machine knows and draws from: its model, and the words of its rules.

The model is a dictionary: where each delivery is, at which hop, and with how many crashes.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import msgspec
from hypothesis import HealthCheck
from hypothesis import strategies as st

from eventflow.delivery import (
    COMMON,
    DELIVERED,
    RELEASED,
    Dead,
    Delivery,
    Parked,
    Place,
    Queued,
    Reason,
    Retrying,
    Row,
)
from eventflow.engine.protocol import Plan, TopicPlan
from eventflow.storage.protocol import Actor
from eventflow.testing.engine_bench import LEASE_S

if TYPE_CHECKING:
    from collections.abc import Iterable

    from eventflow.engine.protocol import Lease, Run

PLAN = Plan(
    topics={COMMON: TopicPlan(20), "a": TopicPlan(10, 5), "b": TopicPlan(4, 2)},
    dedup_window_s=1_000_000,
    lease_s=LEASE_S,
    storage_max_bytes=6_000,
)
TOPICS = ("a", "b")
SOMEBODY = Actor("somebody")

SEEN: Counter[str] = Counter()
"""What the stories came by: a story that goes nowhere proves nothing."""

PLACES = st.sampled_from(["queued", "retrying", "parked", "dead"])
WAYS = st.lists(PLACES, min_size=1, max_size=4, unique=True)
WAYS_OF_TOPICS = st.dictionaries(st.sampled_from(TOPICS), WAYS, min_size=1)
ENDS = st.one_of(st.sampled_from([["delivered"], ["released"]]), WAYS)
NUMBERS = st.lists(st.integers(0, 60), min_size=1, max_size=8)
"""Of events."""
QUIET = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large]

ALWAYS = ("accepted", "full", "routed", "owed", "lost", "crashed", "crashed by time", "placed")
EXPECTED = (
    *ALWAYS,
    *("duplicate", "late", "refused", "already", "already, stale", "replayed", "discarded"),
    *(f"{place}, choice 0" for place in ("delivered", "released", "queued", "parked", "dead")),
    *(f"retrying, choice {n}" for n in (0, 1)),
    *(f"routed to {place}" for place in ("queued", "retrying", "parked", "dead")),
)
"""What stories of any engine come by, where they are told long enough."""


class Known:
    """What the model knows of one delivery."""

    def __init__(self, delivery: Delivery, state: str) -> None:
        self.topic = delivery.topic
        self.ref = delivery.ref
        self.rank = delivery.event.rank
        self.hop = delivery.hop
        self.state = state
        """"queued" (or running), "retrying", "parked", "dead"."""
        self.crashes = delivery.tally.crashes
        self.started = False
        self.entered = 0
        """How often it has come into a queue or lane."""
        self.stays = False
        """It was settled into the queue or lane it was in: engines may leave it where it stood."""

    def move(self, state: str) -> None:
        """Be in another place, or in the same anew."""
        self.stays = state == self.state
        self.state = state
        self.hop += 1
        self.entered += 1
        self.started = False


class Held:
    """A lease, and until when it decides."""

    def __init__(self, lease: Lease, until: float) -> None:
        self.lease = lease
        self.until = until

    @property
    def id(self) -> str:
        return self.lease.delivery.id


class HeldRun:
    """A leased run, and which of it are still out."""

    def __init__(self, run: Run, ids: list[str], until: float) -> None:
        self.run = run
        self.ids = ids
        self.until = until
        self.out = set(range(len(ids)))


def place(name: str, delivery: Delivery, now: float) -> Place:
    """Return a place of this name for a delivery."""
    tally = msgspec.structs.replace(delivery.tally, attempts=1)
    due_at = now + 20
    places: dict[str, Place] = {
        "queued": Queued(Row.DUE, tally),
        "retrying": Retrying(Row.RETRY, tally, due_at, Reason.HANDLER_ERROR),
        "parked": Parked(Row.RETRY_FULL, tally, due_at, Reason.RETRY_FULL),
        "dead": Dead(Row.PERMANENT, tally, Reason.PERMANENT),
        "delivered": DELIVERED,
        "released": RELEASED,
    }
    return places[name]


def tag_of(place: Place) -> str:
    """Return what a place is called."""
    return str(place.__struct_config__.tag)


def missing(names: Iterable[str]) -> set[str]:
    """Return which of these outcomes no story came by."""
    return {name for name in names if not SEEN[name]}
