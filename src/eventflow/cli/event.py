"""`eventflow show` and `explain`: one event, where it is and how it came there."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Final
from urllib.parse import quote

import msgspec
from cyclopts import Parameter
from rich.table import Table

from eventflow.cli import tables
from eventflow.cli.asking import Reads, reading
from eventflow.cli.commands import Command
from eventflow.cli.printing import printed
from eventflow.cli.stop import wrong

Which = Annotated[
    str, Parameter(help="its ref, or the id of one of its deliveries, as listings show it")
]
Source = Annotated[str, Parameter(metavar="SOURCE", help="with --id: as its sender called it")]
Id = Annotated[str, Parameter(metavar="ID", help="with --source: as its sender called it")]


def show(
    event: Which = "",
    /,
    *,
    source: Source = "",
    id: Id = "",
    where: Reads = Reads(),  # noqa: B008  # frozen
) -> int:
    """Print an event and its places."""
    return asyncio.run(_run("show", event, source, id, where))


def explain(
    event: Which = "",
    /,
    *,
    source: Source = "",
    id: Id = "",
    where: Reads = Reads(),  # noqa: B008  # frozen
) -> int:
    """Print the story of an event."""
    return asyncio.run(_run("explain", event, source, id, where))


async def _run(act: str, event: str, source: str, id: str, where: Reads) -> int:
    if bool(event) == bool(source or id) or bool(source) != bool(id):
        raise wrong(f"{act}: expected an EVENT, or --source and --id. Nothing was shown.")
    async with reading(where) as asked:
        if event:
            ref = event.partition(".")[0]  # a delivery's id is `<ref>.<topic>`
            answer = await asked.ask("GET", f"/v1/events/{quote(ref, safe='')}")
        else:
            answer = await asked.ask("GET", "/v1/events", query={"source": source, "id": id})
    tell = _shown if act == "show" else _explained
    only = event.partition(".")[2]
    return printed(asked, answer, where.json, lambda: tell(answer, only))


def _shown(answer: Mapping[str, Any], _only: str) -> Iterator[Table | str]:
    event = answer.get("event")
    yield _fields(answer)
    yield ""
    yield _places(answer["deliveries"])
    if event is None:
        yield "\nThe event itself has been forgotten."
    elif event.get("data") is not None:
        yield "\ndata:"
        yield _data(event["data"])
    for place in answer["deliveries"]:
        if place.get("traceback"):
            yield f"\nlast traceback of {place['id']}:\n{_lines(place['traceback'].rstrip())}"


def _fields(answer: Mapping[str, Any]) -> str:
    event = dict(answer.get("event") or {})
    event.pop("data", None)
    fields = {
        "ref": answer["ref"],
        "accepted": answer.get("accepted_at"),
        "key": answer.get("key"),
        **event,
    }
    width = max(len(name) for name in fields)
    return "\n".join(
        f"{name:<{width}}  {tables.line(value)}"
        for name, value in fields.items()
        if value is not None
    )


def _places(places: list[Mapping[str, Any]]) -> Table:
    rows = [
        (
            place["topic"],
            place["state"],
            tables.ago(place["since"]),
            place.get("attempts"),
            place.get("rounds"),
            place.get("reason"),
            tables.ago(place.get("next_at")),
        )
        for place in places
    ]
    heads = ["topic", "state", "since", "attempts", "rounds", "reason", "due"]
    return tables.table(heads, rows, numbers=["attempts", "rounds"])


def _explained(answer: Mapping[str, Any], only: str) -> Iterator[Table | str]:
    event = answer.get("event") or {}
    if event:
        what = f"{event['type']} {event['id']} from {event['source']}"
        yield tables.line(f"{what}, accepted {answer.get('accepted_at')}")
    story = [step for step in answer["story"] if not only or step["topic"] == only]
    places = [place for place in answer["deliveries"] if not only or place["topic"] == only]
    topics = dict.fromkeys([place["topic"] for place in places] + [step["topic"] for step in story])
    for topic in topics:
        yield f"\n{tables.line(topic)}"
        for step in story:
            if step["topic"] == topic:
                yield f"  {_clock(step['at'])}  {tables.line(step['text'])}"
        for place in places:
            if place["topic"] == topic:
                yield from _now(place)
    if not story:
        yield "\nIt had no trouble."


def _now(place: Mapping[str, Any]) -> Iterator[str]:
    yield f"  now: {place['state']}, since {_clock(place['since'])} ({tables.ago(place['since'])})"
    if place.get("held_by"):
        yield f"  held by: {tables.line(place['held_by'])}"
    if place.get("next"):
        at = place.get("next_at")
        when = f", not before {_clock(at)} ({tables.ago(at)})" if at else ""
        yield f"  next: {tables.line(place['next'])}{when}"
    if place["state"] in {"parked", "dead"}:
        yield f"  to try it again: eventflow replay {place['id']}"


def _clock(moment: object) -> str:
    """Return an RFC 3339 time to the second."""
    text = str(moment)
    return f"{text[:19]}Z" if len(text) >= 20 else text


def _data(data: Any) -> str:
    if isinstance(data, str):
        return _lines(data)
    return _lines(msgspec.json.format(msgspec.json.encode(data), indent=2).decode())


def _lines(text: str) -> str:
    """Return a text whose lines each stand as they are, without what moves a terminal's cursor."""
    return "\n".join(tables.line(one.expandtabs()) for one in text.split("\n"))


COMMANDS: Final = (
    Command(
        "show",
        show,
        "usage: eventflow show EVENT [options]\n       eventflow show --source SOURCE --id ID",
        "show an event: what it says, and where its deliveries are",
        """\
Show an event: its attributes and data, and where each of its deliveries is.

examples:
  eventflow show 01930a52-7c1e-7d3b-9f00-1c2d3e4f5a6b             by its ref
  eventflow show 01930a52-7c1e-7d3b-9f00-1c2d3e4f5a6b.email       by a delivery
  eventflow show --source /shop --id 4711                         as its sender called it
  eventflow show --source /shop --id 4711 --json
""",
    ),
    Command(
        "explain",
        explain,
        "usage: eventflow explain EVENT [options]\n"
        "       eventflow explain --source SOURCE --id ID",
        "tell what happened to an event, what holds it and what is next",
        """\
Tell what happened to an event step by step, with the numbers each decision used, what holds it now,
what is next and when.

examples:
  eventflow explain 01930a52-7c1e-7d3b-9f00-1c2d3e4f5a6b
  eventflow explain --source /shop --id 4711
  eventflow explain --source /shop --id 4711 --db eventflow.db    of a node that is stopped
""",
    ),
)
