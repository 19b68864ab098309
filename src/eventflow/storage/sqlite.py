"""Secondary storage in a SQLite file of its own, beside an engine that keeps its queues elsewhere.

One thread runs everything, one transaction a call. The tables are those of `schema`, and three that
the embedded engine has no need of, since there storage and queues are one file:

    fence    what was forgotten: a delivery and its hop, for a day. Nothing older comes back
    counted  deliveries that arrived, were forgotten and were discarded, by topic
    meta     which steps of the schema the file has been through

Nodes of one machine may share the file; for several machines there is PostgreSQL.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

import apsw
import msgspec

from eventflow.delivery import Row, topic_of
from eventflow.errors import EventFlowError, StorageUnavailable
from eventflow.storage import schema
from eventflow.storage.acts import act_row, override_row, replayed, settings_row
from eventflow.storage.audit import AuditLog, Head
from eventflow.storage.disk import Log, explained, fold
from eventflow.storage.protocol import FENCE_S, Filter, Turnover, Usage, Verdict
from eventflow.storage.rows import micros
from eventflow.storage.shelf import Shelf

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from eventflow.clock import Clock
    from eventflow.storage.protocol import Actor, AuditRow, Group, Kept, Page

T = TypeVar("T")
_NONE: Mapping[str, int] = {}

_BUSY_MS = 5_000
"""How long to wait for another node of this machine that is writing."""

_STEPS = (
    """
CREATE TABLE fence (id TEXT PRIMARY KEY, hop INTEGER NOT NULL, at_us INTEGER NOT NULL)
    STRICT, WITHOUT ROWID;
CREATE INDEX fence_at ON fence (at_us);
CREATE TABLE counted (topic TEXT PRIMARY KEY, discarded INTEGER NOT NULL) STRICT, WITHOUT ROWID;
""",
    # What such a file has held until now has arrived; of what it had forgotten nothing is known.
    """
ALTER TABLE counted ADD COLUMN arrived INTEGER NOT NULL DEFAULT 0;
ALTER TABLE counted ADD COLUMN forgotten INTEGER NOT NULL DEFAULT 0;
UPDATE counted SET arrived = discarded;
INSERT INTO counted (topic, discarded, arrived)
SELECT topic, 0, count(*) FROM kept WHERE true GROUP BY topic
ON CONFLICT (topic) DO UPDATE SET arrived = arrived + excluded.arrived;
""",
)
_SET_FENCE = """
INSERT INTO fence SELECT value->>0, value->>1, ?2 FROM jsonb_each(?1) WHERE true
ON CONFLICT (id) DO UPDATE SET hop = max(hop, excluded.hop), at_us = excluded.at_us
"""
_FENCED = """
SELECT json_group_object(id, hop) FROM fence WHERE id IN (SELECT value FROM jsonb_each(?))
"""
_COUNT = """
INSERT INTO counted (topic, arrived, forgotten, discarded) VALUES (?, ?, ?, ?)
ON CONFLICT (topic) DO UPDATE SET arrived = arrived + excluded.arrived,
    forgotten = forgotten + excluded.forgotten, discarded = discarded + excluded.discarded
