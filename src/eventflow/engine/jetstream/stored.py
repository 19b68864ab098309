"""How deliveries, notes and counters are written in messages.

Each is the msgpack array `[format, what]`: nodes of this release and the next work side by side on
the same streams, and must be able to say "I can't read this" instead of misreading it.
"""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from eventflow.delivery import Delivery
from eventflow.engine.carrying import Carriage

T = TypeVar("T")

DUE = "Ef-Due"
"""Header of what waits in a lane: when it is due, seconds since 1970. The truth, not the alarm."""


class Unreadable(Exception):
    """A message is damaged, or of another format. It was left as it is."""


class Note(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What is new of a delivery that stays in its queue. The latest one counts."""

    seq: int
    """Of the message it is about: a note on an older one means nothing."""
    times: int
    """How often the server had delivered that message when this was written."""
    started: bool
    """Whether that delivery was the start of a run. Else it was given back, or only looked at."""
    delivery: Delivery


class Rows(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Audit rows that storage has not taken yet."""

    texts: list[bytes]
    """Each as `storage.audit.canonical` writes it."""


class Counters(msgspec.Struct, array_like=True, gc=False, omit_defaults=True):
    """What one node has counted of one topic, ever."""

    created: int = 0
    """What no place has counted: of a file that was moved here, more than came with it."""
    delivered: int = 0
    discarded: int = 0
    """Of a file that was moved here. What is discarded since, storage counts."""
    moved: int = 0
    """Messages whose end was that they are in another place."""
    placed: int = 0
    """Messages that its moves put into the queue's stream. The others are events from a door."""
    repeated: int = 0
    """Deliveries it had to make a second time: counted as created, too."""
    archived: int = 0


class Record(msgspec.Struct, array_like=True, gc=False):
    """A node's line in the ledger: what it has counted, before it lets go of what it counted."""

    since: float
    """When it began to count, seconds since 1970."""
    topics: dict[str, Counters]
    ends: bytes
    """Ends that are counted, the latest last: servers may not know of them. See `ledger`."""
    move: Carriage | None = None
    """Of the move of a file: how far it has come. Its counters are those that the file had."""
    detours: dict[str, float] = {}
    """By topic: when events of one route last went through common, as the topic had no room."""
    moving: int = 0
    """Deliveries that were between two places when this was written, by that node's doing."""
    begun: int = 0
    """Deliveries that it has begun to move, ever."""
    sure: int = 0
    """How many of the first `ends` servers had confirmed."""
    kinds: list[tuple[str, str]] = []
    """What an end may count as, topic and counter, by the number it has in `ends`."""
    marks: dict[str, int] = {}
    """By place: how much it was ever given, as this node has seen it."""


FORMATS: dict[type, int] = {Delivery: 1, Note: 1, Record: 2, Rows: 1}
"""What is written. Others are refused."""

_encode = msgspec.msgpack.Encoder().encode
_open = msgspec.msgpack.Decoder(list[msgspec.Raw]).decode
_format = msgspec.msgpack.Decoder(int).decode
_decoders: dict[type, Any] = {kind: msgspec.msgpack.Decoder(kind).decode for kind in FORMATS}


def encode(what: Delivery | Note | Record | Rows) -> bytes:
    """Return the body of a message."""
    return _encode((FORMATS[type(what)], what))


def decode(body: bytes, kind: type[T], where: str) -> T:
    """Return what the body of a message says.

    Raises:
        Unreadable: it is of another format, or damaged.
    """
    try:
        parts = _open(body)
        held = _format(parts[0])
        if held == FORMATS[kind]:
            found: T = _decoders[kind](parts[1])
            return found
    except (msgspec.MsgspecError, IndexError, UnicodeDecodeError) as error:
        raise Unreadable(f"{where} is damaged: {error}") from error
    raise Unreadable(
        f"{where} is written in format {held}, this EventFlow reads format {FORMATS[kind]}"
    )
