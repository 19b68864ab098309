"""Ends leases a batch at a time: what finishes while one settlement is under way joins the next.

A stage gives it items; each item knows which act ends its lease. What finds no place at all (its
lane full and storage refusing) keeps its lease, and so its slot, and is tried again later.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from eventflow.errors import EngineUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from eventflow.engine.protocol import Act, Engine, Lease, Run, Settled

AGAIN_S = 1.0
"""How long what found no place, or an engine that could not write, is left alone."""


class Item(Protocol):
    """A lease, and what it takes to end it."""

    @property
    def lease(self) -> Lease | Run:
        """The lease to be ended, or the run of which some is."""
        ...

    def act(self) -> Act:
        """Return the act that ends it, decided now."""
        ...

    def owing(self, owed: tuple[str, ...]) -> None:
        """Learn which topics still have no place for it."""
        ...


I = TypeVar("I", bound=Item)  # noqa: E741  # an item


class Settler(Generic[I]):
    """Settles what a stage has finished."""

    def __init__(
        self, engine: Engine, settled: Callable[[Sequence[I], Sequence[Settled]], None]
    ) -> None:
        self._engine = engine
        self._settled = settled
        """Told each batch that was answered, and the answers."""
        self._items: list[I] = []
        self._more = asyncio.Event()
        self._less = asyncio.Event()
        self._in_flight: list[I] = []
        self.stuck: list[I] = []
        """Items that found no place: they keep their leases."""

    def add(self, item: I) -> None:
        """Take an item over. Never waits."""
        self._items.append(item)
        if len(self._items) == 1:
            self._more.set()

    @property
    def unsettled(self) -> int:
        """How many items have not been answered yet."""
        return len(self._items) + len(self._in_flight) + len(self.stuck)

    def leases(self) -> list[Lease | Run]:
        """Return every lease it holds, for them to be extended."""
        return [item.lease for item in (*self._items, *self._in_flight, *self.stuck)]

    async def below(self, limit: int) -> None:
        """Wait until fewer than `limit` items are unsettled."""
        while self.unsettled >= limit:
            self._less.clear()
            await self._less.wait()

    async def run(self) -> None:
        """Settle until cancelled."""
        while True:
            if not self._items:
                self._more.clear()
                await self._more.wait()
            await self._settle()

    async def _settle(self) -> None:
        items, self._items = self._items, []
        self._in_flight = items
        try:
            answers = await self._engine.settle([item.act() for item in items])
        except EngineUnavailable:
            # The leases stand: the same is tried again, after what finished meanwhile.
            self._items = items + self._items
            self._in_flight = []
            await asyncio.sleep(AGAIN_S)
            return
        self._in_flight = []
        self._settled(items, answers)
        self._keep_stuck(items, answers)
        self._less.set()

    def _keep_stuck(self, items: list[I], answers: Sequence[Settled]) -> None:
        stuck = []
        for item, answer in zip(items, answers, strict=True):
            if answer.refused is not None or answer.owed:
                item.owing(answer.owed)
                stuck.append(item)
        if stuck:
            self.stuck += stuck
            asyncio.get_running_loop().call_later(AGAIN_S, self._try_again, stuck)

    def _try_again(self, stuck: list[I]) -> None:
        known = set(map(id, stuck))
        self.stuck = [item for item in self.stuck if id(item) not in known]
        for item in stuck:
            self.add(item)

    async def flush(self) -> None:
        """Wait until all that could be settled is; what is stuck stays leased."""
        while self._items or self._in_flight:
            self._less.clear()
            await self._less.wait()
