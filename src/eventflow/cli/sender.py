"""Sends lines to a node, and goes on from where it was refused.

    the node answers               then
    a chunk accepted               counted; a failure after it gets the whole of --wait again
    no room, stopping, gone        wait (as long as it asks, or doubling), go on from that chunk
    an event of a chunk is wrong   say which, leave it out, go on from that chunk
    a chunk is wrong, not which    send less at once, until it is a single event
    anything else                  end

Nothing is sent under another id, so what was stored without an answer is a duplicate then.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import aiohttp
import msgspec

from eventflow.cli.node import LOST, Node, reason
from eventflow.cli.patience import Patience
from eventflow.cli.problems import OF_EVENTS, Problem, from_members, problem_of
from eventflow.cli.source import Line
from eventflow.cli.stop import Stop

PATH: Final = "/v1/events"
CHUNK: Final = 500
"""Lines that a node takes in at once, all or none."""
WINDOW: Final = 10 * CHUNK
"""Lines of a request: they are kept here until they are answered."""
WINDOW_BYTES: Final = 4 * 2**20
MOST_REFUSED: Final = 100
"""A file with more events that are wrong is another kind of file."""
GONE_S: Final = 5.0
"""How long a connection that broke off is tried again, whatever --wait says."""
_ANSWER_BYTES: Final = 4 * 2**20
"""Longest line of an answer: 500 ids and refs."""


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
class _Round:
    """What one request came to."""

    taken: int = 0
    """Lines that were accepted, from the first."""
    count: int = 0
    """Lines of the chunk that was refused."""
    problem: Problem | None = None
    """Why it was."""
    lost: BaseException | None = None


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
    _reached: bool = False
    _most: int = WINDOW

    async def send(self, window: Sequence[Line]) -> None:
        """Send all of `window`; return once each of its lines was accepted or refused.

        Raises:
            Stop: it can't go on; `tally` says how far it came.
        """
        left = list(window)
        while left:
            lines = left[: self._most]
            came = await self._post(lines)
            del left[: came.taken]
            if came.problem is not None and came.problem.status in OF_EVENTS:
                self._refused(came.problem, came, left)
            elif came.problem is not None and came.problem.passing:
                await self._pause(came.problem.detail, came.problem.retry_after_s)
            elif came.problem is not None:
                raise came.problem.end(self.node, self._not_done())
            elif came.lost is not None:
                await self._lost(came.lost)
            else:
                self._most = min(WINDOW, self._most * 2)

    async def close(self) -> None:
        """Close the connection."""
        if self._session is not None:
            await self._session.close()

    async def _post(self, lines: Sequence[Line]) -> _Round:
        came = _Round(count=len(lines))
        # A file: aiohttp warns of large bytes.
        body = io.BytesIO(b"\n".join([line.text for line in lines]))
        headers = {"content-type": "application/x-ndjson"}
        if self._session is None:
            self._session = self.node.session()
        try:
            async with self._session.post(
                PATH, data=body, headers=headers, allow_redirects=False
            ) as response:
                self._reached = True
                if response.status == 200 and "ndjson" in response.content_type:
                    await self._read(response, came, lines)
                elif response.status < 300:
                    raise self._strange()
                else:
                    came.problem = await problem_of(response)
        except LOST as error:
            came.lost = error
        except aiohttp.ClientError as error:
            raise self._strange() from error
        if came.taken < len(lines) and came.problem is None and came.lost is None:
            came.lost = ConnectionError("the answer ended too soon")
        return came

    async def _read(
        self, response: aiohttp.ClientResponse, came: _Round, lines: Sequence[Line]
    ) -> None:
        """Read an answer, a line a chunk, until it ends or says no.

        Each is counted at once: what follows may never come.
        """
        rest = b""
        async for data in response.content.iter_any():
            *whole, rest = (rest + data).split(b"\n")
            if len(rest) > _ANSWER_BYTES:
                raise self._strange()
            for text in whole:
                self._count(text, came, lines)
                if came.problem is not None:
                    return
        if rest:
            self._count(rest, came, lines)

    def _count(self, text: bytes, came: _Round, lines: Sequence[Line]) -> None:
        answer = self._answer(text)
        # What is left to send is worked out from these numbers, so they have to fit.
        if answer["first"] != came.taken or answer["count"] > len(lines) - came.taken:
            raise self._strange()
        if answer["status"] != 202:
            came.count = answer["count"]
            came.problem = from_members(
                answer["status"], answer.get("problem"), answer.get("retry_after_s")
            )
            return
        self.tally.accepted += answer["accepted"]
        self.tally.duplicates += answer["duplicates"]
        self._settled(lines[came.taken : came.taken + answer["count"]])
        came.taken += answer["count"]

    def _answer(self, text: bytes) -> dict[str, Any]:
        try:
            answer: dict[str, Any] = msgspec.json.decode(text, type=dict[str, Any])
            numbers = ["status", "first", "count"]
            numbers += ["accepted", "duplicates"] if answer["status"] == 202 else []
            if all(type(answer[name]) is int and answer[name] >= 0 for name in numbers):
                return answer
        except (msgspec.DecodeError, KeyError, UnicodeDecodeError):
            pass
        raise self._strange()

    def _strange(self) -> Stop:
        return self.node.strange(self._not_done())

    def _settled(self, lines: Sequence[Line]) -> None:
        if lines:
            self.patience.renew()
            self.tally.done = lines[-1].place
            self.report.moved(sum(len(line.text) + 1 for line in lines))

    def _refused(self, problem: Problem, came: _Round, left: list[Line]) -> None:
        """Leave out what is wrong, or send less at once where that is not known."""
        count = min(came.count, len(left), CHUNK)
        # Counted from the request's first line; a number that lies elsewhere names nothing here.
        named = {
            index - came.taken: detail
            for index, detail in problem.errors
            if came.taken <= index < came.taken + count
        }
        if count == 1 and not named:
            named = {0: problem.detail}
        if not named:
            self._most = max(1, count // 2)
            return
        for index in sorted(named, reverse=True):
            line = left.pop(index)
            self.tally.refused += 1
            self.report.say(f"{self.unit} {line.place} refused: {named[index]}")
            if index == 0:
                self._settled([line])
        if self.tally.refused >= MOST_REFUSED:
            raise Stop(f"{self.tally.refused} events were refused; nothing more was sent.")

    async def _lost(self, error: BaseException) -> None:
        # A node that refuses while it is being sent to may close before its answer is read. One
        # chunk is read whole before it is answered.
        self._most = CHUNK
        delay_s = self.patience.next_s(None, GONE_S if self._reached else 0.0)
        if delay_s is None:
            raise self.node.absent(error, self._not_done())
        await self._try_again(f"no answer ({reason(error)})", delay_s)

    async def _pause(self, why: str, asked_s: float | None) -> None:
        """Wait before the next try, or end if that would take too long."""
        delay_s = self.patience.next_s(asked_s)
        if delay_s is None:
            raise Stop(f"{self.node.url}: {why} Given up, as --wait {self.patience.wait_s:g} says.")
        await self._try_again(why, delay_s)

    async def _try_again(self, why: str, delay_s: float) -> None:
        self.report.say(f"{self.node.url}: {why}; trying again in {delay_s:g} s")
        await self.patience.wait(delay_s)

    def _not_done(self) -> str:
        return "nothing was sent" if not self.tally.done else "nothing more was sent"
