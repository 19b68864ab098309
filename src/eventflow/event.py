"""The event: what comes in and travels. A CloudEvents 1.0 event whose data stays as it came.

`Event(...)` is for users: it takes Python data and encodes it once. Inside, events are made by
decoders straight from bytes, a thousand at a time, and nothing decodes the data until a handler
or a filter looks at it.

Source of the rules: CloudEvents 1.0.2, https://github.com/cloudevents/spec.
"""

from __future__ import annotations

import hashlib
import re
import uuid
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from eventflow.clock import from_rfc3339, rfc3339
from eventflow.errors import InvalidEvent

if TYPE_CHECKING:
    import builtins
    from collections.abc import Iterator, Mapping, Sequence

    T = TypeVar("T")

Scalar = str | int | bool
"""What a CloudEvents extension attribute may hold (bytes and times travel as text)."""


class Priority(StrEnum):
    """How urgent an event is: the most urgent first."""

    CRITICAL = "critical"
    HIGH = "high"
    NORMAL = "normal"
    LOW = "low"


PRIORITIES: tuple[Priority, ...] = tuple(Priority)
_RANKS: dict[Any, int] = {priority.value: rank for rank, priority in enumerate(PRIORITIES)}
_NORMAL = _RANKS["normal"]
_BASE32 = "abcdefghijklmnopqrstuvwxyz234567"
_PAIRS = [first + second for first in _BASE32 for second in _BASE32]
"""What 10 bits are: the standard library's encoder takes twice as long for a key."""

CORE_ATTRIBUTES = (
    "specversion",
    "id",
    "source",
    "type",
    "subject",
    "time",
    "datacontenttype",
    "dataschema",
)
"""The attributes CloudEvents 1.0 defines itself, in the order they are written."""

_EXTENSION_NAME = re.compile(r"[a-z0-9]{1,20}\Z")
_NOT_EXTENSIONS = {*CORE_ATTRIBUTES, "data", "data_base64"}
_JSON_TYPE = re.compile(r"(application|text)/([\w.+-]+\+)?json\s*(;|\Z)", re.IGNORECASE)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_URI_REFERENCE = re.compile(r"[^\s<>\"{}|\\^`]+\Z")


class _EventMeta(type(msgspec.Struct)):  # type: ignore[misc]  # msgspec doesn't name its metaclass
    """Lets `Event(...)` take Python data, while decoders fill the fields as they are."""

    def __call__(  # noqa: PLR0913  # the attributes of a CloudEvent
        cls,
        *,
        type: str,
        source: str,
        data: Any = None,
        id: str | None = None,
        time: str | datetime | None = None,
        subject: str | None = None,
        datacontenttype: str | None = None,
        dataschema: str | None = None,
        **extensions: Scalar,
    ) -> Event:
        body, content_type = _encode(data, datacontenttype)
        event = from_parts(
            str(uuid.uuid4()) if id is None else id,
            source,
            type,
            body,
            time if time is None or isinstance(time, str) else time.isoformat(),
            subject,
            content_type,
            dataschema,
            dict(extensions) or None,
        )
        check(event)
        return event


