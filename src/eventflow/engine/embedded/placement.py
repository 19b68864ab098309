"""Bringing deliveries back from storage: put into the queue and forgotten there, in one commit."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from eventflow.delivery import Dead, Delivery
from eventflow.engine.embedded.journal import ALREADY, Change, StorageUnit
from eventflow.engine.embedded.queues import Anchor, BoundedQueue, Entry
from eventflow.engine.embedded.records import Stated, state_of
from eventflow.engine.embedded.settlement import wake
from eventflow.engine.moves import audit_row, brought_back
from eventflow.engine.protocol import Placed, Placing
from eventflow.storage.rows import kept_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from eventflow.engine.embedded.committer import Committer, Txn
    from eventflow.engine.embedded.state import State


class Move(NamedTuple):
    """One delivery's way out of the parked ones, planned."""

    item: Placing
    delivery: Delivery
    """As it will be there."""
    unit: StorageUnit
    to: BoundedQueue | None
    """None: it stays in storage, dead."""
    number: int


class Placement:
    """Plans a batch of placings into one transaction, and applies it when that is durable."""

    def __init__(self, state: State, committer: Committer, now: float, txn: Txn) -> None:
        self.state = state
        self.committer = committer
        self.now = now
        self.txn = txn
        self.moves: list[Move | None] = []

    def add(self, item: Placing) -> None:
        """Plan one, if there is room for it."""
        move = self._move(item)
        self.moves.append(move)
        if move is None:
            return
        move.unit.change.audit.append(
            audit_row(move.delivery, item.place, "parked", self.now, item.note)
        )
        self.txn.units.append(move.unit)
        # Only now: a transaction that is never submitted would not let go of this.
        self.txn.apply, self.txn.undo = self.apply, self.undo

    def answers(self) -> Sequence[Placed]:
        """Return what became of each."""
        return [self._answer(move) for move in self.moves]

    def _move(self, item: Placing) -> Move | None:
        old = item.delivery
        new = brought_back(item, self.now)
        unit = StorageUnit(Change(), forget=(old.id, old.hop))
        if isinstance(item.place, Dead):
            unit.keep.append(kept_of(new, "dead", self.now))
            return Move(item, new, unit, None, 0)
        state, to = self.state, self.state.topic(new.topic)
        if state.memory_bytes >= state.plan.memory_limit_bytes:
            return None  # past the limit recovery rests (G3)
        if not to.has_room(new.event.rank):
            return None
        to.reserved += 1
        number = self.committer.take_numbers(1)
        unit.change.bodies.append((number, [new.event]))
        unit.change.records.append(
            Stated(number, number, 0, lane=False, started=False, state=state_of(new))
        )
        return Move(item, new, unit, to, number)

    def apply(self, _: Txn, row: Anchor) -> None:
        """Change queues and counters as the durable transaction says."""
        self.undo()
        for move in self.moves:
            if move is not None and move.unit.refused is None:
                self._apply(move, row)

    def undo(self) -> None:
        """Give back what was promised."""
        for move in self.moves:
            if move is not None and move.to is not None:
                move.to.reserved -= 1

    def _apply(self, move: Move, row: Anchor) -> None:
        state = self.state
        tallies = state.tallies[move.delivery.topic]
        tallies.parked -= 1
        state.storage_bytes -= kept_of(move.item.delivery, "parked", 0.0).size_bytes
        if move.to is None:
            tallies.dead += 1
            state.storage_bytes += move.unit.keep[0].size_bytes
            return
        body = Anchor(move.number, total=1)
        state.add(Entry(move.number, move.number, move.delivery, row, body), move.to)
        wake(move.to)

    @staticmethod
    def _answer(move: Move | None) -> Placed:
        if move is None:
            return Placed.FULL
        if move.unit.refused is None:
            return Placed.PLACED
        # What storage would not let go it keeps, as if there were no room.
        return Placed.ALREADY if move.unit.refused == ALREADY else Placed.FULL
