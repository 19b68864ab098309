"""What a node says: chunks it has accepted, problems. It may be anybody: nothing is relied on."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Final

import msgspec

if TYPE_CHECKING:
    from collections.abc import Mapping

PASSING: Final = frozenset({408, 429, 500, 502, 503, 504})
"""Statuses that may be another one later: no room, stopping, a proxy without a node behind it."""
OF_EVENTS: Final = frozenset({400, 413, 422})
"""Statuses that are about the events sent, and stay."""
ACCEPTED: Final = 202

Count = Annotated[int, msgspec.Meta(ge=0)]


class Taken(msgspec.Struct, frozen=True, gc=False):
    """What became of one event."""

    ref: str | None = None
    duplicate: bool = False


class ChunkAnswer(msgspec.Struct, frozen=True):
    """What became of a chunk of lines."""

    first: Count
    """Its first line within the request, counted from 0."""
    count: Count
    status: Count
    accepted: Count | None = None
    duplicates: Count | None = None
    events: list[Taken] = []
    retry_after_s: Any = None
    problem: Any = None

    @property
    def took(self) -> bool:
        """Whether it was accepted."""
        return self.status == ACCEPTED


_CHUNK = msgspec.json.Decoder(ChunkAnswer)


def chunk_of(line: bytes) -> ChunkAnswer | None:
    """Return what a line of an answer says; None: no node writes that."""
    try:
        found = _CHUNK.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    counted = found.accepted is not None and found.duplicates is not None
    return found if counted or not found.took else None


@dataclass(frozen=True)
class Problem:
    """Problem details (RFC 9457), as far as senders need them."""

    status: int
    detail: str
    retry_after_s: float | None = None
    errors: tuple[tuple[int, str], ...] = ()
    """Which events of the request are wrong (from 0), and why."""
    members: Mapping[str, Any] = field(default_factory=dict)
    """All that came."""

    @property
    def passing(self) -> bool:
        """Whether the same may be taken later."""
        return self.status in PASSING


def problem_of(status: int, body: bytes, retry_after: str | None = None) -> Problem:
    """Return what an answer says is wrong.

    Args:
        status: Its status.
        body: Its body, problem details or anything else.
        retry_after: Its header of that name.
    """
    try:
        members = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        members = {}
    return from_members(status, members, seconds(retry_after))


def from_members(status: int, members: Any, retry_after_s: Any = None) -> Problem:
    """Return a problem from its JSON."""
    found = members if isinstance(members, dict) else {}
    asked = found.get("retry_after_s", retry_after_s)
    return Problem(
        status,
        str(found.get("detail") or f"it answered {status}"),
        float(asked) if isinstance(asked, int | float) else None,
        tuple(_errors(found.get("errors"))),
        found,
    )


def _errors(listed: Any) -> list[tuple[int, str]]:
    return [
        (one["event"], str(one.get("detail", "")))
        for one in (listed if isinstance(listed, list) else [])
        if isinstance(one, dict) and isinstance(one.get("event"), int)
    ]


def seconds(text: str | None) -> float | None:
    """Return the seconds of a Retry-After; None: there is none, or it is a date."""
    return float(text) if text is not None and text.isascii() and text.isdigit() else None
