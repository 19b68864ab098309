"""Secondary storage in PostgreSQL, beside an engine that keeps its queues elsewhere.

A call is a transaction. The engine puts first and forgets after; what it says twice, or late, is
told apart by the fence. Every method raises `StorageUnavailable` while the database is down, and
works again once it is back, without anybody's help.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from eventflow.delivery import Row
from eventflow.storage.acts import act_row, override_row, replayed, settings_row
from eventflow.storage.audit import Check, Head
from eventflow.storage.columns import STATES
from eventflow.storage.postgres import trail
from eventflow.storage.postgres.link import Link, connect
from eventflow.storage.postgres.shelf import PostgresShelf, Tallied
from eventflow.storage.protocol import FENCE_S, Filter, Turnover, Usage, Verdict

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from eventflow.clock import Clock
    from eventflow.config.secret import Secret
    from eventflow.storage.postgres.link import Connection
    from eventflow.storage.protocol import Actor, AuditRow, Group, Kept, Page

LEASE_S = 30.0
"""How long others leave alone what a node was given as due: as long as a lease of an engine."""


class PostgresStorage:
    """`Keeper` on a database. `open_postgres` is the way to make one."""

    def __init__(
        self, link: Link, clock: Clock, chain: str, key: bytes | None, max_bytes: int
    ) -> None:
        self._link = link
        self._clock = clock
        self._chain = chain
        self._key = key
        self._max_bytes = max_bytes
        self._used_bytes = 0
        self._sealed: dict[str, int] = {}

    # Keeper ------------------------------------------------------------------------

    async def keep(
        self,
        items: Sequence[Kept],
        rows: Sequence[Sequence[Mapping[str, Any]]],
        *,
        together: bool = False,
    ) -> Sequence[str | None]:
        """Hold deliveries, each with its audit rows. `Keeper` has the whole promise."""
        if not items:
            return []
        now = self._clock.now_s()
        answers: list[str | None] = []
        coming: dict[str, Kept] = {}
        written: list[Mapping[str, Any]] = []
        async with self._shelf() as (connection, shelf):
            known = await shelf.lock((kept.delivery.id for kept in items), now)
            before = {kept.delivery.id: kept for kept in await shelf.get(list(known))}
            used = _used(await shelf.totals())
            for kept, its_rows in zip(items, rows, strict=True):
                id, hop = kept.delivery.id, kept.delivery.hop
                if hop <= known[id]:
                    answers.append(None)
                    continue
                old = coming.get(id) or before.get(id)
                grows = kept.size_bytes - (0 if old is None else old.size_bytes)
                if used + grows > self._max_bytes:
                    answers.append(f"its {self._max_bytes} bytes are used")
                    continue
                used += grows
                known[id] = hop
                coming[id] = kept
                written += its_rows
                answers.append(None)
            if together and any(answers):
                return [next(filter(None, answers))] * len(items)
            await shelf.keep(list(coming.values()), now)
            change = _moved([before.get(id) for id in coming], coming.values())
            change.update(
                (kept.delivery.topic, "arrived", "deliveries")
                for id, kept in coming.items()
                if id not in before
            )
            await shelf.count_up(change)
            await trail.append(connection, self._chain, self._key, written)
        self._used_bytes = used
        return answers

    async def holds(self, pairs: Sequence[tuple[str, int]]) -> Sequence[bool]:
        """Return for each pair of id and hop whether just that is held."""
        held = await self.get([id for id, _ in pairs])
        hops = {kept.delivery.id: kept.delivery.hop for kept in held}
        return [hops.get(id) == hop for id, hop in pairs]

    async def forget(
        self, pairs: Sequence[tuple[str, int]], rows: Sequence[Mapping[str, Any]] = ()
    ) -> Sequence[bool]:
        """Forget every hop up to the one given; return for each whether it was there."""
        now = self._clock.now_s()
        async with self._shelf() as (connection, shelf):
            await shelf.lock((id for id, _ in pairs), now)
            held = {kept.delivery.id: kept for kept in await shelf.get([id for id, _ in pairs])}
            gone: list[Kept] = []
            existed = []
            for id, hop in pairs:
                there = id in held and held[id].delivery.hop <= hop
                existed.append(there)
                if there:
                    gone.append(held.pop(id))
            await shelf.remove([kept.delivery.id for kept in gone])
            await shelf.fence(pairs, now)
            await shelf.sweep(now - FENCE_S)
            change = _moved(gone, ())
            change.update((kept.delivery.topic, "forgotten", "deliveries") for kept in gone)
            await shelf.count_up(change)
            await trail.append(connection, self._chain, self._key, rows)
        self._used_bytes -= sum(kept.size_bytes for kept in gone)
        return existed

    async def adopt(self, rows: Sequence[AuditRow]) -> None:
        """Take over audit rows of other chains, unchanged."""
        async with self._link.transaction() as connection:
            await trail.adopt(connection, rows)

    async def totals(self) -> Mapping[tuple[str, str], tuple[int, int]]:
        """Return how many deliveries are kept, and their bytes, by topic and state."""
        async with self._shelf() as (_, shelf):
            found = await shelf.totals()
        self._used_bytes = _used(found)
        return {key: value for key, value in found.items() if key[1] in STATES}

    @property
    def shared(self) -> bool:
        """Whether other nodes on other machines may use the same storage."""
        return True

    async def turnover(self) -> Mapping[str, Turnover]:
        """Return what has become of the deliveries of each topic, as of one moment."""
        async with self._shelf() as (_, shelf):
            found = await shelf.totals()
        self._used_bytes = _used(found)
        by_topic: dict[str, dict[str, int]] = {}
        for (topic, state), (count, _) in found.items():
            by_topic.setdefault(topic, {})[state] = count
        return {topic: Turnover(**counts) for topic, counts in by_topic.items()}

    def resize(self, max_bytes: int) -> None:
        """Keep to so many bytes from now on."""
        self._max_bytes = max_bytes

    async def close(self) -> None:
        """Release everything."""
        await self._link.close()

    # Storage -----------------------------------------------------------------------

    async def due(self, topic: str, *, now: float, limit: int) -> Sequence[Kept]:
        """Return parked deliveries whose time has come; for `LEASE_S` no other node gets them."""
        async with self._shelf() as (_, shelf):
            return await shelf.lease(topic, now, now + LEASE_S, limit)

    async def next_due(self, topic: str) -> float | None:
        """Return when the next parked delivery of `topic` is due or expires for this node."""
        async with self._shelf() as (_, shelf):
            return await shelf.next_due(topic, self._clock.now_s())

    async def get(self, ids: Sequence[str]) -> Sequence[Kept]:
        """Return those of the deliveries that are kept here."""
        async with self._shelf() as (_, shelf):
            return await shelf.get(ids)

    async def find(self, ref: str) -> Sequence[Kept]:
        """Return the kept deliveries of an event."""
        async with self._shelf() as (_, shelf):
            return await shelf.find(ref)

    async def page(self, which: Filter, *, after: str | None = None, limit: int = 100) -> Page:
        """Return a page of the kept deliveries that match."""
        async with self._shelf() as (_, shelf):
            return await shelf.page(which, after, limit)

    async def along(
        self, which: Filter, *, after: str | None = None, limit: int = 200
    ) -> tuple[Sequence[Kept], str | None]:
        """Return kept deliveries that match in order of acceptance."""
        async with self._shelf() as (_, shelf):
            return await shelf.along(which, after, limit)

    async def count(self, which: Filter) -> int:
        """Return how many kept deliveries match."""
        async with self._shelf() as (_, shelf):
            return await shelf.count(which)

    async def groups(self, which: Filter, *, limit: int = 100) -> Sequence[Group]:
        """Return kept deliveries grouped by topic, reason and fingerprint."""
        async with self._shelf() as (_, shelf):
            return await shelf.groups(which, limit)

    async def ids(self, which: Filter) -> Sequence[str]:
        """Return the ids of all kept deliveries that match."""
        async with self._shelf() as (_, shelf):
            return await shelf.ids_matching(which)

    async def ref_of(self, source: str, id: str) -> str | None:
        """Return the ref of a kept event by its source and id."""
        async with self._shelf() as (_, shelf):
            found = await shelf.find_event(source, id)
        # A ref is a UUIDv7: the greatest was accepted last.
        return max((kept.delivery.ref for kept in found), default=None)

    async def replay(self, ids: Sequence[str], by: Actor) -> Mapping[str, str]:
        """Make parked or dead deliveries due now."""
        now = self._clock.now_s()
        answers: dict[str, str] = {}
        moved: list[tuple[Kept, Kept]] = []
        async with self._shelf() as (connection, shelf):
            await shelf.lock(ids, now)
            found = {kept.delivery.id: kept for kept in await shelf.get(ids)}
            for id in dict.fromkeys(ids):
                answers[id], new = replayed(found.get(id), now)
                if new is not None:
                    moved.append((found[id], new))
            new_ones = [new for _, new in moved]
            await shelf.keep(new_ones, now)
            await shelf.count_up(_moved([old for old, _ in moved], new_ones))
            told = [
                act_row(new.delivery, Row.REPLAYED, old.state, "parked", now, by)
                for old, new in moved
            ]
            await trail.append(connection, self._chain, self._key, told)
        return answers

    async def discard(self, ids: Sequence[str], by: Actor) -> Mapping[str, str]:
        """Forget parked or dead deliveries; the trail keeps who and why."""
        now = self._clock.now_s()
        async with self._shelf() as (connection, shelf):
            await shelf.lock(ids, now)
            gone = await shelf.get(ids)
            await shelf.remove([kept.delivery.id for kept in gone])
            await shelf.fence([(kept.delivery.id, kept.delivery.hop) for kept in gone], now)
            change = _moved(gone, ())
            change.update((kept.delivery.topic, "discarded", "deliveries") for kept in gone)
            await shelf.count_up(change)
            told = [act_row(k.delivery, Row.DISCARDED, k.state, "discarded", now, by) for k in gone]
            await trail.append(connection, self._chain, self._key, told)
        self._used_bytes -= sum(kept.size_bytes for kept in gone)
        known = {kept.delivery.id for kept in gone}
        return {id: "discarded" if id in known else "unknown" for id in ids}

    async def trail(self, ref: str, *, limit: int = 1000) -> Sequence[AuditRow]:
        """Return the audit rows of an event, oldest first."""
        async with self._link.transaction() as connection:
            return await trail.trail(connection, ref, limit)

    async def note(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write audit rows for acts that move no delivery."""
        async with self._link.transaction() as connection:
            await trail.append(connection, self._chain, self._key, rows)

    async def verify(self, heads: Sequence[str] = ()) -> Verdict:
        """Hold every audit chain against its hashes, and against ends noted before."""
        check = Check(self._key, [Head.of(head) for head in heads])
        more = True
        while more:  # some rows a transaction: each has to end in time
            async with self._link.transaction() as connection:
                more = await trail.advance(connection, check)
        return check.verdict()

    async def heads(self) -> Sequence[str]:
        """Return the end of every audit chain, as text."""
        async with self._link.transaction() as connection:
            return [head.text for head in await trail.heads(connection)]

    async def seal(self) -> Sequence[str]:
        """Return the ends of the audit chains that have grown since the last call, as text."""
        async with self._link.transaction() as connection:
            ends = await trail.heads(connection)
        grown = [head for head in ends if head.seq > self._sealed.get(head.chain, 0)]
        self._sealed.update((head.chain, head.seq) for head in grown)
        return [head.text for head in grown]

    async def override(self, topic: str, values: Mapping[str, Any] | None, by: Actor) -> None:
        """Keep settings made at run time for `topic`; None forgets them. Audited."""
        told = override_row(topic, values, self._clock.now_s(), by)
        async with self._shelf() as (connection, shelf):
            await shelf.set_override(topic, values)
            await trail.append(connection, self._chain, self._key, [told])

    async def reconfigured(self, changed: Sequence[str], by: Actor) -> None:
        """Enter into the trail that these keys of the configuration were changed."""
        told = settings_row(changed, self._clock.now_s(), by)
        async with self._link.transaction() as connection:
            await trail.append(connection, self._chain, self._key, [told])

    async def overrides(self) -> Mapping[str, Mapping[str, Any]]:
        """Return the settings made at run time, by topic."""
        async with self._shelf() as (_, shelf):
            return await shelf.overrides()

    def usage(self) -> Usage:
        """Return how much storage holds, as this node last saw it: other nodes write too."""
        return Usage(self._used_bytes, self._max_bytes)

    # inside ------------------------------------------------------------------------

    @asynccontextmanager
    async def _shelf(self) -> AsyncIterator[tuple[Connection, PostgresShelf]]:
        async with self._link.transaction() as connection:
            yield connection, PostgresShelf(connection, self._chain)


