"""`eventflow deliveries` and `groups`: what is in trouble, one by one and by what looks alike."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Annotated, Any, Final

from cyclopts import Parameter
from cyclopts.validators import Number
from rich.table import Table

from eventflow.cli import tables
from eventflow.cli.asking import Reads, reading
from eventflow.cli.commands import Command
from eventflow.cli.printing import printed
from eventflow.cli.which import Kept, Listed, Which, check_topic, counted

PAGE: Final = 1_000
ERROR_WIDTH: Final = 60

Limit = Annotated[
    int, Parameter(metavar="NUMBER", validator=Number(gte=1), help="show at most so many")
]


def deliveries(
    *,
    state: Annotated[
        Listed | None, Parameter(metavar="STATE", help="retrying, parked or dead; all if left out")
    ] = None,
    limit: Limit = 50,
    which: Which = Which(),  # noqa: B008  # frozen
    where: Reads = Reads(),  # noqa: B008  # frozen
) -> int:
    """Print deliveries in trouble."""
    return asyncio.run(_deliveries(which.members(state), limit, where))


def groups(
    *,
    state: Annotated[
        Kept | None, Parameter(metavar="STATE", help="parked or dead; both if left out")
    ] = None,
    limit: Limit = 50,
    which: Which = Which(),  # noqa: B008  # frozen
    where: Reads = Reads(),  # noqa: B008  # frozen
) -> int:
    """Print groups of them."""
    return asyncio.run(_groups(which.members(state), min(limit, PAGE), where))


async def _deliveries(which: dict[str, str], limit: int, where: Reads) -> int:
    async with reading(where) as asked:
        listed: list[Mapping[str, Any]] = []
        cursor: str | None = None
        while True:
            wanted = str(min(PAGE, limit - len(listed)))
            query = {**which, "cursor": cursor, "limit": wanted}
            page = await asked.ask("GET", "/v1/deliveries", query=query)
            cursor = page.get("cursor")
            listed += page.get("deliveries", ())
            if cursor is None or len(listed) >= limit:
                break
        if not listed:
            await check_topic(asked, which.get("topic", ""))
    answer = {"deliveries": listed, "cursor": cursor}
    return printed(asked, answer, where.json, lambda: _listed(listed, more=cursor is not None))


def _listed(listed: list[Mapping[str, Any]], *, more: bool) -> list[Table | str]:
    if not listed:
        return ["Nothing is retrying, parked or dead that matches."]
    rows = [
        (
            one["state"],
            one["id"],
            one["event"]["type"],
            one["attempts"],
            tables.ago(one["since"]),
            tables.ago(one["due_at"]),
            one["reason"],
            tables.cut(one["error"] or "", ERROR_WIDTH),
        )
        for one in listed
    ]
    heads = ["state", "delivery", "type", "attempts", "since", "due", "reason", "last error"]
    shown: list[Table | str] = [tables.table(heads, rows, numbers=["attempts"])]
    if more:
        shown += ["", f"These are the newest {len(listed):,}; there are more: --limit."]
    return shown


async def _groups(which: dict[str, str], limit: int, where: Reads) -> int:
    async with reading(where) as asked:
        answer = await asked.ask("GET", "/v1/groups", query={**which, "limit": str(limit)})
        if not answer.get("groups"):
            await check_topic(asked, which.get("topic", ""))
    return printed(asked, answer, where.json, lambda: _grouped(answer["groups"]))


def _grouped(groups: list[Mapping[str, Any]]) -> list[Table | str]:
    if not groups:
        return ["Nothing is parked or dead that matches."]
    rows = [
        (
            one["count"],
            one["state"],
            one["topic"],
            one["cause"] or one["reason"],
            tables.ago(one["first_at"]),
            tables.ago(one["last_at"]),
            one["fingerprint"],
            tables.cut(one["error"], ERROR_WIDTH),
        )
        for one in groups
    ]
    heads = ["count", "state", "topic", "cause", "first", "last", "fingerprint", "newest error"]
    total = counted(sum(one["count"] for one in groups))
    largest = groups[0]
    return [
        tables.table(heads, rows, numbers=["count"]),
        "",
        f"{total} in {counted(len(groups), 'group', 'groups')}. Of the largest one:",
        f"  eventflow explain {largest['example']}",
        f"  eventflow replay --topic {largest['topic']} --fingerprint {largest['fingerprint']}",
    ]


COMMANDS: Final = (
    Command(
        "deliveries",
        deliveries,
        "usage: eventflow deliveries [options]",
        "list what is retrying, parked or dead",
        """\
List deliveries that are retrying, parked or dead, newest first.

examples:
  eventflow deliveries --state dead
  eventflow deliveries --topic email --cause "http 503" --limit 10
  eventflow deliveries -q 4711 --json
  eventflow deliveries --db eventflow.db      of a node that is stopped
""",
    ),
    Command(
        "groups",
        groups,
        "usage: eventflow groups [options]",
        "group what is parked or dead by what the failures look like",
        """\
Group what is parked or dead by what the failures look like, the largest group first: a thousand
dead deliveries are mostly two or three faults.

examples:
  eventflow groups
  eventflow groups --state dead --topic email
  eventflow groups --json
""",
    ),
)
