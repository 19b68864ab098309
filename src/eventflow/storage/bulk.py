"""Many rows in one statement, both ways.

Every time SQLite hands control to Python it waits for the interpreter's lock, and beside a busy
event loop that is up to `sys.getswitchinterval()`. A statement that is stepped once a row falls
from 67,000 to 230 rows a second there; one that carries 500 rows at once to 24,000 (measured on
two cores, with the default interval of 5 ms; at 0.5 ms: 3,400 against 58,000). So columns travel
as one JSON array, and blobs, which JSON can't hold, joined to one with their places in the array:

    INSERT INTO t SELECT value->>2, substr(?2, value->>0, value->>1) FROM jsonb_each(?1)

What comes back does so the same way, see `Shelf`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

PIECE_BYTES = 16 * 2**20
"""Most bytes of blobs that one statement carries, unless a single one is larger.

SQLite's own limit is 10**9; this keeps the copies of a batch of large events small.
"""


def pieces(rows: Iterable[tuple[Sequence[Any], bytes]]) -> Iterator[tuple[str, bytes]]:
    """Yield both parameters of each statement that the rows take.

    Args:
        rows: Columns and blob of each.

    Yields:
        JSON of `[start, length, *columns]` for each row, start counted from 1 as `substr` does,
        and the blobs joined.
    """
    lines: list[list[Any]] = []
    blobs: list[bytes] = []
    start = 1
    for columns, blob in rows:
        if blobs and start + len(blob) > PIECE_BYTES:
            yield json_text(lines), b"".join(blobs)
            lines, blobs, start = [], [], 1
        lines.append([start, len(blob), *columns])
        blobs.append(blob)
        start += len(blob)
    if blobs:
        yield json_text(lines), b"".join(blobs)


def shares(sizes: Iterable[tuple[int, int]], at_most: int) -> Iterator[list[int]]:
    """Yield row numbers in groups whose blobs are not too large together.

    Args:
        sizes: Number of each row, and bytes of its blob.
        at_most: Bytes of a group, unless a single blob is larger.
    """
    group: list[int] = []
    total = 0
    for number, size in sizes:
        if group and total + size > at_most:
            yield group
            group, total = [], 0
        group.append(number)
        total += size
    if group:
        yield group


def cut(joined: bytes, lengths: Iterable[int]) -> Iterator[bytes]:
    """Yield the blobs of which `joined` was made."""
    start = 0
    for length in lengths:
        yield joined[start : start + length]
        start += length


def json_text(value: Any) -> str:
    """Return a value as JSON: what `jsonb_each` takes."""
    return msgspec.json.encode(value).decode()


def storable(text: str) -> str:
    """Return text that UTF-8 can hold: lone surrogates become question marks.

    They come in by file names and command lines; SQLite and JSON have no place for them.
    """
    return text.encode("utf-8", "replace").decode()
