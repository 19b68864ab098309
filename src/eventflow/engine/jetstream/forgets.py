"""What storage has still to forget: it is in its queue again, and storage did not answer.

Until it does, such a delivery is in two places. It is forgotten as soon as storage takes that; if
this node dies before, recovery brings the same hop again, which the stream calls a duplicate.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from eventflow.errors import StorageUnavailable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from eventflow.engine.jetstream.ledger import Ledger
    from eventflow.storage.protocol import Keeper


class Forgets:
    """Pairs of delivery id and hop, each with its audit row."""

    def __init__(self, storage: Keeper, ledger: Ledger) -> None:
        self._storage = storage
        self._ledger = ledger
        self._left: list[tuple[tuple[str, int], Mapping[str, Any]]] = []

    def add(self, pairs: Sequence[tuple[str, int]], rows: Sequence[Mapping[str, Any]]) -> None:
        """Have these forgotten."""
        self._left += zip(pairs, rows, strict=True)
        self._ledger.begin(len(pairs))

    async def carry_out(self) -> None:
        """Forget what is left, if storage answers."""
        taken, self._left = self._left, []
        if not taken:
            return
        try:
            await self._storage.forget([pair for pair, _ in taken], [row for _, row in taken])
        except StorageUnavailable:
            self._left = [*taken, *self._left]
        else:
            self._ledger.over(len(taken))
