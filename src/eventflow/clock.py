"""What time it is. Everything that needs the time is given a `Clock`.

Waiting is not here: stages wait with the event loop's own timers, and
`eventflow.testing.VirtualLoop` turns those by hand.
"""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime
from typing import Protocol

# `datetime.fromisoformat` reads more than RFC 3339 allows: dates alone, weeks, no offset, a comma.
_RFC3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)", re.ASCII)


class Clock(Protocol):
    """Tells the time of day."""

    def now_s(self) -> float:
        """Return seconds since 1970-01-01 UTC."""
        ...


class SystemClock:
    """The machine's clock."""

    def now_s(self) -> float:
        """Return seconds since 1970-01-01 UTC, as the machine has them."""
        return time.time()


def rfc3339(at: float) -> str:
    """Return `at` (seconds since 1970) as RFC 3339 text in UTC with microseconds and `Z`."""
    text = datetime.fromtimestamp(at, UTC).isoformat(timespec="microseconds")
    return text.replace("+00:00", "Z")


def from_rfc3339(text: str) -> float:
    """Return the seconds since 1970 that an RFC 3339 time names.

    Raises:
        ValueError: `text` is not such a time, or it names no offset from UTC.
    """
    if _RFC3339.fullmatch(text) is None:
        raise ValueError(f"expected an RFC 3339 time such as 2026-11-24T08:00:00Z, got {text!r}")
    return datetime.fromisoformat(text).timestamp()
