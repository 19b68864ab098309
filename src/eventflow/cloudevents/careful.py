"""The slow way from JSON to an event: it knows every rule, and a sentence for each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from eventflow.cloudevents.payload import DEPTH_FAULT, json_fault, reason, too_deep, utf8_fault
from eventflow.errors import InvalidEvent
from eventflow.event import CORE_ATTRIBUTES, faults, from_parts, is_json_type, kind_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from eventflow.event import Event

    Members = Mapping[str, msgspec.Raw]

REQUIRED = ("id", "source", "type")
OCTETS = "application/octet-stream"

MAX_MEMBERS = 100
"""Attributes of an event, `data` among them. What is in use has up to 20."""

_MAX_FAULTS = 10
_MAX_FAULT_CHARS = 300
_MEMBERS = msgspec.json.Decoder(dict[str, msgspec.Raw])


def decode_carefully(text: bytes, index: int | None) -> Event:
    """Return the event of a JSON object.

    Raises:
        InvalidEvent: with a sentence for each fault, `index` with it.
    """
    fault = utf8_fault(text)
    if fault is not None:
        raise InvalidEvent([fault], index=index)
    members = _members(text, index)
    attributes: dict[str, Any] = {
        name: value
        for name, raw in members.items()
        if name not in {"data", "data_base64"}
        if (value := scalar(raw)) is not None
    }
    kind = attributes.get("datacontenttype")
    if "data_base64" in members and bytes(members["data_base64"]) != b"null":
        data, wrong = _binary_data(members, kind)
        if kind is None:
            attributes["datacontenttype"] = OCTETS
    else:
        data, wrong = _json_data(members, kind)
    return event_of(attributes, data, [wrong] if wrong else [], index)


def event_of(
    attributes: dict[str, Any], data: bytes | None, wrong: Sequence[str], index: int | None = None
) -> Event:
    """Return the event with these attributes, extensions among them. Takes `attributes` apart.

    Args:
        attributes: As they came, by name; none of them None.
        data: What is kept as the event's body.
        wrong: What is known to be wrong with it already.
        index: Which event of the request it is.

    Raises:
        InvalidEvent: something is wrong.
    """
    problems = list(wrong)
    version = attributes.pop("specversion", None)
    if version != "1.0":
        problems.append(f"specversion: expected '1.0', got {_shown(version)}")
    problems += [
        f"{name}: expected text, got nothing" for name in REQUIRED if attributes.get(name) is None
    ]
    core = {name: attributes.pop(name, None) for name in CORE_ATTRIBUTES[1:]}
    event = from_parts(
        core["id"],
        core["source"],
        core["type"],
        data,
        core["time"],
        core["subject"],
        core["datacontenttype"],
        core["dataschema"],
        attributes or None,
    )
    problems += faults(event)
    if problems:
        raise InvalidEvent(_shortened(problems), index=index)
    return event


def _members(text: bytes, index: int | None) -> Members:
    try:
        members = _MEMBERS.decode(text)
    except msgspec.ValidationError:  # JSON, but no object
        got = kind_of(scalar(text.strip()))
        problem = f"expected a JSON object, got {got}"
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        problem = f"expected a JSON object, got {reason(error)}"
    else:
        if len(members) <= MAX_MEMBERS:
            return members
        problem = f"expected at most {MAX_MEMBERS} attributes, got {len(members)}"
    raise InvalidEvent([problem], index=index)


def scalar(text: bytes | msgspec.Raw) -> Any:
    """Return a JSON value; of an object or array only that it is one."""
    first = bytes(text)[:1]
    if first in {b"{", b"["}:
        return {} if first == b"{" else []
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError:  # a number that Python can't hold, or text that has no end
        return "" if first == b'"' else float("inf")


def _json_data(members: Members, kind: Any) -> tuple[bytes | None, str | None]:
    """Return what `data` stands for, and what is wrong with it."""
    data = bytes(members.get("data", b"null"))
    if data == b"null":
        return None, None
    if isinstance(kind, str) and not is_json_type(kind):
        if data.startswith(b'"'):
            return msgspec.json.decode(data, type=str).encode(), None
        got = kind_of(scalar(data))
        return None, f"data: expected text, since datacontenttype is {kind[:80]!r}, got {got}"
    return data, f"data: {DEPTH_FAULT}" if too_deep(data) else None


def _binary_data(members: Members, kind: Any) -> tuple[bytes | None, str | None]:
    """Return what `data_base64` stands for, and what is wrong with it."""
    if bytes(members.get("data", b"null")) != b"null":
        return None, "data: expected data or data_base64, got both"
    try:
        data = msgspec.json.decode(members["data_base64"], type=bytes)
    except msgspec.ValidationError:
        return None, "data_base64: expected text in base64, got something else"
    fault = json_fault(data) if isinstance(kind, str) and is_json_type(kind) else None
    return data, None if fault is None else f"data_base64: {fault}, where datacontenttype says JSON"


def _shown(value: Any) -> str:
    if value is None:
        return "nothing"
    return repr(value)[:80] if isinstance(value, str | int | float) else kind_of(value)


def _shortened(problems: Sequence[str]) -> list[str]:
    """Return the first few, none without end: they go into an answer."""
    shown = [
        text if len(text) <= _MAX_FAULT_CHARS else text[:_MAX_FAULT_CHARS] + "…"
        for text in problems[:_MAX_FAULTS]
    ]
    if len(problems) > _MAX_FAULTS:
        shown.append(f"and {len(problems) - _MAX_FAULTS} more faults")
    return shown
