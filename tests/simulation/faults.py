"""Faults to plant in EventFlow: each breaks one promise, as a slip in the code would."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from msgspec.structs import replace

from eventflow.delivery import Reason, Retrying, Row
from eventflow.engine import moves
from eventflow.engine.embedded import dedup, file, journal, placement, queues, riders
from eventflow.flow import worker
from eventflow.policy import decide, priority
from eventflow.storage import shelf

if TYPE_CHECKING:
    from contextlib import AbstractContextManager


def rounds_for_overflow() -> AbstractContextManager[Any]:
    """What only found no room comes back as if a round of attempts had failed."""
    return patch.dict(
        decide._RECOVERED,  # noqa: SLF001  # faults are planted inside
        {Reason.OVERFLOW_EXHAUSTED: Row.RECOVERED_ROUND},
    )


def attempts_not_counted() -> AbstractContextManager[Any]:
    """A failed run uses up no attempt."""
    real = decide._failed  # noqa: SLF001

    def failed(given: Any, outcome: Any) -> Any:
        found = real(given, outcome)
        tries = tuple(
            replace(place, tally=given.tally) if isinstance(place, Retrying) else place
            for place in found.tries
        )
        return replace(found, tries=tries)

    return patch.object(decide, "_failed", failed)


def one_overflow_too_many() -> AbstractContextManager[Any]:
    """The bound on overflows is off by one."""
    real = decide._topic_full  # noqa: SLF001

    def topic_full(given: Any, row: Row) -> Any:
        retry = given.policy.retry
        more = replace(retry, max_overflows=retry.max_overflows + 1)
        return real(replace(given, policy=replace(given.policy, retry=more)), row)

    return patch.object(decide, "_topic_full", topic_full)


def expiry_ignored() -> AbstractContextManager[Any]:
    """What has expired is delivered all the same."""
    return patch.object(decide, "_is_expired", lambda _: False)


def early_from_the_lane() -> AbstractContextManager[Any]:
    """The retry lane hands out what is due in the next two seconds."""
    real = queues.Lane.take_due

    def take_due(self: Any, now: float, limit: int) -> Any:
        return real(self, now + 2.0, limit)

    return patch.object(queues.Lane, "take_due", take_due)


def one_above_capacity() -> AbstractContextManager[Any]:
    """A full topic takes one more."""

    def has_room(self: Any, _rank: int, count: int = 1) -> bool:
        return bool(self.depth + count <= self.capacity + 1)

    return patch.object(queues.BoundedQueue, "has_room", has_room)


def least_urgent_first() -> AbstractContextManager[Any]:
    """Priorities that lie."""

    def share(slots: Any, position: int, waiting: Any, limit: int) -> Any:
        backwards, position = priority.share(slots, position, waiting[::-1], limit)
        return [len(waiting) - 1 - rank for rank in backwards], position

    return patch.object(queues, "share", share)


def forget_before_put() -> AbstractContextManager[Any]:
    """What goes to storage is written there a commit after its queue has forgotten it."""
    real = shelf.Shelf.keep
    held: list[Any] = []

    def keep(self: Any, items: Any) -> None:
        put, held[:] = [*held], items
        if put:
            real(self, put)

    return patch.object(shelf.Shelf, "keep", keep)


def a_repeated_hop() -> AbstractContextManager[Any]:
    """What comes back from storage has the hop it had there."""
    real = moves.brought_back

    def brought_back(item: Any, now: float) -> Any:
        return replace(real(item, now), hop=item.delivery.hop)

    return patch.object(placement, "brought_back", brought_back)


def acknowledged_before_it_is_durable() -> AbstractContextManager[Any]:
    """Commits are not synced."""
    return patch.object(
        journal, "configure", lambda connection, _: file.configure(connection, "os")
    )


def starts_not_recorded() -> AbstractContextManager[Any]:
    """A death while a handler runs is not counted: what kills its node kills it for ever."""
    return patch.object(riders.Riders, "starts", lambda _self, _entries: None)


def ids_forgotten() -> AbstractContextManager[Any]:
    """Every third id is not remembered."""
    real = dedup.Dedup.ref

    def ref(self: Any, key: str) -> str | None:
        return None if ord(key[-1]) % 3 == 0 else real(self, key)

    return patch.object(dedup.Dedup, "ref", ref)


def discards_not_counted() -> AbstractContextManager[Any]:
    """The ledger does not know of what a person has discarded."""
    real = journal.Change.count

    def count(self: Any, topic: str, **deltas: int) -> None:
        deltas.pop("discarded", None)
        real(self, topic, **deltas)

    return patch.object(journal.Change, "count", count)


def door_counts_no_overflow() -> AbstractContextManager[Any]:
    """What a door parks has not overflowed common."""
    real = decide._common_full  # noqa: SLF001

    def common_full(given: Any) -> Any:
        found = real(given)
        tries = tuple(replace(place, tally=given.tally) for place in found.tries)
        return replace(found, tries=tries)

    return patch.object(decide, "_common_full", common_full)


def no_list_after_a_death() -> AbstractContextManager[Any]:
    """A batch handler is given the event itself when a delivery is run alone."""

    async def run_one(self: Any, slot: int, delivery: Any) -> Any:
        return await self._runner_of[slot].run(slot, delivery)

    return patch.object(worker.Worker, "_run_one", run_one)


FAULTS = {
    fault.__name__: fault
    for fault in (
        rounds_for_overflow,
        attempts_not_counted,
        one_overflow_too_many,
        expiry_ignored,
        early_from_the_lane,
        one_above_capacity,
        least_urgent_first,
        forget_before_put,
        a_repeated_hop,
        acknowledged_before_it_is_durable,
        starts_not_recorded,
        ids_forgotten,
        discards_not_counted,
        door_counts_no_overflow,
        no_list_after_a_death,
    )
}
