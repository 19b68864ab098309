"""`eventflow topics`, `pause` and `resume`: what the topics are, and whether they run."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Annotated, Any, Final
from urllib.parse import quote

from cyclopts import Parameter
from rich.table import Table

from eventflow.cli import tables
from eventflow.cli.asking import Acts, Reads, acting, reading
from eventflow.cli.commands import Command
from eventflow.cli.printing import printed

Why = Annotated[str, Parameter(metavar="TEXT", help="the reason, for the audit trail")]
Topic = Annotated[str, Parameter(help="its name")]


def topics(*, where: Reads = Reads()) -> int:  # noqa: B008  # frozen
    """Print the topics."""
    return asyncio.run(_list(where))


def pause(topic: Topic, /, *, why: Why = "", where: Acts = Acts()) -> int:  # noqa: B008  # frozen
    """Pause a topic."""
    return asyncio.run(_switch(topic, "pause", why, where))


def resume(topic: Topic, /, *, why: Why = "", where: Acts = Acts()) -> int:  # noqa: B008  # frozen
    """Resume a topic."""
    return asyncio.run(_switch(topic, "resume", why, where))


async def _list(where: Reads) -> int:
    async with reading(where) as asked:
        answer = await asked.ask("GET", "/v1/topics")
        stats = await asked.ask("GET", "/v1/stats")
    counts = stats.get("topics", {})
    return printed(asked, answer, where.json, lambda: [_table(answer["topics"], counts)])


def _table(listed: list[Mapping[str, Any]], counts: Mapping[str, Mapping[str, Any]]) -> Table:
    rows = []
    for topic in listed:
        count = counts[topic["name"]]
        state = "orphan" if topic.get("orphan") else "paused" if topic["paused"] else "running"
        held, most = count["queued"] + count["running"], topic.get("capacity")
        rows.append(
            (
                topic["name"],
                state,
                topic.get("handler"),
                f"{held:,}" if most is None else f"{held:,} of {most:,}",
                count["retrying"],
                count["parked"],
                count["dead"],
                topic.get("concurrency"),
                ", ".join(topic.get("match", ())),
            )
        )
    heads = ["topic", "state", "handler", "queue", "retrying", "parked", "dead", "at once", "match"]
    numbers = ("queue", "retrying", "parked", "dead", "at once")
    return tables.table(heads, rows, numbers=numbers)


async def _switch(topic: str, act: str, why: str, where: Acts) -> int:
    async with acting(where, act) as asked:
        path = f"/v1/topics/{quote(topic, safe='')}/{act}"
        answer = await asked.ask("POST", path, {"why": why})
        counts = (await asked.ask("GET", "/v1/stats")).get("topics", {}).get(topic, {})
    waiting = f"{counts.get('queued', 0):,} wait in it"
    said = {
        "pause": f"Topic {topic} is paused: nothing more of it is started; {waiting}.",
        "resume": f"Topic {topic} runs; {waiting}.",
    }
    return printed(asked, answer, where.json, lambda: [said[act]])


COMMANDS: Final = (
    Command(
        "topics",
        topics,
        "usage: eventflow topics [options]",
        "show the topics, whether they run, and how full they are",
        """\
Show the topics: whether they run, what handles their events, and how full they are.

examples:
  eventflow topics
  eventflow topics --json                 with their settings, for programs
  eventflow topics --db eventflow.db      of a node that is stopped
""",
    ),
    Command(
        "pause",
        pause,
        "usage: eventflow pause TOPIC [options]",
        "start no more deliveries of a topic, until it is resumed",
        """\
Start no more deliveries of a topic, until it is resumed. What runs ends; what comes in waits in the
topic's queue, then in its retry lane and in storage. It stays paused over restarts.

examples:
  eventflow pause email
  eventflow pause email --why "provider is down, ticket 4711"
""",
    ),
    Command(
        "resume",
        resume,
        "usage: eventflow resume TOPIC [options]",
        "start deliveries of a paused topic again",
        """\
Start deliveries of a paused topic again.

examples:
  eventflow resume email --why "provider is back"
""",
    ),
)
