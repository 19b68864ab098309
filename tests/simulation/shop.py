"""A small shop for the simulation: three topics, and events and handlers of every kind."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from eventflow import Batch, Event, EventFlow, Permanent, RetryLater
from eventflow.clock import rfc3339

if TYPE_CHECKING:
    from eventflow.app.eventflow import Surroundings

TYPES = ("order.placed", "order.paid", "user.new", "visit", "visit", "visit", "visit", "visit")


def shop(around: Surroundings) -> EventFlow:
    """Return a node whose queues are small enough to overflow."""
    flow = EventFlow(engine="sqlite:shop.db", surroundings=around)
    flow.override({"common": {"capacity": 120}, "storage": {"max_size": "4MiB"}})

    @flow.topic(
        "api",
        match=["order.*", "user.*", "visit"],
        capacity=60,
        concurrency=8,
        timeout="10s",
        retry={"capacity": 100, "base": "1s", "max_attempts": 3, "max_overflows": 3},
        recovery={"after": "5m"},
    )
    async def api(event: Event) -> None:
        if number(event) % 97 == 0:
            raise Permanent("the order is cancelled")

    @flow.topic(
        "db",
        match="order.*",
        capacity=30,
        concurrency=2,
        timeout="10s",
        retry={"capacity": 20, "base": "1s", "max": "60s"},
    )
    async def db(event: Event) -> None:
        if number(event) % 31 == 0 and random.random() < 0.5:  # no secret
            raise RetryLater(20, count=number(event) % 2 == 0)
        if number(event) % 89 == 0 and random.random() < 0.5:  # no secret
            raise RetryLater(700, count=False)

    @flow.topic(
        "email",
        match="user.*",
        capacity=20,
        concurrency=4,
        retry={"capacity": 10, "max_overflows": 1},
        batch=Batch(max=5, linger="50ms"),
    )
    async def email(events: list[Event]) -> list[Exception | None]:
        return [Permanent("no address") if number(one) % 101 == 0 else None for one in events]

    return flow


def order(chance: random.Random, nth: int, now_s: float) -> Event:
    """Return the n-th event: some urgent, some for later, some of no use soon, some of no use."""
    more: dict[str, str] = {}
    if chance.random() < 0.3:
        more["priority"] = chance.choice(("critical", "high", "low"))
    kind = chance.random()
    if kind < 0.02:
        more["expirytime"] = rfc3339(now_s + chance.uniform(1, 120))
    elif kind < 0.04:
        more["deliverat"] = rfc3339(now_s + chance.uniform(1, 1_200))
    name = "stray" if chance.random() < 0.005 else chance.choice(TYPES)
    return Event(type=name, source="/shop", id=f"{nth}", data={"nth": nth}, **more)


def number(event: Event) -> int:
    """Return which event it is."""
    return int(event.id)
