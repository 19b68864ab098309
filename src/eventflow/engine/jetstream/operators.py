"""What operators have set while nodes run, for all nodes: pauses and overrides, by topic.

A message a topic, stored only behind the one that its sender had read: of two changes at the same
moment one is told so. Each node reads what is new every second. What has been taken back leaves a
message that says so, or a node that was away would bring it back from its own storage.

Storage keeps a copy with the row of the trail, written by the node that was asked and no other. It
is what counts for a topic that nobody has set here yet: after a move, or from before.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import msgspec

from eventflow.engine.jetstream import names
from eventflow.engine.jetstream.wire import Item, Refused
from eventflow.errors import ChangedMeanwhile, EngineUnavailable, StorageUnavailable
from eventflow.storage.protocol import Actor
from eventflow.telemetry.logging import log
from eventflow.telemetry.names import SETTINGS_FOLLOWED

if TYPE_CHECKING:
    from collections.abc import Callable

    from eventflow.engine.jetstream.wire import Message, Wire
    from eventflow.storage.protocol import Storage

    Values = Mapping[str, Any]

_PAGE = 100
_WRONG_LAST_SEQUENCE = {10071, 10164}


class Said(msgspec.Struct, frozen=True, kw_only=True):
    """What a message says: the last word on a topic."""

    values: Mapping[str, Any] | None
    """None: nothing is set any more."""
    by: str
    why: str
    change: str
    """Of this one change."""


_decode = msgspec.json.Decoder(Said).decode
_encode = msgspec.json.Encoder().encode


class Operators:
    """The settings of all nodes that operators have made."""

    def __init__(self, wire: Wire, storage: Storage, draw_bits: Callable[[int], int]) -> None:
        self._wire = wire
        self._storage = storage
        self._draw_bits = draw_bits
        self._known: dict[str, tuple[int, Said]] = {}
        """By topic: the message, and what it says."""
        self._read_to = 0
        self._own = ""
        """The change that this node is making."""
        self._untold: list[tuple[str, Values | None, Actor]] = []
        """What storage has still to be told."""
        self._telling = asyncio.Lock()
        self.changed: Callable[[], None] = lambda: None
        """Called when another node has changed something."""

    async def load(self) -> None:
        """Learn what is set, and say what this node's storage has of topics never set here.

        Raises:
            EngineUnavailable: no answer.
        """
        await self._read()
        for topic, values in (await self._storage.overrides()).items():
            if topic not in self._known:
                try:
                    await self._say(topic, values, Actor("a node that joined", "from its storage"))
                except ChangedMeanwhile:
                    await self._read()

    async def refresh(self) -> None:
        """Hear what other nodes were told, and tell storage what it could not take before.

        Raises:
            EngineUnavailable: no answer.
            StorageUnavailable: it still can't.
        """
        heard = await self._read()
        for topic, said in heard:
            log(SETTINGS_FOLLOWED, topic=topic, by=said.by, why=said.why)
        if heard:
            self.changed()
        await self._tell()

    async def overrides(self) -> Mapping[str, Values]:
        """Return what is set now, by topic.

        Raises:
            EngineUnavailable: no answer.
        """
        if await self._read():
            self.changed()
        return {
            topic: said.values
            for topic, (_, said) in sorted(self._known.items())
            if said.values is not None
        }

    async def override(self, topic: str, values: Values | None, by: Actor) -> None:
        """Set it for all nodes; None takes it back. Audited, by and by where storage is down.

        Raises:
            ChangedMeanwhile: another node was told something else of this topic just now.
            EngineUnavailable: no answer: it may hold, or not.
        """
        await self._say(topic, values, by)
        self._untold.append((topic, values, by))
        with suppress(StorageUnavailable):
            await self._tell()  # it holds; until then who did it stands in the message

    async def _tell(self) -> None:
        """Tell storage, in order and each once: a beat may come while an operator's act does it."""
        async with self._telling:
            while self._untold:
                await self._storage.override(*self._untold[0])
                del self._untold[0]

    async def _say(self, topic: str, values: Values | None, by: Actor) -> None:
        behind, _ = self._known.get(topic, (0, None))
        self._own = f"{self._draw_bits(64):016x}"
        said = Said(values=values, by=by.name, why=by.why, change=self._own)
        expected = {"Nats-Expected-Last-Subject-Sequence": str(behind)}
        try:
            stored = await self._wire.put(
                Item(names.operators_subject(topic), "", _encode(said), expected)
            )
        except EngineUnavailable:
            self._own = ""  # if it was stored after all, it is heard as another's is
            raise
        except Refused as refused:
            if refused.code not in _WRONG_LAST_SEQUENCE:
                raise EngineUnavailable(f"{names.OPERATORS}: {refused}") from refused
            await self._read()
            _, now = self._known.get(topic, (0, None))
            if now is None or now.change != self._own:  # else stored, and not answered
                self.changed()
                raise ChangedMeanwhile(topic) from refused
        else:
            self._known[topic] = (stored.seq, said)

    async def _read(self) -> list[tuple[str, Said]]:
        """Read what is new; return what others have said."""
        heard: list[tuple[str, Said]] = []
        while True:
            page = await self._wire.read(names.OPERATORS, "ef.set.*", self._read_to, _PAGE)
            for message in page:
                self._read_to = message.seq
                topic = names.ref_of(message.subject)
                said = _said(message)
                known, _ = self._known.get(topic, (0, None))
                if said is not None and message.seq > known:
                    self._known[topic] = (message.seq, said)
                    if said.change != self._own:
                        heard.append((topic, said))
            if len(page) < _PAGE:
                return heard


def _said(message: Message) -> Said | None:
    try:
        return _decode(message.body)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None  # of a release that says it otherwise: what was known holds on
