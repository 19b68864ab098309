"""A user's module, as a type checker sees it. Never run: `make check` and test_typing.py read it.

A line with `type: ignore` is a mistake that has to be found: an ignore that is not needed is an
error itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, assert_type

from eventflow import (
    AsyncClient,
    Batch,
    Client,
    Delivery,
    Event,
    EventFlow,
    InvalidEvent,
    Permanent,
    Priority,
    RetryLater,
)
from eventflow.engine.protocol import Census, Receipt
from eventflow.testing import FailsTimes, on_virtual_time, settle, trial

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

flow = EventFlow("eventflow.toml", engine="sqlite:shop.db")


@dataclass
class User:
    """Somebody who has registered."""

    name: str
    age: int


@flow.topic("email", match="user.*", capacity=10_000, rate="50/s", timeout="10s")
async def send_welcome(event: Event, delivery: Delivery) -> None:
    user = event.decode(User)
    assert_type(user, User)
    if user.age < 0:
        raise Permanent(f"{user.nam} is not born yet")  # type: ignore[attr-defined]  # a typo in user code
    if delivery.attempt > 1:
        raise RetryLater(60, count=False, why="again")
    raise RetryLater("60")  # type: ignore[arg-type]  # seconds are a number


@flow.topic("crm", match=["user.*", "order.*"], retry={"max_attempts": 3})
def tell_crm(event: Event) -> None:
    assert_type(event.priority, Priority)
    assert_type(event.body, bytes | None)


@flow.topic("rows", match="order.*", batch=Batch(max=500, linger="20ms"))
def store(events: list[Event], deliveries: list[Delivery]) -> list[Exception | None]:
    outcomes: list[Exception | None] = [None for _ in events]
    outcomes[0] = Permanent("no") if deliveries[0].hop else None
    return outcomes


@flow.topic("search", match="order.*", batch=Batch(max="500"))  # type: ignore[arg-type]  # a number
async def index(events: list[Event]) -> None:
    assert_type(events[0].key, str)


flow.topic("audit", match=7)  # type: ignore[arg-type]  # a pattern is text


async def decorated_stays_what_it_was(event: Event, delivery: Delivery) -> None:
    assert_type(await send_welcome(event, delivery), None)
    assert_type(store([event], [delivery]), list[Exception | None])
    await send_welcome(event)  # type: ignore[call-arg]  # it takes the delivery, too


async def within_the_process() -> None:
    event = Event(type="user.registered", source="/shop", data={"id": 7}, partitionkey="7")
    async with flow:
        assert_type(await flow.publish(event, wait_s=5), Receipt)
        await flow.publish_many([event])
        await flow.publish_many(event)  # type: ignore[arg-type]  # one is no list
        await flow.drain()


def from_another_process(events: Iterator[Event]) -> list[str | None]:
    with Client("http://127.0.0.1:8080", token="…", wait_s=5.0) as client:
        assert_type(client.publish(next(events)), Receipt)
        receipts = client.publish_many(events)
        assert_type(client.stats()["topics"], object)  # type: ignore[assert-type]  # it is Any: JSON
        client.publsh(next(events))  # type: ignore[attr-defined]  # a typo is found
    return [receipt.ref for receipt in receipts if not receipt.duplicate]


async def from_another_loop(events: AsyncIterator[Event]) -> int:
    async with AsyncClient() as client:
        client.publish_stream(42)  # type: ignore[arg-type]  # no events
        return len([receipt async for receipt in client.publish_stream(events) if receipt.ref])


def wrong_events() -> None:
    try:
        Event(source="/shop")  # type: ignore[call-arg]  # an event has a type
        Event("user.registered", "/shop")  # type: ignore[call-arg]  # by name only
    except InvalidEvent as error:
        assert_type(error.index, int | None)


@on_virtual_time
async def test_of_a_user(tmp_path: Path) -> None:
    async with trial(flow, handlers={"email": FailsTimes(2)}) as node:
        assert_type(await settle(node), Census)


@on_virtual_time(seed=7)
async def test_of_a_user_with_a_seed() -> int:
    return 1


def an_async_test_is_called_as_any_other(tmp_path: Path) -> None:
    assert_type(test_of_a_user(tmp_path), None)
    assert_type(test_of_a_user_with_a_seed(), int)
    test_of_a_user(1)  # type: ignore[arg-type]  # its parameters stay
