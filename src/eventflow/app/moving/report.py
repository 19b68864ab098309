"""What a move says at its end: for people, programs, and the mark in the file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from eventflow.engine.protocol import Census, Counts

COLUMNS = ("created", "delivered", "queued", "retrying", "parked", "dead", "discarded", "archived")
"""Of a topic's line. A stopped node runs nothing: what was running is queued."""


class Side(msgspec.Struct, frozen=True):
    """One of the two ledgers."""

    topics: dict[str, dict[str, int]]
    unaccounted: int


class Report(msgspec.Struct, frozen=True):
    """What was found, and what was done."""

    source: str
    to: str
    storage: str
    file: Side
    """The ledger of the file."""
    servers: Side | None = None
    """That of the servers and of secondary storage; None: nothing was moved there yet."""
    overrides: tuple[str, ...] = ()
    """Topics with settings made at run time."""
    overrides_left: tuple[str, ...] = ()
    """Those among them that had others there: these stay."""
    trail_rows: int = 0
    trail_faults: tuple[str, ...] = ()
    """What a check of the trail found, there and in the file."""
    dry_run: bool = False
    finished: bool = False
    before: bool = False
    """It had been moved before: this run has changed nothing."""

    @property
    def live(self) -> int:
        """Deliveries that were in the file."""
        return live_of(self.file)


def live_of(side: Side) -> int:
    """Return how many deliveries are in a queue, lane or storage."""
    places = ("queued", "retrying", "parked", "dead")
    return sum(line[place] for line in side.topics.values() for place in places)


def side_of(census: Census) -> Side:
    """Return a ledger as it is shown."""
    lines = {name: _line(counts) for name, counts in sorted(census.topics.items())}
    return Side(
        {name: line for name, line in lines.items() if any(line.values())}, census.unaccounted
    )


def _line(counts: Counts) -> dict[str, int]:
    return {
        name: getattr(counts, name) + (counts.running if name == "queued" else 0)
        for name in COLUMNS
    }


def told(report: Report) -> dict[str, Any]:
    """Return a report as JSON has it."""
    found: dict[str, Any] = msgspec.to_builtins(report)
    return found


def retold(said: dict[str, Any]) -> Report:
    """Return the report that a mark holds, as of a move that was before."""
    report = msgspec.convert(said, Report)
    return msgspec.structs.replace(report, before=True)
