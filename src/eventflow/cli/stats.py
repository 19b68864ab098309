"""`eventflow stats`: the ledger of a node."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping
from typing import Annotated, Any, Final

import aiohttp
import msgspec
from cyclopts import Parameter
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from rich.text import Text

from eventflow.cli.node import DEFAULT_URL, LOST, Node, Token, Url, node_of
from eventflow.cli.problems import problem_of
from eventflow.cli.stop import DONE

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
    *("parked", "dead", "unaccounted"),
)
SELDOM: Final = ("discarded", "archived")
_WIDE: Final = 1000
_SHAPES: Final = (TypeError, ValueError, AttributeError)
"""What an answer that is JSON, but no ledger, ends with."""


def command(
    *,
    url: Url = DEFAULT_URL,
    token: Token = "",
    json: Annotated[bool, Parameter(negative=(), help="print the answer as JSON")] = False,
) -> int:
    """Print the ledger."""
    node = node_of(url, token)
    answer = asyncio.run(_get(node))
    try:
        stats = msgspec.json.decode(answer, type=dict[str, Any])
        shown = table(stats["topics"]), summary(stats)
    except (msgspec.DecodeError, UnicodeDecodeError, LookupError, *_SHAPES) as error:
        raise node.strange("nothing was shown") from error
    if json:
        print(answer.decode())
        return DONE
    # A pipe has no width, and nothing may be cut off.
    console = Console() if sys.stdout.isatty() else Console(width=_WIDE, color_system=None)
    console.print(shown[0], highlight=False)
    print(f"\n{shown[1]}")
    return DONE


async def _get(node: Node) -> bytes:
    try:
        async with (
            node.session() as session,
            session.get("/v1/stats", allow_redirects=False) as answer,
        ):
            if answer.status != 200:
                raise (await problem_of(answer)).end(node, "nothing was shown")
            return await answer.read()
    except LOST as error:
        raise node.absent(error, "nothing was shown") from error
    except aiohttp.ClientError as error:
        raise node.strange("nothing was shown") from error


def table(topics: Mapping[str, Mapping[str, Any]]) -> Table:
    """Return the ledger, a row a topic. Columns that are seldom needed show when they are."""
    columns = [*COLUMNS, *(name for name in SELDOM if any(t[name] for t in topics.values()))]
    shown = Table(box=SIMPLE, pad_edge=False, show_edge=False)
    shown.add_column("topic", overflow="fold")
    for column in columns:
        shown.add_column(column, justify="right", overflow="fold")
    for name, topic in topics.items():
        mark = " (paused)" if topic.get("paused") else ""
        shown.add_row(Text(name + mark), *(f"{topic[column]:,}" for column in columns))
    return shown


def summary(stats: Mapping[str, Any]) -> str:
    """Return what is said below the table."""
    storage = stats["storage"]
    return (
        f"accepted {stats['accepted']:,}, unaccounted {stats['unaccounted']:,}\n"
        f"storage {storage['used_bytes']:,} of {storage['max_bytes']:,} bytes\n"
        f"durability {stats['durability']}, counted since {stats['since']}"
    )
