"""Giving unused space of the journal's file back to the disk, between two commits.

What leaves the journal leaves pages behind that later commits use again. After a backlog has gone
there are far more of them than will be needed; they go in pieces of a few milliseconds, with time
for commits in between.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from eventflow.engine.embedded.journal import Journal

LOOK_S = 1.0
"""How long after a commit the file is looked at."""
_NEXT_S = 0.02
"""Between two pieces."""


class Space:
    """Says when the next piece is due.

    Args:
        journal: Whose file it is.
        give: Has the writer run `piece`, and says `went_on`.
    """

    def __init__(self, journal: Journal, give: Callable[[], None]) -> None:
        self._journal = journal
        self._give = give
        self._begun = False
        self._closed = False
        self._timer: asyncio.TimerHandle | None = None

    def changed(self) -> None:
        """Look at the file in a second: a commit may have left space behind."""
        if not self._journal.in_memory:
            self._later(LOOK_S)

    def piece(self) -> bool:
        """Give back a piece; return whether there is more. In the writer."""
        return self._journal.give_back(begun=self._begun)

    def went_on(self, *, more: bool) -> None:
        """Note how a piece went."""
        self._begun = more
        if more:
            self._later(_NEXT_S)

    def close(self) -> None:
        """Ask for nothing any more."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _later(self, seconds: float) -> None:
        if self._timer is None and not self._closed:
            self._timer = asyncio.get_running_loop().call_later(seconds, self._due)

    def _due(self) -> None:
        self._timer = None
        self._give()
