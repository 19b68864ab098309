"""An answer that says no: what it says, whether to try again, what to tell the user."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import aiohttp
import msgspec

from eventflow.cli.node import Node
from eventflow.cli.stop import Stop

PASSING: Final = frozenset({408, 429, 500, 502, 503, 504})
"""Statuses that may be another one later: no room, stopping, a proxy without a node behind it."""
OF_EVENTS: Final = frozenset({400, 413, 422})
"""Statuses that are about the events sent, and stay."""
MOST_BYTES: Final = 1_000_000


@dataclass(frozen=True)
class Problem:
    """Problem details (RFC 9457), as far as the command line needs them."""

    status: int
    detail: str
    retry_after_s: float | None = None
    errors: tuple[tuple[int, str], ...] = ()
    """Which events of the request are wrong (from 0), and why."""

    @property
    def passing(self) -> bool:
        """Whether the same may be taken later."""
        return self.status in PASSING

    def end(self, node: Node, not_done: str) -> Stop:
        """Return the end of a command that was answered so.

        Args:
            node: Who answered.
            not_done: What was not done: "nothing was sent".
        """
        match self.status:
            case 401:
                known = "does not know this token" if node.token else "asks for a token"
                text = (
                    f"{node.url} {known}; {not_done}. "
                    "Give the secret of one of its [server] tokens with --token or EVENTFLOW_TOKEN."
                )
            case 403:
                text = f"{node.url} does not allow this with this token; {not_done}. {self.detail}"
            case 429 | 500 | 503 | 400 | 413 | 422:
                text = f"{node.url}: {self.detail}"
            case _:
                text = (
                    f"{node.url} answered {self.status}; {not_done}. Is it an EventFlow node? "
                    "Name one with --url or EVENTFLOW_URL."
                )
        return Stop(text)


async def problem_of(response: aiohttp.ClientResponse) -> Problem:
    """Return what an answer says is wrong."""
    body = await response.content.read(MOST_BYTES)
    try:
        members = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        members = {}
    return from_members(response.status, members, _seconds(response.headers.get("retry-after")))


def from_members(status: int, members: Any, retry_after_s: float | None = None) -> Problem:
    """Return a problem from its JSON. It may come from anybody: nothing in it is relied on."""
    found = members if isinstance(members, dict) else {}
    asked = found.get("retry_after_s", retry_after_s)
    return Problem(
        status,
        str(found.get("detail") or f"it answered {status}"),
        float(asked) if isinstance(asked, int | float) else None,
        tuple(_errors(found.get("errors"))),
    )


def _errors(listed: Any) -> list[tuple[int, str]]:
    return [
        (one["event"], str(one.get("detail", "")))
        for one in (listed if isinstance(listed, list) else [])
        if isinstance(one, dict) and isinstance(one.get("event"), int)
    ]


def _seconds(text: str | None) -> float | None:
    return float(text) if text is not None and text.isascii() and text.isdigit() else None
