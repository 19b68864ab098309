"""What EventFlow asks of secondary storage, and nothing more.

Writing what is parked or dead belongs to the settlement that moves it there, so it is the
engine's business: where both are one SQLite file it is one transaction, elsewhere storage holds
a delivery before the engine forgets it. This Protocol is what everybody else needs of storage.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence  # noqa: TC003  # as above
from typing import Any, Protocol

import msgspec

from eventflow.delivery import Delivery

FENCE_S = 24 * 3_600.0
"""How long a `Keeper` remembers a hop that it was told to forget: it can't come back."""


class Kept(msgspec.Struct, frozen=True, gc=False):
    """A delivery in secondary storage."""

    delivery: Delivery
    state: str
    """"parked" or "dead"."""
    since: float
    """When it came here, seconds since 1970."""
    size_bytes: int = 0
    """What it counts towards `max_size`: event, history and traceback."""


class Filter(msgspec.Struct, frozen=True, gc=False):
    """Which kept deliveries are meant. A field that is None or empty does not restrict."""

    state: str | None = None
    topic: str | None = None
    reason: str | None = None
    cause: str | None = None
    """Cause of the last attempt, such as "http 503"."""
    fingerprint: str | None = None
    type: str | None = None
    """Event type; `*` and `**` as in routes."""
    q: str | None = None
    """Text found in id, source, subject or error of the last attempt, case-insensitive."""
    ids: tuple[str, ...] = ()
    """Delivery ids."""


class Turnover(msgspec.Struct, frozen=True, gc=False):
    """What has become of one topic's deliveries here. All but `parked` and `dead` only grow."""

    parked: int = 0
    dead: int = 0
    arrived: int = 0
    """How many ever came: one that replaces an earlier hop of itself has been here already."""
    forgotten: int = 0
    """How many left for a queue."""
    discarded: int = 0
    """How many were discarded by operators."""


class Page(msgspec.Struct, frozen=True, gc=False):
    """Part of a listing, newest first."""

    items: tuple[Kept, ...]
    cursor: str | None
    """What to give as `after` for the next page; None: this was the last."""


class Group(msgspec.Struct, frozen=True, gc=False):
    """Kept deliveries whose last failure looks alike."""

    topic: str
    state: str
    reason: str
    cause: str
    fingerprint: str
    count: int
    error: str
    """Of the newest one."""
    first_at: float
    last_at: float
    example: str
    """Delivery id of the newest one."""


class Usage(msgspec.Struct, frozen=True, gc=False):
    """How much storage holds, of how much it may."""

    used_bytes: int
    max_bytes: int


class AuditRow(msgspec.Struct, frozen=True, gc=False):
    """A row of the audit trail, as it was hashed."""

    chain: str
    """Id of the node that wrote it."""
    seq: int
    """From 1, without a gap."""
    row: bytes
    """UTF-8 JSON: keys sorted, no blanks, no floats, times RFC 3339 with microseconds and `Z`."""
    hash: bytes
    """SHA-256(hash before ‖ row), or HMAC-SHA-256 under the key."""


class Verdict(msgspec.Struct, frozen=True, gc=False):
    """What a check of the audit chains found."""

    ok: bool
    rows: int
    faults: tuple[str, ...] = ()
    """One sentence each: chain, seq, what is wrong."""
    against: str = ""
    """What it was held against: "itself", "the key", "an exported head"."""


class Actor(msgspec.Struct, frozen=True, gc=False):
    """Who does something by hand, and why: for the audit trail."""

    name: str
    why: str = ""


