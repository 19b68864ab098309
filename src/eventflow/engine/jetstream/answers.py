"""Answering leases: end, give back, ask for more time; and hearing that the server has taken it.

A request of its own for each costs this process 80 us and a timer. So a batch shares one inbox and
one timer: each answer is told apart by the last token of the subject it is confirmed on.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nats.aio.msg import Msg

    from eventflow.engine.jetstream.wire import Wire

ACK = b"+ACK"
MORE_TIME = b"+WPI"
_ANSWER_S = 3.0
"""How long the server may take before it is told again. Telling it twice changes nothing."""
_ROUNDS = 4
_SHORT = 9
_DELIVERED_AT = 4


def told_by(reply: str) -> tuple[int, int]:
    """Return what the subject of a lease says: its message's sequence, how often it was delivered.

    `$JS.ACK.<stream>.<consumer>.<delivered>.<sequence>...` of 9 tokens, or, of more, with domain
    and account before the stream (ADR-15 of NATS). The client's own reading of it makes a date, a
    domain and two objects, too.

    Raises:
        ValueError: it is no such subject.
    """
    tokens = reply.split(".")
    at = _DELIVERED_AT if len(tokens) == _SHORT else _DELIVERED_AT + 2
    if tokens[1] != "ACK":
        raise ValueError(f"expected the subject of a lease, got {reply!r}")
    return int(tokens[at + 1]), int(tokens[at])


class Answers:
    """What tells the servers how leases end."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._inbox = ""
        self._opening: asyncio.Future[None] | None = None
        self._number = 0
        self._waiting: dict[str, tuple[_Batch, int]] = {}
        """By the last token of the subject: whose answer it is, and which."""

    async def give(self, answers: Sequence[tuple[str, bytes]]) -> list[bool]:
        """Give answers, each a lease's subject and a word; for each whether the server took it.

        Raises:
            EngineUnavailable: the connection is gone, or closed.
        """
        batch = _Batch(len(answers))
        if not answers:
            return batch.taken
        if self._opening is None:
            self._opening = asyncio.ensure_future(self._open())
        await asyncio.shield(self._opening)
        tokens: list[str] = []
        try:
            for _ in range(_ROUNDS):
                for index, (subject, word) in enumerate(answers):
                    if not batch.taken[index]:
                        self._number += 1
                        token = str(self._number)
                        tokens.append(token)
                        self._waiting[token] = (batch, index)
                        await self._wire.tell(subject, word, f"{self._inbox}.{token}")
                try:
                    async with asyncio.timeout(_ANSWER_S):
                        await asyncio.shield(batch.over)
                except TimeoutError:
                    continue
                break
        finally:
            for token in tokens:
                self._waiting.pop(token, None)
        return batch.taken

    async def _open(self) -> None:
        client = self._wire.client
        self._inbox = client.new_inbox()
        await client.subscribe(
            f"{self._inbox}.*", cb=self._heard, pending_msgs_limit=2**31, pending_bytes_limit=0
        )

    async def _heard(self, message: Msg) -> None:
        # With headers it is no answer: nobody is there to take it just now.
        found = self._waiting.get(message.subject.rpartition(".")[2])
        if found is not None and not message.headers:
            batch, index = found
            batch.heard(index)


class _Batch:
    """Answers given together."""

    __slots__ = ("left", "over", "taken")

    def __init__(self, count: int) -> None:
        self.taken = [False] * count
        self.left = count
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def heard(self, index: int) -> None:
        """Note that the server has taken one."""
        if not self.taken[index]:
            self.taken[index] = True
            self.left -= 1
            if not self.left and not self.over.done():
                self.over.set_result(None)


def give_back(delay_s: float = 0.0) -> bytes:
    """Return the word that gives a lease back, for `delay_s` of the server's seconds."""
    if delay_s <= 0:
        return b"-NAK"
    return b'-NAK {"delay": %d}' % max(int(delay_s * 1e9), 1)
