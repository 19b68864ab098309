"""kill -9 at every step between accept and settle, and at the steps of coming back."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from tests.crash.sweep_app import EVENTS, KINDS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

ROOT = Path(__file__).parents[2]
ENDS_S = 60.0


class Kill(NamedTuple):
    """Where a process is to die."""

    what: str
    """"work", or "end": while it comes back and finishes."""
    where: str
    nth: int


class Seen(NamedTuple):
    """What one kill did."""

    kill: Kill
    reached: bool
    acknowledged: int
    lost: list[str]
    repeats: int
    waiting: int
    unaccounted: int
    audit_ok: bool


def made(folder: Path) -> Path:
    """Return a folder that is there."""
    folder.mkdir(exist_ok=True)
    return folder


async def app(folder: Path, what: str, *kill: str) -> dict[str, Any] | None:
    """Run a process; return what it printed, or None if it was killed."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.crash.sweep_app", str(made(folder)), what, *kill),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        printed, _ = await asyncio.wait_for(process.communicate(), ENDS_S)
    except TimeoutError:
        process.kill()
        await process.wait()
        raise AssertionError(f"{what} {kill} did not end within {ENDS_S:g} s") from None
    if process.returncode == -signal.SIGKILL:
        return None
    assert process.returncode == 0, (what, kill, process.returncode)
    answer: dict[str, Any] = json.loads(printed)
    return answer


async def places(folder: Path, chance: random.Random) -> list[Kill]:
    """Return every failpoint that a run in order passes, each with which passing to die at."""
    found: list[Kill] = []
    for what in ("work", "end"):
        answer = await app(folder, what)
        assert answer is not None
        # What a run passes it passes about as often the next time, not exactly.
        found += [
            Kill(what, where, chance.randint(1, max(1, passed // 2)))
            for where, passed in answer["passed"].items()
        ]
    return found


async def die(folder: Path, kill: Kill) -> Seen:
    """Die there, come back, and tell what became of all that was acknowledged."""
    if kill.what == "work":
        killed = await app(folder, "work", kill.where, str(kill.nth)) is None
    else:
        await app(folder, "work", "after eventflow.flow.settler:Settler._settle", "40")
        killed = await app(folder, "end", kill.where, str(kill.nth)) is None
    answer = await app(folder, "end")
    assert answer is not None
    acked = dict(line.split() for line in (folder / "acked").read_text().splitlines())
    runs = Counter((folder / "runs").read_text().splitlines())
    lost = [
        id
        for id, kind in acked.items()
        if (id not in answer["dead"] if kind == "work.broken" else not runs[f"work {id}"])
        or (kind == "work.both" and not runs[f"copy {id}"])
    ]
    return Seen(
        kill,
        killed,
        len(acked),
        lost,
        sum(runs.values()) - len(runs),
        answer["waiting"],
        answer["unaccounted"],
        answer["audit_ok"],
    )


async def sweep(folder: Path, kills: Sequence[Kill]) -> list[Seen]:
    """Die at each of them, two processes at a time."""
    room = asyncio.Semaphore(os.cpu_count() or 1)

    async def one(nth: int, kill: Kill) -> Seen:
        async with room:
            return await die(folder / f"{nth}", kill)

    return await asyncio.gather(*(one(nth, kill) for nth, kill in enumerate(kills)))


def hold(seen: Sequence[Seen]) -> dict[str, Any]:
    """Hold every kill against the bar, and return the figures."""
    for one in seen:
        assert not one.lost, one
        assert one.waiting == one.unaccounted == 0, one
        assert one.audit_ok, one
    reached = [one for one in seen if one.reached]
    # Where a run takes another way than the one that was counted, nobody died.
    assert len(reached) >= 0.9 * len(seen), [one.kill for one in seen if not one.reached]
    return {
        "failpoints": len({(one.kill.what, one.kill.where) for one in seen}),
        "kills": len(reached),
        "acknowledged": sum(one.acknowledged for one in seen),
        "lost": sum(len(one.lost) for one in seen),
        "repeats": sum(one.repeats for one in seen),
        "unaccounted": sum(one.unaccounted for one in seen),
    }


def test_the_work_has_every_kind_of_event() -> None:
    """Else some steps would never be taken."""
    assert 10 * len(KINDS) <= EVENTS


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_some_failpoints_lose_nothing(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    kills = chance.sample(asyncio.run(places(tmp_path / "in-order", chance)), 12)
    hold(asyncio.run(sweep(tmp_path, kills)))


@pytest.mark.prove
@pytest.mark.timeout(3_000)
def test_every_failpoint_loses_nothing(
    tmp_path: Path, seed: int, proof: Callable[..., dict[str, Any]]
) -> None:
    kills = asyncio.run(places(tmp_path / "in-order", random.Random(seed)))
    figures = hold(asyncio.run(sweep(tmp_path, kills)))
    proof("failpoints", **figures)
    assert figures["failpoints"] >= 200
