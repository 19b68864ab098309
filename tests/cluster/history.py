"""What happened in a run, as whoever took part saw it: a file of facts, only ever added to.

The file lies on a disk that no fault touches. Each fact is a JSON line:

    offered    the load is about to send an event to a node's door, for these topics
    accepted   202: from here on it may not be lost
    refused    a 4xx, or nobody was there to hear it: nothing may have been stored
    unknown    no answer, or 5xx: either may be true
    started    a handler was given it
    done       that handler ended well
    dead       in the end, a node shows it as dead
    depth      a server said how much a queue holds, and how much it may
    calm       the last fault is over
    still      all queues are empty, and nothing is parked

Handlers write into it from other processes: a line is one write of less than a page, at its end.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Literal, Self

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

What = Literal[
    "offered",
    "accepted",
    "refused",
    "unknown",
    "started",
    "done",
    "dead",
    "depth",
    "calm",
    "still",
]


class Fact(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line."""

    what: What
    at: float
    """Seconds since 1970, of this machine's one clock."""
    id: str = ""
    """Of the event."""
    topic: str = ""
    """Whose handler; the queue of a depth."""
    topics: tuple[str, ...] = ()
    """Where an event that is offered has to arrive."""
    node: str = ""
    """Where it was sent, ran, or was seen."""
    attempt: int = 0
    """Of a handler, from 1."""
    held: int = 0
    """Deliveries in a queue."""
    capacity: int = 0
    """How many may be."""
    given: int = 0
    """How many that queue was ever given."""


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Fact).decode


class History:
    """A file of facts to add to; several processes may."""

    def __init__(self, path: Path | str) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    def note(self, what: What, id: str = "", *, at: float | None = None, **more: object) -> None:
        """Add a fact of now. It is in the file, if not on its disk, when this returns."""
        fact = msgspec.convert(
            {"what": what, "at": time.time() if at is None else at, "id": id, **more}, Fact
        )
        os.write(self._file, _encode(fact) + b"\n")

    def close(self) -> None:
        """Add no more."""
        os.close(self._file)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read(path: Path) -> Iterator[Fact]:
    """Yield the facts of a file.

    Raises:
        ValueError: a line is no fact. A kill leaves none such: one write is whole or not there.
    """
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        try:
            yield _decode(line)
        except msgspec.MsgspecError as error:
            raise ValueError(f"{path.name}, line {number}, is no fact: {line!r}") from error
