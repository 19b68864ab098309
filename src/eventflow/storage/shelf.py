"""What is parked or dead, in SQLite: rows on the caller's connection, in the caller's transaction.

Nothing here waits, locks or commits. A batch takes one statement, whatever its size (`bulk` says
why), so that the one writer of a journal can do this beside a busy event loop.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import msgspec

from eventflow.event import from_parts
from eventflow.policy.glob import Glob
from eventflow.storage import bulk, rows
from eventflow.storage.columns import (
    COLUMNS,
    STATES,
    columns_of,
    cursor,
    event_key,
    group_of,
    position,
)
from eventflow.storage.protocol import Filter, Group, Kept, Page

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import apsw


_KEEP = f"""
INSERT INTO kept ({", ".join(COLUMNS)}, body)
SELECT {", ".join(f"value->>{i}" for i, _ in enumerate(COLUMNS, 2))},
       substr(?2, value->>0, value->>1)
FROM jsonb_each(?1) WHERE true
ON CONFLICT (id) DO UPDATE SET
    {", ".join(f"{name} = excluded.{name}" for name in (*COLUMNS[3:], "body"))}
WHERE excluded.hop > kept.hop
"""  # noqa: S608  # made of the constants above
_HOPS = """
SELECT json_group_object(k.id, k.hop)
FROM jsonb_each(?) AS j CROSS JOIN kept AS k INDEXED BY kept_id ON k.id = j.value
"""
_FORGET = "DELETE FROM kept INDEXED BY kept_id WHERE id IN (SELECT value FROM jsonb_each(?))"
_DUE = """
SELECT json_group_array(json_array(number, size)) FROM (
    SELECT number, length(body) AS size FROM kept INDEXED BY kept_due
    WHERE state = 'parked' AND topic = ? AND wake_at_us <= ? ORDER BY wake_at_us, id LIMIT ?)
"""
_NEXT_DUE = """
SELECT min(wake_at_us) FROM kept INDEXED BY kept_due WHERE state = 'parked' AND topic = ?
"""
_BY_ID = """
SELECT json_group_array(json_array(k.number, length(k.body)))
FROM jsonb_each(?) AS j CROSS JOIN kept AS k INDEXED BY kept_id ON k.id = j.value
"""
# An id is `<ref>.<topic>` and "/" follows ".": a range of ids, so no index on ref is needed.
_BY_REF = """
SELECT json_group_array(json_array(number, size)) FROM (
    SELECT number, length(body) AS size FROM kept INDEXED BY kept_id
    WHERE id > ?1 || '.' AND id < ?1 || '/' AND ref = ?1 ORDER BY id)
"""
_BY_EVENT = """
SELECT json_group_array(json_array(number, length(body)))
FROM kept INDEXED BY kept_event WHERE event_key = ?
"""
_READ = """
SELECT json_group_array(json_array(k.number, k.id, k.state, k.since_us, k.size_bytes,
                                   length(k.body))),
       CAST(group_concat(k.body, '') AS BLOB)
FROM jsonb_each(?) AS j CROSS JOIN kept AS k ON k.number = j.value
"""
_TOTALS = """
SELECT topic, state, count(*), sum(size_bytes) FROM kept INDEXED BY kept_alike
GROUP BY state, topic
"""
_TYPES = """
SELECT json_group_array(type) FROM (
    SELECT DISTINCT type FROM kept INDEXED BY kept_listed
    WHERE state IN ('parked', 'dead') AND type GLOB ?)
"""
_PICK = """
SELECT json_group_array(json_array({columns})) FROM (
    SELECT since_us, number, id, length(body) AS size FROM kept INDEXED BY {index}
    WHERE {where} ORDER BY since_us {order}, number {order} LIMIT :limit)
"""
_ALONG = """
WITH span AS MATERIALIZED (
    SELECT number, id FROM kept INDEXED BY kept_id WHERE id > :after ORDER BY id LIMIT :limit)
SELECT json_array((SELECT max(id) FROM span), json((
    SELECT json_group_array(json_array(number, size)) FROM (
        SELECT number, length(body) AS size FROM kept
        WHERE number IN (SELECT number FROM span) AND {where} ORDER BY id))))
"""
_COUNT = "SELECT count(*) FROM kept INDEXED BY {index} WHERE {where}"
_GROUPS = """
SELECT json_group_array(json_array(total, last_us, first_us, (
    SELECT number FROM kept INDEXED BY kept_alike
    WHERE topic = g.topic AND reason = g.reason AND fingerprint = g.fingerprint
        AND since_us = g.last_us AND {where}
    ORDER BY number DESC LIMIT 1)))
FROM (
    SELECT topic, reason, fingerprint, count(*) AS total,
        min(since_us) AS first_us, max(since_us) AS last_us
    FROM kept INDEXED BY kept_alike WHERE {where}
    GROUP BY topic, reason, fingerprint ORDER BY total DESC, last_us DESC LIMIT :limit) AS g
