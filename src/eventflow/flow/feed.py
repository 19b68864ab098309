"""A leased run on its way through the slots: what is started, what has ended well."""

from __future__ import annotations

from typing import TYPE_CHECKING

from eventflow.engine.protocol import Act, Finish

if TYPE_CHECKING:
    from collections.abc import Callable

    from eventflow.engine.protocol import Run


class Feed:
    """Hands out a run's deliveries one by one, to whichever slot is free."""

    __slots__ = ("ask", "asked", "at", "done", "open", "run", "stop")

    def __init__(self, run: Run, ask: Callable[[Feed], None]) -> None:
        self.run = run
        self.at = 0
        """Index of the next to start."""
        self.stop = len(run)
        self.done: list[int] = []
        """Indexes of those that have ended well and are not being settled yet."""
        self.open = self.stop
        """How many are not settled yet, nor taken out."""
        self.asked = False
        """Whether what is done will be settled without anybody asking for it."""
        self.ask = ask

    def __len__(self) -> int:
        """How many have not been started."""
        return self.stop - self.at


class Done:
    """What has ended well of a feed, to be settled together."""

    __slots__ = ("_indexes", "feed", "spans")

    def __init__(self, feed: Feed) -> None:
        self.feed = feed
        self.spans: list[tuple[int, int]] = []
        self._indexes: list[int] = []

    @property
    def lease(self) -> Run:
        """What it is part of."""
        return self.feed.run

    @property
    def count(self) -> int:
        """How many they are."""
        return len(self._indexes)

    def act(self) -> Act:
        """Return what ends all that is done by now; the same again where that was not written."""
        feed = self.feed
        if not self.spans:  # what has ended since then has asked for another one
            self._indexes += feed.done
            feed.done.clear()  # not a new one: slots hold on to it
            feed.asked = False
            self.spans = spans_of(self._indexes)
        return Finish(feed.run, self.spans)

    def owing(self, owed: tuple[str, ...]) -> None:
        """Only events of common can be owed."""


def spans_of(indexes: list[int]) -> list[tuple[int, int]]:
    """Return first and the one after the last of each stretch; sorts what it is given."""
    indexes.sort()
    first, last = indexes[0], indexes[-1]
    if last - first == len(indexes) - 1:
        return [(first, last + 1)]
    spans = []
    stop = first
    for index in indexes:
        if index != stop:
            spans.append((first, stop))
            first = index
        stop = index + 1
    spans.append((first, stop))
    return spans
