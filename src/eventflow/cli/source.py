"""What `publish` sends: a file, standard input or an event of its options, as a line an event.

    {...} and more lines   an event a line (NDJSON), read as it is sent
    [...]                  a JSON array of events, read as a whole
    {...} over many lines  a single event, as people format it

Only where an event begins and ends is looked at. Whether it is one is for the node to say.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

import msgspec

from eventflow.cli.stop import Stop, wrong
from eventflow.client.lines import Line
from eventflow.cloudevents import encode_structured
from eventflow.errors import InvalidEvent
from eventflow.event import Event

STDIN: Final = "\0"
"""What stands for "-", which cyclopts takes for an option: no file can be named so."""
_BOM: Final = b"\xef\xbb\xbf"
_ARRAY = msgspec.json.Decoder(list[msgspec.Raw])
_ANY = msgspec.json.Decoder(msgspec.Raw)


@dataclass(frozen=True)
class Source:
    """Where the events come from."""

    name: str
    lines: Iterable[Line]
    unit: str = "line"
    """What places count: "line" or "event"."""
    size_bytes: int | None = None
    """Of all of it; None if that is not known before the end."""


@contextlib.contextmanager
def opened(name: str) -> Iterator[Source]:
    """Open a file, or standard input for `STDIN`.

    Raises:
        Stop: it can't be read.
    """
    if name == STDIN:
        yield _source("standard input", sys.stdin.buffer, None)
        return
    try:
        file = Path(name).open("rb")  # noqa: SIM115  # closed by the `with` below
    except OSError as error:
        raise wrong(f"{name}: can't be read: {error.strerror}. Nothing was sent.") from None
    except ValueError as error:  # a NUL in the name
        raise wrong(f"{name!r}: can't be read: {error}. Nothing was sent.") from None
    with file:
        try:
            yield _source(name, file, os.fstat(file.fileno()).st_size or None)
        except OSError as error:  # a directory says so only when it is read
            raise Stop(f"{name}: can't be read: {error.strerror}.") from None


def single(type: str, source: str, data: str | None, id: str | None) -> Source:
    """Return the one event that the options say.

    Raises:
        Stop: they don't say one.
    """
    try:
        value = None if data is None else msgspec.json.decode(data)
    except (msgspec.DecodeError, RecursionError, UnicodeError) as error:
        example = """--data '{"id": 7}', or --data '"some text"'"""
        raise wrong(
            f"--data: expected JSON, got {data!r} ({error}). Nothing was sent. Write {example}."
        ) from None
    try:
        event = Event(type=type, source=source, data=value, id=id)
    except InvalidEvent as error:
        raise wrong(f"--{error}. Nothing was sent.") from None
    return Source("the command line", [Line(1, encode_structured(event))], "event")


def _source(name: str, file: BinaryIO, size_bytes: int | None) -> Source:
    place, start = 0, b""
    while not start:
        raw = file.readline()
        if not raw:
            return Source(name, [], size_bytes=size_bytes)
        place += 1
        start = raw.removeprefix(_BOM).strip() if place == 1 else raw.strip()
    if start.startswith(b"["):
        return Source(name, list(_array(name, start + b"\n" + file.read())), "event", size_bytes)
    if _is_json(start):
        return Source(name, _with(Line(place, start), file), size_bytes=size_bytes)
    whole = start + b"\n" + file.read()
    if _is_json(whole):
        return Source(name, [Line(1, _on_one_line(whole))], "event", size_bytes)
    # Not a single event: the node says which of the lines are none.
    return Source(name, _numbered(whole.split(b"\n"), place), size_bytes=size_bytes)


def _with(first: Line, rest: Iterable[bytes]) -> Iterator[Line]:
    yield first
    yield from _numbered(rest, first.place + 1)


def _numbered(lines: Iterable[bytes], first: int) -> Iterator[Line]:
    return (Line(place, line.strip()) for place, line in enumerate(lines, first) if line.strip())


def _array(name: str, text: bytes) -> Iterator[Line]:
    try:
        parts = _ARRAY.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Stop(
            f"{name}: expected a JSON array of events, or an event a line; got {error}. "
            "Nothing was sent."
        ) from None
    for place, part in enumerate(parts, 1):
        yield Line(place, _on_one_line(bytes(part)))


def _is_json(text: bytes) -> bool:
    try:
        _ANY.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return True


def _on_one_line(text: bytes) -> bytes:
    """Return the JSON without line ends: outside of strings they are blanks, inside none may be."""
    return text.replace(b"\r", b" ").replace(b"\n", b" ").strip()
