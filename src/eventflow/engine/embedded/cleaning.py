"""Keeping the journal small: old rows are told again so that they can go.

Rows leave the journal from the front only. A delivery that waits long pins the row that told of
it, and with it all later ones. Once the journal has grown past a bound, deliveries anchored in
its older half are stated anew, a few with each commit, and the old rows go. The bound doubles
what such a pass leaves, so a journal of long states is not written over and over.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from eventflow.engine.embedded.queues import Anchor
from eventflow.engine.embedded.records import stated

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from eventflow.engine.embedded.committer import Committer, Txn
    from eventflow.engine.embedded.queues import Entry
    from eventflow.engine.embedded.state import State

JOURNAL_LIMIT_BYTES = 16 * 2**20
"""Below this nothing is cleaned."""
BYTES_A_LIVE_ENTRY = 160
"""What stating one entry takes, roughly: the journal may hold twice that for each live one."""
BATCH = 2_000
"""Entries told again with one commit: a millisecond or two of the event loop."""
_SPARSE = 4
"""A batch of events with less than one in so many still needed is written anew."""


class Cleaner:
    """Restates entries of old rows, a batch with each commit."""

    def __init__(self, state: State, committer: Committer) -> None:
        self.state = state
        self.committer = committer
        self._pass: Iterator[Entry] | None = None
        self._cut = 0
        self._left_bytes = 0
        """What the last pass left."""

    def ride(self, txn: Txn) -> Callable[[Anchor], None] | None:
        """Add what is to be told again to a transaction, if the journal has grown too much.

        Returns what to do with the commit's row when it is durable.
        """
        if self._pass is None:
            self._begin()
        if self._pass is not None:
            chosen = self._choose(self._pass)
            if chosen:
                return self._restate(chosen, txn)
        return None

    def _begin(self) -> None:
        rows = self.committer.rows
        live = sum(queue.depth for queue in self.state.topics.values())
        live += sum(lane.depth for lane in self.state.lanes.values())
        limit = max(JOURNAL_LIMIT_BYTES, 2 * BYTES_A_LIVE_ENTRY * live, 2 * self._left_bytes)
        if self.committer.journal_bytes > limit and len(rows) > 1:
            self._cut = rows[len(rows) // 2].number
            self._pass = iter(list(self.state.entries()))

    def _choose(self, entries: Iterator[Entry]) -> list[Entry]:
        chosen: list[Entry] = []
        for entry in entries:
            if entry.row.number <= self._cut and entry.live and not entry.settling:
                chosen.append(entry)
                if len(chosen) == BATCH:
                    return chosen
        self._pass = None
        rows = self.committer.rows
        self._left_bytes = sum(row.size_bytes for row in rows if row.number > self._cut)
        return chosen

    def _restate(self, chosen: list[Entry], txn: Txn) -> Callable[[Anchor], None]:
        moved = [entry for entry in chosen if entry.body.live * _SPARSE < entry.body.total]
        first = self.committer.take_numbers(len(moved)) if moved else 0
        if moved:
            txn.change.bodies.append((first, [entry.delivery.event for entry in moved]))
        numbers = {id(entry): first + offset for offset, entry in enumerate(moved)}
        for entry in chosen:
            told = stated(entry)
            if id(entry) in numbers:
                told = msgspec.structs.replace(told, event_number=numbers[id(entry)])
            txn.change.records.append(told)

        def apply(row: Anchor) -> None:
            body = Anchor(first, total=len(moved))
            for entry in chosen:
                entry.anchor_in(row)
                if entry.live and id(entry) in numbers:
                    self.state.rebase(entry, numbers[id(entry)], body)

        return apply
