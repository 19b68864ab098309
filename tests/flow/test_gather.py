"""Small requests share a call, and are answered each for itself."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from eventflow.engine.protocol import Receipt
from eventflow.errors import EngineUnavailable, QueueFull
from eventflow.event import Event
from eventflow.flow.gather import Gather
from eventflow.testing.loop import run

if TYPE_CHECKING:
    from collections.abc import Sequence


def event(id: str) -> Event:
    return Event(type="t", source="/s", id=id)


class Store:
    """Takes a second, and holds `room` events at most."""

    def __init__(self, room: int = 1_000) -> None:
        self.room = room
        self.calls: list[list[str]] = []
        self.fails: Exception | None = None

    async def __call__(self, events: Sequence[Event]) -> Sequence[Receipt]:
        self.calls.append([event.id for event in events])
        if self.fails is not None:
            raise self.fails
        if len(events) > self.room:
            raise QueueFull("common", 1, 1.0)
        self.room -= len(events)
        await asyncio.sleep(1)
        return [Receipt(f"ref of {event.id}") for event in events]


def test_what_comes_while_a_call_is_under_way_goes_next_together() -> None:
    store = Store()

    async def story() -> None:
        gather = Gather(store)
        first = asyncio.create_task(gather.accept([event("0")]))
        await asyncio.sleep(0.5)
        later = [gather.accept([event(f"{n}"), event(f"{n}'")]) for n in (1, 2, 3)]
        answers = [await first, *await asyncio.gather(*later)]
        assert [[one.ref for one in some] for some in answers] == [
            ["ref of 0"],
            *([f"ref of {n}", f"ref of {n}'"] for n in (1, 2, 3)),
        ]
        assert asyncio.get_running_loop().time() == pytest.approx(2.0, abs=0.1)

    run(story())
    assert store.calls == [["0"], ["1", "1'", "2", "2'", "3", "3'"]]


def test_where_not_all_have_room_each_is_tried_alone() -> None:
    async def story() -> list[bool]:
        gather = Gather(Store(room=2))
        calls = (gather.accept([event(str(n))]) for n in range(4))
        answers = await asyncio.gather(*calls, return_exceptions=True)
        return [isinstance(answer, QueueFull) for answer in answers]

    assert run(story()) == [False, False, True, True]


def test_a_request_is_never_accepted_in_part() -> None:
    store = Store(room=2)

    async def story() -> list[bool]:
        gather = Gather(store)
        calls = [gather.accept([event("a"), event("b"), event("c")]), gather.accept([event("d")])]
        answers = await asyncio.gather(*calls, return_exceptions=True)
        return [isinstance(answer, QueueFull) for answer in answers]

    assert run(story()) == [True, False]
    assert store.room == 1


def test_all_are_told_of_a_failure_and_it_goes_on_afterwards() -> None:
    store = Store()

    async def story() -> None:
        gather = Gather(store)
        store.fails = EngineUnavailable("the disk is full")
        calls = (gather.accept([event(str(n))]) for n in range(3))
        answers = await asyncio.gather(*calls, return_exceptions=True)
        assert [str(answer) for answer in answers] == [str(store.fails)] * 3
        store.fails = None
        assert await gather.accept([event("again")]) == [Receipt("ref of again")]

    run(story())


def test_who_gives_up_waiting_takes_nothing_from_the_others() -> None:
    async def story() -> None:
        gather = Gather(Store())
        calls = [asyncio.create_task(gather.accept([event(str(n))])) for n in range(3)]
        await asyncio.sleep(0.5)
        calls[1].cancel()
        answers = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(answer) for answer in answers] == [list, asyncio.CancelledError, list]

    run(story())


def test_answers_wait_for_the_next_to_be_on_their_way() -> None:
    """While answers are written the journal writes, too."""
    store = Store()
    seen: list[tuple[str, int]] = []

    async def story() -> None:
        gather = Gather(store)
        gather.offer([event("0")], lambda _: seen.append(("0", len(store.calls))))
        await asyncio.sleep(0.5)
        gather.offer([event("1")], lambda _: seen.append(("1", len(store.calls))))
        await asyncio.sleep(3)

    run(story())
    assert seen == [("0", 2), ("1", 2)]  # the second one is told at once


def test_who_can_not_be_told_takes_nothing_from_the_others() -> None:
    told: list[object] = []
    faults: list[dict[str, object]] = []

    def breaks(_: object) -> None:
        raise RuntimeError("gone")

    async def story() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, fault: faults.append(fault))
        gather = Gather(Store())
        gather.offer([event("0")], breaks)
        gather.offer([event("1")], told.append)
        await asyncio.sleep(3)
        assert await gather.accept([event("2")]) == [Receipt("ref of 2")]

    run(story())
    assert told == [[Receipt("ref of 1")]]
    assert [str(fault["exception"]) for fault in faults] == ["gone"]


def test_who_is_answered_together_does_not_stay_together_for_ever() -> None:
    """One sender alone, and thirty together: each group's cost is the same, so they even out."""
    store = Store(room=10_000)

    async def sender(gather: Gather, number: int) -> None:
        for turn in range(20):
            await gather.accept([event(f"{number}-{turn}")])

    async def story() -> None:
        gather = Gather(store)
        first = asyncio.create_task(sender(gather, 0))
        await asyncio.sleep(0.5)
        await asyncio.gather(first, *(sender(gather, number) for number in range(1, 31)))

    run(story())
    sizes = [len(call) for call in store.calls]
    assert sizes[0] == 1
    assert {*sizes[4:-4]} <= {15, 16}
