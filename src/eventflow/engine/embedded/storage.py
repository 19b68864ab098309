"""Secondary storage in the journal's own file, for everybody but the engine.

Reads and acts of operators run between commits, by the same writer: what an act changes is one
transaction with its audit rows and counters.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from eventflow.delivery import Row
from eventflow.storage.acts import act_row, override_row, replayed, settings_row
from eventflow.storage.audit import Head
from eventflow.storage.protocol import Filter, Kept, Page, Usage, Verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from eventflow.clock import Clock
    from eventflow.engine.embedded.committer import Committer
    from eventflow.engine.embedded.journal import Desk
    from eventflow.engine.embedded.state import State
    from eventflow.storage.audit import AuditLog
    from eventflow.storage.protocol import Actor, AuditRow, Group
    from eventflow.storage.shelf import Shelf

T = TypeVar("T")


class EmbeddedStorage:
    """`Storage` on the tables beside the journal."""

    shared = False

    def __init__(self, state: State, committer: Committer, clock: Clock) -> None:
        self._state = state
        self._committer = committer
        self._clock = clock

    async def due(self, topic: str, *, now: float, limit: int) -> Sequence[Kept]:
        return await self._read(lambda shelf: shelf.due(topic, now, limit))

    async def next_due(self, topic: str) -> float | None:
        tallies = self._state.tallies.get(topic)
        if tallies is None or tallies.parked <= 0:
            return None  # asked after every batch: what memory knows costs no statement
        return await self._read(lambda shelf: shelf.next_due(topic))

    async def get(self, ids: Sequence[str]) -> Sequence[Kept]:
        return await self._read(lambda shelf: shelf.get(ids))

    async def find(self, ref: str) -> Sequence[Kept]:
        return await self._read(lambda shelf: shelf.find(ref))

    async def page(self, which: Filter, *, after: str | None = None, limit: int = 100) -> Page:
        return await self._read(lambda shelf: shelf.page(which, after, limit))

    async def count(self, which: Filter) -> int:
        return await self._read(lambda shelf: shelf.count(which))

    async def ids(self, which: Filter) -> Sequence[str]:
        """Return the ids of all kept deliveries that match."""
        return await self._read(lambda shelf: shelf.ids_matching(which, None))

    async def ref_of(self, source: str, id: str) -> str | None:
        """Return the ref of a kept event by its source and id."""
        found = await self._read(lambda shelf: shelf.find_event(source, id))
        # A ref is a UUIDv7: the greatest was accepted last.
        return max((kept.delivery.ref for kept in found), default=None)

    async def along(
        self, which: Filter, *, after: str | None = None, limit: int = 200
    ) -> tuple[Sequence[Kept], str | None]:
        return await self._read(lambda shelf: shelf.along(which, after, limit))

    async def groups(self, which: Filter, *, limit: int = 100) -> Sequence[Group]:
        return await self._read(lambda shelf: shelf.groups(which, limit))

    async def totals(self) -> Mapping[tuple[str, str], tuple[int, int]]:
        """Return how many deliveries are kept, and their bytes, by topic and state."""
        return await self._read(lambda shelf: shelf.totals())

    async def overrides(self) -> Mapping[str, Mapping[str, Any]]:
        return await self._read(lambda shelf: shelf.overrides())

    async def replay(self, ids: Sequence[str], by: Actor) -> Mapping[str, str]:
        now = self._clock.now_s()
        answers: dict[str, str] = {}
        moved: list[tuple[Kept, Kept]] = []

        def act(desk: Desk) -> None:
            found = {kept.delivery.id: kept for kept in desk.shelf.get(list(ids))}
            for id in dict.fromkeys(ids):
                answers[id], new = replayed(found.get(id), now)
                if new is not None:
                    moved.append((found[id], new))
            desk.shelf.keep([new for _, new in moved])
            desk.change.audit += [
                act_row(new.delivery, Row.REPLAYED, old.state, "parked", now, by)
                for old, new in moved
            ]

        def landed() -> None:
            for old, new in moved:
                tallies = self._state.tallies[old.delivery.topic]
                tallies.move_kept(old.state, -1)
                tallies.move_kept(new.state, 1)
                self._state.storage_bytes += new.size_bytes - old.size_bytes

        await self._committer.work(act, landed)
        return answers

    async def discard(self, ids: Sequence[str], by: Actor) -> Mapping[str, str]:
        now = self._clock.now_s()
        gone: list[Kept] = []

        def act(desk: Desk) -> None:
            gone.extend(desk.shelf.get(list(ids)))
            desk.shelf.forget([(kept.delivery.id, kept.delivery.hop) for kept in gone])
            for kept in gone:
                desk.change.count(kept.delivery.topic, discarded=1)
                desk.change.audit.append(
                    act_row(kept.delivery, Row.DISCARDED, kept.state, "discarded", now, by)
                )

        def landed() -> None:
            for kept in gone:
                tallies = self._state.tallies[kept.delivery.topic]
                tallies.move_kept(kept.state, -1)
                tallies.discarded += 1
                self._state.storage_bytes -= kept.size_bytes

        await self._committer.work(act, landed)
        known = {kept.delivery.id for kept in gone}
        return {id: "discarded" if id in known else "unknown" for id in ids}

    async def trail(self, ref: str, *, limit: int = 1000) -> Sequence[AuditRow]:
        return await self._audited(lambda audit: audit.trail(ref, limit))

    async def behind(self, position: tuple[str, int], limit: int) -> Sequence[AuditRow]:
        """Return the next audit rows of all chains behind a chain and number, in that order."""
        return await self._audited(lambda audit: audit.behind(position, limit))

    async def note(self, rows: Sequence[Mapping[str, Any]]) -> None:
        await self._do(lambda desk: desk.change.audit.extend(rows))

    async def verify(self, heads: Sequence[str] = ()) -> Verdict:
        given = [Head.of(head) for head in heads]
        check = await self._do(lambda desk: desk.audit.check(given))
        # Some rows a commit: a long trail must not keep the writer from those who wait for it.
        while await self._do(lambda desk: desk.audit.advance(check)):
            pass
        return check.verdict()

    async def heads(self) -> Sequence[str]:
        return await self._audited(lambda audit: [head.text for head in audit.heads()])

    async def seal(self) -> Sequence[str]:
        now = self._clock.now_s()
        return await self._do(lambda desk: [head.text for head in desk.audit.seal(now)])

    async def override(self, topic: str, values: Mapping[str, Any] | None, by: Actor) -> None:
        row = override_row(topic, values, self._clock.now_s(), by)

        def act(desk: Desk) -> None:
            desk.shelf.set_override(topic, None if values is None else dict(values))
            desk.change.audit.append(row)

        await self._do(act)

    async def reconfigured(self, changed: Sequence[str], by: Actor) -> None:
        row = settings_row(changed, self._clock.now_s(), by)
        await self._do(lambda desk: desk.change.audit.append(row))

    def usage(self) -> Usage:
        return Usage(self._state.storage_bytes, self._state.plan.storage_max_bytes)

    async def _read(self, read: Callable[[Shelf], T]) -> T:
        return await self._committer.work(lambda desk: read(desk.shelf), reads=True)

    async def _audited(self, read: Callable[[AuditLog], T]) -> T:
        return await self._committer.work(lambda desk: read(desk.audit), reads=True)

    async def _do(self, act: Callable[[Desk], T]) -> T:
        return await self._committer.work(act)