class Storage(Protocol):
    """Reading what is kept, and the acts of operators on it. Every method may raise
    `StorageUnavailable`; then nothing was changed, unless it is `StorageUnanswered`.
    """  # noqa: D205  # one thought

    @property
    def shared(self) -> bool:
        """Whether other nodes on other machines may use the same storage."""
        ...

    async def due(self, topic: str, *, now: float, limit: int) -> Sequence[Kept]:
        """Return parked deliveries of `topic` whose time has come, the earliest due first.

        Also those that are past their `expirytime`, due or not.
        """
        ...

    async def next_due(self, topic: str) -> float | None:
        """Return when the next parked delivery of `topic` is due or expires; None: none parked."""
        ...

    async def get(self, ids: Sequence[str]) -> Sequence[Kept]:
        """Return those of the deliveries that are kept here."""
        ...

    async def find(self, ref: str) -> Sequence[Kept]:
        """Return the kept deliveries of an event."""
        ...

    async def page(self, which: Filter, *, after: str | None = None, limit: int = 100) -> Page:
        """Return a page of the kept deliveries that match."""
        ...

    async def along(
        self, which: Filter, *, after: str | None = None, limit: int = 200
    ) -> tuple[Sequence[Kept], str | None]:
        """Return kept deliveries that match in order of acceptance, those of an event together.

        Looks at `limit` of them behind the id `after`; returns the id to go on behind, None at
        the end.
        """
        ...

    async def count(self, which: Filter) -> int:
        """Return how many kept deliveries match."""
        ...

    async def groups(self, which: Filter, *, limit: int = 100) -> Sequence[Group]:
        """Return kept deliveries grouped by topic, reason and fingerprint, the largest first."""
        ...

    async def replay(self, ids: Sequence[str], by: Actor) -> Mapping[str, str]:
        """Make parked or dead deliveries due now.

        Attempts, rounds, overflows and expiry are cleared; doing it twice changes nothing.
        Returns for each id "replayed", "already", "unknown" or "max_replays".
        """
        ...

    async def discard(self, ids: Sequence[str], by: Actor) -> Mapping[str, str]:
        """Forget parked or dead deliveries; the trail keeps who and why.

        Returns for each id "discarded" or "unknown".
        """
        ...

    async def trail(self, ref: str, *, limit: int = 1000) -> Sequence[AuditRow]:
        """Return the audit rows of an event, oldest first."""
        ...

    async def note(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write audit rows for acts that move no delivery: pause, resume, a changed setting."""
        ...

    async def verify(self, heads: Sequence[str] = ()) -> Verdict:
        """Hold every audit chain against its hashes, and against ends noted before, as text.

        Raises:
            ValueError: one of `heads` is none.
        """
        ...

    async def heads(self) -> Sequence[str]:
        """Return the end of every audit chain, as text: to be noted where nobody can change it."""
        ...

    async def seal(self) -> Sequence[str]:
        """Return the ends of the audit chains that have grown since the last call, as text.

        Noted elsewhere they show later whether a tail was cut off or a chain computed anew.
        """
        ...

    async def override(self, topic: str, values: Mapping[str, Any] | None, by: Actor) -> None:
        """Keep settings made at run time for `topic`; None forgets them. Audited."""
        ...

    async def reconfigured(self, changed: Sequence[str], by: Actor) -> None:
        """Enter into the trail that these keys of the configuration were changed."""
        ...

    async def overrides(self) -> Mapping[str, Mapping[str, Any]]:
        """Return the settings made at run time, by topic."""
        ...

    def usage(self) -> Usage:
        """Return how much storage holds, as this node knows it now."""
        ...


class Overrides(Protocol):
    """Settings made at run time: a storage's own, or those of all nodes on the same servers."""

    async def override(self, topic: str, values: Mapping[str, Any] | None, by: Actor) -> None:
        """Keep settings made at run time for `topic`; None forgets them. Audited.

        Raises:
            StorageUnavailable, EngineUnavailable: it can't be written down.
            ChangedMeanwhile: another node was told something else just now.
        """
        ...

    async def overrides(self) -> Mapping[str, Mapping[str, Any]]:
        """Return the settings made at run time, by topic."""
        ...


class Keeper(Storage, Protocol):
    """Storage that stands beside an engine instead of in its file: what such an engine asks of it.

    Put first, forgotten after. It writes only a hop greater than any that it has held or been told
    to forget of that delivery, so that nothing said twice, or late, brings back what has gone on.
    """

    async def keep(
        self,
        items: Sequence[Kept],
        rows: Sequence[Sequence[Mapping[str, Any]]],
        *,
        together: bool = False,
    ) -> Sequence[str | None]:
        """Hold deliveries, each with its audit rows.

        Returns for each None, or why it was refused; with `together` all or none are held. What
        was held before, or has gone on since, is no refusal: nothing is written of it.

        Raises:
            StorageUnavailable: none was held.
        """
        ...

    async def holds(self, pairs: Sequence[tuple[str, int]]) -> Sequence[bool]:
        """Return for each pair of id and hop whether just that is held, and may be moved."""
        ...

    async def forget(
        self, pairs: Sequence[tuple[str, int]], rows: Sequence[Mapping[str, Any]] = ()
    ) -> Sequence[bool]:
        """Forget every hop up to the one given, and write audit rows.

        Returns for each whether it was there.

        Raises:
            StorageUnavailable: nothing was forgotten.
        """
        ...

    async def adopt(self, rows: Sequence[AuditRow]) -> None:
        """Take over audit rows of other chains, unchanged. Those that are there already stay.

        Raises:
            StorageUnavailable: none was written; or another row is there under the same number.
        """
        ...

    async def ids(self, which: Filter) -> Sequence[str]:
        """Return the ids of all kept deliveries that match."""
        ...

    async def ref_of(self, source: str, id: str) -> str | None:
        """Return the ref of a kept event by its source and id."""
        ...

    async def totals(self) -> Mapping[tuple[str, str], tuple[int, int]]:
        """Return how many deliveries are kept, and their bytes, by topic and state."""
        ...

    async def turnover(self) -> Mapping[str, Turnover]:
        """Return what has become of the deliveries of each topic, as of one moment.

        Counted with what it counts, and nothing is counted twice: what arrived is what is here,
        was forgotten or was discarded.
        """
        ...

    def resize(self, max_bytes: int) -> None:
        """Keep to so many bytes from now on."""
        ...

    async def close(self) -> None:
        """Release everything."""
        ...
