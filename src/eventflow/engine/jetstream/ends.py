"""What this node has counted the ends of messages as: so that each is counted once.

A message may end a second time: after a crash between the record and the acks, and because a server
that is killed forgets acks of its last moments, though it had confirmed them. So ends are
remembered for longer than a lease, the latest of them in the node's record too, where the others
find them.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from eventflow.engine.jetstream import names
from eventflow.engine.jetstream.counting import NOTHING, End

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from eventflow.engine.jetstream.stored import Record

REMEMBERED_S = 120.0
"""How long a confirmed end is remembered by this node: for several leases."""
UNSURE_S = 3_600.0
"""How long one that is not confirmed: for longer than servers are usually gone."""
REMEMBERED_MAX = 200_000
RECORDED_MAX = 2_000
"""Ends in the record, for whoever leases one of them again.

Those that no server has confirmed come first: they are leased again for sure, by any node, after a
whole lease, when thousands of others have ended. Then the latest of the confirmed: servers that are
killed forget acks of their last second or so. A node that ends more in that time may have one
counted twice that is first heard of by a node without memory, just started.
"""
_KIND_BYTES = 2
_SIZE = names.FENCE_BYTES + _KIND_BYTES


class _Entry(NamedTuple):
    at: float
    """When it ended, by this node's clock."""
    told: bytes
    """As it stands in the record: the fence, and the number of what it counts as."""


class Ends:
    """See the module. Keys are fences, see `names.end_of`."""

    def __init__(self) -> None:
        self._sure: dict[bytes, _Entry] = {}
        """The latest last, as in the next one."""
        self._unsure: dict[bytes, _Entry] = {}
        """Those that no server has confirmed, or that another node has counted, too."""
        self._kinds: dict[End, int] = {NOTHING: 0}

    def __contains__(self, key: bytes) -> bool:
        return key in self._sure or key in self._unsure

    def load(self, record: Record, now: float) -> None:
        """Go on from this node's record, of its earlier life."""
        self._kinds = {NOTHING: 0}
        for topic, counter in record.kinds:
            self._kinds.setdefault(End(topic, counter), len(self._kinds))
        told = list(_told(record.ends))
        entries = [(one[: names.FENCE_BYTES], _Entry(now, one)) for one in told]
        self._sure = dict(entries[: record.sure])
        self._unsure = dict(entries[record.sure :])

    def add(self, ends: Mapping[bytes, End], now: float) -> None:
        """Remember ends that are being counted with the next record."""
        numbers = {end: self._number(end) for end in dict.fromkeys(ends.values())}
        for key, end in ends.items():
            self._sure.pop(key, None)
            self._unsure.pop(key, None)  # to be the latest
            self._unsure[key] = _Entry(now, key + numbers[end])
        self._forget(now)

    def confirm(self, keys: Iterable[bytes], now: float) -> None:
        """Note that servers have confirmed these; forget those of long ago."""
        for key in keys:
            entry = self._unsure.pop(key, None)
            if entry is not None:
                self._sure[key] = entry._replace(at=now)
        self._forget(now)

    def counted_as(self, key: bytes) -> End:
        """Return what this node has counted an end as; `NOTHING`: it has not, or no longer."""
        entry = self._unsure.get(key) or self._sure.get(key)
        return NOTHING if entry is None else _end(entry.told, list(self._kinds))

    def contest(self, key: bytes) -> None:
        """Name an end in each record from now on, for a node that has counted it, too."""
        if key in self._sure:
            self._unsure[key] = self._sure.pop(key)

    def take_back(self, key: bytes) -> None:
        """Count an end no longer; it is known all the same."""
        for ends in (self._sure, self._unsure):
            if key in ends:
                ends[key] = _Entry(ends[key].at, key + self._number(NOTHING))

    def recorded(self) -> tuple[bytes, int, list[tuple[str, str]]]:
        """Return what goes into the record: the ends, how many are confirmed, the kinds."""
        unsure = [entry.told for entry in islice(reversed(self._unsure.values()), RECORDED_MAX)]
        left = RECORDED_MAX - len(unsure)
        sure = [entry.told for entry in islice(reversed(self._sure.values()), left)]
        kinds = [(end.topic, end.counter) for end in self._kinds]
        return b"".join([*reversed(sure), *reversed(unsure)]), len(sure), kinds

    def _number(self, end: End) -> bytes:
        return self._kinds.setdefault(end, len(self._kinds)).to_bytes(_KIND_BYTES, "big")

    def _forget(self, now: float) -> None:
        for ends, for_s in ((self._sure, REMEMBERED_S), (self._unsure, UNSURE_S)):
            while ends:
                first = next(iter(ends))
                if now - ends[first].at < for_s and len(ends) <= REMEMBERED_MAX:
                    break
                del ends[first]


class Told:
    """The ends in another node's record."""

    def __init__(self, record: Record) -> None:
        self._kinds = [End(topic, counter) for topic, counter in record.kinds]
        self._by_key = {one[: names.FENCE_BYTES]: one for one in _told(record.ends)}

    def __contains__(self, key: bytes) -> bool:
        return key in self._by_key

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._by_key)

    def counted_as(self, key: bytes) -> End:
        """Return what that node has counted an end as."""
        return _end(self._by_key[key], self._kinds)


def _told(ends: bytes) -> Iterator[bytes]:
    return (ends[at : at + _SIZE] for at in range(0, len(ends), _SIZE))


def _end(told: bytes, kinds: list[End]) -> End:
    return kinds[int.from_bytes(told[names.FENCE_BYTES :], "big")]
