"""Which (source, id) pairs were accepted lately (G2).

A pair is known by its text, or where that is long by a digest of it. Of a batch only the batch is
kept with each key: what a duplicate's ref was is worked out when one comes.
"""

from __future__ import annotations

import hashlib
from collections import deque
from itertools import repeat
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from eventflow.event import Event

Key = str | bytes

_LONGEST_KEY = 96
"""Characters of a pair that is kept as it is: ids come from outside, and must not fill memory."""


def keys_of(events: Sequence[Event]) -> list[Key]:
    """Return what each event's (source, id) is known by."""
    texts = [f"{event.source}\0{event.id}" for event in events]
    return [text if len(text) <= _LONGEST_KEY else _digest(text) for text in texts]


def key_of(source: str, id: str) -> Key:
    """Return what a (source, id) is known by."""
    text = f"{source}\0{id}"
    return text if len(text) <= _LONGEST_KEY else _digest(text)


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()[:16]


_NEVER = b"never"
"""A key that no pair has, always remembered. A dict whose keys are all text keeps their hashes in
them alone: each look at another key on the way then waits for memory. Beside one key that is no
text they stand in the dict: half the time where half a million are remembered.
"""


class _Batch:
    """Keys that were accepted together, and how many of them are forgotten."""

    __slots__ = ("at", "gone", "keys", "refs")

    def __init__(self, at: float, keys: Sequence[Key], refs: Sequence[str]) -> None:
        self.at = at
        self.keys = keys
        self.refs = refs
        self.gone = 0


class Dedup:
    """Remembers event keys for a time, and no more than so many."""

    def __init__(self, window_s: float = 600.0, limit: int = 500_000) -> None:
        self.window_s = window_s
        self.limit = limit
        self._known: dict[Key, _Batch] = {_NEVER: _Batch(0.0, (), ())}
        self._batches: deque[_Batch] = deque()

    def __len__(self) -> int:
        return len(self._known) - 1  # without _NEVER

    def ref(self, key: Key) -> str | None:
        """Return the ref under which this key was accepted, None where it is not remembered."""
        batch = self._known.get(key)
        return None if batch is None else batch.refs[batch.keys.index(key)]

    def all_new(self, keys: Sequence[Key]) -> bool:
        """Return whether none of these is remembered, nor there twice."""
        return self._known.keys().isdisjoint(keys) and len(set(keys)) == len(keys)

    def remember(self, keys: Sequence[Key], refs: Sequence[str], now: float) -> None:
        """Remember a batch accepted at `now`, and let go of what is too old or too much."""
        batch = _Batch(now, keys, refs)
        self._known.update(dict.fromkeys(keys, batch))
        self._batches.append(batch)
        self.prune(now)

    def forget(self, keys: Sequence[Key]) -> None:
        """Take back a batch that was not accepted after all."""
        for key in keys:
            self._known.pop(key, None)

    def prune(self, now: float) -> None:
        """Let go of what is older than the window, and of the oldest beyond the limit."""
        oldest = now - self.window_s
        while self._batches:
            batch = self._batches[0]
            excess = len(self) - self.limit
            if batch.at <= oldest:
                excess = len(batch.keys)
            elif excess <= 0:
                return
            self._let_go(batch, excess)
            if batch.gone == len(batch.keys):
                self._batches.popleft()

    def _let_go(self, batch: _Batch, count: int) -> None:
        """Forget up to `count` more keys of a batch, the first ones first."""
        stop = min(batch.gone + count, len(batch.keys))
        keys = batch.keys[batch.gone : stop]
        # Once full, each batch that comes makes one go, so nothing is interpreted for each key.
        owners = list(map(self._known.pop, keys, repeat(None)))
        if owners.count(batch) != len(keys):
            # A key taken back and accepted again belongs to a later batch.
            self._known.update(
                (key, owner)
                for key, owner in zip(keys, owners, strict=True)
                if owner is not None and owner is not batch
            )
        batch.gone = stop

    def window_in_effect_s(self, now: float) -> float:
        """How far back it remembers: the window, or less where the limit cut it short."""
        if len(self) < self.limit or not self._batches:
            return self.window_s
        return min(self.window_s, now - self._batches[0].at)
