"""What the audit trail has still to be told: storage does not answer, so the servers keep it.

Each node puts its rows under a subject of its own and takes them from there alone, oldest first,
since its chain has one writer: the rows of a node that died wait for its next life. What had been
written to storage by then, and not yet taken from the servers, is written once more: a row may
stand twice in a trail. What the servers don't take, or not soon, waits here: that alone is gone if
the node is killed.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from eventflow.engine.jetstream import names
from eventflow.engine.jetstream.stored import Rows, Unreadable, decode, encode
from eventflow.engine.jetstream.wire import Item, Refused
from eventflow.errors import EngineUnavailable, StorageUnavailable
from eventflow.storage.audit import canonical

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from eventflow.engine.jetstream.wire import Message, Wire
    from eventflow.storage.protocol import Keeper

_MESSAGE_BYTES = 128 * 1024
"""What a message holds at most, unless a single row is larger: far less than servers take."""
_PAGE = 4
"""Messages that go to storage in one transaction: some hundreds of rows."""
HELD_UP_S = 1.0
"""How long a settlement is held up for rows: its lease runs, and its end has to be written too."""

_log = logging.getLogger(__name__)
_row_of = msgspec.json.Decoder(dict[str, Any]).decode


class _Parcel(NamedTuple):
    """Rows that are one message. It keeps its id: so it stands once, however often it is put."""

    id: str
    texts: list[bytes]


class Untold:
    """Audit rows of this node.

    Args:
        wire: The connection to the servers.
        storage: Where the trail is.
        node: This node's name.
        unread: Told of a message that this release can't read, with its stream and why.
    """

    def __init__(
        self, wire: Wire, storage: Keeper, node: str, unread: Callable[[str, str], None]
    ) -> None:
        self._wire = wire
        self._storage = storage
        self._subject = names.audit_subject(node)
        self._unread = unread
        self._last = 0
        """Where the newest message of this node stands."""
        self._told = 0
        """Up to where storage has them."""
        self._to_take: list[int] = []
        """Those that storage has, and the servers still."""
        self._left = False
        """Whether a message stays on the servers, as this release can't read it."""
        self._parcel: _Parcel | None = None
        """What is being put, or may stand on the servers though they gave no answer."""
        self._held: list[bytes] = []
        """What neither storage nor the servers have: each row as it is hashed."""
        self._putting: asyncio.Task[None] | None = None

    async def load(self) -> None:
        """Learn whether an earlier life of this node has left something.

        Raises:
            EngineUnavailable: no answer.
        """
        newest = await self._wire.get(names.AUDIT, last_by_subj=self._subject)
        self._last = 0 if newest is None else newest.seq

    async def tell(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write rows to storage. While it is down they wait, durably where the servers answer.

        Where those take longer than a second, whoever tells goes on: a row is less than its lease.
        """
        if not rows:
            return
        if not (self._told < self._last or self._parcel or self._held):
            try:
                await self._storage.note(rows)
            except StorageUnavailable:
                self._held += map(canonical, rows)
            else:
                return
        else:  # behind those that wait
            self._held += map(canonical, rows)
        await asyncio.wait((self._put_away(),), timeout=HELD_UP_S)

    async def carry_out(self) -> None:
        """Write to storage what waits for it, oldest first.

        Raises:
            StorageUnavailable, EngineUnavailable: not all of it; what is left waits on.
        """
        if self._parcel is not None:  # only another answer tells whether it stands there
            await asyncio.wait((self._put_away(),), timeout=HELD_UP_S)
        try:
            await self._drain()
            if self._parcel is None:
                await self._hand_over()
        except StorageUnavailable:
            if self._held:
                self._put_away()  # there may be room by now
            raise
        except Refused as refused:
            raise EngineUnavailable(f"{names.AUDIT}: {refused}") from refused

    async def close(self) -> None:
        """Let what waits find its place, if there is one."""
        with suppress(StorageUnavailable, EngineUnavailable):
            await self.carry_out()
        if self._putting is not None:
            await asyncio.wait((self._putting,))
        if self._parcel is not None:  # twice in the trail is better than not at all
            self._held[:0] = self._parcel.texts
            self._parcel = None
        try:
            await self._hand_over()
        except StorageUnavailable as error:
            _log.warning("%d audit rows are lost, nobody takes them: %s", len(self._held), error)

    # to storage ---------------------------------------------------------------------

    async def _drain(self) -> None:
        """Write to storage what the servers keep, and let them forget it."""
        while self._told < (last := self._last):
            page = await self._wire.read(names.AUDIT, self._subject, self._told, _PAGE)
            rows = [row for message in page for row in self._rows(message)]
            if rows:
                await self._storage.note(rows)
            if self._last < last:  # it was made anew meanwhile
                continue
            # An empty page: somebody has emptied the stream.
            self._told = page[-1].seq if page else last
            await self._take()
        await self._take()

    def _rows(self, message: Message) -> Sequence[Mapping[str, Any]]:
        try:
            found = list(map(_row_of, decode(message.body, Rows, "audit rows").texts))
        except (Unreadable, msgspec.DecodeError) as error:
            self._left = True
            self._unread(names.AUDIT, str(error))
            return ()
        self._to_take.append(message.seq)
        return found

    async def _take(self) -> None:
        """Take from the servers what storage has."""
        taking = [seq for seq in self._to_take if seq <= self._told]
        if not taking:
            return
        if self._left:
            for seq in taking:
                with suppress(Refused):  # it is gone already
                    await self._wire.ask(f"STREAM.MSG.DELETE.{names.AUDIT}", {"seq": seq})
        else:
            wish = {"filter": self._subject, "seq": taking[-1] + 1}
            await self._wire.ask(f"STREAM.PURGE.{names.AUDIT}", wish)
        self._to_take = [seq for seq in self._to_take if seq > taking[-1]]

    async def _hand_over(self) -> None:
        """Write to storage what is held here."""
        while self._held:
            texts = _first(self._held)
            del self._held[: len(texts)]
            try:
                await self._storage.note([_row_of(text) for text in texts])
            except BaseException:
                self._held[:0] = texts
                raise

    # to the servers -----------------------------------------------------------------

    def _put_away(self) -> asyncio.Task[None]:
        """Let the servers keep what is held here, one message after the other."""
        if self._putting is None or self._putting.done():
            self._putting = asyncio.create_task(self._put())
        return self._putting

    async def _put(self) -> None:
        """Put what is held, and what comes meanwhile. What is not taken stays here."""
        while self._parcel or self._held:
            if self._parcel is None:
                texts = _first(self._held)
                del self._held[: len(texts)]
                self._parcel = _Parcel(self._wire.unique(), texts)
            parcel = self._parcel
            try:
                body = encode(Rows(parcel.texts))
                stored = await self._wire.put(Item(self._subject, parcel.id, body))
            except Refused:  # for sure: so storage may have them as well
                self._held[:0] = parcel.texts
                self._parcel = None
                return
            except EngineUnavailable:
                return
            self._parcel = None
            # A stream that was made anew, or put back by a power cut, begins again.
            if stored.seq <= max(self._last, self._told) and not stored.duplicate:
                self._told = min(self._told, stored.seq - 1)
                self._to_take.clear()
                self._last = stored.seq
            self._last = max(self._last, stored.seq)


def _first(texts: Sequence[bytes]) -> list[bytes]:
    """Return the first rows, as many as a message holds."""
    size = 0
    for count, text in enumerate(texts):
        size += len(text)
        if count and size > _MESSAGE_BYTES:
            return list(texts[:count])
    return list(texts)
