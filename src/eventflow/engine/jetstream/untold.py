"""What the audit trail has still to be told: storage does not answer, so the servers keep it.

Each node puts its rows under a subject of its own and takes them from there alone, oldest first,
since its chain has one writer: the rows of a node that died wait for its next life. What the
servers don't take, or not soon, waits here: that alone is gone if the node is killed.

A row may stand twice in a trail: where a node was killed between writing it to storage and taking
it from the servers, and where storage or servers gave no answer to whether they have it.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from eventflow.engine.jetstream import names
from eventflow.engine.jetstream.stored import Rows, Unreadable, decode, encode
from eventflow.engine.jetstream.wire import Item, Refused
from eventflow.errors import EngineUnavailable, StorageUnavailable
from eventflow.storage import bulk
from eventflow.storage.audit import canonical
from eventflow.telemetry.logging import log
from eventflow.telemetry.names import AUDIT_LOST

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
SILENT_S = 60.0
"""After what time without an answer rows no longer wait for the servers, if storage takes them."""

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
        self._carrying: asyncio.Task[None] | None = None
        self._silent_at: float | None = None
        """Since when the servers give no answer, by the event loop's clock."""
        self._closing = False

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
        waiting = self._told < self._last or self._parcel or self._held
        if not waiting or self._servers_are_silent:
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

        Whoever asks may go away: what is written then is known to be.

        Raises:
            StorageUnavailable, EngineUnavailable: not all of it; what is left waits on.
        """
        if self._carrying is None or self._carrying.done():
            self._carrying = asyncio.create_task(self._carry_out())
        await asyncio.shield(self._carrying)

    async def _carry_out(self) -> None:
        if self._parcel is not None and not self._servers_are_silent:
            # Only another answer tells whether it stands there.
            await asyncio.wait((self._put_away(),), timeout=HELD_UP_S)
        if self._servers_are_silent and (self._putting is None or self._putting.done()):
            self._unpack()
        trouble: EngineUnavailable | None = None
        try:
            try:
                await self._drain()
            except Refused as refused:
                trouble = EngineUnavailable(f"{names.AUDIT}: {refused}")
            except EngineUnavailable as unavailable:
                trouble = unavailable
            if self._parcel is None or self._servers_are_silent:
                await self._hand_over()
        except StorageUnavailable:
            if self._held:
                self._put_away()  # there may be room by now
            raise
        if trouble is not None:
            raise trouble

    async def close(self) -> None:
        """Let go of what is held here: to the servers, or else to storage."""
        self._closing = True
        if self._carrying is not None:
            await asyncio.wait((self._carrying,))
            self._carrying.exception()  # whoever had it carried out has heard of it
        if self._held or self._parcel:
            await asyncio.wait((self._put_away(),))
        self._unpack()
        try:
            await self._hand_over()
        except StorageUnavailable as error:
            log(AUDIT_LOST, rows=len(self._held), reason=str(error))

    # to storage ---------------------------------------------------------------------

    async def _drain(self) -> None:
        """Write to storage what the servers keep, and let them forget it."""
        await self._take()
        while self._told < (last := self._last) and not self._closing:
            page = await self._wire.read(names.AUDIT, self._subject, self._told, _PAGE)
            self._silent_at = None
            # What is behind the last one is not known to stand there yet: it is put again.
            read = {one.seq: self._rows(one) for one in page if one.seq <= last}
            rows = [row for some in read.values() for row in some or ()]
            if rows:
                await self._storage.note(rows)
            if self._last < last:  # it was made anew meanwhile
                continue
            self._to_take += [seq for seq, some in read.items() if some is not None]
            # Nothing was read: somebody has emptied the stream.
            self._told = max(read, default=last)
            await self._take()

    def _rows(self, message: Message) -> Sequence[Mapping[str, Any]] | None:
        """Return the rows in a message; None: this release can't read it."""
        try:
            return list(map(_row_of, decode(message.body, Rows, "audit rows").texts))
        except (Unreadable, msgspec.DecodeError) as error:
            self._left = True
            self._unread(names.AUDIT, str(error))
            return None

    async def _take(self) -> None:
        """Take from the servers what storage has."""
        taking = self._to_take
        if not taking:
            return
        if self._left:
            for seq in taking:
                with suppress(Refused):  # it is gone already
                    await self._wire.ask(f"STREAM.MSG.DELETE.{names.AUDIT}", {"seq": seq})
        else:
            wish = {"filter": self._subject, "seq": taking[-1] + 1}
            await self._wire.ask(f"STREAM.PURGE.{names.AUDIT}", wish)
        self._to_take = []

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

    @property
    def _servers_are_silent(self) -> bool:
        """Whether they have given no answer for long."""
        at = self._silent_at
        return at is not None and asyncio.get_running_loop().time() - at > SILENT_S

    def _unpack(self) -> None:
        """Hold rows again that may stand on the servers: twice is better than not at all."""
        if self._parcel is not None:
            self._held[:0] = self._parcel.texts
            self._parcel = None

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
                self._silent_at = None
                self._unpack()
                return
            except EngineUnavailable:
                if self._silent_at is None:
                    self._silent_at = asyncio.get_running_loop().time()
                return
            self._silent_at = self._parcel = None
            if stored.seq <= self._last:  # the stream was made anew, or put back by a power cut
                self._told = min(self._told, stored.seq - 1)
                self._to_take = []
            self._last = stored.seq


def _first(texts: list[bytes]) -> list[bytes]:
    """Return the first rows, as many as a message holds."""
    share = next(bulk.shares(enumerate(map(len, texts)), _MESSAGE_BYTES))
    return texts[: len(share)]
