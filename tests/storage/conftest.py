"""Deliveries in every shape, and a shelf to put them on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import apsw
import pytest

from eventflow.delivery import Attempt, Delivery, Reason
from eventflow.event import Event
from eventflow.storage import schema
from eventflow.storage.rows import kept_of
from eventflow.storage.shelf import Shelf

if TYPE_CHECKING:
    from collections.abc import Callable

    from eventflow.storage.protocol import Kept


def kept(ref: str = "r1", **facts: Any) -> Kept:
    event = Event(
        type=facts.get("type", "user.registered"),
        source=facts.get("source", "/shop"),
        id=facts.get("id", f"id-{ref}"),
        subject=facts.get("subject"),
        data=facts.get("data", {"id": 7}),
        **facts.get("extensions", {}),
    )
    state = facts.get("state", "parked")
    attempts = (
        (
            Attempt(
                1.0,
                2.5,
                "failed",
                facts.get("cause", "http 503"),
                facts.get("error", "the target said 503"),
                facts.get("fingerprint", "f1"),
            ),
        )
        if facts.get("failed", True)
        else ()
    )
    since = facts.get("since", 1_000.0)
    delivery = Delivery(
        event,
        ref,
        facts.get("topic", "email"),
        900.0,
        hop=facts.get("hop", 3),
        due_at=facts.get("due_at", 2_000.0) if state == "parked" else None,
        reason=facts.get("reason", Reason.RETRIES_EXHAUSTED),
        history=attempts,
        expiry_lifted=facts.get("expiry_lifted", False),
    )
    return kept_of(delivery, state, since)


@pytest.fixture(scope="session")
def make() -> Callable[..., Kept]:
    """A function `make(ref, **facts)`: a kept delivery, ordinary where nothing else is said."""
    return kept


@pytest.fixture
def connection() -> apsw.Connection:
    connection = apsw.Connection(":memory:")
    schema.create(connection)
    return connection


@pytest.fixture
def shelf(connection: apsw.Connection) -> Shelf:
    return Shelf(connection)