class Event(
    msgspec.Struct, metaclass=_EventMeta, frozen=True, array_like=True, gc=False, omit_defaults=True
):
    """A CloudEvent.

    Args:
        type: What happened, in dotted form: "user.registered". Routes match it.
        source: Where it happened: a URI reference such as "/shop".
        data: What there is to say. Anything JSON can hold, a msgspec Struct, a dataclass; or
            `bytes`, kept as they are (with `datacontenttype`, else "application/octet-stream").
        id: With `source` it names the event for ever: the same pair sent again is a duplicate.
            Made up (UUID) if left out.
        time: When it happened: RFC 3339 text or an aware datetime.
        subject: What it is about within `source`.
        datacontenttype: Media type of `data`; JSON if left out.
        dataschema: URI of the schema that `data` adheres to.
        **extensions: Further attributes. EventFlow reads `partitionkey`, `priority`
            ("critical", "high", "normal", "low"), `expirytime`, `deliverat`, `traceparent`.

    Raises:
        InvalidEvent: an attribute breaks CloudEvents 1.0; the message says which and why.
    """

    id: str
    source: str
    type: str
    body: bytes | None = None
    """The data as it came: JSON text, or the bytes themselves where it is not JSON."""
    time: str | None = None
    subject: str | None = None
    datacontenttype: str | None = None
    dataschema: str | None = None
    extensions: dict[str, Scalar] | None = None

    if TYPE_CHECKING:

        def __init__(  # noqa: PLR0913  # the attributes of a CloudEvent
            self,
            *,
            type: str,
            source: str,
            data: Any = None,
            id: str | None = None,
            time: str | datetime | None = None,
            subject: str | None = None,
            datacontenttype: str | None = None,
            dataschema: str | None = None,
            **extensions: Scalar,
        ) -> None: ...

    @property
    def data(self) -> Any:
        """The data, decoded anew at each call: JSON to Python, text to str, else bytes.

        Raises:
            InvalidEvent: the data is not what `datacontenttype` says.
        """
        if self.body is None:
            return None
        if self.is_json:
            try:
                return msgspec.json.decode(self.body)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
                raise InvalidEvent([f"data: expected JSON, got {error}"]) from error
        if (self.datacontenttype or "").lower().startswith("text/"):
            return self.body.decode("utf-8", "replace")
        return self.body

    def decode(self, into: builtins.type[T]) -> T:
        """Return the JSON data as `into`: a msgspec Struct, dataclass, TypedDict or pydantic model.

        Raises:
            InvalidEvent: the data does not fit; the message names the field. A handler that lets
                it pass has made the delivery dead (a validation error is no cause for a retry).
        """
        body = b"null" if self.body is None else self.body
        try:
            from_pydantic = getattr(into, "model_validate_json", None)
            if from_pydantic is not None:
                found: T = from_pydantic(body)
                return found
            return msgspec.json.decode(body, type=into)
        except ValueError as error:  # msgspec's and pydantic's errors are ValueErrors
            raise InvalidEvent([f"data: expected {into.__name__}, got {error}"]) from error

    @property
    def is_json(self) -> bool:
        """Whether the data is JSON: `datacontenttype` says so, or says nothing."""
        return self.datacontenttype is None or is_json_type(self.datacontenttype)

    @property
    def key(self) -> str:
        """The same for ever for this (source, id): what sinks use as idempotency key."""
        return key_text(self.key_bytes)

    @property
    def key_bytes(self) -> bytes:
        """The first 16 bytes of SHA-256(source, 0x00, id)."""
        return hashlib.sha256(f"{self.source}\0{self.id}".encode()).digest()[:16]

    @property
    def rank(self) -> int:
        """The priority as its place in `PRIORITIES`: 0 is critical. For engines only."""
        if self.extensions is None:
            return _NORMAL
        return _RANKS.get(self.extensions.get("priority"), _NORMAL)

    @property
    def priority(self) -> Priority:
        """How urgent the event is; normal unless it says otherwise."""
        return PRIORITIES[self.rank]

    @property
    def expires_at(self) -> float | None:
        """When it is of no use any more (`expirytime`), in seconds since 1970."""
        return self._moment("expirytime")

    @property
    def deliver_at(self) -> float | None:
        """When it may be delivered at the earliest (`deliverat`), in seconds since 1970."""
        return self._moment("deliverat")

    @property
    def size_bytes(self) -> int:
        """Bytes of data and attributes, roughly: what `memory_limit` and `max_size` count."""
        return sizes_of((self,))[0]

    def extension(self, name: str) -> Scalar | None:
        """Return the extension attribute `name`, None where the event has none."""
        return None if self.extensions is None else self.extensions.get(name)

    def attributes(self) -> dict[str, Scalar]:
        """Return every attribute that is set, `specversion` first, extensions last."""
        core = {
            "specversion": "1.0",
            "id": self.id,
            "source": self.source,
            "type": self.type,
            "subject": self.subject,
            "time": self.time,
            "datacontenttype": self.datacontenttype,
            "dataschema": self.dataschema,
        }
        found: dict[str, Scalar] = {k: v for k, v in core.items() if v is not None}
        return found | (self.extensions or {})

    def _moment(self, name: str) -> float | None:
        text = None if self.extensions is None else self.extensions.get(name)
        # Held against RFC 3339 at the door; by an older version's rules, if that one accepted it.
        return None if text is None else datetime.fromisoformat(str(text)).timestamp()

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return from_parts, msgspec.structs.astuple(self)


# Struct's own constructor, past the metaclass: positional fields, nothing encoded or checked. It is
# what `from_parts` calls, for where many are made at once.
construct: Any = type(msgspec.Struct).__call__.__get__(Event)


def from_parts(*fields: Any) -> Event:
    """Return an event from its fields in order, unchecked. For decoders: see `check`."""
    event: Event = construct(*fields)
    return event


