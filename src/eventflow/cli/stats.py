"""`eventflow stats`: the ledger of a node."""

from __future__ import annotations

import asyncio
import sys
from typing import Annotated, Any, Final

import aiohttp
import msgspec
from cyclopts import Parameter

from eventflow.cli.node import DEFAULT_URL, LOST, Token, Url, node_of
from eventflow.cli.problems import problem_of

NAME: Final = "stats"
USAGE: Final = "usage: eventflow stats [options]"
SUMMARY: Final = "show the ledger of a node: what came in, and where all of it is"
HELP: Final = """\
Show the ledger of a node: what came in, and where all of it is. `unaccounted` is 0, or it is a bug.

examples:
  eventflow stats                              of the node on this machine
  eventflow stats --url http://node-2:8080     of another one
  eventflow stats --json                       all of it, for programs
"""
COLUMNS: Final = (
    *("created", "delivered", "queued", "running", "retrying"),
    *("parked", "dead", "discarded", "unaccounted"),
)


def command(
    *,
    url: Url = DEFAULT_URL,
    token: Token = "",
    json: Annotated[bool, Parameter(negative=(), help="print the answer as JSON")] = False,
) -> int:
    """Print the ledger."""
    shown = asyncio.run(_get(url, token))
    sys.stdout.write(shown.decode() + "\n" if json else table(msgspec.json.decode(shown)))
    return 0


async def _get(url: str, token: str) -> bytes:
    node = node_of(url, token)
    try:
        async with node.session() as session, session.get("/v1/stats") as answer:
            if answer.status != 200:
                raise (await problem_of(answer)).end(node, "nothing was shown")
            return await answer.read()
    except (*LOST, aiohttp.ClientError) as error:
        raise node.absent(error, "nothing was shown") from error


def table(stats: dict[str, Any]) -> str:
    """Return the ledger as lines of text."""
    rows = [["topic", *COLUMNS]]
    for name, topic in stats["topics"].items():
        marks = " (paused)" if topic.get("paused") else ""
        rows.append([name + marks, *(str(topic[column]) for column in COLUMNS)])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        row[0].ljust(widths[0])
        + "".join(cell.rjust(width + 2) for cell, width in zip(row[1:], widths[1:], strict=True))
        for row in rows
    ]
    storage = stats["storage"]
    lines += [
        "",
        f"accepted {stats['accepted']}, unaccounted {stats['unaccounted']}",
        f"storage {storage['used_bytes']} of {storage['max_bytes']} bytes",
        f"durability {stats['durability']}, counted since {stats['since']}",
    ]
    return "\n".join(lines) + "\n"