async def open_postgres(
    url: Secret,
    *,
    clock: Clock,
    chain: str,
    audit_key: bytes | None = None,
    max_bytes: int = 10 * 2**30,
    durable: bool = True,
) -> PostgresStorage:
    """Open the database, and make the tables or bring them up to date.

    Args:
        url: `postgresql://user:password@host:port/database`.
        clock: Tells the time.
        chain: Name of this node, and of its audit chain: no two nodes have the same.
        audit_key: HMAC key of the chain.
        max_bytes: How much the deliveries of all nodes may take.
        durable: Whether a database that may forget what it acknowledged is refused.

    Raises:
        StorageUnavailable: it can't be reached, or its tables are of a later release.
        ConfigError: its URL can't be read, or it breaks what storage promises.
    """
    link = await connect(url, durable=durable)
    storage = PostgresStorage(link, clock, chain, audit_key, max_bytes)
    try:
        await storage.totals()
    except BaseException:
        await link.close()
        raise
    return storage


def _used(totals: Mapping[tuple[str, str], tuple[int, int]]) -> int:
    return sum(size for _, size in totals.values())


def _moved(old: Sequence[Kept | None], new: Sequence[Kept] | Any) -> Tallied:
    """Return by what the turnover changes when `new` takes the place of `old`."""
    change: Tallied = Tallied()
    for sign, items in ((-1, old), (1, new)):
        for kept in items:
            if kept is not None:
                change[kept.delivery.topic, kept.state, "deliveries"] += sign
                change[kept.delivery.topic, kept.state, "bytes"] += sign * kept.size_bytes
    return change
