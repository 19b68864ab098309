"""Patterns over event types: `*` within one dot-segment, `**` across.

    user.*        user.registered         not user.a.b, not users.x
    user.**       user.a, user.a.b        not user
    *.created     order.created           not shop.order.created
    **            everything

A star stands for any number of characters, none included; every other character for itself, upper
and lower case being different.

Matching takes time in proportion to the length of the text, whatever the pattern: types come from
outside, and the backtracking of a regular expression would let one long type stop a node. All the
ways a pattern can stand are kept at once, a bit each (Baeza-Yates and Gonnet, "A New Approach to
Text Searching", 1992).
"""

from __future__ import annotations

import re

from eventflow.errors import ConfigError

_PIECE = re.compile(r"\*+|[^*]", re.DOTALL)


class Glob:
    """A compiled pattern.

    Raises:
        ConfigError: the pattern is empty.
    """

    __slots__ = ("_across", "_end", "_literals", "_prefix", "_stars", "_within", "pattern")

    def __init__(self, pattern: str) -> None:
        if not pattern:
            raise ConfigError(["match: expected a pattern such as 'user.*', got ''"])
        self.pattern = pattern
        self._prefix, star, rest = pattern.partition("*")
        self._within = 0
        self._across = 0
        self._literals: dict[str, int] = {}
        pieces = _PIECE.findall(star + rest)
        for place, piece in enumerate(pieces):
            self._add(1 << place, piece)
        self._stars = self._within | self._across
        self._end = 1 << len(pieces)

    def _add(self, bit: int, piece: str) -> None:
        if piece == "*":
            self._within |= bit
        elif piece[0] == "*":
            self._across |= bit
        else:
            self._literals[piece] = self._literals.get(piece, 0) | bit

    def matches(self, text: str) -> bool:
        """Return whether all of `text` is as the pattern says."""
        if not text.startswith(self._prefix):
            return False
        if self._across == 1 and self._end == 2:  # nothing but `**` is left
            return True
        # Bit n is set while the first n pieces can stand for what has been read.
        standing = 1 | (self._stars & 1) << 1
        for character in text[len(self._prefix) :]:
            moved = (standing & self._literals.get(character, 0)) << 1
            stayed = standing & (self._across if character == "." else self._stars)
            standing = moved | stayed
            if not standing:
                return False
            standing |= (standing & self._stars) << 1
        return bool(standing & self._end)

    def __repr__(self) -> str:
        return f"Glob({self.pattern!r})"
