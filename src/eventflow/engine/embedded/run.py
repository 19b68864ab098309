"""Plain deliveries kept together: what was accepted at once and went one way moves as one.

A `Run` stands in a queue like an entry, and stands for as many deliveries as it has events. It is
leased whole (or cut in two), and its deliveries end in stretches. One that meets trouble is taken
out and becomes an `Entry` of its own, with the number it had in the run; so does each that is
still out when the run's lease is over. Everything but the everyday way knows entries only.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

from eventflow.delivery import Delivery
from eventflow.engine.embedded.queues import GONE, OUT, Entry
from eventflow.engine.protocol import Lease
from eventflow.engine.refs import Refs

if TYPE_CHECKING:
    from array import array
    from collections.abc import Iterator, Sequence

    from eventflow.engine.embedded.queues import Anchor, BoundedQueue
    from eventflow.event import Event


class Origin:
    """What deliveries of one accepted batch have in common."""

    __slots__ = ("accepted_at", "body", "event_number", "ref", "row")

    def __init__(self, event_number: int, ref: str, accepted_at: float) -> None:
        self.event_number = event_number
        """Where the batch's first event stands in the bodies."""
        self.ref = ref
        """Of the first one."""
        self.accepted_at = accepted_at
        self.row: Anchor
        """The journal's row that tells of them. Known once it is durable."""
        self.body: Anchor
        """The row that holds their events."""


class Run:
    """Deliveries side by side in one queue, numbered from `number`."""

    __slots__ = (
        "entered_at",
        "events",
        "left",
        "number",
        "offsets",
        "origin",
        "queue",
        "rank",
        "size_bytes",
        "started",
        "states",
        "taken",
        "told",
        "until",
        "weights",
    )

    def __init__(  # noqa: PLR0913, PLR0917  # its columns
        self,
        queue: BoundedQueue,
        number: int,
        origin: Origin,
        offsets: Sequence[int],
        events: Sequence[Event],
        rank: int,
        weights: array[int],
    ) -> None:
        self.queue = queue
        self.number = number
        self.origin = origin
        self.offsets = offsets
        """Of each, its place in the accepted batch."""
        self.events = events
        self.rank = rank
        self.entered_at = origin.accepted_at
        self.weights = weights
        """What each counts towards the memory limit, in bytes."""
        self.size_bytes = sum(weights)
        """What those that are still part of it count."""
        self.left = len(events)
        """How many are still part of it."""
        self.states = bytearray()
        """Once leased, a byte for each."""
        self.taken: list[Entry] = []
        """Those taken out, as long as it is not sure that the journal says they were leased."""
        self.until = 0.0
        self.started = False
        """Whether the journal says that it was leased, or a commit under way does."""
        self.told = False
        """Whether that commit is durable."""

    def __len__(self) -> int:
        return len(self.events)

    @property
    def accepted_at(self) -> float:
        return self.origin.accepted_at

    def refs(self, start: int, stop: int) -> Refs:
        return Refs(self.origin.ref, self.offsets[start:stop])

    def delivery(self, index: int) -> Delivery:
        origin = self.origin
        ref = Refs(origin.ref, self.offsets)[index]
        topic = self.queue.queue.topic
        return Delivery(self.events[index], ref, topic, origin.accepted_at, 0, self.entered_at)

    def lease(self, index: int) -> Lease:
        queue = self.queue
        if self.states[index] != OUT:  # somebody else decides about it by now
            return Lease(self.delivery(index), queue.queue, self.entry(index))
        entry = self._take_out(index)
        lease = Lease(entry.delivery, queue.queue, entry)
        entry.lease = lease
        entry.until = self.until
        queue.running[entry.number] = entry
        if not self.told:
            self.taken.append(entry)
        return lease

    # for the engine ----------------------------------------------------------

    def entry(self, index: int) -> Entry:
        """Return what one of them would be by itself: for looking at, not for moving."""
        entry = self._entry(index)
        entry.settling = bool(self.states)
        return entry

    def _entry(self, index: int) -> Entry:
        origin = self.origin
        number = origin.event_number + self.offsets[index]
        entry = Entry(self.number + index, number, self.delivery(index), origin.row, origin.body)
        entry.live = True
        entry.started = self.started
        return entry

    def _take_out(self, index: int) -> Entry:
        entry = self._entry(index)
        self.end(index, index + 1)
        self.size_bytes -= self.weights[index]
        return entry

    def end(self, start: int, stop: int) -> None:
        """Have no part in these any more."""
        count = stop - start
        self.states[start:stop] = bytes((GONE,)) * count
        self.left -= count
        self.queue.in_runs -= count
        if not self.left:
            self.queue.runs.pop(self.number, None)

    def grant(self, until: float) -> None:
        """Be leased."""
        self.states = bytearray(len(self.events))
        self.until = until
        self.queue.runs[self.number] = self
        self.queue.in_runs += len(self.events)

    def cut(self, count: int) -> Run:
        """Return the first so many as a run of their own, and be the rest. Only while it waits."""
        events, self.events = self.events[:count], self.events[count:]
        offsets, self.offsets = self.offsets[:count], self.offsets[count:]
        weights, self.weights = self.weights[:count], self.weights[count:]
        first = Run(self.queue, self.number, self.origin, offsets, events, self.rank, weights)
        self.number += count
        self.left -= count
        self.size_bytes -= first.size_bytes
        return first

    def stand_again(self, now: float) -> None:
        """See to it that the lease is looked at soon, where it ran out while this was settling."""
        if self.until == inf:
            self.until = now
            self.queue.next_expiry = min(self.queue.next_expiry, now)

    def anchor_in(self, origin: Origin) -> None:
        """Be told of by another row from now on, and perhaps have another row for the events."""
        before, self.origin = self.origin, origin
        before.row.live -= self.left
        origin.row.live += self.left

    def out(self) -> Iterator[int]:
        """Yield the index of each that is leased with it, or waits in it."""
        if not self.states:
            yield from range(len(self.events))
            return
        for index, state in enumerate(self.states):
            if state == OUT:
                yield index

    def has(self, ref: str) -> int | None:
        """Return the index of the delivery of this event, None where it is none of them."""
        if ref[:24] != self.origin.ref[:24]:
            return None
        offset = Refs(self.origin.ref, self.offsets).offset(ref)
        index = None if offset is None else self.offsets.index(offset)
        gone = index is None or (self.states and self.states[index] == GONE)
        return None if gone else index

    def spans_out(self) -> list[tuple[int, int]]:
        """Return first index and the one after the last of each stretch that is leased with it."""
        states, spans = self.states, []
        at = states.find(OUT)
        while at >= 0:
            stop = at
            while stop < len(states) and states[stop] == OUT:
                stop += 1
            spans.append((at, stop))
            at = states.find(OUT, stop)
        return spans
