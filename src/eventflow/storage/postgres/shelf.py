"""What is parked or dead, in PostgreSQL: statements on the caller's connection and transaction.

Whoever changes a delivery locks its row of `fence` first, ids in order: so two nodes that mean the
same delivery take their turn and never wait for each other in a circle. Only the lease of due ones
locks rows of `kept` alone, and it passes over what is locked instead of waiting.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import msgspec

from eventflow.event import from_parts
from eventflow.policy.glob import Glob
from eventflow.storage import bulk, rows
from eventflow.storage.columns import COLUMNS, columns_of, cursor, event_key, group_of, position
from eventflow.storage.protocol import Filter, Group, Kept, Page

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from psycopg import AsyncCursor

    from eventflow.storage.postgres.link import Connection

_NUMBERS = {"hop", "event_key", "wake_at_us", "since_us", "size_bytes"}
_KEEP = f"""
INSERT INTO eventflow.kept ({", ".join(COLUMNS)}, body)
SELECT * FROM unnest({
    ", ".join(f"%s::{'bigint' if name in _NUMBERS else 'text'}[]" for name in COLUMNS)
}, %s::bytea[])
ON CONFLICT (id) DO UPDATE SET
    {", ".join(f"{name} = excluded.{name}" for name in (*COLUMNS[3:], "body"))},
    leased_by = NULL, leased_until_us = 0
"""  # noqa: S608  # made of the constants above
# What it sets is what was there: it is for the lock, and for the hop as the last holder left it.
_LOCK = """
INSERT INTO eventflow.fence (id, hop, at_us)
SELECT DISTINCT id, -1, %(now)s::bigint FROM unnest(%(ids)s::text[]) AS id ORDER BY id
ON CONFLICT (id) DO UPDATE SET hop = fence.hop RETURNING id, hop
"""
_RAISE = """
UPDATE eventflow.fence SET hop = greatest(fence.hop, new.hop), at_us = %s::bigint
FROM unnest(%s::text[], %s::bigint[]) AS new (id, hop) WHERE fence.id = new.id
"""
_SWEEP = """
DELETE FROM eventflow.fence WHERE id IN (
    SELECT id FROM eventflow.fence WHERE at_us < %s
    AND NOT EXISTS (SELECT FROM eventflow.kept WHERE kept.id = fence.id)
    LIMIT 1000 FOR UPDATE SKIP LOCKED)
"""
_TALLY = """
INSERT INTO eventflow.tally AS held (node, topic, state, deliveries, bytes)
SELECT %s, * FROM unnest(%s::text[], %s::text[], %s::bigint[], %s::bigint[])
ON CONFLICT (node, topic, state) DO UPDATE
SET deliveries = held.deliveries + excluded.deliveries, bytes = held.bytes + excluded.bytes
"""
_TOTALS = """
SELECT topic, state, sum(deliveries)::bigint, sum(bytes)::bigint FROM eventflow.tally
GROUP BY topic, state HAVING sum(deliveries) <> 0
"""
_LEASE = """
UPDATE eventflow.kept SET leased_by = %(node)s, leased_until_us = %(until)s
WHERE number IN (
    SELECT number FROM eventflow.kept
    WHERE state = 'parked' AND topic = %(topic)s AND wake_at_us <= %(now)s
    AND (leased_until_us <= %(now)s OR leased_by = %(node)s)
    ORDER BY wake_at_us, id LIMIT %(limit)s FOR UPDATE SKIP LOCKED)
RETURNING wake_at_us, id, state, since_us, size_bytes, body
"""
_NEXT_DUE = """
SELECT least(
    (SELECT wake_at_us FROM eventflow.kept WHERE state = 'parked' AND topic = %(topic)s
     AND (leased_until_us <= %(now)s OR leased_by = %(node)s) ORDER BY wake_at_us LIMIT 1),
    (SELECT min(greatest(wake_at_us, leased_until_us)) FROM eventflow.kept
     WHERE state = 'parked' AND topic = %(topic)s
     AND leased_until_us > %(now)s AND leased_by <> %(node)s))
"""
_READ = "SELECT id, state, since_us, size_bytes, body FROM eventflow.kept WHERE "
_GROUPS = """
SELECT total, last_us, first_us, newest.* FROM (
    SELECT topic, state, reason, fingerprint, count(*) AS total,
        min(since_us) AS first_us, max(since_us) AS last_us
    FROM eventflow.kept WHERE {where} GROUP BY topic, state, reason, fingerprint
    ORDER BY total DESC, last_us DESC, first_us DESC LIMIT %(limit)s) AS g
CROSS JOIN LATERAL (
    SELECT id, state, since_us, size_bytes, body FROM eventflow.kept
    WHERE topic = g.topic AND state = g.state AND reason = g.reason
        AND fingerprint = g.fingerprint AND {where}
    ORDER BY since_us DESC, number DESC LIMIT 1) AS newest
