"""The fast way from JSON to events: all of a request at once, typed, unlooked-at data.

What typing alone can't say (URIs, times, control characters, nesting) is checked for the whole
request at once and more strictly than the rules are. So "no" here means "look closely", never
"wrong": `careful` decides then, event by event, and finds the words.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec

from eventflow.cloudevents.payload import SHALLOW_BYTES, any_too_deep, too_deep
from eventflow.event import construct, from_parts, is_json_type

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from eventflow.event import Event, Scalar

Text = Annotated[str, msgspec.Meta(min_length=1)]


class Wire(msgspec.Struct, forbid_unknown_fields=True, gc=False, frozen=True):
    """An event in CloudEvents' JSON format, with the extensions that EventFlow reads."""

    specversion: Literal["1.0"]
    id: Text
    source: Text
    type: Text
    time: str | None = None
    subject: Text | None = None
    datacontenttype: Text | None = None
    dataschema: Text | None = None
    data: msgspec.Raw = msgspec.Raw()
    data_base64: bytes | None = None
    partitionkey: Text | None = None
    priority: Literal["critical", "high", "normal", "low"] | None = None
    expirytime: str | None = None
    deliverat: str | None = None
    traceparent: str | None = None
    tracestate: str | None = None


class PlainWire(msgspec.Struct, forbid_unknown_fields=True, gc=False, frozen=True):
    """The same without extensions and without binary data: what most events are."""

    specversion: Literal["1.0"]
    id: Text
    source: Text
    type: Text
    data: msgspec.Raw
    time: str | None = None
    subject: Text | None = None
    datacontenttype: Text | None = None
    dataschema: Text | None = None


# The characters of RFC 3986; a source with others (an IRI, say) is looked at closely.
_PLAIN_URI = re.compile(r"[\w:/?#\[\]@!$&'()*+,;=.~%-]+", re.ASCII)

# Times that exist in any month and year; the last days of a month are looked at closely.
_PLAIN_TIMES = re.compile(
    r"(?:[1-9]\d{3}-(?:0[1-9]|1[0-2])-(?:0[1-9]|1\d|2[0-8])T(?:[01]\d|2[0-3]):[0-5]\d:[0-5]\d"
    r"(?:\.\d{1,9})?(?:Z|[+-](?:0\d|1[0-4]):[0-5]\d)\n)*",
    re.ASCII,
)

is_json = lru_cache(maxsize=1024)(is_json_type)


def plain(text: bytes) -> bool:
    """Return whether no string in this JSON can hold a control character."""
    return text.isascii() and b"\\" not in text and b"\x7f" not in text


def plain_events_of(wires: Sequence[PlainWire], text: bytes) -> list[Event] | None:
    """Return the events, None where one of them needs another look: `events_of` has it.

    Args:
        wires: As decoded.
        text: What they were decoded from.
    """
    if not (
        plain(text)
        and all(map(_PLAIN_URI.fullmatch, {wire.source for wire in wires}))
        and {wire.dataschema for wire in wires} <= {None}
        and all(kind is None or is_json(kind) for kind in {w.datacontenttype for w in wires})
    ):
        return None
    times = {wire.time for wire in wires if wire.time is not None}
    if times and _PLAIN_TIMES.fullmatch("\n".join(times) + "\n") is None:
        return None
    datas = [bytes(wire.data) for wire in wires]
    if b"null" in datas or any_too_deep(datas, text):
        return None
    return [
        construct(w.id, w.source, w.type, data, w.time, w.subject, w.datacontenttype)
        for w, data in zip(wires, datas, strict=True)
    ]


def event_of(wire: Wire, *, plain: bool) -> Event | None:
    """Return the event, None where it needs a close look: as `events_of`, for one by itself.

    Most that come so need none of the lists and sets that many are looked at with.
    """
    data, kind = bytes(wire.data), wire.datacontenttype
    if (
        plain
        and data
        and data != b"null"
        and (len(data) <= SHALLOW_BYTES or not too_deep(data))
        and wire.data_base64 is None
        and (kind is None or is_json(kind))
        and wire.dataschema is None
        and wire.expirytime is None
        and wire.deliverat is None
        and _PLAIN_URI.fullmatch(wire.source) is not None
        and (wire.time is None or _PLAIN_TIMES.fullmatch(wire.time + "\n") is not None)
    ):
        named = (wire.id, wire.source, wire.type, data, wire.time, wire.subject, kind, None)
        event: Event = construct(*named, _extensions(wire))
        return event
    found = events_of([wire], plain=plain)
    return None if found is None else found[0]


def events_of(wires: Sequence[Wire], *, plain: bool) -> list[Event] | None:
    """Return the events, None where one of them needs a close look.

    Args:
        wires: As decoded.
        plain: What `plain` says of the text they were decoded from.
    """
    if not _attributes_hold(wires, plain=plain):
        return None
    events = []
    for wire in wires:
        data: bytes | None = bytes(wire.data)
        kind = wire.datacontenttype
        if not data or data == b"null":
            if wire.data_base64 is not None:
                return None
            data = None
        elif wire.data_base64 is not None or (len(data) > SHALLOW_BYTES and too_deep(data)):
            return None
        elif kind is not None and not is_json(kind):
            if data[0] != 34:  # not a string
                return None
            data = msgspec.json.decode(data, type=str).encode()
        events.append(
            from_parts(
                wire.id,
                wire.source,
                wire.type,
                data,
                wire.time,
                wire.subject,
                kind,
                wire.dataschema,
                _extensions(wire),
            )
        )
    return events


def _attributes_hold(wires: Sequence[Wire], *, plain: bool) -> bool:
    uris = {wire.source for wire in wires}
    uris.update([wire.dataschema for wire in wires if wire.dataschema is not None])
    if not all(map(_PLAIN_URI.fullmatch, uris)):
        return False
    times = [wire.time for wire in wires if wire.time is not None]
    times += [wire.expirytime for wire in wires if wire.expirytime is not None]
    times += [wire.deliverat for wire in wires if wire.deliverat is not None]
    if times and _PLAIN_TIMES.fullmatch("\n".join(times) + "\n") is None:
        return False
    return plain or "".join(_texts(wires)).isprintable()


def _texts(wires: Iterable[Wire]) -> list[str]:
    return [
        text
        for wire in wires
        for text in (
            wire.id,
            wire.type,
            wire.subject,
            wire.datacontenttype,
            wire.partitionkey,
            wire.traceparent,
            wire.tracestate,
        )
        if text is not None
    ]


def _extensions(wire: Wire) -> dict[str, Scalar] | None:
    if (
        wire.partitionkey is None
        and wire.traceparent is None
        and wire.priority is None
        and wire.expirytime is None
        and wire.deliverat is None
        and wire.tracestate is None
    ):
        return None
    found = {
        "partitionkey": wire.partitionkey,
        "priority": wire.priority,
        "expirytime": wire.expirytime,
        "deliverat": wire.deliverat,
        "traceparent": wire.traceparent,
        "tracestate": wire.tracestate,
    }
    return {name: value for name, value in found.items() if value is not None}
