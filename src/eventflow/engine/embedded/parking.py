"""Parking at the door: events that find common full go to storage, and are accepted by that.

One transaction holds all of it: the rows in storage, created and parked in common's ledger, the
audit rows. Ids are remembered once it is durable. Until then nobody may be told "duplicate" of
them, for storage may yet refuse: whoever brings the same event meanwhile waits for the outcome.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from eventflow.delivery import COMMON
from eventflow.engine.embedded.dedup import keys_of
from eventflow.engine.embedded.journal import Change, StorageUnit
from eventflow.engine.moves import audit_row, let_in
from eventflow.errors import QueueFull, StorageUnavailable
from eventflow.storage.protocol import Filter
from eventflow.storage.rows import kept_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from eventflow.engine.embedded.committer import Txn
    from eventflow.engine.embedded.dedup import Key
    from eventflow.engine.embedded.journal import Journal
    from eventflow.engine.embedded.queues import Anchor
    from eventflow.engine.embedded.state import State
    from eventflow.engine.protocol import Fallback
    from eventflow.event import Event
    from eventflow.storage.protocol import Kept

_PAGE = 500


class Parking:
    """Plans what is parked at the door, and knows what is on its way there."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._coming: dict[Key, asyncio.Future[None]] = {}
        """By key: events that a commit under way may park."""

    async def decided(self, events: Sequence[Event]) -> None:
        """Wait until none of these events is on its way into storage."""
        while self._coming:
            found = (self._coming.get(key) for key in keys_of(events))
            waits = {wait for wait in found if wait is not None}
            if not waits:
                return
            await asyncio.wait(waits)

    def plan(  # a batch, and where it goes
        self,
        txn: Txn,
        events: Sequence[Event],
        keys: Sequence[Key],
        refs: Sequence[str],
        now: float,
        way: Fallback,
    ) -> Arrivals:
        """Add to a transaction that these events are parked.

        Raises:
            QueueFull: storage has no room for all of them.
        """
        arrivals = Arrivals(self._state, events, refs, now, way)
        arrivals.reserve()
        coming = asyncio.get_running_loop().create_future()
        self._coming.update(dict.fromkeys(keys, coming))

        def over() -> None:
            for key in keys:
                del self._coming[key]
            coming.set_result(None)

        def apply(_: Txn, row: Anchor) -> None:
            del row
            arrivals.apply(keys)
            over()

        def undo() -> None:
            arrivals.undo()
            over()

        txn.units.append(arrivals.unit)
        txn.apply, txn.undo = apply, undo
        return arrivals


class Arrivals:
    """A batch of events on its way into storage."""

    def __init__(
        self, state: State, events: Sequence[Event], refs: Sequence[str], now: float, way: Fallback
    ) -> None:
        self._state = state
        self._refs = refs
        self._now = now
        place = way.place
        deliveries = [
            let_in(event, ref, place, now) for event, ref in zip(events, refs, strict=True)
        ]
        change = Change()
        change.count(COMMON, created=len(deliveries))
        change.audit += [audit_row(one, place, "door", now, way.note) for one in deliveries]
        self.unit = StorageUnit(change, keep=[kept_of(one, "parked", now) for one in deliveries])
        self._size_bytes = sum(kept.size_bytes for kept in self.unit.keep)

    def reserve(self) -> None:
        """Have room in storage promised.

        Raises:
            QueueFull: there is not enough.
        """
        state, most = self._state, self._state.plan.storage_max_bytes
        if state.storage_bytes + state.storage_reserved + self._size_bytes > most:
            raise self.refusal(f"its {most} bytes are used")
        state.storage_reserved += self._size_bytes

    def refusal(self, why: str) -> QueueFull:
        """Return what to raise where storage does not take them."""
        capacity = self._state.common.capacity
        return QueueFull(
            COMMON, capacity, 1.0, f"capacity {capacity}, and storage can't park: {why}"
        )

    def apply(self, keys: Sequence[Key]) -> None:
        """Change counters as the durable transaction says, and remember the ids."""
        self.undo()
        if self.unit.refused is not None:
            return
        state, count = self._state, len(self.unit.keep)
        tallies = state.tallies[COMMON]
        tallies.created += count
        tallies.move_kept("parked", count)
        state.storage_bytes += self._size_bytes
        state.dedup.remember(keys, self._refs, self._now)

    def undo(self) -> None:
        """Give back what was promised."""
        self._state.storage_reserved -= self._size_bytes


def kept_in_common(journal: Journal, since: float, limit: int) -> Iterator[Kept]:
    """Yield what common has in storage since then, newest first: their ids are remembered (G2).

    A row that can't be read ends it: whoever asks for that row is told, and for the ids before it
    this is a crash that has forgotten them.
    """
    which = Filter(topic=COMMON)
    cursor: str | None = None
    while limit > 0:
        try:
            page = journal.kept(which, cursor, min(limit, _PAGE))
        except StorageUnavailable:
            return
        for kept in page.items:
            if kept.since < since:
                return
            yield kept
        limit -= len(page.items)
        cursor = page.cursor
        if cursor is None:
            return
