"""Keeping the journal small: old rows are told again so that they can go.

Rows leave the journal from the front only. A delivery that waits long pins the row that told of
it, and with it all later ones. Once the journal has grown past a bound, deliveries anchored in
its older half are stated anew, a few with each commit, and the old rows go.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from eventflow.engine.embedded.queues import Anchor
from eventflow.engine.embedded.records import Stated, state_of

if TYPE_CHECKING:
    from collections.abc import Iterator

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

    def ride(self, txn: Txn) -> None:
        """Add what is to be told again to a transaction, if the journal has grown too much."""
        if self._pass is None:
            self._begin()
        if self._pass is not None:
            chosen = self._choose(self._pass)
            if chosen:
                self._restate(chosen, txn)

    def _begin(self) -> None:
        rows = self.committer.rows
        live = sum(queue.depth for queue in self.state.topics.values())
        live += sum(lane.depth for lane in self.state.lanes.values())
        limit = max(JOURNAL_LIMIT_BYTES, 2 * BYTES_A_LIVE_ENTRY * live)
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
        return chosen

    def _restate(self, chosen: list[Entry], txn: Txn) -> None:
        moved = [entry for entry in chosen if entry.body.live * _SPARSE < entry.body.total]
        first = self.committer.take_numbers(len(moved)) if moved else 0
        if moved:
            txn.change.bodies.append((first, [entry.delivery.event for entry in moved]))
        numbers = {id(entry): first + offset for offset, entry in enumerate(moved)}
        for entry in chosen:
            txn.change.records.append(
                Stated(
                    entry.number,
                    numbers.get(id(entry), entry.event_number),
                    entry.number,
                    entry.in_lane,
                    entry.started,
                    state_of(entry.delivery),
                )
            )

        def apply(_: Txn, row: Anchor) -> None:
            body = Anchor(first)
            body.total = len(moved)
            for entry in chosen:
                if not entry.live:
                    continue
                entry.row.live -= 1
                entry.row = row
                row.live += 1
                if id(entry) in numbers:
                    self._rebase(entry, numbers[id(entry)], body)

        txn.apply = apply

    def _rebase(self, entry: Entry, event_number: int, body: Anchor) -> None:
        body.live += 1
        self.state.unpin(entry.body)
        entry.body = body
        entry.event_number = event_number
