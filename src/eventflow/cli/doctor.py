"""`eventflow doctor`: what can be wrong with a node on this machine."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Final

import msgspec
from cyclopts import Parameter
from rich.table import Table

from eventflow.cli import tables
from eventflow.cli.asking import AsJson
from eventflow.cli.check import checked
from eventflow.cli.printing import put_json
from eventflow.cli.serve import path_of
from eventflow.cli.stop import DONE, FAILED
from eventflow.cli.which import counted

if TYPE_CHECKING:
    from eventflow.app.doctor import Finding
    from eventflow.config import Settings

NAME: Final = "doctor"
USAGE: Final = "usage: eventflow doctor [CONFIG] [options]"
SUMMARY: Final = "look for what can be wrong with a node on this machine"
HELP: Final = """\
Look for what can be wrong with a node on this machine: what durability is worth here, room on the
disk, permissions, the clock, open files, and the journal; or NATS servers: login, versions, sync,
replicas, max_payload, clocks, streams. Nothing is changed, and nothing is started. It ends with 1
if anything is bad.

examples:
  eventflow doctor                          for ./eventflow.toml
  eventflow doctor shop.toml --thorough     also every page and every row of the audit trail
  eventflow doctor --json                   for programs
"""


def command(
    config: Annotated[
        str, Parameter(help="the TOML file; left out: ./eventflow.toml, if there is one")
    ] = "",
    /,
    *,
    thorough: Annotated[
        bool,
        Parameter(negative=(), help="read every page of the journal and check the audit trail"),
    ] = False,
    json: AsJson = False,
) -> int:
    """Print what was found."""
    from eventflow.app.doctor import BAD  # noqa: PLC0415  # a node: slow to load

    settings = checked(path_of(config))
    found = asyncio.run(_all(settings, thorough=thorough))
    if json:
        put_json({"findings": msgspec.to_builtins(found)})
    else:
        tables.show(*_told(found))
    return FAILED if any(one.state == BAD for one in found) else DONE


async def _all(settings: Settings, *, thorough: bool) -> list[Finding]:
    from eventflow.app.doctor import examine  # noqa: PLC0415  # a node: slow to load

    return [one async for one in examine(settings, now_s=time.time(), thorough=thorough)]


def _told(found: Sequence[Finding]) -> Iterator[Table | str]:
    yield tables.table(["", "what", "found"], [(one.state, one.what, one.found) for one in found])
    from eventflow.app.doctor import BAD, GOOD  # noqa: PLC0415  # a node: slow to load

    troubles = [one for one in found if one.state != GOOD]
    if not troubles:
        yield "\nNothing is wrong."
        return
    yield "\nWhat to do:"
    for one in troubles:
        if one.advice:
            yield f"  {one.what}: {one.advice}"
    worst = sum(one.state == BAD for one in troubles)
    yield f"\n{counted(worst, 'thing is', 'things are')} bad, {len(troubles) - worst} doubtful."
