"""CloudEvents' JSON format: one event, a batch, or an event a line."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from eventflow.cloudevents.careful import decode_carefully, scalar
from eventflow.cloudevents.payload import json_fault, reason, utf8_fault
from eventflow.cloudevents.wire import PlainWire, Wire, event_of, events_of, plain, plain_events_of
from eventflow.errors import InvalidEvent, TooLarge
from eventflow.event import kind_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from eventflow.event import Event

_ONE = msgspec.json.Decoder(Wire)
_BATCH = msgspec.json.Decoder(list[Wire])
_PLAIN_BATCH = msgspec.json.Decoder(list[PlainWire])
_RAW_BATCH = msgspec.json.Decoder(list[msgspec.Raw])

_ON_ONE_LINE = bytes.maketrans(b"\r\n", b"  ")

# What msgspec raises on text it can't take; on anything else it is a fault of ours.
_MALFORMED = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


def decode_structured(body: bytes, index: int | None = None) -> Event:
    """Return the event of a JSON object (application/cloudevents+json).

    Args:
        body: UTF-8 JSON.
        index: Which event of the request it is, for messages.

    Raises:
        InvalidEvent: the body is not such an event; a sentence for each fault.
    """
    found = decode_plainly(body)
    return decode_carefully(body, index) if found is None else found


def decode_plainly(body: bytes) -> Event | None:
    """Return the event of a JSON object, None where `decode_structured` has to look closely."""
    if utf8_fault(body) is not None:
        return None
    try:
        return event_of(_ONE.decode(body), plain=plain(body))
    except _MALFORMED:
        return None


def decode_batch(body: bytes, *, max_events: int | None = None) -> list[Event]:
    """Return the events of a JSON array (application/cloudevents-batch+json), maybe none.

    Args:
        body: UTF-8 JSON.
        max_events: How many it may hold. Held against before any of them is looked at closely.

    Raises:
        InvalidEvent: the body is not such an array, or one of its events is wrong: its `index`
            says which.
        TooLarge: it holds more than `max_events`.
    """
    fault = utf8_fault(body)
    if fault is not None:
        raise InvalidEvent([fault])
    found = _decode_plain(body, max_events)
    if found is not None:
        return found
    try:
        wires = _BATCH.decode(body)
    except _MALFORMED:
        pass  # looked at closely below
    else:
        _check_count(len(wires), max_events)
        found = events_of(wires, plain=plain(body))
    return _decode_batch_carefully(body, max_events) if found is None else found


def _decode_plain(body: bytes, max_events: int | None) -> list[Event] | None:
    """Return the events of a batch in which none has extensions, None where one has."""
    try:
        wires = _PLAIN_BATCH.decode(body)
    except _MALFORMED:
        return None
    _check_count(len(wires), max_events)
    return plain_events_of(wires, body)


def _decode_batch_carefully(body: bytes, max_events: int | None) -> list[Event]:
    try:
        parts = _RAW_BATCH.decode(body)
    except msgspec.ValidationError as error:  # JSON, but no array
        got = kind_of(scalar(body.strip()))
        raise InvalidEvent([f"expected a JSON array of events, got {got}"]) from error
    except _MALFORMED as error:
        raise InvalidEvent([f"expected a JSON array of events, got {reason(error)}"]) from error
    _check_count(len(parts), max_events)
    return [decode_structured(bytes(part), index) for index, part in enumerate(parts)]


def _check_count(events: int, max_events: int | None) -> None:
    if max_events is not None and events > max_events:
        advice = "send an event a line (application/x-ndjson): of those there is no greatest number"
        raise TooLarge("events in the batch", events, max_events, None, advice=advice)


def decode_lines(chunk: Sequence[bytes], first: int = 0) -> list[Event]:
    """Return the events of some lines (application/x-ndjson), an event a line.

    Args:
        chunk: UTF-8 JSON each, with or without their line ends; blank ones are left out.
        first: Number of the first line within the request, counted from 0.

    Raises:
        InvalidEvent: one of them is wrong: its `index` is the number of the line.
    """
    whole = b"\n".join(chunk)
    if utf8_fault(whole) is None:
        try:
            found = events_of([_ONE.decode(line) for line in chunk if line], plain=plain(whole))
        except _MALFORMED:
            found = None
        if found is not None:
            return found
    return [
        decode_structured(line, index)
        for index, line in enumerate(chunk, first)
        if line and not line.isspace()
    ]


def encode_structured(event: Event) -> bytes:
    """Return the event as a JSON object (application/cloudevents+json)."""
    return msgspec.json.encode(_members(event))


def encode_batch(events: Iterable[Event]) -> bytes:
    """Return the events as a JSON array (application/cloudevents-batch+json)."""
    return msgspec.json.encode([_members(event) for event in events])


def encode_lines(events: Iterable[Event]) -> bytes:
    """Return the events as lines (application/x-ndjson), each with its end.

    Data is as it came, and may have been written on several lines. Within JSON a line break can
    only stand between values, where a blank is the same.
    """
    lines = (encode_structured(event).translate(_ON_ONE_LINE) + b"\n" for event in events)
    return b"".join(lines)


def _members(event: Event) -> dict[str, Any]:
    members: dict[str, Any] = event.attributes()
    body = event.body
    if body is None:
        return members
    if event.is_json and json_fault(body) is None:
        members["data"] = msgspec.Raw(body)
    elif _is_text(event.datacontenttype) and utf8_fault(body) is None:
        members["data"] = body.decode()
    else:  # also JSON that is none: no event is kept back for what a sender called it
        members["data_base64"] = body
    return members


def _is_text(content_type: str | None) -> bool:
    return content_type is not None and content_type.lower().startswith("text/")
