"""What handlers did, noted by themselves: the account in the end stands on nothing else."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from eventflow.delivery import COMMON, Reason
from eventflow.testing.simulation.book import Broken

if TYPE_CHECKING:
    from eventflow.testing.simulation.book import Book

_NEEDS_A_FAILURE = {Reason.ATTEMPTS_EXHAUSTED, Reason.PERMANENT}


@dataclass(slots=True)
class Runs:
    """Starts and ends of handlers, by delivery id."""

    started: Counter[str] = field(default_factory=Counter)
    well: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    running: set[str] = field(default_factory=set)
    """Deliveries that are being run in the present life."""

    def start(self, id: str) -> None:
        """Note that a run begins."""
        self.running.add(id)
        self.started[id] += 1

    def end(self, id: str, *, well: bool) -> None:
        """Note how a run ended."""
        self.running.discard(id)
        (self.well if well else self.failed)[id] += 1

    @property
    def repeats(self) -> int:
        """Runs that ended well, beyond the first of each delivery."""
        return sum(count - 1 for count in self.well.values())

    def account(self, book: Book, acknowledged: set[str]) -> None:
        """Hold the end of the day against the runs: nothing is lost, nothing dead for nothing.

        Raises:
            Broken: an event is missing, or a delivery is where no run of it has brought it.
        """
        missing = acknowledged - book.refs.keys()
        if missing:
            raise Broken(f"acknowledged, and unknown: {sorted(missing)[:5]}")
        for id, one in book.known.items():
            if one.state != "dead":
                raise Broken(f"{id} is {one.state} in the end")
            if one.delivery.reason in _NEEDS_A_FAILURE and not self.failed[id]:
                raise Broken(f"{id} is dead of {one.delivery.reason}, and no run of it failed")
        created = book.created[COMMON]
        if sum(len(refs) for refs in book.refs.values()) < created:
            raise Broken(f"{created} events were created in common, and fewer are known")
