"""G4, watched: starts are shared by weight among the priorities that have something to start."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from eventflow.testing.simulation.book import Broken

if TYPE_CHECKING:
    from collections.abc import Sequence

RANKS = 4


class Weights:
    """Counts starts by topic and rank, over the time in which two ranks both had some waiting."""

    def __init__(self, weights: Sequence[int]) -> None:
        self.weights = tuple(weights)
        self._together: dict[str, dict[tuple[int, int], list[int]]] = defaultdict(dict)
        self.checked = 0
        """Starts of a rank while another one waited too: what the check had to look at."""

    def forget(self) -> None:
        """Begin anew: a new process begins a new frame."""
        self._together.clear()

    def started(self, topic: str, starts: Sequence[int], waiting: Sequence[int]) -> None:
        """Hold a batch of starts against the weights.

        Args:
            topic: Whose.
            starts: Ranks, in the order of the starts.
            waiting: How many of each rank wait on, after them.

        Raises:
            Broken: one rank was started more often, beside another, than its weight allows.
        """
        together = self._together[topic]
        for one in range(RANKS):
            for other in range(one + 1, RANKS):
                if not (waiting[one] and waiting[other]):
                    together.pop((one, other), None)
                    continue
                counts = together.get((one, other))
                if counts is None:
                    # What was just started may have been taken before one of the two came.
                    together[one, other] = [0, 0]
                    continue
                counts[0] += starts.count(one)
                counts[1] += starts.count(other)
                self.checked += counts[0] > 0 and counts[1] > 0
                self._check(topic, one, other, counts)

    def _check(self, topic: str, one: int, other: int, counts: list[int]) -> None:
        frames = (counts[0] / self.weights[one], counts[1] / self.weights[other])
        # A stretch begins and ends within a frame: each rank may be one whole share ahead.
        if abs(frames[0] - frames[1]) > 2:
            raise Broken(
                f"topic {topic}: ranks {one} and {other} both waited, and were started "
                f"{counts} times; their weights are {self.weights[one]} : {self.weights[other]}"
            )
