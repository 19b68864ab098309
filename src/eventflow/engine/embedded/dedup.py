"""Which (source, id) pairs were accepted lately (G2)."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


class _Batch:
    """Keys that were accepted together, and how many of them are forgotten."""

    __slots__ = ("at", "gone", "keys", "refs")

    def __init__(self, at: float, keys: Sequence[bytes], refs: Sequence[str]) -> None:
        self.at = at
        self.keys = keys
        self.refs = refs
        self.gone = 0


class Dedup:
    """Remembers event keys for a time, and no more than so many."""

    def __init__(self, window_s: float = 600.0, limit: int = 500_000) -> None:
        self.window_s = window_s
        self.limit = limit
        self._refs: dict[bytes, str] = {}
        self._batches: deque[_Batch] = deque()

    def __len__(self) -> int:
        return len(self._refs)

    def ref(self, key: bytes) -> str | None:
        """Return the ref under which this key was accepted, None where it is not remembered."""
        return self._refs.get(key)

    def remember(self, keys: Sequence[bytes], refs: Sequence[str], now: float) -> None:
        """Remember a batch accepted at `now`, and let go of what is too old or too much."""
        self._refs.update(zip(keys, refs, strict=True))
        self._batches.append(_Batch(now, keys, refs))
        self.prune(now)

    def forget(self, keys: Sequence[bytes]) -> None:
        """Take back a batch that was not accepted after all."""
        for key in keys:
            self._refs.pop(key, None)

    def prune(self, now: float) -> None:
        """Let go of what is older than the window, and of the oldest beyond the limit."""
        oldest = now - self.window_s
        while self._batches:
            batch = self._batches[0]
            excess = len(self._refs) - self.limit
            if batch.at <= oldest:
                excess = len(batch.keys)
            elif excess <= 0:
                return
            self._let_go(batch, excess)
            if batch.gone == len(batch.keys):
                self._batches.popleft()

    def _let_go(self, batch: _Batch, count: int) -> None:
        """Forget up to `count` more keys of a batch, the first ones first."""
        known = self._refs
        stop = min(batch.gone + count, len(batch.keys))
        for at in range(batch.gone, stop):
            # A key taken back and accepted again belongs to a later batch.
            if known.get(batch.keys[at]) == batch.refs[at]:
                del known[batch.keys[at]]
        batch.gone = stop

    def window_in_effect_s(self, now: float) -> float:
        """How far back it remembers: the window, or less where the limit cut it short."""
        if len(self._refs) < self.limit or not self._batches:
            return self.window_s
        return min(self.window_s, now - self._batches[0].at)
