"""What is new of deliveries that stay where they are: crashes, starts, topics owed, re-checks.

A message never changes, and a full queue has no room for a second one beside it. So what is new
stands in a small stream of its own, one note a delivery. The server counts how often it has
delivered a message; it can't tell a run that died from one given back. A note can:

    written when     `started`   the lease after it
    given back       no          is the first one since
    `start`          yes         means that this run died
    none             -           the first lease of a delivery was its start
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

from eventflow.delivery import COMMON, Delivery
from eventflow.engine.jetstream import names
from eventflow.engine.jetstream.stored import Note, Unreadable, decode, encode
from eventflow.engine.jetstream.wire import Item, Refused
from eventflow.engine.moves import crashed
from eventflow.engine.protocol import Kind
from eventflow.errors import EngineUnavailable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from eventflow.engine.jetstream.wire import Wire
    from eventflow.engine.protocol import Queue

_PAGE = 500


class Notes:
    """Notes of deliveries, by queue and ref."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._written: set[str] = set()
        self._dropping: set[asyncio.Task[None]] = set()

    async def load(self) -> None:
        """Learn of which deliveries there are notes."""
        after = 0
        while page := await self._wire.read(names.NOTES, "ef.note.>", after, _PAGE):
            self._written.update(message.subject for message in page)
            after = page[-1].seq

    def may_have(self, queue: Queue, ref: str) -> bool:
        """Whether there is a note, as far as this node knows."""
        return bool(self._written) and names.note_subject(queue, ref) in self._written

    async def write(self, queue: Queue, note: Note) -> None:
        """Keep a note.

        Raises:
            EngineUnavailable: it could not be made durable.
        """
        subject = names.note_subject(queue, note.delivery.ref)
        try:
            await self._wire.put(Item(subject, "", encode(note)))
        except Refused as refused:
            raise EngineUnavailable(f"{names.NOTES}: {refused}") from refused
        self._written.add(subject)

    async def find(self, queue: Queue, ref: str, seq: int) -> Note | None:
        """Return the note on this very message."""
        subject = names.note_subject(queue, ref)
        message = await self._wire.get(names.NOTES, last_by_subj=subject)
        if message is None:
            return None
        self._written.add(subject)
        note = _read(message.body)
        return note if note is not None and note.seq == seq else None

    async def all(self, queue: Queue) -> dict[int, Note]:
        """Return the notes of a queue by the sequence of the message."""
        found: dict[int, Note] = {}
        after = 0
        while True:
            page = await self._wire.read(names.NOTES, names.note_subject(queue, "*"), after, _PAGE)
            for message in page:
                note = _read(message.body)
                if note is not None:
                    found[note.seq] = note
            if len(page) < _PAGE:
                return found
            after = page[-1].seq

    def drop(self, queue: Queue, refs: Sequence[str]) -> None:
        """Forget the notes of what has left the queue, by and by."""
        if not self._written:  # nearly always
            return
        for ref in refs:
            subject = names.note_subject(queue, ref)
            if subject in self._written:
                self._written.discard(subject)
                task = asyncio.ensure_future(self._purge(subject))
                self._dropping.add(task)
                task.add_done_callback(self._dropping.discard)

    async def _purge(self, subject: str) -> None:
        # If this fails it means nothing any more all the same: its message is gone.
        with suppress(EngineUnavailable, Refused):
            await self._wire.ask(f"STREAM.PURGE.{names.NOTES}", {"filter": subject})

    async def close(self) -> None:
        """Wait for what is being forgotten."""
        await asyncio.gather(*self._dropping)


def as_leased(
    queue: Queue, delivery: Delivery, note: Note | None, times: int, now: float
) -> tuple[Delivery, bool]:
    """Return a delivery as it is with its note, and whether its run before this lease died.

    Args:
        queue: Where it is leased.
        delivery: As its message says.
        note: On this very message.
        times: How often the server has delivered it, this time included.
        now: Seconds since 1970.
    """
    told, started = 0, False
    if note is not None:
        delivery, told, started = note.delivery, note.times, note.started
    if queue.kind is Kind.LANE or queue.topic == COMMON:
        return delivery, False
    # A note is older than this lease, whatever the server counts: a crash may set that back.
    unasked = delivery.tally.crashes == 0 and times - 1 > told
    if not unasked and not started:
        return delivery, False
    return crashed(delivery, now), True


def _read(body: bytes) -> Note | None:
    try:
        return decode(body, Note, "a note")
    except Unreadable:
        return None  # then the message counts as it is
