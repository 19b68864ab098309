"""What rides along in commits although nobody waits for it: starts, returns, crashes.

    started   an entry was leased; if the process dies now, it died while that one ran
    returned  a lease that was never handed over: its start does not count
    crashed   a run that its lease or its process outlived: one more crash

Each is told with the next commit, whatever that commit is for. If it fails they are told with the
one after; what has left its queue meanwhile has no need of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from eventflow.engine.embedded.records import Begun, Returned, Started, stated
from eventflow.engine.moves import crash_row, crashed

if TYPE_CHECKING:
    from collections.abc import Iterable

    from eventflow.engine.embedded.committer import Committer, Txn
    from eventflow.engine.embedded.queues import Anchor, Entry
    from eventflow.engine.embedded.run import Run
    from eventflow.engine.protocol import Lease

    Start = tuple[Entry, Lease | None]
    """What is being run, and by which lease."""


class Riders:
    """Collects what is to be told, and adds it to a transaction."""

    def __init__(self, committer: Committer) -> None:
        self._committer = committer
        self._fresh: list[Start] = []
        self._fresh_runs: list[Run] = []
        self._returned: list[Entry] = []
        self._crashed: list[Entry] = []
        self._audit: list[dict[str, Any]] = []

    def starts(self, entries: Iterable[Entry]) -> None:
        """Tell that these are being run."""
        self._fresh += [(entry, entry.lease) for entry in entries]

    def run_starts(self, runs: Iterable[Run]) -> None:
        """Tell that these are being run, as far as they are not ended by then."""
        self._fresh_runs += runs

    def untold(self) -> bool:
        """Return whether something runs of which nothing tells yet."""
        self._fresh = [start for start in self._fresh if _lasts(start)]
        return bool(self._fresh)

    def withdraw(self, entries: Iterable[Entry]) -> None:
        """Don't tell that these are being run: whoever wanted to run them was told not to."""
        numbers = {entry.number for entry in entries}
        self._fresh = [start for start in self._fresh if start[0].number not in numbers]

    def returns(self, entries: Iterable[Entry]) -> None:
        """Tell that these were not run after all."""
        for entry in entries:
            if entry.started:
                entry.started = False
                self._returned.append(entry)

    def crashes(self, entries: Iterable[Entry], now: float) -> None:
        """Count one more crash for each of these, in memory at once."""
        for entry in entries:
            entry.delivery = crashed(entry.delivery, now)
            entry.started = False
            self._crashed.append(entry)
            self._audit.append(crash_row(entry.delivery, now))
        if self._crashed:
            self._committer.kick()

    def ride(self, txn: Txn) -> None:
        """Add what is to be told to a transaction."""
        if not (self._fresh or self._fresh_runs or self._crashed or self._returned or self._audit):
            return
        crashed, self._crashed = _split(self._crashed)
        returned, self._returned = _split(self._returned)
        # What is settling tells by that how it ended; what is not leased any more did not start.
        runs, self._fresh_runs = self._fresh_runs, []
        fresh, self._fresh = self._fresh, []
        for run in runs:
            fresh += [(entry, entry.lease) for entry in run.taken]
            run.taken = []
        fresh = [start for start in fresh if _lasts(start)]
        starts = [start for start in fresh if not start[0].settling]
        # Should those find no place they stay leased, and that they run is told with the next.
        self._fresh = [start for start in fresh if start[0].settling]
        started = [entry for entry, _ in starts]
        audit, self._audit = self._audit, []
        spans = [
            (run.number + start, run.number + stop)
            for run in runs
            for start, stop in run.spans_out()
        ]
        records = txn.change.records
        records += [stated(entry) for entry in crashed]
        if returned:
            records.append(Returned([entry.number for entry in returned]))
        if started:
            records.append(Started([entry.number for entry in started]))
        if spans:
            records.append(Begun(spans))
        _mark(started, runs, begun=True)
        txn.change.audit += audit

        def apply(_: Txn, row: Anchor) -> None:
            for entry in crashed:
                entry.anchor_in(row)
            for run in runs:
                run.told = True
                run.taken = []

        def undo() -> None:
            # Taken out while this was under way, so believed to be told of with their run.
            taken = [entry for run in runs for entry in run.taken]
            _mark([*started, *taken], runs, begun=False)
            self._fresh += starts
            self._fresh_runs += runs
            self._crashed += crashed
            self._returned += returned
            self._audit += audit

        txn.apply, txn.undo = apply, undo


def _lasts(start: Start) -> bool:
    """Whether the lease that began then still does: what has been leased anew begins anew."""
    entry, lease = start
    return lease is not None and entry.live and entry.lease is lease


def _mark(entries: Iterable[Entry], runs: Iterable[Run], *, begun: bool) -> None:
    """Note whether the journal says of these that they are being run."""
    for entry in entries:
        entry.started = begun
    for run in runs:
        run.started = begun


def _split(entries: list[Entry]) -> tuple[list[Entry], list[Entry]]:
    """Return those to tell about now, and those that a commit under way may yet move."""
    live = [entry for entry in entries if entry.live]
    return (
        [entry for entry in live if not entry.settling],
        [entry for entry in live if entry.settling],
    )
