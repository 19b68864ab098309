"""Keeping the journal small: old rows are told again so that they can go.

Rows leave the journal from the front only. A delivery that waits long pins the row that told of
it, and with it all later ones. Once the journal has grown past a bound, deliveries anchored in
its older half are stated anew, a few with each commit, and the old rows go. The bound doubles
what such a pass leaves, so a journal of long states is not written over and over.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from eventflow.engine.embedded.queues import Anchor, Entry
from eventflow.engine.embedded.records import Told, stated
from eventflow.engine.embedded.run import Origin, Run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from eventflow.engine.embedded.committer import Committer, Txn
    from eventflow.engine.embedded.state import State
    from eventflow.event import Event

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
        self._pass: Iterator[Entry | Run] | None = None
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
        if self.committer.journal_bytes <= JOURNAL_LIMIT_BYTES:
            return  # asked at each commit
        live = sum(queue.depth for queue in self.state.topics.values())
        live += sum(lane.depth for lane in self.state.lanes.values())
        limit = max(JOURNAL_LIMIT_BYTES, 2 * BYTES_A_LIVE_ENTRY * live, 2 * self._left_bytes)
        if self.committer.journal_bytes > limit and len(rows) > 1:
            self._cut = rows[len(rows) // 2].number
            self._pass = iter(list(self.state.parts()))

    def _choose(self, parts: Iterator[Entry | Run]) -> list[Entry | Run]:
        chosen: list[Entry | Run] = []
        count = 0
        for part in parts:
            if isinstance(part, Run):
                # What is leased ends soon, or becomes entries.
                wanted = part.origin.row.number <= self._cut and not part.states and part.left
                count += len(part)
            else:
                wanted = part.row.number <= self._cut and part.live and not part.settling
                count += 1
            if wanted:
                chosen.append(part)
                if count >= BATCH:
                    return chosen
        self._pass = None
        rows = self.committer.rows
        self._left_bytes = sum(row.size_bytes for row in rows if row.number > self._cut)
        return chosen

    def _restate(self, chosen: list[Entry | Run], txn: Txn) -> Callable[[Anchor], None]:
        runs = [part for part in chosen if isinstance(part, Run)]
        entries = [part for part in chosen if isinstance(part, Entry)]
        entries_told = self._restate_entries(entries, txn)
        origins = [self._restate_run(run, txn) for run in runs]

        def apply(row: Anchor) -> None:
            entries_told(row)
            for run, (before, origin) in zip(runs, origins, strict=True):
                self._told(run, before, origin, row)

        return apply

    def _restate_run(self, run: Run, txn: Txn) -> tuple[Origin, Origin]:
        """Tell a waiting run again; return whence it was, and whence it is then."""
        before = run.origin
        origin = Origin(before.event_number, before.ref, before.accepted_at)
        origin.body = before.body
        if _sparse(before.body):
            events: list[Event | None] = [None] * (run.offsets[-1] + 1)
            for offset, event in zip(run.offsets, run.events, strict=True):
                events[offset] = event
            origin.event_number = self.committer.take_numbers(len(events))
            origin.body = Anchor(origin.event_number, total=len(run))
            txn.change.bodies.append((origin.event_number, events))
        txn.change.records.append(
            Told(
                run.queue.queue.topic,
                run.number,
                origin.event_number,
                origin.ref,
                list(run.offsets),
                origin.accepted_at,
                run.entered_at,
            )
        )
        return before, origin

    def _told(self, run: Run, before: Origin, origin: Origin, row: Anchor) -> None:
        """Let what still waits in the run stand on the new row. What has been cut off does not."""
        origin.row = row
        moved = origin.body is not before.body
        if run.origin is before and not run.states:
            run.anchor_in(origin)
            if moved:
                origin.body.live += run.left
                self.state.unpin(before.body, run.left)
        if moved and not origin.body.live:
            self.state.dead_bodies.append(origin.body.number)

    def _restate_entries(self, chosen: list[Entry], txn: Txn) -> Callable[[Anchor], None]:
        moved = [entry for entry in chosen if _sparse(entry.body)]
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


def _sparse(body: Anchor) -> bool:
    return body.live * _SPARSE < body.total
