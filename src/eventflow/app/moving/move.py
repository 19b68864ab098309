"""A run of a move: what is asked, marked, carried and marked again, in this order.

    the file        the servers            a node starts
    -               -                      on the file
    marked: begun   -                      on neither
    marked: begun   record: not finished   on neither
    marked: begun   record: finished       on the servers
    marked: done    record: finished       on the servers

Whatever a run was killed after, the next one goes on from the line that it finds.
"""

from __future__ import annotations

from contextlib import AsyncExitStack
from dataclasses import replace
from typing import TYPE_CHECKING

import msgspec

from eventflow.app import engines
from eventflow.app.build import audit_key_of
from eventflow.app.engines import shown
from eventflow.app.moving.carry import BY, Carrying, baseline
from eventflow.app.moving.report import Report, retold, side_of, told
from eventflow.app.moving.source import opened
from eventflow.app.moving.target import plan_of, problems
from eventflow.config import Secret
from eventflow.engine.embedded import open_engine
from eventflow.engine.embedded.leaving import Glance, Mark, glance, set_mark
from eventflow.errors import EngineUnavailable, MoveRefused, MoveUnfinished, StorageUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path
    from typing import Any

    from eventflow.app.moving.carry import Told
    from eventflow.app.moving.source import Source
    from eventflow.app.moving.target import OnServers
    from eventflow.clock import Clock
    from eventflow.config import Settings
    from eventflow.engine.carrying import Carriage

    Settle = Callable[[str, Mapping[str, Mapping[str, Any]]], Settings]
    """Given the name of the move and the file's overrides, returns the settings of its target."""
    Open = Callable[[Settings, Clock, Callable[[int], int]], Any]

_STOPPED = "Stop it first: what it takes away meanwhile could not be told from what is lost."


class Move:
    """One file, on its way to what settings name."""

    def __init__(
        self,
        path: Path,
        settings: Settle,
        clock: Clock,
        draw_bits: Callable[[int], int],
        *,
        told: Told,
        open_target: Open = engines.on_servers,
    ) -> None:
        """Of `told`: called with what is being moved and how many more of it were."""
        self._path = path
        self._settings = settings
        self._clock = clock
        self._draw_bits = draw_bits
        self._told = told
        self._open = open_target

    async def run(self, *, dry_run: bool) -> Report:
        """Move what is not moved yet; with `dry_run` only look.

        Raises:
            JournalInUse, JournalUnreadable: the file can't be read. Nothing was done.
            ConfigError: the settings can't be used.
            EngineUnavailable, StorageUnavailable: no target. Nothing was written.
            MoveRefused: it does not fit, or may not be. Nothing was written.
            MoveUnfinished: it stopped on its way; run again it goes on.
        """
        look = glance(self._path)
        if look.mark is not None and look.mark.done_at is not None:
            return retold(look.mark.told)
        if look.mark is None and not look.clean and not dry_run:
            await self._count_crashes()
        async with AsyncExitStack() as stack:
            async with opened(self._path, clock=self._clock) as source:
                settings = self._settings(f"move-{look.chain}", await source.overrides())
                where = _aside(settings) if dry_run else settings
                engine = await self._open(where, self._clock, self._draw_bits)
                stack.push_async_callback(engine.close)
                report = await _found(source, settings, dry_run=dry_run)
                await self._ask(source, settings, engine, look)
            if dry_run:
                return report
            mark = look.mark or Mark(report.to, report.storage, self._clock.now_s())
            if look.mark is None:
                set_mark(self._path, mark)
            try:
                async with opened(self._path, clock=self._clock) as source:
                    report = await self._carry(source, settings, engine, report)
            except (EngineUnavailable, StorageUnavailable) as error:
                raise MoveUnfinished(str(self._path), str(error)) from error
        done = msgspec.structs.replace(mark, done_at=self._clock.now_s(), told=told(report))
        set_mark(self._path, done)
        return report

    async def _count_crashes(self) -> None:
        """Count a crash for what was running when the node was killed, as its next start would."""
        name = f"move-{glance(self._path).chain}"
        key = audit_key_of(self._settings(name, {}))
        engine = await open_engine(
            str(self._path), clock=self._clock, draw_bits=self._draw_bits, audit_key=key
        )
        await engine.close()

    async def _ask(
        self, source: Source, settings: Settings, engine: OnServers, look: Glance
    ) -> None:
        """Look whether it may be moved, and has room.

        Raises:
            MoveRefused: it may not, or has not.
        """
        carrier = engine.carrier()
        carriage = await carrier.found()
        if carriage is not None and carriage.finished:
            return
        wrong = _elsewhere(look.mark, settings, carriage)
        runners = await carrier.runners()
        if runners:
            wrong.append(f"{', '.join(runners)} runs there, and would deliver. {_STOPPED}")
        plan = plan_of(settings, source)
        wrong += await problems(source, carrier, engine.storage, plan, carriage)
        if wrong:
            raise MoveRefused(str(self._path), wrong)

    async def _carry(
        self, source: Source, settings: Settings, engine: OnServers, report: Report
    ) -> Report:
        carrier = engine.carrier()
        carriage = await carrier.found()
        if carriage is not None and carriage.finished:  # nodes may run there already
            return msgspec.structs.replace(report, finished=True, before=True)
        carrying = await self._carry_from(source, settings, engine, carriage)
        report = await _compared(report, source, engine)
        await carrying.remember(self._clock.now_s() - settings.common.dedup_window_s)
        await engine.storage.note([_row(source, settings, self._clock.now_s())])
        await carrier.finish(carrying.carriage, source.census)
        there = side_of(await engine.census())
        return msgspec.structs.replace(report, servers=there, finished=True)

    async def _carry_from(
        self, source: Source, settings: Settings, engine: OnServers, carriage: Carriage | None
    ) -> Carrying:
        carrier, storage = engine.carrier(), engine.storage
        if carriage is None:
            # Asked before the queues are made: what is there now was there before.
            carriage = await baseline(source, carrier, storage)
        await engine.apply(plan_of(settings, source))
        await carrier.note(carriage)
        carrying = Carrying(source, carrier, storage, carriage, self._told)
        await carrying.run()
        missing = await carrying.missing()
        ends = set(await storage.heads())
        missing += [f"audit chain {end}" for end in await source.heads() if end not in ends]
        if missing:
            raise EngineUnavailable(f"not all of it is there: {'; '.join(missing)}")
        return carrying


