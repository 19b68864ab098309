"""From lines to a node: a window at a time, on from where it was refused."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any, Final

import aiohttp
import msgspec

from eventflow.cli.node import LOST, UNREACHABLE
from eventflow.cli.patience import Patience
from eventflow.cli.problems import Problem, from_members, problem_of
from eventflow.cli.source import windows
from eventflow.cli.stop import DONE, Stop

if TYPE_CHECKING:
    from eventflow.cli.node import Node
    from eventflow.cli.source import Line, Source

WINDOW: Final = 5_000
WINDOW_BYTES: Final = 4 * 2**20
NDJSON: Final = {"content-type": "application/x-ndjson"}


class Sender:
    """Sends a source's events.

    Args:
        node: Where to.
        source: What.
        wait_s: Seconds to go on trying without progress.
    """

    def __init__(self, node: Node, source: Source, wait_s: float) -> None:
        self._node = node
        self._source = source
        self._patience = Patience(wait_s)
        self.accepted = 0
        self.duplicates = 0
        self.last = 0
        """Place of the last event that was taken."""

    def summary(self) -> str:
        """Return how far it came."""
        far = f", up to {self._source.unit} {self.last}" if self.last else ""
        return f"accepted {self.accepted}, duplicates {self.duplicates}{far}"

    async def send(self) -> int:
        """Send everything.

        Raises:
            Stop: the node refused, or can't be reached any more; says where to go on.
        """
        async with self._node.session() as session:
            for window in windows(self._source.lines, WINDOW, WINDOW_BYTES):
                left = window
                while left:
                    left = await self._some(session, left)
        return DONE

    async def _some(self, session: aiohttp.ClientSession, lines: list[Line]) -> list[Line]:
        """Send lines; return those that are left to be sent again."""
        body = b"\n".join(line.text for line in lines)
        try:
            async with session.post("/v1/events", data=_body(body), headers=NDJSON) as answer:
                if answer.status != 200:
                    return await self._refused(await problem_of(answer), lines)
                chunks = [msgspec.json.decode(line) for line in (await answer.read()).splitlines()]
        except (*UNREACHABLE, *LOST) as error:
            delay_s = self._patience.next_s(None)
            if delay_s is None:
                raise self._node.absent(error, f"{self._rest(lines)} not sent") from error
            await self._patience.wait(delay_s)
            return lines
        return await self._answered(chunks, lines)

    async def _answered(self, chunks: list[dict[str, Any]], lines: list[Line]) -> list[Line]:
        done = 0
        for chunk in chunks:
            if chunk["status"] != 202:
                problem = from_members(
                    chunk["status"], chunk.get("problem") or {}, chunk.get("retry_after_s")
                )
                return await self._refused(problem, lines[chunk["first"] :])
            self.accepted += chunk["accepted"]
            self.duplicates += chunk["duplicates"]
            done = chunk["first"] + chunk["count"]
            self.last = lines[done - 1].place
            self._patience.renew()
        return lines[done:]

    async def _refused(self, problem: Problem, lines: list[Line]) -> list[Line]:
        delay_s = self._patience.next_s(problem.retry_after_s) if problem.passing else None
        if delay_s is None:
            end = problem.end(self._node, f"{self._rest(lines)} not sent")
            raise Stop(f"{end} Sending stopped at {self._source.unit} {lines[0].place}.")
        await self._patience.wait(delay_s)
        return lines

    def _rest(self, lines: list[Line]) -> str:
        return f"what follows from {self._source.unit} {lines[0].place} on was"


def _body(body: bytes) -> io.BytesIO:
    return io.BytesIO(body)  # a file: aiohttp warns of large bytes
