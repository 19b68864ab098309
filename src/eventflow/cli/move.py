"""`eventflow move`: from a node's file to NATS servers."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

from cyclopts import Parameter
from rich.table import Table

from eventflow.cli import tables
from eventflow.cli.asking import AsJson
from eventflow.cli.printing import put_json
from eventflow.cli.serve import app_of, path_of
from eventflow.cli.stop import DONE, INTERRUPTED, Stop, say, wrong
from eventflow.cli.which import counted

if TYPE_CHECKING:
    from eventflow.app.eventflow import EventFlow
    from eventflow.app.moving import Report
    from eventflow.config import Settings

NAME: Final = "move"
USAGE: Final = "usage: eventflow move [CONFIG] --from sqlite:FILE [options]"
SUMMARY: Final = "move what a stopped node's file holds to NATS servers"
HELP: Final = """\
Move all that the file of a stopped node holds to NATS servers and to secondary storage of its own:
what is queued, retrying, parked and dead, settings made at run time, pauses, the audit trail and
the counters. Deliveries keep ids, attempts, due times and order. The topics' capacities are those
of CONFIG; what has no room there is said before anything is written.

It can be interrupted, and run again: it goes on where it was. Until it has ended no node starts on
either side. The file is kept as it was, and marked as moved.

examples:
  eventflow move --from sqlite:eventflow.db --to nats://127.0.0.1:4222 --dry-run
  eventflow move --from sqlite:eventflow.db --to nats://127.0.0.1:4222
  eventflow move shop.toml --from sqlite:eventflow.db --to nats://127.0.0.1:4222 --json
"""
_EVERY_S: Final = 1.0
"""How often progress is told."""


def command(  # noqa: PLR0913  # the options
    config: Annotated[
        str, Parameter(help="the TOML file; left out: ./eventflow.toml, if there is one")
    ] = "",
    /,
    *,
    source: Annotated[
        str, Parameter(name="--from", metavar="sqlite:FILE", help="the file of the stopped node")
    ] = "",
    to: Annotated[
        str, Parameter(metavar="URL", help="the NATS servers; left out: [engine] url of CONFIG")
    ] = "",
    storage: Annotated[
        str, Parameter(metavar="URL", help="secondary storage; left out: [storage] url of CONFIG")
    ] = "",
    app: Annotated[
        str, Parameter(metavar="MODULE:NAME", help="an EventFlow object, instead of a file")
    ] = "",
    dry_run: Annotated[
        bool, Parameter(negative=(), help="only say what there is, and whether it fits")
    ] = False,
    json: AsJson = False,
) -> int:
    """Move a file; say what was moved."""
    if app and config:
        raise wrong("CONFIG and --app: expected one of them, got both. Nothing was moved.")
    scheme, _, path = source.partition(":")
    if scheme != "sqlite" or not path:
        raise wrong(f"--from: expected sqlite:FILE, got {source!r}. Nothing was moved.")
    from eventflow.app.eventflow import EventFlow  # noqa: PLC0415  # a node: slow to load

    flow = app_of(app) if app else EventFlow(path_of(config))
    progress = Progress()
    try:
        report = asyncio.run(_moved(Path(path), flow, (to, storage), progress, dry_run=dry_run))
    except KeyboardInterrupt:
        raise Stop(
            f"stopped with Ctrl-C{progress.so_far}. Run the same command again: it goes on where "
            f"it was.",
            status=INTERRUPTED,
        ) from None
    if json:
        from eventflow.app.moving import told  # noqa: PLC0415  # a node: slow to load

        put_json(told(report))
    else:
        tables.show(*_said(report))
    return DONE


class Progress:
    """What is told on standard error, once a second."""

    def __init__(self) -> None:
        self._moved: dict[str, int] = {}
        self._next_at = time.monotonic() + _EVERY_S

    def tell(self, what: str, count: int) -> None:
        """Note that so many more of something were moved."""
        self._moved[what] = self._moved.get(what, 0) + count
        if time.monotonic() >= self._next_at:
            self._next_at = time.monotonic() + _EVERY_S
            say(f"eventflow: moved {self._moved[what]:,} {what}, {self._total:,} in all")

    @property
    def _total(self) -> int:
        return sum(self._moved.values())

    @property
    def so_far(self) -> str:
        """How far it came, to follow "stopped"."""
        return f"; {self._total:,} deliveries and rows were moved" if self._moved else ""


async def _moved(
    path: Path,
    flow: EventFlow,
    where: tuple[str, str],
    progress: Progress,
    *,
    dry_run: bool,
) -> Report:
    from eventflow.app.moving import Move  # noqa: PLC0415  # a node: slow to load
    from eventflow.clock import SystemClock  # noqa: PLC0415  # a node: slow to load

    to, storage = where

    def settings(name: str, overrides: Mapping[str, Mapping[str, Any]]) -> Settings:
        said = {"engine": {"node": name, **({"url": to} if to else {})}}
        if storage:
            said["storage"] = {"url": storage}
        flow.override(said)
        found = flow.settings_with(overrides)
        if not found.engine.on_servers:
            raise wrong(
                f"--to: expected nats://HOST:PORT, got {found.engine.url!r}"
                f"{'' if to else ' as [engine] url'}. Nothing was moved."
            )
        if found.storage.path is not None and found.storage.path.absolute() == path.absolute():
            raise wrong(
                f"--storage: expected another file than {path}, which is kept as it is. "
                f"Nothing was moved."
            )
        return found

    move = Move(
        path,
        settings,
        SystemClock(),
        random.SystemRandom().getrandbits,
        told=progress.tell,
    )
    return await move.run(dry_run=dry_run)


def _said(report: Report) -> Iterator[Table | str]:
    there = report.servers
    heads = ["topic", "created", "delivered", "queued", "retrying", "parked", "dead", "gone"]
    rows = [
        (name, *(line[key] for key in heads[1:-1]), line["discarded"] + line["archived"])
        for name, line in report.file.topics.items()
    ]
    yield f"{report.source}, unaccounted {report.file.unaccounted}"
    yield tables.table(heads, rows, numbers=heads[1:])
    if there is not None:
        rows = [
            (name, *(line[key] for key in heads[1:-1]), line["discarded"] + line["archived"])
            for name, line in there.topics.items()
        ]
        yield f"\n{report.to} and {report.storage}, unaccounted {there.unaccounted}"
        yield tables.table(heads, rows, numbers=heads[1:])
    yield ""
    if report.overrides:
        yield f"Settings made at run time: {', '.join(report.overrides)}."
    if report.overrides_left:
        listed = ", ".join(report.overrides_left)
        yield f"Others were there before, and stay: {listed}. See `eventflow topics`."
    for fault in report.trail_faults:
        yield f"Audit trail: {fault}"
    yield _end(report)


def _end(report: Report) -> str:
    live = counted(report.live, "delivery", "deliveries")
    if report.before:
        return f"All of it was moved before: {live}. Nothing was changed."
    if report.dry_run:
        return f"{live} to move to {report.to} and {report.storage}; all of it has room there."
    return f"Moved: {live}. The file is kept, and marked: no node starts on it any more."