def _aside(settings: Settings) -> Settings:
    """Return settings that make no file of storage: one that is not there holds nothing."""
    path = settings.storage.path
    if path is None or path.exists():
        return settings
    return replace(settings, storage=replace(settings.storage, url=Secret("memory:")))


async def _found(source: Source, settings: Settings, *, dry_run: bool) -> Report:
    return Report(
        f"sqlite:{source.path}",
        shown(settings.engine.url),
        settings.storage.shown,
        side_of(source.census),
        overrides=tuple(await source.overrides()),
        dry_run=dry_run,
    )


async def _compared(report: Report, source: Source, engine: OnServers) -> Report:
    """Return the report with what differs between both sides."""
    here, there = await source.overrides(), await engine.storage.overrides()
    before, after = await source.verify(), await engine.storage.verify()
    return msgspec.structs.replace(
        report,
        overrides_left=tuple(topic for topic in here if there.get(topic) != here[topic]),
        trail_rows=before.rows,
        trail_faults=tuple(dict.fromkeys((*before.faults, *after.faults))),
    )


def _elsewhere(mark: Mark | None, settings: Settings, carriage: Carriage | None) -> list[str]:
    """Return why a move that has begun can't go on there."""
    to, storage = shown(settings.engine.url), settings.storage.shown
    # Servers that know of this move are the same ones, whatever they are called now.
    if mark is None or (mark.storage == storage and (carriage is not None or mark.to == to)):
        return []
    begun = f"its move to {mark.to} and {mark.storage} has begun"
    got = f"expected the same again, got {to} and {storage}"
    return [f"{begun}: {got}. Name those, and it goes on."]


def _row(source: Source, settings: Settings, now: float) -> dict[str, Any]:
    """Return the row of the trail that says so."""
    census = source.census
    return {
        "at": now,
        "what": "journal.moved",
        "by": BY,
        "why": "",
        "from": str(source.path),
        "to": shown(settings.engine.url),
        "deliveries": sum(counts.live for counts in census.topics.values()),
        "created": sum(counts.created for counts in census.topics.values()),
    }
