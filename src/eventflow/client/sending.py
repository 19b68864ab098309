"""Sends lines to a node, and goes on from where it was refused.

    the node answers               then
    a chunk accepted               told; patience begins anew
    no room, stopping, gone        wait (as long as it asks, or longer each time), go on from there
    an event of a chunk is wrong   told; where that doesn't end it: left out, go on from that chunk
    a chunk is wrong, not which    send less at once, until it is a single event
    anything else                  end

Nothing is sent under another id, so what was stored without an answer is a duplicate then. Pure:
`Sending.steps` yields exchanges and waits, to be carried out before it is asked for the next.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import isfinite
from typing import TYPE_CHECKING, Final, Protocol

from eventflow.client.answers import OF_EVENTS, Problem
from eventflow.client.exchange import Exchange, Sent, Taking
from eventflow.client.lines import CHUNK

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from eventflow.client.answers import ChunkAnswer
    from eventflow.client.lines import Line
    from eventflow.client.patience import Patience

LEAST_S: Final = 0.1
"""What a request gets at least, however little patience is left."""


@dataclass(frozen=True)
class Wait:
    """Do nothing for so long."""

    delay_s: float


Step = Exchange | Wait


class Ends(Protocol):
    """Who is told of waits, and says how it ends."""

    def waiting(self, cause: Problem | BaseException, delay_s: float) -> None:
        """The same is tried again after so many seconds."""

    def gave_up(self, cause: Problem | BaseException) -> BaseException:
        """Return what to raise when patience is at its end."""
        ...

    def ended(self, problem: Problem | None) -> BaseException:
        """Return what to raise after an answer that trying again won't change.

        Args:
            problem: The answer; None: no node answers so.
        """
        ...


class Listener(Taking, Ends, Protocol):
    """Whom to tell while lines are sent."""

    def refused(self, line: Line, problem: Problem, details: Sequence[str], *, next: bool) -> None:
        """The node will never take this line. Raise to end it, return to leave the line out.

        Args:
            line: The line.
            problem: What the node answered.
            details: What it said of this line.
            next: All lines before it were accepted or left out.
        """


@dataclass
class Sending:
    """Sends lines to one node.

    Args:
        patience: How long to keep trying.
        listener: Whom to tell.
        window: Lines of a request at most.
        timeout_s: Seconds for one request; None: whoever carries it out says.
        gone_s: How long a connection that broke off is tried again, whatever `patience` says.
    """

    patience: Patience
    listener: Listener
    window: int = CHUNK
    timeout_s: float | None = None
    gone_s: float = 0.0
    _reached: bool = False
    _most: int = field(init=False)

    def __post_init__(self) -> None:
        self._most = self.window

    def steps(self, lines: Sequence[Line]) -> Iterator[Step]:
        """Yield what to do until each of the lines was accepted, or refused and left out."""
        self.patience.renew()  # who makes the lines may take his time
        left = list(lines)
        while left:
            sent = Sent(
                lines=left[: self._most],
                within_s=within_s(self.timeout_s, self.patience),
                taking=self,
            )
            yield sent
            self._reached = self._reached or sent.answered
            del left[: sent.taken]
            if sent.problem is not None and sent.problem.status in OF_EVENTS:
                self._refused(sent.problem, sent, left)
            elif is_done(sent, self.listener):
                self._most = min(self.window, self._most * 2)
            elif left:
                if sent.lost is not None:
                    # A node that refuses while it is being sent to may close before its answer is
                    # read. One chunk is read whole before it is answered.
                    self._most = min(self._most, CHUNK)
                least_s = self.gone_s if self._reached and sent.lost is not None else 0.0
                yield from again(sent, self.patience, self.listener, least_s)

    def accepted(self, lines: Sequence[Line], answer: ChunkAnswer) -> None:
        """Pass on what was accepted: that is progress."""
        self.patience.renew()
        self.listener.accepted(lines, answer)

    def _refused(self, problem: Problem, sent: Sent, left: list[Line]) -> None:
        """Have what is wrong left out, or send less at once where that is not known."""
        count = min(sent.count, len(left), CHUNK)
        # Counted from the request's first line; a number that lies elsewhere names nothing here.
        named: dict[int, list[str]] = {}
        for index, detail in problem.errors:
            if sent.taken <= index < sent.taken + count:
                named.setdefault(index - sent.taken, []).append(detail)
        if count == 1 and not named:
            named = {0: [problem.detail]}
        if not named:
            self._most = max(1, count // 2)
            return
        for index in sorted(named):
            self.listener.refused(left[index], problem, named[index], next=index == 0)
        if 0 in named:
            self.patience.renew()
        for index in sorted(named, reverse=True):
            del left[index]


def is_done(exchange: Exchange, ends: Ends) -> bool:
    """Return whether an exchange came to a good end; False: the same may be tried again.

    Raises:
        BaseException: what `ends` makes of an answer that will not change.
    """
    if exchange.strange:
        raise ends.ended(None)
    if exchange.problem is not None:
        if not exchange.problem.passing:
            raise ends.ended(exchange.problem)
        return False
    return exchange.lost is None


def again(
    exchange: Exchange, patience: Patience, ends: Ends, least_s: float = 0.0
) -> Iterator[Step]:
    """Yield the wait before the same is tried again.

    Raises:
        BaseException: what `ends` makes of it, where that would take too long.
    """
    if exchange.lost is not None and exchange.reused and not exchange.answered:
        return  # nobody is gone: a connection that was idle had been closed, the next one is new
    cause = exchange.problem or exchange.lost
    assert cause is not None  # noqa: S101  # `is_done` said so
    asked_s = exchange.problem.retry_after_s if exchange.problem else None
    delay_s = patience.next_s(asked_s, least_s)
    if delay_s is None:
        raise ends.gave_up(cause)
    ends.waiting(cause, delay_s)
    yield Wait(delay_s)


def within_s(timeout_s: float | None, patience: Patience) -> float | None:
    """Return the seconds for the next request."""
    if timeout_s is None or not isfinite(patience.left_s):
        return timeout_s
    return min(timeout_s, max(LEAST_S, patience.left_s))
