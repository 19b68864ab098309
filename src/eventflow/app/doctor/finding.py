"""What an examination comes to."""

from __future__ import annotations

from typing import Final

import msgspec

GOOD: Final = "good"
DOUBTFUL: Final = "doubtful"
"""It works; something promised, or likely meant, does not hold or soon won't."""
BAD: Final = "bad"
"""A node can't run so, or would lose what it promises to keep."""


class Finding(msgspec.Struct, frozen=True, gc=False):
    """One thing that was looked at."""

    what: str
    state: str
    """"good", "doubtful" or "bad"."""
    found: str
    """With values."""
    advice: str = ""
    """What to do; empty where it is good."""


def good(what: str, found: str) -> Finding:
    """Return that something is as it should be."""
    return Finding(what, GOOD, found)


def doubtful(what: str, found: str, advice: str) -> Finding:
    """Return that something works, but not as promised or meant."""
    return Finding(what, DOUBTFUL, found, advice)


def bad(what: str, found: str, advice: str) -> Finding:
    """Return that a node can't run so, or would lose something."""
    return Finding(what, BAD, found, advice)
