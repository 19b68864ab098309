"""kill -9 of a node under HTTP load: what was answered 202 is delivered, or dead and shown."""

from __future__ import annotations

import asyncio
import itertools
import random
import signal
import sys
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from tests.crash.kill_app import CONCURRENCY
from tests.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Callable

HERE = Path(__file__).parent
BATCH = 40
ACCEPTED_BETWEEN_KILLS = 500
UNSETTLED_BATCH = 500
STATES = ("common", "queued", "running", "retrying", "parked", "dead")
KINDS = ("ok",) * 6 + ("slow",) * 30 + ("shaky",) * 3 + ("broken",)


class Node:
    """The node's process, started again after each kill."""

    def __init__(self, folder: Path) -> None:
        self.runs = folder / "runs"
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self.runs.touch()
        self._command = (
            *(sys.executable, str(HERE / "kill_app.py")),
            *(str(folder / "journal.db"), str(self.runs), str(port)),
        )
        self._process: asyncio.subprocess.Process | None = None

    async def start(self, session: aiohttp.ClientSession) -> None:
        self._process = await asyncio.create_subprocess_exec(*self._command)
        for _ in range(600):
            with suppress(aiohttp.ClientError):
                async with session.get(f"{self.url}/readyz") as answer:
                    if answer.status == 200:
                        return
            if self._process.returncode is not None:
                pytest.fail(f"the node ended with status {self._process.returncode}")
            await asyncio.sleep(0.05)
        pytest.fail("the node was not ready within 30 s")

    async def end(self, how: signal.Signals) -> int:
        assert self._process is not None
        self._process.send_signal(how)
        return await self._process.wait()


class Load:
    """Sends batches until told to stop; knows what was answered 202."""

    def __init__(self, session: aiohttp.ClientSession, url: str, chance: random.Random) -> None:
        self._session = session
        self._url = url
        self._chance = chance
        self._number = itertools.count()
        self.accepted: dict[str, str] = {}
        """Kind by event id."""
        self.refused = 0

    async def send(self) -> None:
        batch = {f"e{next(self._number)}": self._chance.choice(KINDS) for _ in range(BATCH)}
        events = [
            {
                "specversion": "1.0",
                "id": id,
                "source": "/kill",
                "type": f"work.{kind}",
                "data": {"id": id},
            }
            for id, kind in batch.items()
        ]
        headers = {"content-type": "application/cloudevents-batch+json"}
        try:
            async with self._session.post(
                f"{self._url}/v1/events", json=events, headers=headers
            ) as answer:
                await answer.read()
                if answer.status == 202:
                    self.accepted |= batch
                    return
                self.refused += 1
        except aiohttp.ClientError:
            self.refused += 1  # no answer: accepted or not, nobody was told
        await asyncio.sleep(0.01)


async def stats(session: aiohttp.ClientSession, url: str) -> dict[str, Any]:
    async with session.get(f"{url}/v1/stats") as answer:
        found: dict[str, Any] = await answer.json()
        return found


def filled(shown: dict[str, Any]) -> set[str]:
    """Return the states that hold something."""
    work = shown["topics"]["work"]
    states = {state for state in STATES[1:] if work[state]}
    common = shown["topics"]["common"]
    return states | ({"common"} if common["queued"] + common["running"] else set())


async def until_killable(
    load: Load, senders: int, session: aiohttp.ClientSession, node: Node, goal: int
) -> set[str]:
    """Send until enough was accepted; return which states were filled when the last was sent."""
    while len(load.accepted) < goal:
        await asyncio.gather(*(load.send() for _ in range(senders)))
    burst = asyncio.gather(*(load.send() for _ in range(2 * senders)))
    await asyncio.sleep(0.005)
    states = filled(await stats(session, node.url))
    await node.end(signal.SIGKILL)
    await burst
    return states


async def until_still(session: aiohttp.ClientSession, node: Node) -> dict[str, Any]:
    shown: dict[str, Any] = {}
    for _ in range(6_000):
        shown = await stats(session, node.url)
        moving = ("queued", "running", "retrying", "parked")
        if not any(topic[state] for topic in shown["topics"].values() for state in moving):
            return shown
        await asyncio.sleep(0.1)
    pytest.fail(f"after 600 s something still waits: {shown}")


async def dead_ids(session: aiohttp.ClientSession, node: Node) -> set[str]:
    found: set[str] = set()
    cursor = ""
    while True:
        url = f"{node.url}/v1/deliveries?state=dead&limit=500{cursor}"
        async with session.get(url) as answer:
            page = await answer.json()
        found |= {item["event"]["id"] for item in page["deliveries"]}
        if not page.get("cursor"):
            return found
        cursor = f"&cursor={page['cursor']}"


async def story(kills: int, folder: Path, seed: int) -> dict[str, Any]:
    chance = random.Random(seed)
    node = Node(folder)
    seen: Counter[str] = Counter()
    async with aiohttp.ClientSession() as session:
        load = Load(session, node.url, chance)
        await node.start(session)
        for _ in range(kills):
            goal = len(load.accepted) + ACCEPTED_BETWEEN_KILLS + chance.randrange(200)
            seen.update(await until_killable(load, 4, session, node, goal))
            await node.start(session)
        shown = await until_still(session, node)
        dead = await dead_ids(session, node)
        assert await node.end(signal.SIGTERM) == 0
    runs = Counter(node.runs.read_text().split())
    lost = [
        id
        for id, kind in load.accepted.items()
        if (id not in dead if kind == "broken" else id not in runs)
    ]
    return {
        "kills": kills,
        "accepted": len(load.accepted),
        "lost": len(lost),
        "repeats": sum(runs.values()) - len(runs),
        "repeats_allowed": kills * (CONCURRENCY + UNSETTLED_BATCH),
        "unaccounted": shown["unaccounted"],
        "states_filled_at_kills": dict(seen),
    }


def hold_against_the_bar(figures: dict[str, Any], each_state: int) -> None:
    assert figures["lost"] == 0
    assert figures["unaccounted"] == 0
    assert figures["repeats"] <= figures["repeats_allowed"]
    assert figures["accepted"] >= figures["kills"] * ACCEPTED_BETWEEN_KILLS
    for state in STATES:
        assert figures["states_filled_at_kills"].get(state, 0) >= each_state, figures


@pytest.mark.timeout(120)
def test_two_kills_lose_nothing(tmp_path: Path, seed: int) -> None:
    hold_against_the_bar(asyncio.run(story(2, tmp_path, seed)), each_state=0)


@pytest.mark.prove
@pytest.mark.timeout(1_800)
def test_a_hundred_kills_lose_nothing(
    tmp_path: Path, seed: int, proof: Callable[..., dict[str, Any]]
) -> None:
    """Every state holds something at three kills or more."""
    figures = asyncio.run(story(100, tmp_path, seed))
    proof("kill", **figures)
    hold_against_the_bar(figures, each_state=3)
