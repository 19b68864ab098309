"""Lets a delivery that has been there at a crash run alone on its node.

Should the node die again, it is this delivery's doing and no other's.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class Gate:
    """Counts the runs of a node; closes while one of them has to be alone."""

    def __init__(self) -> None:
        self.closed = False
        """Looked at before each run: an attribute, since it is asked for every event."""
        self.running = 0
        """Handlers being run, the lone one not counted. Whoever adds to it calls `left` after."""
        self._turn = asyncio.Lock()
        self._open = asyncio.Event()
        self._open.set()
        self._empty = asyncio.Event()

    def left(self) -> None:
        """A run has ended."""
        self.running -= 1
        if self.running == 0:
            self._empty.set()

    async def opened(self) -> None:
        """Wait until no run is alone or about to be."""
        while self.closed:
            await self._open.wait()

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        """Wait for all runs to end, and let none begin until this one has ended."""
        async with self._turn:
            self.closed = True
            self._open.clear()
            try:
                while self.running:
                    self._empty.clear()
                    await self._empty.wait()
                yield
            finally:
                self.closed = False
                self._open.set()
