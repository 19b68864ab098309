"""Cuts a stream of bytes into chunks of whole lines, with a bound on what it keeps."""

from __future__ import annotations

from typing import NamedTuple

CHUNK_LINES = 500


class Chunk(NamedTuple):
    """Some lines of a request, all or none of which are accepted."""

    first: int
    """Number of its first line, counted from 0."""
    lines: list[bytes]
    overlong: int = 0
    """Bytes of its one line so far, where that is longer than a line may be: it was let go."""


class Lines:
    """Collects bytes and gives back chunks.

    A chunk has `CHUNK_LINES` lines; fewer where they come to `max_bytes`, or at the end. A line
    longer than `max_bytes` is a chunk of its own, without its text; nothing comes after it.
    """

    def __init__(self, max_bytes: int, max_lines: int = CHUNK_LINES) -> None:
        self._max_bytes = max_bytes
        self._max_lines = max_lines
        self._first = 0
        self._lines: list[bytes] = []
        self._size = 0
        self._tail: list[bytes] = []  # of the line that has not ended yet
        self._tail_size = 0

    def feed(self, data: bytes) -> list[Chunk]:
        """Take some bytes; return the chunks that they complete."""
        *ended, tail = data.split(b"\n")
        chunks: list[Chunk] = []
        for part in ended:
            self._tail.append(part)
            self._tail_size += len(part)
            if not self._end_line(chunks):
                return chunks
        self._tail.append(tail)
        self._tail_size += len(tail)
        if self._tail_size > self._max_bytes:
            self._give_up(chunks)
        return chunks

    def end(self) -> list[Chunk]:
        """Return what is left; the last line needs no line end."""
        chunks: list[Chunk] = []
        if self._tail_size and not self._end_line(chunks):
            return chunks
        self._cut(chunks)
        return chunks

    def _end_line(self, chunks: list[Chunk]) -> bool:
        """Put the line that has ended to the others; False if it is too long."""
        if self._tail_size > self._max_bytes:
            self._give_up(chunks)
            return False
        if self._size + self._tail_size > self._max_bytes:
            self._cut(chunks)
        self._lines.append(b"".join(self._tail))
        self._size += self._tail_size
        self._tail, self._tail_size = [], 0
        if len(self._lines) == self._max_lines:
            self._cut(chunks)
        return True

    def _give_up(self, chunks: list[Chunk]) -> None:
        self._cut(chunks)
        chunks.append(Chunk(self._first, [b""], self._tail_size))

    def _cut(self, chunks: list[Chunk]) -> None:
        if self._lines:
            chunks.append(Chunk(self._first, self._lines))
            self._first += len(self._lines)
            self._lines, self._size = [], 0
