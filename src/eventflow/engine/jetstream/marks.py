"""How much each place was ever given, as nodes have seen it: the most that any record says.

Places count what comes to them. One that is put back to an earlier state counts less than it did: a
database from its backup, a stream that was removed and made anew. What had come to it since is in
no place any more, and the ledger has to say so, for ever.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_LOST = "lost "
"""Before the name of a place: how much less it has counted, all in all, than it had before."""


class Marks:
    """By place, the most it ever counted. Nodes' marks are put together by the greater one."""

    def __init__(self) -> None:
        self._most: dict[str, int] = {}
        self._told: dict[str, int] = {}

    def saw(self, place: str, arrived: int) -> None:
        """Note what a place that never goes back counts now."""
        if arrived > self._most.get(place, 0):
            self._most[place] = arrived

    def heard(self, most: Mapping[str, int]) -> None:
        """Note what stands in a record."""
        for place, arrived in most.items():
            self.saw(place, arrived)

    def others(self, prefix: str, place: str) -> int:
        """Return the sum of all places whose names begin so, but one."""
        return sum(n for name, n in self._most.items() if name != place and name.startswith(prefix))

    def now(self) -> dict[str, int]:
        """Return all of it: for this node's record, or to hold a place against."""
        return dict(self._most)

    def lost(self, place: str, arrived: int, before: Mapping[str, int]) -> int:
        """Note what a place counts that may have gone back.

        Args:
            place: Its name.
            arrived: What it counts.
            before: All marks, before the place was asked.

        Returns:
            How much more it had been given, ever.
        """
        lost = before.get(_LOST + place, 0)
        lost = max(lost, before.get(place, 0) - arrived)
        self.saw(_LOST + place, lost)
        self.saw(place, arrived + lost)
        return lost

    def told(self, marks: dict[str, int]) -> None:
        """Note what stands in this node's record now."""
        self._told = marks

    @property
    def have_grown(self) -> bool:
        """Whether there is more to tell than this node's record says."""
        return self._told != self._most


def within(prefix: str, marks: Iterable[str]) -> set[str]:
    """Return the rest of the names that begin so."""
    return {place.removeprefix(prefix) for place in marks if place.startswith(prefix)}
