"""Events as lines: what is sent, in lists that a node takes all or none of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

CHUNK: Final = 500
"""Lines that a node takes in at once, all or none."""
WINDOW_BYTES: Final = 4 * 2**20
"""A request's lines end with the one that reaches it: half of what a node takes by default."""


class Line(NamedTuple):
    """An event on its way to a node."""

    place: int
    """Where it comes from, for messages: its line in a file, its place among events."""
    text: bytes
    """Without a line end in it."""


def windows(lines: Iterable[Line], most: int, most_bytes: int) -> Iterator[list[Line]]:
    """Yield the lines in lists of at most `most`, ended once they hold `most_bytes`."""
    window: list[Line] = []
    size = 0
    for line in lines:
        window.append(line)
        size += len(line.text)
        if len(window) >= most or size >= most_bytes:
            yield window
            window, size = [], 0
    if window:
        yield window
