"""`eventflow stats`: the ledger of a node."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Final

from rich.table import Table

from eventflow.cli import tables
from eventflow.cli.asking import Reads, reading
from eventflow.cli.printing import printed

NAME: Final = "stats"
USAGE: Final = "usage: eventflow stats [options]"
SUMMARY: Final = "show the ledger of a node: what came in, and where all of it is"
HELP: Final = """\
Show the ledger of a node: what came in, and where all of it is. `unaccounted` is 0, or it is a bug.

examples:
  eventflow stats                              of the node on this machine
  eventflow stats --url http://node-2:8080     of another one
  eventflow stats --db eventflow.db            of one that is stopped, from its file
  eventflow stats --json                       all of it, for programs
"""
COLUMNS: Final = (
    *("created", "delivered", "queued", "running", "retrying"),
    *("parked", "dead", "unaccounted"),
)
SELDOM: Final = ("discarded", "archived")


def command(*, where: Reads = Reads()) -> int:  # noqa: B008  # frozen
    """Print the ledger."""
    return asyncio.run(_run(where))


async def _run(where: Reads) -> int:
    async with reading(where) as asked:
        stats = await asked.ask("GET", "/v1/stats")
    return printed(asked, stats, where.json, lambda: (table(stats["topics"]), "", summary(stats)))


def table(topics: Mapping[str, Mapping[str, Any]]) -> Table:
    """Return the ledger, a row a topic. Columns that are seldom needed show when they are."""
    columns = [*COLUMNS, *(name for name in SELDOM if any(t[name] for t in topics.values()))]
    rows = [
        (name + (" (paused)" if topic.get("paused") else ""), *(topic[each] for each in columns))
        for name, topic in topics.items()
    ]
    return tables.table(["topic", *columns], rows, numbers=columns)


def summary(stats: Mapping[str, Any]) -> str:
    """Return what is said below the table."""
    storage = stats["storage"]
    most = storage["max_bytes"]
    room = "" if most is None else f" of {tables.size(most)}"
    durability = stats["durability"]
    said = f"durability {durability}, " if durability else ""
    doubts = "".join(
        f"\ndoubtful: {one['what']}: {one['found']}" for one in stats.get("doubts", ())
    )
    return (
        f"accepted {stats['accepted']:,}, unaccounted {stats['unaccounted']:,}\n"
        f"storage {tables.size(storage['used_bytes'])}{room}\n"
        f"{said}counted since {stats['since']}{doubts}"
    )