"""
_COUNTED = "SELECT topic, arrived, forgotten, discarded FROM counted"


class SqliteStorage:
    """`Keeper` on a file. `open_storage` is the way to make one."""

    def __init__(
        self, path: str, clock: Clock, chain: str, key: bytes | None, max_bytes: int
    ) -> None:
        self.path = path
        self._clock = clock
        self._chain = chain
        self._key = key
        self._max_bytes = max_bytes
        self._used_bytes = 0
        self._thread = ThreadPoolExecutor(1, "eventflow-storage")
        self._closed = False

    def _connect(self) -> apsw.Connection:
        return apsw.Connection(self.path)

    def _open(self) -> None:
        self._connection = connection = self._connect()
        connection.set_busy_timeout(_BUSY_MS)
        connection.pragma("journal_mode", "WAL")
        connection.pragma("synchronous", "FULL")
        connection.pragma("temp_store", "MEMORY")
        connection.pragma("trusted_schema", "OFF")
        connection.execute("BEGIN IMMEDIATE")
        try:
            connection.execute(
                "CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value INTEGER) STRICT"
            )
            held = dict(connection.execute("SELECT name, value FROM meta"))
            schema.create(connection, held.get("steps", 0))
            for step in _STEPS[held.get("own_steps", 0) :]:
                connection.execute(step)
            steps = {"steps": len(schema.STEPS), "own_steps": len(_STEPS)}
            self._check_steps(held, steps)
            for name, value in steps.items():
                connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (name, value))
            connection.execute("COMMIT")
        except BaseException:
            connection.execute("ROLLBACK")
            raise
        self._log = Log(connection)
        self._shelf = Shelf(connection)
        self._audit = AuditLog(connection, self._chain, self._key)
        self._weigh()

    def _check_steps(self, held: Mapping[str, int], steps: Mapping[str, int]) -> None:
        if any(held.get(name, 0) > value for name, value in steps.items()):
            raise StorageUnavailable(
                f"{self.path} was written by a later EventFlow; it was left as it is"
            )

    def _weigh(self) -> None:
        self._used_bytes = sum(size for _, size in self._shelf.totals().values())

    # Keeper ------------------------------------------------------------------------

    async def keep(
        self,
        items: Sequence[Kept],
        rows: Sequence[Sequence[Mapping[str, Any]]],
        *,
        together: bool = False,
    ) -> Sequence[str | None]:
        if not items:
            return []

        def act() -> list[str | None]:
            held = {kept.delivery.id: kept for kept in self._shelf.get(_ids(items))}
            fenced = self._fenced(_ids(items))
            coming: list[Kept] = []
            arrived: Counter[str] = Counter()
            written: list[Mapping[str, Any]] = []
            answers: list[str | None] = []
            used = self._used_bytes
            for kept, its_rows in zip(items, rows, strict=True):
                delivery = kept.delivery
                before = held.get(delivery.id)
                known = max(
                    fenced.get(delivery.id, -1), -1 if before is None else before.delivery.hop
                )
                if delivery.hop <= known:
                    answers.append(None)
                    continue
                grows = kept.size_bytes - (0 if before is None else before.size_bytes)
                if used + grows > self._max_bytes:
                    answers.append(f"its {self._max_bytes} bytes are used")
                    continue
                used += grows
                arrived[delivery.topic] += before is None
                held[delivery.id] = kept
                coming.append(kept)
                written += its_rows
                answers.append(None)
            if together and any(answers):
                return [next(filter(None, answers))] * len(items)
            self._shelf.keep(coming)
            self._count(arrived=+arrived)
            self._audit.append(written)
            return answers

        return await self._do(act)

    async def holds(self, pairs: Sequence[tuple[str, int]]) -> Sequence[bool]:
        def act() -> list[bool]:
            held = self._shelf.get([id for id, _ in pairs])
            hops = {kept.delivery.id: kept.delivery.hop for kept in held}
            return [hops.get(id) == hop for id, hop in pairs]

        return await self._read(act)

    async def forget(
        self, pairs: Sequence[tuple[str, int]], rows: Sequence[Mapping[str, Any]] = ()
    ) -> Sequence[bool]:
        def act() -> list[bool]:
            existed = self._shelf.forget(pairs)
            gone = (id for (id, _), did in zip(pairs, existed, strict=True) if did)
            self._count(forgotten=Counter(map(topic_of, gone)))
            self._fence(pairs)
            self._audit.append(rows)
            return existed

        return await self._do(act)

    async def adopt(self, rows: Sequence[AuditRow]) -> None:
        await self._do(lambda: self._audit.adopt(rows))

    @property
    def shared(self) -> bool:
        return False

    async def turnover(self) -> Mapping[str, Turnover]:
        def act() -> dict[str, Turnover]:
            held = self._shelf.totals()
            return {
                topic: Turnover(
                    held.get((topic, "parked"), (0, 0))[0],
                    held.get((topic, "dead"), (0, 0))[0],
                    *counts,
                )
                for topic, *counts in self._connection.execute(_COUNTED)
            }

        return await self._read(act)

    def resize(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._thread, self._connection.close)
        self._thread.shutdown()

    # Storage -----------------------------------------------------------------------

    async def due(self, topic: str, *, now: float, limit: int) -> Sequence[Kept]:
        return await self._read(lambda: self._shelf.due(topic, now, limit))

    async def next_due(self, topic: str) -> float | None:
        return await self._read(lambda: self._shelf.next_due(topic))

    async def get(self, ids: Sequence[str]) -> Sequence[Kept]:
        return await self._read(lambda: self._shelf.get(ids))

    async def find(self, ref: str) -> Sequence[Kept]:
        return await self._read(lambda: self._shelf.find(ref))

    async def page(self, which: Filter, *, after: str | None = None, limit: int = 100) -> Page:
        return await self._read(lambda: self._shelf.page(which, after, limit))

    async def along(
        self, which: Filter, *, after: str | None = None, limit: int = 200
    ) -> tuple[Sequence[Kept], str | None]:
        return await self._read(lambda: self._shelf.along(which, after, limit))

    async def count(self, which: Filter) -> int:
        return await self._read(lambda: self._shelf.count(which))

    async def groups(self, which: Filter, *, limit: int = 100) -> Sequence[Group]:
        return await self._read(lambda: self._shelf.groups(which, limit))

    async def ids(self, which: Filter) -> Sequence[str]:
        """Return the ids of all kept deliveries that match."""
        return await self._read(lambda: self._shelf.ids_matching(which, None))

    async def ref_of(self, source: str, id: str) -> str | None:
        """Return the ref of a kept event by its source and id."""
        found = await self._read(lambda: self._shelf.find_event(source, id))
        # A ref is a UUIDv7: the greatest was accepted last.
        return max((kept.delivery.ref for kept in found), default=None)

    async def totals(self) -> Mapping[tuple[str, str], tuple[int, int]]:
        return await self._read(self._shelf.totals)

    async def overrides(self) -> Mapping[str, Mapping[str, Any]]:
        return await self._read(self._shelf.overrides)

    async def replay(self, ids: Sequence[str], by: Actor) -> Mapping[str, str]:
        now = self._clock.now_s()

        def act() -> dict[str, str]:
            found = {kept.delivery.id: kept for kept in self._shelf.get(list(ids))}
            answers: dict[str, str] = {}
            for id in dict.fromkeys(ids):
                answers[id], new = replayed(found.get(id), now)
                if new is not None:
                    self._shelf.keep([new])
                    was = found[id].state
                    row = act_row(new.delivery, Row.REPLAYED, was, "parked", now, by)
                    self._audit.append([row])
            return answers

        return await self._do(act)

    async def discard(self, ids: Sequence[str], by: Actor) -> Mapping[str, str]:
        now = self._clock.now_s()

        def act() -> dict[str, str]:
            gone = self._shelf.get(list(ids))
            pairs = [(kept.delivery.id, kept.delivery.hop) for kept in gone]
            self._shelf.forget(pairs)
            self._fence(pairs)
            self._count(discarded=Counter(kept.delivery.topic for kept in gone))
            self._audit.append(
                [act_row(k.delivery, Row.DISCARDED, k.state, "discarded", now, by) for k in gone]
            )
            known = {id for id, _ in pairs}
            return {id: "discarded" if id in known else "unknown" for id in ids}

        return await self._do(act)

    async def trail(self, ref: str, *, limit: int = 1000) -> Sequence[AuditRow]:
        return await self._read(lambda: self._audit.trail(ref, limit))

    async def note(self, rows: Sequence[Mapping[str, Any]]) -> None:
        await self._do(lambda: self._audit.append(rows))

    async def verify(self, heads: Sequence[str] = ()) -> Verdict:
        given = [Head.of(head) for head in heads]
        check = self._audit.check(given)
        # Some rows a call: a long trail must not keep the thread from those who wait for it.
        while await self._read(lambda: self._audit.advance(check)):
            pass
        return check.verdict()

    async def heads(self) -> Sequence[str]:
        return await self._read(lambda: [head.text for head in self._audit.heads()])

    async def seal(self) -> Sequence[str]:
        now = self._clock.now_s()
        return await self._read(lambda: [head.text for head in self._audit.seal(now)])

    async def override(self, topic: str, values: Mapping[str, Any] | None, by: Actor) -> None:
        row = override_row(topic, values, self._clock.now_s(), by)

        def act() -> None:
            self._shelf.set_override(topic, None if values is None else dict(values))
            self._audit.append([row])

        await self._do(act)

    async def reconfigured(self, changed: Sequence[str], by: Actor) -> None:
        row = settings_row(changed, self._clock.now_s(), by)
        await self._do(lambda: self._audit.append([row]))

    def usage(self) -> Usage:
        return Usage(self._used_bytes, self._max_bytes)

    # inside ------------------------------------------------------------------------

    def _count(
        self,
        arrived: Mapping[str, int] = _NONE,
        forgotten: Mapping[str, int] = _NONE,
        discarded: Mapping[str, int] = _NONE,
    ) -> None:
        for topic in arrived.keys() | forgotten.keys() | discarded.keys():
            counts = (counted.get(topic, 0) for counted in (arrived, forgotten, discarded))
            self._connection.execute(_COUNT, (topic, *counts))

    def _fence(self, pairs: Sequence[tuple[str, int]]) -> None:
        now_us = micros(self._clock.now_s())
        self._connection.execute(_SET_FENCE, (msgspec.json.encode(pairs).decode(), now_us))
        self._connection.execute("DELETE FROM fence WHERE at_us < ?", (now_us - micros(FENCE_S),))

    def _fenced(self, ids: Sequence[str]) -> dict[str, int]:
        row: Any = self._connection.execute(
            _FENCED, (msgspec.json.encode(ids).decode(),)
        ).fetchone()
        found: dict[str, int] = msgspec.json.decode(row[0])
        return found

    async def _do(self, act: Callable[[], T]) -> T:
        """Run `act` in a transaction of its own.

        A log that has become long is folded before, not after: what the file does not take any
        more is refused then, and not answered as if it had not been stored.
        """

        def run() -> T:
            self._log.fold_if_long()
            try:
                with explained(self._connection):
                    answer = self._transact(act)
            except apsw.FullError:
                fold(self._connection)  # what is folded is written over, by the next call
                raise
            self._weigh()
            return answer

        return await self._run(run)

    def _transact(self, act: Callable[[], T]) -> T:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            answer = act()
            self._connection.execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise
        return answer

    async def _read(self, act: Callable[[], T]) -> T:
        """Run `act`, and let its errors say what the system calls them."""

        def run() -> T:
            with explained(self._connection):
                return act()

        return await self._run(run)

    async def _run(self, work: Callable[[], T]) -> T:
        if self._closed:
            raise StorageUnavailable("it is closed")
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work)
        except EventFlowError:
            raise
        except apsw.Error as error:
            raise StorageUnavailable(f"{self.path}: {error}") from error


async def open_storage(
    path: str,
    *,
    clock: Clock,
    chain: str,
    audit_key: bytes | None = None,
    max_bytes: int = 10 * 2**30,
    kind: type[SqliteStorage] = SqliteStorage,
) -> SqliteStorage:
    """Open the file, or make it.

    Args:
        path: Of the file.
        clock: Tells the time.
        chain: Name of this node's audit chain.
        audit_key: HMAC key of the chain.
        max_bytes: How much it may hold.
        kind: Makes it: for tests that let it fail.

    Raises:
        StorageUnavailable: it can't be opened, or is of a later release.
    """
    storage = kind(path, clock, chain, audit_key, max_bytes)
    await storage._run(storage._open)  # noqa: SLF001  # its other half
    return storage


def _ids(items: Sequence[Kept]) -> list[str]:
    return [kept.delivery.id for kept in items]
