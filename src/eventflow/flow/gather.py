"""Small requests that come at the same time are accepted together.

A request of one event costs what one of five hundred costs: a look at its routes, a record, a
commit to wait for. So what comes while a batch is being accepted waits for it and goes next, as
one batch; what comes alone goes at once. Each request is still accepted whole or not at all, and
is answered for itself: where there is no room for all of them, each is tried alone.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING

from eventflow.errors import QueueFull

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from eventflow.engine.protocol import Receipt
    from eventflow.event import Event

    Store = Callable[[Sequence[Event]], Awaitable[Sequence[Receipt]]]
    Told = Callable[[Sequence[Receipt] | Exception], None]
    Asked = tuple[Sequence[Event], Told]

SMALL = 50
"""Requests of more events than this go by themselves: they are a batch already."""
REQUESTS_MAX = 256
"""Requests accepted together at most: some thousand events, a few milliseconds of the loop."""


class Gather:
    """Lets small requests share a call of `store`.

    Args:
        store: Accepts events, all of them or none; the answers are in their order.
    """

    def __init__(self, store: Store) -> None:
        self._loop = asyncio.get_running_loop()
        self._store = store
        self._waiting: list[Asked] = []
        self._task: asyncio.Task[None] | None = None

    async def accept(self, events: Sequence[Event]) -> Sequence[Receipt]:
        """Have the events stored, with those of others.

        Raises:
            Exception: what `store` raised for these events.
        """
        future: asyncio.Future[Sequence[Receipt]] = self._loop.create_future()
        self.offer(events, partial(_answer, future))
        return await future

    def offer(self, events: Sequence[Event], told: Told) -> None:
        """Have the events stored, with those of others; say by a call, later, what came of it."""
        self._waiting.append((events, told))
        if self._task is None:
            self._task = asyncio.create_task(self._go(), name="gather")

    async def _go(self) -> None:
        count = REQUESTS_MAX
        try:
            while self._waiting:
                together = self._waiting[:count]
                del self._waiting[:count]
                await self._accept(together)
                count = group_size(len(together), len(self._waiting))
        finally:
            self._task = None

    async def _accept(self, together: Sequence[Asked]) -> None:
        try:
            receipts = await self._store([event for events, _ in together for event in events])
        except QueueFull as full:
            if len(together) == 1:
                self._tell(together[0][1], full)
            else:
                await asyncio.gather(*(self._accept([one]) for one in together))
        except Exception as error:  # noqa: BLE001  # whoever asked is told
            for _, told in together:
                self._tell(told, error)
        else:
            if not self._waiting:
                self._tell_all(together, receipts)
                return
            # In the round after the next: what has come meanwhile is on its way to the disk first.
            self._loop.call_soon(self._loop.call_soon, self._tell_all, together, receipts)

    def _tell_all(self, together: Sequence[Asked], receipts: Sequence[Receipt]) -> None:
        at = 0
        for events, told in together:
            self._tell(told, receipts[at : at + len(events)])
            at += len(events)

    def _tell(self, told: Told, answer: Sequence[Receipt] | Exception) -> None:
        try:
            told(answer)
        except Exception as error:  # noqa: BLE001  # others wait for their answers
            message = "an answer could not be handed over"
            self._loop.call_exception_handler({"message": message, "exception": error})


def group_size(before: int, waiting: int) -> int:
    """Return how many requests go next, of those that wait.

    Senders that are answered together come again together. One of them and thirty in turn would
    stay so for ever, and the one would cost as much as the thirty: so each group has at most half
    of both.
    """
    return min((before + waiting + 1) // 2, REQUESTS_MAX)


def _answer(
    future: asyncio.Future[Sequence[Receipt]], answer: Sequence[Receipt] | Exception
) -> None:
    """Tell whoever still waits."""
    if future.done():
        return
    if isinstance(answer, Exception):
        future.set_exception(answer)
    else:
        future.set_result(answer)
