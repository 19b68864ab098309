"""Accepting and routing in one durable write, where nothing waits in common.

The records are those of a batch that comes into common, goes on into its topics and is gone from
common; so are the counts. What is spared is common itself: a commit, and everything that is done
for each event on its way in and out.
"""

from __future__ import annotations

from array import array
from functools import partial
from typing import TYPE_CHECKING

from eventflow.delivery import COMMON
from eventflow.engine.embedded.records import Accepted, Ended, Sent
from eventflow.engine.embedded.run import Origin, Run
from eventflow.engine.embedded.settlement import wake

if TYPE_CHECKING:
    from collections.abc import Sequence

    from eventflow.engine.embedded.committer import Committer, Txn
    from eventflow.engine.embedded.queues import Anchor
    from eventflow.engine.embedded.state import State
    from eventflow.engine.protocol import Way
    from eventflow.event import Event


class Arrival:
    """A batch on its way into topics."""

    def __init__(
        self, state: State, events: list[Event], origin: Origin, first: int, runs: list[Run]
    ) -> None:
        self.state = state
        self.events = events
        self.origin = origin
        self.first = first
        """Number of the first one in common, where none of them is ever seen."""
        self.runs = runs

    @classmethod
    def planned(  # a batch, and where it goes
        cls,
        state: State,
        committer: Committer,
        events: list[Event],
        weights: array[int],
        origin: Origin,
        ways: Sequence[Way],
    ) -> Arrival | None:
        """Return the batch with room promised to it, None where it has to go through common."""
        if state.common.depth or sum(len(way.indexes) for way in ways) != len(events):
            return None
        runs: list[Run] = []
        for way in ways:
            offsets = way.indexes
            same, heavy = events, weights
            if len(ways) > 1:
                same = [events[offset] for offset in offsets]
                heavy = array("Q", [weights[offset] for offset in offsets])
            size = sum(heavy)
            for topic in way.topics:
                queue = state.topic(topic)
                if not queue.has_room(way.rank, len(same)):
                    for run in runs:
                        run.queue.reserved -= len(run)
                        state.memory_reserved -= run.size_bytes
                    return None
                queue.reserved += len(same)
                state.memory_reserved += size
                runs.append(Run(queue, 0, origin, offsets, same, way.rank, heavy))
        state.passing += len(events)
        first = committer.take_numbers(len(events))
        for run in runs:
            run.number = committer.take_numbers(len(run))
        return cls(state, events, origin, first, runs)

    def into(self, txn: Txn) -> None:
        """Write it into a transaction."""
        change, count = txn.change, len(self.events)
        txn.events = self.events
        txn.numbered = partial(self._record, txn)
        change.count(COMMON, created=count, delivered=count)
        for run in self.runs:
            change.count(run.queue.queue.topic, created=len(run))
        txn.apply = self.apply

    def _record(self, txn: Txn, event_number: int) -> None:
        """Tell what happens, knowing where the events will stand."""
        origin, first, count = self.origin, self.first, len(self.events)
        origin.event_number = event_number
        now = origin.accepted_at
        records = txn.change.records
        records.append(Accepted(first, origin.ref, count, now, event_number))
        records += [
            Sent(run.queue.queue.topic, run.number, first, list(run.offsets), now)
            for run in self.runs
        ]
        records.append(Ended([(first, first + count)]))

    def apply(self, _: Txn, row: Anchor) -> None:
        """Put it into its queues: it is durable."""
        state, origin = self.state, self.origin
        assert row.body is not None  # noqa: S101  # its commit brought these events
        origin.row, origin.body = row, row.body
        self.undo()
        common = state.tallies[COMMON]
        common.created += len(self.events)
        common.delivered += len(self.events)
        for run in self.runs:
            state.tallies[run.queue.queue.topic].created += len(run)
            state.add_run(run)
            wake(run.queue)

    def undo(self) -> None:
        """Give back what was promised."""
        self.state.passing -= len(self.events)
        for run in self.runs:
            run.queue.reserved -= len(run)
            self.state.memory_reserved -= run.size_bytes
