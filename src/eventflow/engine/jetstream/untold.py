"""What the audit trail has still to be told: storage does not answer, so the servers keep it.

Each node puts its rows under a subject of its own and takes them from there alone, oldest first,
since its chain has one writer: the rows of a node that died wait for its next life. What had been
written to storage by then, and not yet taken from the servers, is written once more: a row may
stand twice in a trail, and none is missing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from eventflow.engine.jetstream import names
from eventflow.engine.jetstream.stored import Rows, Unreadable, decode, encode
from eventflow.engine.jetstream.wire import Item, Refused
from eventflow.errors import EngineUnavailable, StorageUnavailable
from eventflow.storage.audit import canonical

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from eventflow.engine.jetstream.wire import Message, Wire
    from eventflow.storage.protocol import Keeper

_MESSAGE_BYTES = 128 * 1024
"""What a message holds at most, unless a single row is larger: far less than servers take."""
_PAGE = 20

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
        """What neither has: each row as it is hashed."""

    async def load(self) -> None:
        """Learn whether an earlier life of this node has left something.

        Raises:
            EngineUnavailable: no answer.
        """
        newest = await self._wire.get(names.AUDIT, last_by_subj=self._subject)
        self._last = 0 if newest is None else newest.seq

    async def tell(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write rows to storage. While it is down they wait, durably where the servers answer."""
        if not rows:
            return
        if self._told >= self._last and not self._held:
            try:
                await self._storage.note(rows)
            except StorageUnavailable:
                self._held += map(canonical, rows)
            else:
                return
        else:  # behind those that wait
            self._held += map(canonical, rows)
        await self._put_away()

    async def carry_out(self) -> None:
        """Write to storage what waits for it, oldest first.

        Raises:
            StorageUnavailable, EngineUnavailable: not all of it; what is left waits on.
        """
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
        held, self._held = self._held, []
        if held:
            try:
                await self._storage.note([_row_of(text) for text in held])
            except StorageUnavailable:
                self._held = [*held, *self._held]
                await self._put_away()
                raise

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

    async def _put_away(self) -> None:
        """Let the servers keep what is held here. What they don't take stays here."""
        held, self._held = self._held, []
        try:
            for texts in _messages(held):
                stored = await self._wire.put(Item(self._subject, "", encode(Rows(texts))))
                self._last = max(self._last, stored.seq)
                held = held[len(texts) :]
        except (Refused, EngineUnavailable):
            self._held = [*held, *self._held]


def _messages(texts: Sequence[bytes]) -> Iterator[list[bytes]]:
    """Yield rows message by message."""
    some: list[bytes] = []
    size = 0
    for text in texts:
        if some and size + len(text) > _MESSAGE_BYTES:
            yield some
            some, size = [], 0
        some.append(text)
        size += len(text)
    if some:
        yield some
