"""`eventflow replay` and `discard`: acts on what is parked or dead."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Final

from cyclopts import Parameter

from eventflow.cli.asking import Acts, Asked, acting
from eventflow.cli.commands import Command
from eventflow.cli.printing import printed
from eventflow.cli.stop import FAILED, Stop, say, wrong
from eventflow.cli.which import Kept, Which, check_topic, counted

AT_ONCE: Final = 1_000
"""Ids in one request."""
_DONE: Final = frozenset({"replayed", "discarded", "already"})
_SAID: Final = {
    "replayed": "made due now",
    "discarded": "discarded",
    "already": "due already",
    "unknown": "not there (any more)",
    "max_replays": "replayed as often as they may be; nothing was changed",
}

Ids = Annotated[str, Parameter(help="ids of deliveries, as `eventflow deliveries` shows them")]
State = Annotated[Kept | None, Parameter(metavar="STATE", help="all that are parked, or dead")]
DryRun = Annotated[bool, Parameter(negative=(), help="only say how many; change nothing")]
Yes = Annotated[bool, Parameter(name=("--yes", "-y"), negative=(), help="don't ask first")]
Why = Annotated[str, Parameter(metavar="TEXT", help="the reason, for the audit trail")]


def replay(
    *ids: Ids,
    state: State = None,
    dry_run: DryRun = False,
    yes: Yes = False,
    why: Why = "",
    which: Which = Which(),  # noqa: B008  # frozen
    where: Acts = Acts(),  # noqa: B008  # frozen
) -> int:
    """Make deliveries due now."""
    body = {"dry_run": dry_run, "why": why}
    return asyncio.run(_run("replay", ids, which.members(state), body, yes, where))


def discard(
    *ids: Ids,
    state: State = None,
    dry_run: DryRun = False,
    yes: Yes = False,
    why: Why = "",
    which: Which = Which(),  # noqa: B008  # frozen
    where: Acts = Acts(),  # noqa: B008  # frozen
) -> int:
    """Forget deliveries."""
    body = {"dry_run": dry_run, "why": why}
    return asyncio.run(_run("discard", ids, which.members(state), body, yes, where))


async def _run(
    act: str,
    ids: tuple[str, ...],
    which: dict[str, str],
    body: dict[str, Any],
    yes: bool,  # noqa: FBT001  # the option --yes
    where: Acts,
) -> int:
    if bool(ids) == bool(which):
        got = "both" if ids else "neither"
        raise wrong(
            f"{act}: expected ids of deliveries, or filters such as --state dead, got {got}. "
            "Nothing was changed."
        )
    async with acting(where, act) as asked:
        path = f"/v1/deliveries/{act}"
        if ids:
            answer = await _by_ids(asked, path, ids, body)
        else:
            meant = await asked.ask("POST", path, {**body, "filter": which, "dry_run": True})
            if not meant.get("matched"):
                await check_topic(asked, which.get("topic", ""))
            if meant.get("matched") and not body["dry_run"]:
                _agree(act, int(meant["matched"]), yes=yes)
                answer = await asked.ask("POST", path, {**body, "filter": which})
            else:
                answer = meant
        paused = await _paused(asked, ids, which) if act == "replay" else ()
    status = printed(asked, answer, where.json, lambda: [*_told(act, answer), *paused])
    return status if all(word in _DONE for word in answer["counts"]) else FAILED


async def _paused(asked: Asked, ids: tuple[str, ...], which: Mapping[str, str]) -> list[str]:
    """Return what to say of topics that are paused: what was made due there still waits."""
    meant = {id.rpartition(".")[2] for id in ids} or {which.get("topic")} - {None}
    listed = (await asked.ask("GET", "/v1/topics")).get("topics", [])
    paused = [one["name"] for one in listed if one.get("paused") and one["name"] in meant]
    return [f"Topic {name} is paused: eventflow resume {name}" for name in paused]


async def _by_ids(
    asked: Asked, path: str, ids: tuple[str, ...], body: Mapping[str, Any]
) -> dict[str, Any]:
    """Act on ids in as many requests as they need; return what became of all of them."""
    whole: dict[str, Any] = {"matched": 0, "results": {}, "counts": {}, "dry_run": body["dry_run"]}
    for start in range(0, len(ids), AT_ONCE):
        answer = await asked.ask("POST", path, {**body, "ids": list(ids[start : start + AT_ONCE])})
        whole["matched"] += answer["matched"]
        whole["results"] |= answer["results"]
        for word, count in answer["counts"].items():
            whole["counts"][word] = whole["counts"].get(word, 0) + count
    return whole


def _agree(act: str, matched: int, *, yes: bool) -> None:
    """Have a person say yes to an act on whatever matches.

    Raises:
        Stop: no, or nobody can be asked.
    """
    if yes:
        return
    what = f"{act} {counted(matched)}"
    if not sys.stdin.isatty():
        raise wrong(
            f"this would {what}: say --yes, since nobody can be asked. Nothing was changed."
        )
    say(f"This will {what}. Go on? [y/N]")
    if sys.stdin.readline().strip().lower() not in {"y", "yes"}:
        raise Stop("Nothing was changed.")


def _told(act: str, answer: Mapping[str, Any]) -> Iterator[str]:
    matched, counts = answer["matched"], answer["counts"]
    if answer["dry_run"]:
        yield f"{counted(matched)} would be {act}ed."
        return
    if not matched:
        yield "Nothing is parked or dead that matches. Nothing was changed."
        return
    for word, count in sorted(counts.items(), key=lambda item: -item[1]):
        said = _SAID.get(word, f"{word}, not parked or dead; nothing was changed")
        yield f"{counted(count)}: {said}."
    for id, word in answer["results"].items():
        if word not in _DONE:
            yield f"  {id}  {word}"


COMMANDS: Final = (
    Command(
        "replay",
        replay,
        "usage: eventflow replay ID... [options]\n       eventflow replay FILTERS [options]",
        "make parked or dead deliveries due now",
        """\
Make parked or dead deliveries due now, with their attempts counted from the start. Doing it twice
changes nothing. With filters it says how many are meant and asks first.

examples:
  eventflow replay 01930a52-7c1e-7d3b-9f00-1c2d3e4f5a6b.email
  eventflow replay --topic email --state dead --dry-run
  eventflow replay --fingerprint 5f3a9c01 --why "address book is fixed" --yes
""",
    ),
    Command(
        "discard",
        discard,
        "usage: eventflow discard ID... [options]\n       eventflow discard FILTERS [options]",
        "forget parked or dead deliveries",
        """\
Forget parked or dead deliveries: they can't be replayed any more. The audit trail keeps who did it
and why. With filters it says how many are meant and asks first.

examples:
  eventflow discard 01930a52-7c1e-7d3b-9f00-1c2d3e4f5a6b.email --why "test order"
  eventflow discard --topic email --cause "smtp 550" --dry-run
  eventflow discard --state dead --topic email --yes
""",
    ),
)
