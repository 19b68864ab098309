"""CloudEvents' HTTP binding, binary mode: attributes are `ce-` headers, the body is the data."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote_to_bytes

from eventflow.cloudevents.careful import MAX_MEMBERS, OCTETS, event_of
from eventflow.cloudevents.payload import json_fault
from eventflow.event import is_json_type

if TYPE_CHECKING:
    from collections.abc import Iterable

    from eventflow.event import Event, Scalar

PREFIX = b"ce-"

# Section 3.1.3.2 of the binding: all of printable ASCII but blank, quote and percent sign.
_SAFE = "".join(chr(n) for n in range(0x21, 0x7F) if chr(n) not in '"%')
_ESCAPED = re.compile(rb"\\(.)", re.DOTALL)


def decode_binary(headers: Iterable[tuple[bytes, bytes]], body: bytes) -> Event:
    """Return the event of a request in binary mode.

    Args:
        headers: Names and values as they came; others than `ce-*` and Content-Type don't matter.
        body: The data. An empty one is none.

    Raises:
        InvalidEvent: headers or body are not such an event; a sentence for each fault.
    """
    attributes: dict[str, Any] = {}
    wrong: list[str] = []
    for header, value in headers:
        name = _attribute(header.lower())
        if name is None:
            continue
        if name in attributes:
            wrong.append(f"{name[:80]}: expected one header, got two")
        text = _text(value) if name != "datacontenttype" else _utf8(value)
        if text is None:
            wrong.append(f"{name[:80]}: expected UTF-8, got {value[:80]!r}")
        attributes[name] = "?" if text is None else text
    if len(attributes) > MAX_MEMBERS:
        wrong.append(f"expected at most {MAX_MEMBERS} attributes, got {len(attributes)}")
    data = body or None
    if data is not None:
        kind = attributes.get("datacontenttype")
        fault = json_fault(data) if kind is None or is_json_type(kind) else None
        if fault is not None and kind is None:
            attributes["datacontenttype"] = OCTETS
        elif fault is not None:
            wrong.append(f"data: {fault}, where Content-Type says JSON")
    return event_of(attributes, data, wrong)


def to_binary(event: Event) -> tuple[dict[str, str], bytes]:
    """Return headers and body of a request that carries the event in binary mode."""
    headers = {
        f"ce-{name}": quote(_spelt(value), safe=_SAFE)
        for name, value in event.attributes().items()
        if name != "datacontenttype"
    }
    if event.datacontenttype is not None:
        headers["content-type"] = quote(event.datacontenttype, safe=_SAFE + ' "%')
    elif event.body is not None:
        headers["content-type"] = "application/json"
    return headers, event.body or b""


def _attribute(header: bytes) -> str | None:
    """Return which attribute a header (in lower case) holds, None if it holds none."""
    if header.startswith(PREFIX):
        # ce-datacontenttype does not exist: the attribute is the Content-Type header.
        name = header[len(PREFIX) :].decode("latin-1")
        return name if name != "datacontenttype" else "ce-datacontenttype"
    return "datacontenttype" if header == b"content-type" else None


def _text(value: bytes) -> str | None:
    """Return the text of a header: unquoted, percent-decoded once; None if it is not UTF-8."""
    if len(value) > 1 and value[:1] == value[-1:] == b'"':
        value = _ESCAPED.sub(rb"\1", value[1:-1])
    return _utf8(unquote_to_bytes(value) if b"%" in value else value)


def _utf8(value: bytes) -> str | None:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return None


def _spelt(value: Scalar) -> str:
    """Return an attribute as CloudEvents spells it: a boolean is `true` or `false`."""
    return str(value).lower() if isinstance(value, bool) else str(value)