"""


class Shelf:
    """The table `kept`, and the settings made at run time.

    Made by `schema.create`. Any method may raise `apsw.Error` (nothing that the caller's
    transaction won't undo was changed); those that return deliveries raise `StorageUnavailable`
    where one of them can't be read.
    """

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection

    # changing ----------------------------------------------------------------

    def keep(self, items: Sequence[Kept]) -> None:
        """Hold these deliveries; what is held with the same or a greater hop stays as it is."""
        for piece in bulk.pieces((columns_of(kept), rows.encode(kept.delivery)) for kept in items):
            self._connection.execute(_KEEP, piece)

    def forget(self, pairs: Sequence[tuple[str, int]]) -> list[bool]:
        """Remove deliveries that are held with at most the given hop.

        Args:
            pairs: Delivery id and hop.

        Returns:
            For each whether it removed something: of equal pairs only the first does.
        """
        ids = bulk.json_text([bulk.storable(id) for id, _ in pairs])
        held = self._json(_HOPS, (ids,))
        existed = [id in held and held[id] <= hop and held.pop(id) is not None for id, hop in pairs]
        gone = [id for (id, _), did in zip(pairs, existed, strict=True) if did]
        if gone:
            self._connection.execute(_FORGET, (bulk.json_text(gone),))
        return existed

    def set_override(self, topic: str, settings: Mapping[str, Any] | None) -> None:
        """Hold settings made at run time in place of the topic's former ones; None forgets."""
        if settings is None:
            self._connection.execute("DELETE FROM override WHERE topic = ?", (topic,))
        else:
            self._connection.execute(
                "INSERT OR REPLACE INTO override VALUES (?, ?)", (topic, bulk.json_text(settings))
            )

    # what is due -------------------------------------------------------------

    def due(self, topic: str, now: float, limit: int) -> list[Kept]:
        """Return what is parked for a topic and due or expired at `now` (seconds since 1970).

        At most `limit`, the earliest first; of the same moment, the earliest accepted first.
        """
        return self._fetch(self._json(_DUE, (topic, rows.micros(now), limit)))

    def next_due(self, topic: str) -> float | None:
        """Return when the next parked delivery of a topic is due or expires, seconds since 1970.

        None: none is parked.
        """
        (at_us,) = self._one(_NEXT_DUE, (topic,))
        return None if at_us is None else rows.seconds(at_us)

    # looking up --------------------------------------------------------------

    def get(self, ids: Sequence[str]) -> list[Kept]:
        """Return those of the deliveries that are held, each once, in the order asked for."""
        asked = dict.fromkeys(map(bulk.storable, ids))
        found = self._fetch(self._json(_BY_ID, (bulk.json_text(list(asked)),)))
        held = {kept.delivery.id: kept for kept in found}
        return [held[id] for id in asked if id in held]

    def find(self, ref: str) -> list[Kept]:
        """Return what is held of an event, by topic."""
        return self._fetch(self._json(_BY_REF, (bulk.storable(ref),)))

    def find_event(self, source: str, id: str) -> list[Kept]:
        """Return what is held of the events with this source and id, of whichever ref."""
        source, id = bulk.storable(source), bulk.storable(id)
        key = event_key(from_parts(id, source, ""))
        found = self._fetch(self._json(_BY_EVENT, (key,)))
        return [k for k in found if (k.delivery.event.source, k.delivery.event.id) == (source, id)]

    def page(self, which: Filter, after: str | None = None, limit: int = 100) -> Page:
        """Return a page of the deliveries that match, newest first.

        Args:
            which: The filter.
            after: The cursor of the page before. It names a moment, not a row: what comes or
                goes in between neither repeats nor hides another.
            limit: Most deliveries on the page, at least 1.

        Raises:
            UnknownName: `after` is no cursor.
        """
        found = self._pick(which, limit + 1, after=after)
        items = self._fetch((number, size) for _, number, _, size in found[:limit])
        more = len(found) > limit
        return Page(tuple(items), cursor(*found[limit - 1][:2]) if more else None)

    def along(
        self, which: Filter, after: str | None = None, limit: int = 200
    ) -> tuple[list[Kept], str | None]:
        """Return deliveries that match in order of their ids: in order of acceptance.

        Those of one event follow each other. What comes and goes meanwhile moves no other.

        Args:
            which: The filter.
            after: The id to go on behind.
            limit: Most deliveries to look at, whether they match or not: so that no call is long.

        Returns:
            The deliveries, and the id to go on behind; None: there is nothing behind.
        """
        where, values = self._any_state(which)
        bound = values | {"after": after or "", "limit": limit}
        last, found = self._json(_ALONG.format(where=where), bound)
        return self._fetch(found), last

    def ids_matching(self, which: Filter, limit: int | None = None) -> list[str]:
        """Return the ids of deliveries that match, the longest kept first; None: all of them."""
        return [id for _, _, id, _ in self._pick(which, limit, newest_first=False)]

    def count(self, which: Filter) -> int:
        """Return how many deliveries match."""
        wheres = self._wheres(which)
        index = _index(which)
        return sum(self._one(_COUNT.format(index=index, where=w), v)[0] for w, v in wheres)

    def groups(self, which: Filter, limit: int = 100) -> list[Group]:
        """Return deliveries grouped by topic, state, reason and fingerprint, the largest first."""
        found: list[Any] = []
        for where, values in self._wheres(which):
            found += self._json(_GROUPS.format(where=where), values | {"limit": limit})
        found.sort(reverse=True)
        largest = found[:limit]
        newest = self._fetch((number, 0) for *_, number in largest)
        return [group_of(line, kept) for line, kept in zip(largest, newest, strict=True)]

    def totals(self) -> dict[tuple[str, str], tuple[int, int]]:
        """Count what is held: deliveries and bytes, by topic and state."""
        lines = self._connection.execute(_TOTALS)
        return {(topic, state): (count, size) for topic, state, count, size in lines}

    def overrides(self) -> dict[str, dict[str, Any]]:
        """Return the settings made at run time, by topic."""
        lines = self._connection.execute("SELECT topic, settings FROM override ORDER BY topic")
        return {topic: msgspec.json.decode(settings) for topic, settings in lines}

    # inside ------------------------------------------------------------------

    def _fetch(self, found: Any) -> list[Kept]:
        """Return deliveries in the order of `found`: pairs of row number and bytes of body."""
        pairs = list(found)
        held: dict[int, Kept] = {}
        for numbers in bulk.shares(pairs, bulk.PIECE_BYTES):
            meta, joined = self._one(_READ, (bulk.json_text(numbers),))
            lines = msgspec.json.decode(meta)
            bodies = bulk.cut(joined, (line[-1] for line in lines))
            for (number, id, state, since_us, size, _), body in zip(lines, bodies, strict=True):
                delivery = rows.decode(body, f"delivery {id}")
                held[number] = Kept(delivery, state, rows.seconds(since_us), size)
        return [held[number] for number, _ in pairs]

    def _pick(
        self,
        which: Filter,
        limit: int | None,
        *,
        after: str | None = None,
        newest_first: bool = True,
    ) -> list[Any]:
        """Return since, row number, id and bytes of body of those that match, in order."""
        order = "DESC" if newest_first else "ASC"
        found: list[Any] = []
        for where, values in self._wheres(which):
            bound = values | {"limit": -1 if limit is None else limit}
            if after is not None:
                bound["since_us"], bound["number"] = position(after)
            sql = _PICK.format(
                columns="since_us, number, id, size",
                index=_index(which),
                where=where if after is None else f"{where} AND {_BEHIND}",
                order=order,
            )
            found += self._json(sql, bound)
        found.sort(reverse=newest_first)
        return found[:limit]

    def _wheres(self, which: Filter) -> list[tuple[str, dict[str, Any]]]:
        """Return a condition and its values for each state meant.

        One a state: then the listing is read in order from its index, however much is held.
        """
        clauses, values = self._clauses(which)
        where = " AND ".join(["state = :state", *clauses])
        states = (which.state,) if which.state else STATES
        return [(where, values | {"state": state}) for state in states]

    def _any_state(self, which: Filter) -> tuple[str, dict[str, Any]]:
        """Return the condition and its values where the order is that of another index."""
        clauses, values = self._clauses(which)
        if which.state:
            clauses.append("state = :state")
            values["state"] = which.state
        return " AND ".join(clauses) or "true", values

    def _clauses(self, which: Filter) -> tuple[list[str], dict[str, Any]]:
        """Return what a filter asks beside the state, and its values."""
        values: dict[str, Any] = {
            name: bulk.storable(value)
            for name in ("topic", "reason", "cause", "fingerprint")
            if (value := getattr(which, name))
        }
        clauses = [f"{name} = :{name}" for name in values]
        if which.type:
            clauses.append("type IN (SELECT value FROM jsonb_each(:types))")
            values["types"] = bulk.json_text(self._types(bulk.storable(which.type)))
        if which.q:
            clauses.append("instr(search, :q)")
            values["q"] = bulk.storable(which.q).casefold()
        if which.ids:
            clauses.append("id IN (SELECT value FROM jsonb_each(:ids))")
            values["ids"] = bulk.json_text(list(map(bulk.storable, which.ids)))
        return clauses, values

    def _types(self, pattern: str) -> list[str]:
        """Return the types held that a pattern means: few, so that Python can look at each."""
        if "*" not in pattern:
            return [pattern]
        held = self._json(_TYPES, (_glob(pattern),))
        means = Glob(pattern)
        return [type for type in held if means.matches(type)]

    def _one(self, sql: str, values: Any) -> Any:
        return self._connection.execute(sql, values).fetchone()

    def _json(self, sql: str, values: Any) -> Any:
        return msgspec.json.decode(self._one(sql, values)[0])


_BEHIND = "(since_us, number) < (:since_us, :number)"


def _index(which: Filter) -> str:
    """Return the index that serves a listing. Said aloud: SQLite guesses without statistics."""
    if which.ids:
        return "kept_id"
    if which.topic and which.reason and which.fingerprint:
        return "kept_alike"
    return "kept_listed"


def _glob(pattern: str) -> str:
    """Return what SQLite's GLOB takes, which finds at least all that the pattern means."""
    return re.sub(r"[\[?]", r"[\g<0>]", pattern)
