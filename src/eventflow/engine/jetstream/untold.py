"""What the audit trail has still to be told: storage does not answer, so the servers keep it.

Each node puts its rows under a subject of its own and takes them from there alone, oldest first,
since its chain has one writer: the rows of a node that died wait for its next life. What had been
written to storage by then, and not yet taken from the servers, is written once more: a row may
stand twice in a trail, and none is missing.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any

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
_PAGE = 20
HELD_UP_S = 1.0
"""How long a settlement is held up for rows: its lease runs, and its end has to be written too."""

_row_of = msgspec.json.Decoder(dict[str, Any]).decode


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
        self._taken = 0
        """Up to where they have been taken from the servers."""
        self._held: list[bytes] = []
        """What neither has, as far as is known: each row as it is hashed."""
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
        if not self._waiting:
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
        if self._held:
            await asyncio.wait((self._put_away(),), timeout=HELD_UP_S)
        while self._told < self._last:
            page = await self._wire.read(names.AUDIT, self._subject, self._told, _PAGE)
            if not page:  # somebody has emptied the stream
                self._told = self._last
                break
            rows, upto = self._readable(page)
            if not upto:
                break
            await self._storage.note(rows)
            self._told = upto
        await self._take()
        if self._held and not self._under_way:
            held, self._held = self._held, []
            try:
                await self._storage.note([_row_of(text) for text in held])
            except BaseException:
                self._held[:0] = held
                raise

    async def close(self) -> None:
        """Let what waits find its place, if there is one."""
        with suppress(StorageUnavailable, EngineUnavailable):
            await self.carry_out()
        if self._putting is not None:
            await asyncio.wait((self._putting,))

    def _readable(self, page: Sequence[Message]) -> tuple[list[Mapping[str, Any]], int]:
        """Return the rows up to the first message that can't be read, and where they end."""
        rows: list[Mapping[str, Any]] = []
        upto = 0
        for message in page:
            try:
                rows += map(_row_of, decode(message.body, Rows, "audit rows").texts)
            except (Unreadable, msgspec.DecodeError) as error:
                self._unread(names.AUDIT, str(error))
                break
            upto = message.seq
        return rows, upto

    async def _take(self) -> None:
        """Take from the servers what storage has."""
        if self._taken >= self._told:
            return
        wish = {"filter": self._subject, "seq": self._told + 1}
        try:
            await self._wire.ask(f"STREAM.PURGE.{names.AUDIT}", wish)
        except Refused as refused:
            raise EngineUnavailable(f"{names.AUDIT}: {refused}") from refused
        self._taken = self._told

    def _put_away(self) -> asyncio.Task[None]:
        """Let the servers keep what is held here, one message after the other."""
        if self._putting is None or self._putting.done():
            self._putting = asyncio.create_task(self._put())
        return self._putting

    @property
    def _under_way(self) -> bool:
        """Whether something is being put."""
        return self._putting is not None and not self._putting.done()

    @property
    def _waiting(self) -> bool:
        """Whether there is anything that comes before what is told now."""
        return bool(self._told < self._last or self._held or self._under_way)

    async def _put(self) -> None:
        """Put what is held, and what comes meanwhile. What is not taken stays here."""
        while self._held:
            texts = _message(self._held)
            del self._held[: len(texts)]
            try:
                stored = await self._wire.put(Item(self._subject, "", encode(Rows(texts))))
            except (Refused, EngineUnavailable):
                self._held[:0] = texts
                return
            self._last = max(self._last, stored.seq)


def _message(texts: Sequence[bytes]) -> list[bytes]:
    """Return the first rows, as many as a message holds."""
    size = 0
    for count, text in enumerate(texts):
        size += len(text)
        if count and size > _MESSAGE_BYTES:
            return list(texts[:count])
    return list(texts)
