"""One request and its answer, read as it comes. Pure: who carries it out feeds it.

    exchange.head(status, content_type, retry_after)     then, part by part,
    exchange.feed(data)                                  until it returns False, or the body ends
    exchange.end()
    exchange.lost = error                                instead, at any point: the connection broke

Then it says what it came to, in this order: `strange`, `problem`, `lost`, or all is well.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Protocol

import msgspec

from eventflow.client.answers import ChunkAnswer, Problem, chunk_of, from_members, problem_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from eventflow.client.lines import Line

EVENTS_PATH: Final = "/v1/events"
LINES: Final = "application/x-ndjson"
_LINE_BYTES: Final = 4 * 2**20
"""Longest line of an answer: 500 ids and refs."""
_PROBLEM_BYTES: Final = 1_000_000
_SHOWN_BYTES: Final = 64 * 2**20


class Taking(Protocol):
    """Whom to tell what was accepted, at once: what follows in the answer may never come."""

    def accepted(self, lines: Sequence[Line], answer: ChunkAnswer) -> None:
        """These lines are stored."""


@dataclass
class Exchange:
    """One request to a node.

    Args:
        path: What is asked for.
        within_s: Seconds for all of it; None: whoever carries it out says.
    """

    path: str
    within_s: float | None = None
    method: str = "GET"
    headers: dict[str, str] = field(default_factory=dict)

    answered: bool = False
    """The answer has begun."""
    reused: bool = False
    """It went over a connection that was open already, and may have been closed since."""
    strange: bool = False
    """What answered is no EventFlow node."""
    problem: Problem | None = None
    """Why the node said no."""
    lost: BaseException | None = None
    """How the connection broke."""

    _status: int = 0
    _retry_after: str | None = None
    _collected: bytes = b""

    @property
    def body(self) -> bytes:
        """What is sent."""
        return b""

    def head(self, status: int, content_type: str, retry_after: str | None) -> None:
        """Take the beginning of the answer."""
        self.answered = True
        self._status, self._retry_after = status, retry_after
        if status < 300 and not self._expected(status, content_type):
            self.strange = True

    def feed(self, data: bytes) -> bool:
        """Take a part of the answer's body; return whether more is wanted."""
        if self.strange or self.problem is not None:
            return False
        if self._status < 300:
            return self._feed(data)
        self._collected = (self._collected + data)[:_PROBLEM_BYTES]
        return len(self._collected) < _PROBLEM_BYTES

    def end(self) -> None:
        """Take the end of the answer."""
        if self._status >= 300:
            self.problem = problem_of(self._status, self._collected, self._retry_after)
        elif not self.strange:
            self._end()

    def _expected(self, status: int, content_type: str) -> bool:
        return status == 200 and "json" in content_type

    def _feed(self, data: bytes) -> bool:
        self._collected += data
        self.strange = len(self._collected) > _SHOWN_BYTES
        return not self.strange

    def _end(self) -> None:
        """Look at the whole answer."""


@dataclass
class Asking(Exchange):
    """Asks for something to look at."""

    shown: dict[str, Any] = field(default_factory=dict)

    def _end(self) -> None:
        try:
            self.shown = msgspec.json.decode(self._collected, type=dict[str, Any])
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            self.strange = True


@dataclass
class Sent(Exchange):
    """Sends lines; the answer has a line a chunk, and ends with the first one that was refused.

    Args:
        lines: What is sent.
        taking: Whom to tell.
    """

    path: str = EVENTS_PATH
    method: str = "POST"
    lines: Sequence[Line] = ()
    taking: Taking | None = None
    taken: int = 0
    """Lines that were accepted, from the first."""
    count: int = 0
    """Lines of the chunk that was refused."""

    def __post_init__(self) -> None:
        self.headers = {"content-type": LINES}
        self.count = len(self.lines)

    @property
    def body(self) -> bytes:
        """What is sent."""
        return b"\n".join([line.text for line in self.lines])

    def _expected(self, status: int, content_type: str) -> bool:
        return status == 200 and "ndjson" in content_type

    def _feed(self, data: bytes) -> bool:
        *whole, self._collected = (self._collected + data).split(b"\n")
        if len(self._collected) > _LINE_BYTES:
            self.strange = True
        return all(self._chunk(line) for line in whole) and not self.strange

    def _end(self) -> None:
        if self._collected and self.problem is None:
            self._chunk(self._collected)
        if self.taken < len(self.lines) and self.problem is None and not self.strange:
            self.lost = ConnectionError("the answer ended too soon")

    def _chunk(self, line: bytes) -> bool:
        """Take what is said of a chunk; return whether another one may come."""
        answer = chunk_of(line)
        # What is left to send is worked out from these numbers, so they have to fit.
        left = len(self.lines) - self.taken
        if answer is None or answer.first != self.taken or answer.count > left:
            self.strange = True
        elif not answer.took:
            self.count = answer.count
            self.problem = from_members(answer.status, answer.problem, answer.retry_after_s)
        else:
            lines = self.lines[self.taken : self.taken + answer.count]
            self.taken += answer.count
            if self.taking is not None:
                self.taking.accepted(lines, answer)
            return True
        return False
