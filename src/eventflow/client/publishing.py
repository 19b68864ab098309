"""What both clients share: from a call to exchanges and waits, and from answers to receipts."""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from eventflow.client.exchange import Asking
from eventflow.client.failures import error_of, error_of_line, lost_of
from eventflow.client.lines import CHUNK, WINDOW_BYTES, Line, windows
from eventflow.client.patience import Patience
from eventflow.client.sending import Sending, again, is_done, within_s
from eventflow.client.target import target_of
from eventflow.cloudevents import encode_structured
from eventflow.config.process import environment
from eventflow.engine.protocol import Receipt
from eventflow.errors import EventFlowError, UnexpectedAnswer, UnknownName

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from eventflow.client.answers import ChunkAnswer, Problem
    from eventflow.client.sending import Step
    from eventflow.client.target import Target
    from eventflow.event import Event

WAIT_S: Final = 30.0
TIMEOUT_S: Final = 10.0
_NO_EVENT: Final = "urn:eventflow:problem:unknown-event"


class Publisher:
    """A node to publish to. Base of the two clients, which differ in how they wait.

    Args:
        url: Where it is: "http://HOST:PORT". Left out: EVENTFLOW_URL, else http://127.0.0.1:8080.
        token: The secret of one of its `[server] tokens`. Left out: EVENTFLOW_TOKEN, else none.
        wait_s: Seconds to keep trying while the node has no room, is stopping or does not answer;
            0 tries once. Accepted events begin them anew. At most a day.
        timeout_s: Seconds that one request may take. Above 0.

    Raises:
        ConfigError: url or token can't be used.
        ValueError: a number is out of its range.
    """

    # Time and chance; tests give their own.
    _now = staticmethod(time.monotonic)
    _draw = staticmethod(random.random)

    def __init__(
        self,
        url: str | None = None,
        token: str | None = None,
        *,
        wait_s: float = WAIT_S,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        self._target: Target = target_of(url, token, environment())
        self._wait_s = _checked(wait_s)
        if not 0 < timeout_s <= 86_400:
            raise ValueError(f"timeout_s: expected above 0 s and at most a day, got {timeout_s!r}")
        self._timeout_s = float(timeout_s)

    @property
    def url(self) -> str:
        """Where the node is."""
        return self._target.url

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.url!r})"

    def _publishing(self, wait_s: float | None) -> Publishing:
        return Publishing(self._target, self._patience(wait_s), self._timeout_s)

    def _asking(self, path: str, wait_s: float | None) -> Question:
        return Question(path, self._target, self._patience(wait_s), self._timeout_s)

    def _patience(self, wait_s: float | None) -> Patience:
        seconds = self._wait_s if wait_s is None else _checked(wait_s)
        return Patience(seconds, self._now, self._draw, from_start=True)


class _Ends:
    """Which errors the end of a client's call has."""

    def __init__(self, target: Target) -> None:
        self.target = target

    def waiting(self, cause: Problem | BaseException, delay_s: float) -> None:
        """Nobody has to be told."""

    def gave_up(self, cause: Problem | BaseException) -> BaseException:
        """Return what to raise when patience is at its end."""
        if isinstance(cause, BaseException):
            error = lost_of(cause, self.target)
            error.__cause__ = cause
            return error
        return error_of(cause, self.target)

    def ended(self, problem: Problem | None) -> BaseException:
        """Return what to raise after an answer that trying again won't change."""
        return error_of(problem, self.target)


class Publishing(_Ends):
    """One call of `publish`, `publish_many` or `publish_stream`."""

    def __init__(self, target: Target, patience: Patience, timeout_s: float) -> None:
        super().__init__(target)
        self._sending = Sending(patience, self, timeout_s=timeout_s)
        self._receipts: list[Receipt] = []
        self._done = 0

    def steps(self, lines: Sequence[Line]) -> Iterator[Step]:
        """Yield what to do until the lines are accepted.

        Raises:
            EventFlowError: they can't be; with a note on what was accepted before.
        """
        try:
            yield from self._sending.steps(lines)
        except EventFlowError as error:
            if self._done:
                error.add_note(
                    f"The first {self._done} events were accepted. Publishing all of them again "
                    "is safe: under their ids they are duplicates."
                )
            raise

    def receipts(self) -> list[Receipt]:
        """Return the receipts since it was last asked."""
        taken, self._receipts = self._receipts, []
        return taken

    def accepted(self, lines: Sequence[Line], answer: ChunkAnswer) -> None:
        """Keep the receipts of these lines."""
        if len(answer.events) != len(lines):
            raise UnexpectedAnswer(self.target.url, "answered without a ref for each event")
        self._receipts += [Receipt(one.ref, one.duplicate) for one in answer.events]
        self._done += len(lines)

    def refused(self, line: Line, problem: Problem, details: Sequence[str], *, next: bool) -> None:
        """End with the first event that is wrong."""
        del next
        raise error_of_line(line, problem, details)


class Question(_Ends):
    """One call that asks for something to look at."""

    def __init__(self, path: str, target: Target, patience: Patience, timeout_s: float) -> None:
        super().__init__(target)
        self._path = path
        self._patience = patience
        self._timeout_s = timeout_s
        self.shown: dict[str, Any] | None = None
        """The answer; None: there is nothing there."""

    def steps(self) -> Iterator[Step]:
        """Yield what to do until it is answered.

        Raises:
            EventFlowError: it is not.
        """
        while True:
            asking = Asking(self._path, within_s(self._timeout_s, self._patience))
            yield asking
            if asking.problem is not None and asking.problem.members.get("type") == _NO_EVENT:
                return
            if is_done(asking, self):
                self.shown = asking.shown
                return
            yield from again(asking, self._patience, self)


def windows_of(events: Iterable[Event], first: int = 0) -> Iterator[list[Line]]:
    """Yield the events as lines, in lists that are a request each.

    Args:
        events: The events.
        first: The place of the first one.
    """
    # Its id is in the line: sent again it is the same event.
    lines = (Line(place, encode_structured(event)) for place, event in enumerate(events, first))
    return windows(lines, CHUNK, WINDOW_BYTES)


def event_path(ref: str) -> str:
    """Return where a node shows an event."""
    return f"/v1/events/{quote(ref, safe='')}"


def shown_of(question: Question, ref: str) -> dict[str, Any]:
    """Return what a node shows of an event.

    Raises:
        UnknownName: it knows none of this ref.
    """
    if question.shown is None:
        raise UnknownName("event", ref)
    return question.shown


def _checked(wait_s: float) -> float:
    if not 0 <= wait_s <= 86_400:
        raise ValueError(f"wait_s: expected 0 s to a day, got {wait_s!r}")
    return float(wait_s)
