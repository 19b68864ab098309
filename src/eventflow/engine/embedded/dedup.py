"""Which (source, id) pairs were accepted lately (G2)."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


class Dedup:
    """Remembers event keys for a time, and no more than so many."""

    def __init__(self, window_s: float = 600.0, limit: int = 500_000) -> None:
        self.window_s = window_s
        self.limit = limit
        self._refs: dict[bytes, str] = {}
        self._batches: deque[tuple[float, Sequence[bytes], Sequence[str]]] = deque()

    def __len__(self) -> int:
        return len(self._refs)

    def ref(self, key: bytes) -> str | None:
        """Return the ref under which this key was accepted, None where it is not remembered."""
        return self._refs.get(key)

    def remember(self, keys: Sequence[bytes], refs: Sequence[str], now: float) -> None:
        """Remember a batch accepted at `now`, and let go of what is too old or too much."""
        self._refs.update(zip(keys, refs, strict=True))
        self._batches.append((now, keys, refs))
        self.prune(now)

    def forget(self, keys: Sequence[bytes]) -> None:
        """Take back a batch that was not accepted after all."""
        for key in keys:
            self._refs.pop(key, None)

    def prune(self, now: float) -> None:
        """Let go of what is older than the window, and of the oldest beyond the limit."""
        oldest = now - self.window_s
        while self._batches and (self._batches[0][0] <= oldest or len(self._refs) > self.limit):
            _, keys, refs = self._batches.popleft()
            for key, ref in zip(keys, refs, strict=True):
                # A key taken back and accepted again belongs to a later batch.
                if self._refs.get(key) == ref:
                    del self._refs[key]

    def window_in_effect_s(self, now: float) -> float:
        """How far back it remembers: the window, or less where the limit cut it short."""
        if len(self._refs) < self.limit or not self._batches:
            return self.window_s
        return min(self.window_s, now - self._batches[0][0])
