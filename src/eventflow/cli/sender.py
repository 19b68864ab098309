"""Sends the lines of a command to a node: the client's way, with words for the user.

An event that is wrong is named and left out; the rest is sent.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

import aiohttp

from eventflow.cli.node import Node
from eventflow.cli.patience import Patience
from eventflow.cli.problems import ending
from eventflow.cli.stop import Stop
from eventflow.client.answers import ChunkAnswer, Problem
from eventflow.client.awaiting import carry_out
from eventflow.client.failures import reason
from eventflow.client.lines import CHUNK, WINDOW_BYTES, Line
from eventflow.client.sending import Sending

__all__ = ["CHUNK", "WINDOW", "WINDOW_BYTES", "Report", "Sender", "Tally"]

WINDOW: Final = 10 * CHUNK
"""Lines of a request: they are kept here until they are answered."""
MOST_REFUSED: Final = 100
"""A file with more events that are wrong is another kind of file."""
GONE_S: Final = 5.0
"""How long a connection that broke off is tried again, whatever --wait says."""


@dataclass
class Tally:
    """How far it came."""

    accepted: int = 0
    duplicates: int = 0
    refused: int = 0
    done: int = 0
    """The place of the last line that was answered; 0: none."""


@dataclass(frozen=True)
class Report:
    """Whom to tell while it goes on."""

    say: Callable[[str], None]
    """A sentence for the user."""
    moved: Callable[[int], None] = lambda _size: None
    """So many bytes more were answered."""


@dataclass
class Sender:
    """Sends lines to one node.

    Args:
        node: Whom to send to.
        patience: How long to keep trying.
        report: Whom to tell.
        unit: What places count, for messages: "line" or "event".
        tally: What is counted.
    """

    node: Node
    patience: Patience
    report: Report
    unit: str = "line"
    tally: Tally = field(default_factory=Tally)
    _session: aiohttp.ClientSession | None = None
    _sending: Sending = field(init=False)

    def __post_init__(self) -> None:
        self._sending = Sending(self.patience, self, WINDOW, gone_s=GONE_S)

    async def send(self, window: Sequence[Line]) -> None:
        """Send all of `window`; return once each of its lines was accepted or refused.

        Raises:
            Stop: it can't go on; `tally` says how far it came.
        """
        if self._session is None:
            self._session = self.node.session()
        await carry_out(self._sending.steps(window), self._session, self.patience.sleep)

    async def close(self) -> None:
        """Close the connection."""
        if self._session is not None:
            await self._session.close()

    def accepted(self, lines: Sequence[Line], answer: ChunkAnswer) -> None:
        """Count lines that are stored."""
        self.tally.accepted += answer.accepted or 0
        self.tally.duplicates += answer.duplicates or 0
        self._settled(lines)

    def refused(
        self,
        line: Line,
        problem: Problem,
        details: Sequence[str],
        *,
        next: bool,
    ) -> None:
        """Say which event is wrong, and leave it out."""
        del problem
        self.tally.refused += 1
        self.report.say(f"{self.unit} {line.place} refused: {'; '.join(details)}")
        if next:
            self._settled([line])
        if self.tally.refused >= MOST_REFUSED:
            raise Stop(f"{self.tally.refused} events were refused; nothing more was sent.")

    def waiting(self, cause: Problem | BaseException, delay_s: float) -> None:
        """Say why it is tried again, and when."""
        why = f"no answer ({reason(cause)})" if isinstance(cause, BaseException) else cause.detail
        self.report.say(f"{self.node.url}: {why}; trying again in {delay_s:g} s")

    def gave_up(self, cause: Problem | BaseException) -> Stop:
        """Return the end after waiting long enough."""
        if isinstance(cause, BaseException):
            return self.node.absent(cause, self._not_done())
        wait_s = self.patience.wait_s
        return Stop(f"{self.node.url}: {cause.detail} Given up, as --wait {wait_s:g} says.")

    def ended(self, problem: Problem | None) -> Stop:
        """Return the end after an answer that will not change."""
        if problem is None:
            return self.node.strange(self._not_done())
        return ending(problem, self.node, self._not_done())

    def _settled(self, lines: Sequence[Line]) -> None:
        if lines:
            self.tally.done = lines[-1].place
            self.report.moved(sum(len(line.text) + 1 for line in lines))

    def _not_done(self) -> str:
        return "nothing was sent" if not self.tally.done else "nothing more was sent"