def sizes_of(events: Sequence[Event]) -> list[int]:
    """Return the `size_bytes` of each, without a call for each."""
    return [
        len(event.id)
        + len(event.source)
        + len(event.type)
        + 64
        + (0 if event.body is None else len(event.body))
        + (0 if event.time is None else len(event.time))
        + (0 if event.subject is None else len(event.subject))
        + (0 if event.dataschema is None else len(event.dataschema))
        + (0 if event.extensions is None else _size_of(event.extensions))
        for event in events
    ]


def _size_of(extensions: Mapping[str, Scalar]) -> int:
    return sum([len(name) + len(str(text)) for name, text in extensions.items()])


def is_json_type(content_type: str) -> bool:
    """Return whether a media type is JSON: application/json, text/json, or any `+json`."""
    return _JSON_TYPE.match(content_type) is not None


def key_text(key: bytes) -> str:
    """Return 16 key bytes as RFC 4648 base32, lower case, unpadded: 26 characters."""
    bits = int.from_bytes(key, "big") << 2  # 128 of them, 13 pairs of 5
    return "".join([_PAIRS[bits >> at & 0x3FF] for at in range(120, -1, -10)])


def check(event: Event) -> None:
    """Hold an event against CloudEvents 1.0 and the extensions EventFlow reads.

    Raises:
        InvalidEvent: with one sentence a fault.
    """
    problems = list(faults(event))
    if problems:
        raise InvalidEvent(problems)


def faults(event: Event) -> Iterator[str]:
    """Yield one sentence for each rule that the event's attributes break."""
    for name in ("id", "source", "type", "subject", "datacontenttype", "dataschema"):
        value = getattr(event, name)
        if value is None:
            continue
        if not isinstance(value, str):
            yield f"{name}: expected text, got {kind_of(value)}"
        elif not value:
            yield f"{name}: expected at least one character, got ''"
        elif _CONTROL.search(value):
            yield f"{name}: expected text without control characters, got {value[:80]!r}"
        elif name in {"source", "dataschema"} and not _URI_REFERENCE.match(value):
            yield f"{name}: expected a URI reference, got {value[:80]!r}"
    if event.time is not None:
        yield from _time_faults("time", event.time)
    if event.extensions:
        yield from _extension_faults(event.extensions)


def _extension_faults(extensions: Mapping[str, Any]) -> Iterator[str]:
    for name, value in extensions.items():
        if not _EXTENSION_NAME.match(name) or name in _NOT_EXTENSIONS:
            yield (
                f"{name[:80]}: expected an attribute name of 1 to 20 lower-case letters and digits"
            )
        elif not isinstance(value, str | int):
            yield f"{name}: expected text, an integer or a boolean, got {kind_of(value)}"
        elif isinstance(value, int) and not -(2**31) <= value < 2**31:
            yield f"{name}: expected an integer of 32 bits, got {value}"
        elif isinstance(value, str) and _CONTROL.search(value):
            yield f"{name}: expected text without control characters, got {value[:80]!r}"
        elif name == "priority" and value not in _RANKS:
            yield f"priority: expected one of {', '.join(_RANKS)}, got {value!r}"
        elif name in {"expirytime", "deliverat"}:
            yield from _time_faults(name, value)
        elif name == "partitionkey" and not (isinstance(value, str) and value):
            yield f"partitionkey: expected text of at least one character, got {value!r}"


def _time_faults(name: str, value: Any) -> Iterator[str]:
    try:
        at = from_rfc3339(value)
    except (ValueError, TypeError, OverflowError):
        yield f"{name}: expected an RFC 3339 time such as 2026-11-24T08:00:00Z, got {value!r}"
        return
    if name == "time":
        return  # it is handed on as the text that it is
    try:
        rfc3339(at)
    except (ValueError, OverflowError):  # its offset takes it out of the calendar
        yield f"{name}: expected a time in the years 1 to 9999 of UTC, got {value!r}"


def kind_of(value: Any) -> str:
    """Return what a value is, in the words of JSON: for messages."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "a boolean"
    names = {str: "text", int: "a number", float: "a number", dict: "an object", list: "an array"}
    return names.get(type(value), type(value).__name__)


def _encode(data: Any, content_type: str | None) -> tuple[bytes | None, str | None]:
    """Return the body and media type of data given in Python."""
    if data is None:
        return None, content_type
    if isinstance(data, bytes):
        return data, content_type or "application/octet-stream"
    if content_type is not None and not is_json_type(content_type):
        if isinstance(data, str):
            return data.encode(), content_type
        raise InvalidEvent(
            [f"data: expected bytes or text for {content_type}, got {kind_of(data)}"]
        )
    try:
        return msgspec.json.encode(data), content_type or "application/json"
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidEvent([f"data: expected something JSON can hold, got {error}"]) from error