ORDER BY total DESC, last_us DESC, first_us DESC
"""

Tallied = Counter[tuple[str, str, str]]
"""What has changed: by topic, state, and "deliveries" or "bytes"."""


class PostgresShelf:
    """The tables `kept`, `fence`, `tally` and `override`, within one transaction."""

    def __init__(self, connection: Connection, node: str) -> None:
        self._connection = connection
        self._node = node

    # changing ----------------------------------------------------------------

    async def lock(self, ids: Iterable[str], now: float) -> dict[str, int]:
        """Let nobody else change these deliveries until the end of the transaction.

        Returns:
            For each the greatest hop ever held, or told to be forgotten; -1: none.
        """
        bound = {"ids": sorted(set(map(_text, ids))), "now": rows.micros(now)}
        return dict(await self._all(_LOCK, bound))

    async def keep(self, items: Sequence[Kept], now: float) -> None:
        """Hold these: locked, each id once, each at a greater hop than before."""
        if not items:
            return
        lines = [[_plain(value) for value in columns_of(kept)] for kept in items]
        columns = map(list, zip(*lines, strict=True))
        bodies = [rows.encode(kept.delivery) for kept in items]
        await self._do(_KEEP, (*columns, bodies))
        await self.fence([(kept.delivery.id, kept.delivery.hop) for kept in items], now)

    async def remove(self, ids: Sequence[str]) -> None:
        """Remove what is locked."""
        await self._do("DELETE FROM eventflow.kept WHERE id = ANY(%s)", (list(map(_text, ids)),))

    async def fence(self, pairs: Sequence[tuple[str, int]], now: float) -> None:
        """Let nothing come any more at these hops or below. They are locked."""
        hops: dict[str, int] = {}
        for id, hop in pairs:
            hops[_text(id)] = max(hop, hops.get(_text(id), -1))
        await self._do(_RAISE, (rows.micros(now), list(hops), list(hops.values())))

    async def sweep(self, before: float) -> None:
        """Forget some of the fences last raised before a time, if nothing of theirs is held."""
        await self._do(_SWEEP, (rows.micros(before),))

    async def count_up(self, change: Tallied) -> None:
        """Add to what is held and discarded."""
        keys = sorted({(topic, state) for topic, state, _ in change})
        if keys:
            counts = [change[*key, "deliveries"] for key in keys]
            sizes = [change[*key, "bytes"] for key in keys]
            topics, states = [_text(topic) for topic, _ in keys], [state for _, state in keys]
            await self._do(_TALLY, (self._node, topics, states, counts, sizes))

    async def set_override(self, topic: str, settings: Mapping[str, Any] | None) -> None:
        """Hold settings made at run time in place of the topic's former ones; None forgets."""
        if settings is None:
            await self._do("DELETE FROM eventflow.override WHERE topic = %s", (_text(topic),))
        else:
            await self._do(
                "INSERT INTO eventflow.override VALUES (%s, %s) "
                "ON CONFLICT (topic) DO UPDATE SET settings = excluded.settings",
                (_text(topic), _text(bulk.json_text(settings))),
            )

    # what is due -------------------------------------------------------------

    async def lease(self, topic: str, now: float, until: float, limit: int) -> list[Kept]:
        """Return what is due or expired at `now`, the earliest first; others leave it alone.

        What another node has leased is not returned; what this one has leased is, again.
        """
        found = await self._all(
            _LEASE,
            {
                "node": self._node,
                "topic": _text(topic),
                "now": rows.micros(now),
                "until": rows.micros(until),
                "limit": limit,
            },
        )
        return [_kept(line[1:]) for line in sorted(found, key=lambda line: line[:2])]

    async def next_due(self, topic: str, now: float) -> float | None:
        """Return when this node has to look again: something is due, or free again and due."""
        bound = {"topic": _text(topic), "node": self._node, "now": rows.micros(now)}
        ((at_us,),) = await self._all(_NEXT_DUE, bound)
        return None if at_us is None else rows.seconds(at_us)

    # looking up --------------------------------------------------------------

    async def get(self, ids: Sequence[str]) -> list[Kept]:
        """Return those of the deliveries that are held, each once, in the order asked for."""
        asked = dict.fromkeys(map(_text, ids))
        found = await self._read("id = ANY(%s)", (list(asked),))
        held = {kept.delivery.id: kept for kept in found}
        return [held[id] for id in asked if id in held]

    async def find(self, ref: str) -> list[Kept]:
        """Return what is held of an event, by topic."""
        return await self._read("ref = %s ORDER BY id", (_text(ref),))

    async def find_event(self, source: str, id: str) -> list[Kept]:
        """Return what is held of the events with this source and id, of whichever ref."""
        source, id = bulk.storable(source), bulk.storable(id)
        found = await self._read("event_key = %s", (event_key(from_parts(id, source, "")),))
        return [k for k in found if (k.delivery.event.source, k.delivery.event.id) == (source, id)]

    async def page(self, which: Filter, after: str | None, limit: int) -> Page:
        """Return a page of the deliveries that match, newest first.

        Raises:
            UnknownName: `after` is no cursor.
        """
        where, bound = await self._where(which)
        if after is not None:
            where += " AND (since_us, number) < (%(since_us)s, %(number)s)"
            bound["since_us"], bound["number"] = position(after)
        found = await self._all(
            f"SELECT number, id, state, since_us, size_bytes, body FROM eventflow.kept "  # noqa: S608  # clauses are constants
            f"WHERE {where} ORDER BY since_us DESC, number DESC LIMIT %(limit)s",
            bound | {"limit": limit + 1},
        )
        shown = found[:limit]
        more = len(found) > limit
        return Page(
            tuple(_kept(line[1:]) for line in shown),
            cursor(shown[-1][3], shown[-1][0]) if more else None,
        )

    async def along(
        self, which: Filter, after: str | None, limit: int
    ) -> tuple[list[Kept], str | None]:
        """Return deliveries that match in order of their ids, of `limit` that are looked at."""
        bound = {"after": _text(after or ""), "limit": limit}
        ((last,),) = await self._all(
            "SELECT max(id) FROM (SELECT id FROM eventflow.kept WHERE id > %(after)s "
            "ORDER BY id LIMIT %(limit)s) AS span",
            bound,
        )
        if last is None:
            return [], None
        where, values = await self._where(which)
        where = f"id > %(after)s AND id <= %(last)s AND {where} ORDER BY id"
        return await self._read(where, {**values, **bound, "last": last}), last

    async def ids_matching(self, which: Filter) -> list[str]:
        """Return the ids of all deliveries that match, the longest kept first."""
        where, bound = await self._where(which)
        found = await self._all(
            f"SELECT id FROM eventflow.kept WHERE {where} ORDER BY since_us, number",  # noqa: S608  # clauses are constants
            bound,
        )
        return [id for (id,) in found]

    async def count(self, which: Filter) -> int:
        """Return how many deliveries match."""
        where, bound = await self._where(which)
        ((count,),) = await self._all(
            f"SELECT count(*) FROM eventflow.kept WHERE {where}",  # noqa: S608  # clauses are constants
            bound,
        )
        return int(count)

    async def groups(self, which: Filter, limit: int) -> list[Group]:
        """Return deliveries grouped by topic, state, reason and fingerprint, the largest first."""
        where, bound = await self._where(which)
        found = await self._all(_GROUPS.format(where=where), bound | {"limit": limit})
        return [group_of(line[:3], _kept(line[3:])) for line in found]

    async def totals(self) -> dict[tuple[str, str], tuple[int, int]]:
        """Count what is held and was discarded: deliveries and bytes, by topic and state."""
        lines = await self._all(_TOTALS)
        return {(topic, state): (count, size) for topic, state, count, size in lines}

    async def overrides(self) -> dict[str, dict[str, Any]]:
        """Return the settings made at run time, by topic."""
        lines = await self._all("SELECT topic, settings FROM eventflow.override ORDER BY topic")
        return {topic: msgspec.json.decode(settings) for topic, settings in lines}

    # inside ------------------------------------------------------------------

    async def _where(self, which: Filter) -> tuple[str, dict[str, Any]]:
        """Return the condition that a filter is, and its values."""
        values: dict[str, Any] = {
            name: _text(value)
            for name in ("state", "topic", "reason", "cause", "fingerprint")
            if (value := getattr(which, name))
        }
        clauses = ["true", *(f"{name} = %({name})s" for name in values)]
        if which.type:
            clauses.append("type = ANY(%(types)s)")
            values["types"] = await self._types(_text(which.type))
        if which.q:
            clauses.append("strpos(search, %(q)s) > 0")
            values["q"] = _text(bulk.storable(which.q).casefold())
        if which.ids:
            clauses.append("id = ANY(%(ids)s)")
            values["ids"] = list(map(_text, which.ids))
        return " AND ".join(clauses), values

    async def _types(self, pattern: str) -> list[str]:
        """Return the types held that a pattern means: few, so that Python can look at each."""
        if "*" not in pattern:
            return [pattern]
        start = pattern.partition("*")[0]
        sql = "SELECT DISTINCT type FROM eventflow.kept WHERE starts_with(type, %s)"
        means = Glob(pattern)
        return [type for (type,) in await self._all(sql, (start,)) if means.matches(type)]

    async def _read(self, where: str, values: Any) -> list[Kept]:
        return [_kept(line) for line in await self._all(_READ + where, values)]

    async def _all(self, sql: str, values: Any = None) -> list[tuple[Any, ...]]:
        return await (await self._do(sql, values)).fetchall()

    async def _do(self, sql: str, values: Any = None) -> AsyncCursor[tuple[Any, ...]]:
        # As bytes: text would have to be literal. What varies in it is clauses of this file;
        # values travel apart.
        return await self._connection.execute(sql.encode(), values)


def _kept(line: Sequence[Any]) -> Kept:
    id, state, since_us, size_bytes, body = line
    delivery = rows.decode(bytes(body), f"delivery {id}")
    return Kept(delivery, state, rows.seconds(since_us), size_bytes)


def _text(text: str) -> str:
    """Return what PostgreSQL can hold and compare: it has no NUL. Bodies keep what there was."""
    return bulk.storable(text).replace("\0", "\ufffd")


def _plain(value: Any) -> Any:
    return _text(value) if isinstance(value, str) else value
