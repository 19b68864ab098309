"""`eventflow audit`: the trail of an event, and whether anybody changed it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Final
from urllib.parse import quote

from cyclopts import Parameter
from rich.table import Table

from eventflow.cli import tables
from eventflow.cli.asking import Reads, reading
from eventflow.cli.printing import printed
from eventflow.cli.stop import DONE, FAILED, wrong
from eventflow.cli.which import counted

NAME: Final = "audit"
USAGE: Final = (
    "usage: eventflow audit EVENT [options]\n"
    "       eventflow audit --verify [--against FILE] [options]\n"
    "       eventflow audit --heads [options]"
)
SUMMARY: Final = "show the audit trail of an event, or check the whole trail"
HELP: Final = """\
Show the audit trail of an event, a row a step; or check that nobody changed the trail.

Every row holds the hash of the one before. --verify finds an edit, a gap or a swap by itself; that
the end was cut off, or all of it computed anew, it can only find against ends of the chains that
were noted elsewhere: --heads prints them, --against holds the trail against them.

examples:
  eventflow audit 01930a52-7c1e-7d3b-9f00-1c2d3e4f5a6b
  eventflow audit --verify
  eventflow audit --heads > heads.txt           keep it on another machine
  eventflow audit --verify --against heads.txt
  eventflow audit --verify --db eventflow.db    of a node that is stopped, or a backup
"""


def command(
    event: Annotated[str, Parameter(help="its ref, or the id of one of its deliveries")] = "",
    /,
    *,
    verify: Annotated[
        bool, Parameter(negative=(), help="check every row of every chain; ends with 1 at a fault")
    ] = False,
    against: Annotated[
        str, Parameter(metavar="FILE", help="with --verify: what --heads printed before")
    ] = "",
    heads: Annotated[bool, Parameter(negative=(), help="print the ends of the chains")] = False,
    where: Reads = Reads(),  # noqa: B008  # frozen
) -> int:
    """Print a part of the trail, or what is wrong with it."""
    if bool(event) + verify + heads != 1:
        raise wrong("audit: expected one of EVENT, --verify and --heads. Nothing was shown.")
    if against and not verify:
        raise wrong("--against: expected only beside --verify. Nothing was shown.")
    if verify:
        return asyncio.run(_verify(_noted(against), where))
    return asyncio.run(_heads(where) if heads else _trail(event.partition(".")[0], where))


def _noted(against: str) -> list[str]:
    """Return the ends of chains that a file holds, one a line."""
    if not against:
        return []
    try:
        text = Path(against).read_text("utf-8")
    except OSError as error:
        raise wrong(f"{against}: can't be read: {error.strerror}. Nothing was checked.") from None
    except UnicodeDecodeError:
        raise wrong(f"{against}: expected what --heads printed. Nothing was checked.") from None
    found = [line.strip() for line in text.splitlines() if line.strip()]
    if not found:
        raise wrong(f"{against}: expected what --heads printed, got nothing. Nothing was checked.")
    return found


async def _trail(ref: str, where: Reads) -> int:
    async with reading(where) as asked:
        answer = await asked.ask("GET", "/v1/audit", query={"event": ref})
        if not answer.get("rows"):
            # Says that there is no such event, if so: no trouble is another thing.
            await asked.ask("GET", f"/v1/events/{quote(ref, safe='')}")
    return printed(asked, answer, where.json, lambda: _rows(answer["rows"]))


def _rows(rows: list[Mapping[str, Any]]) -> Iterator[Table | str]:
    if not rows:
        yield "It had no trouble: there is no row of it."
        return
    shown = [
        (
            one["seq"],
            one["row"]["at"],
            str(one["row"]["what"]).removeprefix("delivery."),
            one["row"].get("topic"),
            one["row"].get("from"),
            one["row"].get("to"),
            one["row"].get("by"),
            one["hash"][:12],
        )
        for one in rows
    ]
    heads = ["seq", "at", "what", "topic", "from", "to", "by", "hash"]
    yield tables.table(heads, shown, numbers=["seq"])


async def _heads(where: Reads) -> int:
    async with reading(where) as asked:
        answer = await asked.ask("GET", "/v1/audit/heads")
    return printed(asked, answer, where.json, lambda: [str(head) for head in answer["heads"]])


async def _verify(noted: list[str], where: Reads) -> int:
    async with reading(where, "nothing was checked") as asked:
        answer = await asked.ask("POST", "/v1/audit/verify", {"heads": noted})
    printed(asked, answer, where.json, lambda: _verdict(answer))
    return DONE if answer["ok"] else FAILED


def _verdict(answer: Mapping[str, Any]) -> Iterator[str]:
    rows = counted(answer["rows"], "row", "rows")
    if answer["ok"]:
        yield f"{rows} checked against {answer['against']}: nothing was changed."
        return
    yield f"{rows} checked against {answer['against']}: THE TRAIL WAS CHANGED."
    for fault in answer["faults"]:
        yield f"  {tables.line(fault)}"
