"""`eventflow backup`: a copy of a node's file, while traffic goes on."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Final

from cyclopts import Parameter

from eventflow.cli import tables
from eventflow.cli.asking import Copies, acting, file_of
from eventflow.cli.printing import printed, put_json
from eventflow.cli.stop import DONE, Stop, wrong
from eventflow.errors import JournalInUse

NAME: Final = "backup"
USAGE: Final = (
    "usage: eventflow backup [NAME] [options]\n       eventflow backup NAME --db FILE [options]"
)
SUMMARY: Final = "write a copy of a node's file while traffic goes on"
HELP: Final = """\
Write a copy of a node's file, as it is at one moment, while traffic goes on. The copy is synced and
read back before it has its name. A running node writes it on its own machine, into the folder that
`[engine] backups` names; that needs role admin. A node can be started on the copy.

examples:
  eventflow backup                              named after the time
  eventflow backup before-upgrade.db --why "ticket 4711"
  eventflow backup copy.db --db eventflow.db    of a node that is stopped, to any place
"""


def command(
    name: Annotated[
        str, Parameter(help="name of the copy, without a folder; with --db: where it goes")
    ] = "",
    /,
    *,
    why: Annotated[str, Parameter(metavar="TEXT", help="the reason, for the audit trail")] = "",
    where: Copies = Copies(),  # noqa: B008  # frozen
) -> int:
    """Write a copy."""
    if where.db:
        return _stopped(name, where.db, as_json=where.json)
    if "/" in name:
        folder, _, file = name.rpartition("/")
        raise wrong(
            f"backup: expected a name without a folder, got {name!r}. A running node writes into "
            f"the folder that its [engine] backups names: set that to {folder!r}, and say {file!r}."
        )
    return asyncio.run(_running(name, why, where))


def _stopped(name: str, db: str, *, as_json: bool) -> int:
    if not name:
        raise wrong("backup --db: expected NAME, where the copy goes. Nothing was written.")
    from eventflow.engine.embedded.stopped import backup_stopped  # noqa: PLC0415  # a node: slow to load

    file = file_of(db, "nothing was written")
    try:
        written = backup_stopped(file, Path(name))
    except JournalInUse as error:
        raise Stop(
            f"{db} is in use by {error.holder}; nothing was written. Have that node write a copy: "
            "`eventflow backup`, with its --url."
        ) from error
    if as_json:
        put_json({"path": written.path, "size_bytes": written.size_bytes})
    else:
        tables.show(*_said({"path": written.path, "size_bytes": written.size_bytes}))
    return DONE


async def _running(name: str, why: str, where: Copies) -> int:
    body = {"why": why, **({"name": name} if name else {})}
    async with acting(where, NAME, "nothing was written") as asked:
        answer = await asked.ask("POST", "/v1/backup", body)
    return printed(asked, answer, where.json, lambda: _said(answer))


def _said(answer: Mapping[str, Any]) -> Iterator[str]:
    yield f"{answer['path']}: {tables.size(answer['size_bytes'])}, synced and read back."
