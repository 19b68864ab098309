"""Two nodes on one NATS server, each stopped and started again under load: nobody notices."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from tests.app.jetstream_nodes import config
from tests.engine.jetstream_server import running
from tests.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.engine.jetstream_server import Server

    Proof = Callable[..., None]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]  # a server, two processes, real time

APP = Path(__file__).with_name("jetstream_app.py")
PER_S = 60
LATE_S = 5.0
"""Far less than the lease of 30 s; where nothing else runs it is half a second."""


class Process:
    """A node's process."""

    def __init__(self, server: Server, folder: Path, name: str, runs: Path) -> None:
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self.config = config(server, folder, name, server__port=str(port), log__level='"warning"')
        self._runs = runs
        self._process: asyncio.subprocess.Process | None = None

    async def start(self, session: aiohttp.ClientSession) -> None:
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, str(APP), str(self.config), str(self._runs)
        )
        for _ in range(600):
            with suppress(aiohttp.ClientError):
                async with session.get(f"{self.url}/readyz") as answer:
                    if answer.status == 200:
                        return
            assert self._process.returncode is None, "the node ended"
            await asyncio.sleep(0.05)
        pytest.fail("the node was not ready within 30 s")

    async def stop(self) -> int:
        assert self._process is not None
        if self._process.returncode is None:
            self._process.send_signal(signal.SIGTERM)
        return await self._process.wait()


class Load:
    """Sends an event at a time, to whichever node takes it."""

    def __init__(self, session: aiohttp.ClientSession, nodes: list[Process]) -> None:
        self._session = session
        self._nodes = nodes
        self.accepted: dict[str, float] = {}
        """When each was answered 202."""
        self.over = asyncio.Event()

    async def run(self) -> None:
        number = 0
        async with asyncio.TaskGroup() as sending:
            while not self.over.is_set():
                number += 1
                sending.create_task(self._send(number))
                await asyncio.sleep(1 / PER_S)

    async def _send(self, number: int) -> None:
        event: dict[str, Any] = {
            "specversion": "1.0",
            "id": f"e{number}",
            "source": "/shop",
            "type": "user.registered",
            "data": {"takes_s": 0.3 if number % 10 == 0 else 0.01},
        }
        headers = {"content-type": "application/cloudevents+json"}
        for turn in range(200):
            url = self._nodes[(number + turn) % len(self._nodes)].url
            with suppress(aiohttp.ClientError):
                body = json.dumps(event)
                async with self._session.post(
                    f"{url}/v1/events", data=body, headers=headers
                ) as answer:
                    if answer.status == 202:
                        self.accepted[event["id"]] = time.time()
                        return
            await asyncio.sleep(0.05)
        pytest.fail("nobody took an event for 10 s")


async def stats(session: aiohttp.ClientSession, node: Process) -> dict[str, Any]:
    async with session.get(f"{node.url}/v1/stats") as answer:
        told: dict[str, Any] = await answer.json()
        return told


async def test_a_rolling_restart_leaves_no_hole(tmp_path: Path, proof: Proof) -> None:
    runs = tmp_path / "runs"
    with running(tmp_path) as server:
        nodes = [Process(server, tmp_path, name, runs) for name in ("n1", "n2")]
        async with aiohttp.ClientSession() as session:
            load = Load(session, nodes)
            told: dict[str, Any] = {}
            try:
                for node in nodes:
                    await node.start(session)
                loading = asyncio.create_task(load.run())
                for node in nodes:
                    await asyncio.sleep(2)
                    assert await node.stop() == 0
                    await asyncio.sleep(1)
                    await node.start(session)
                await asyncio.sleep(2)
                load.over.set()
                await loading
                for _ in range(600):
                    told = await stats(session, nodes[0])
                    lines = told["topics"].values()
                    assert all(abs(line["unaccounted"]) <= told["moving"] for line in lines), told
                    delivered = told["topics"]["mail"]["delivered"] == len(load.accepted)
                    if delivered and not told["moving"]:
                        break
                    await asyncio.sleep(0.1)
            finally:
                statuses = [await node.stop() for node in nodes if node._process]  # noqa: SLF001  # ours
    starts = [json.loads(line) for line in runs.read_text().splitlines()]
    ran = Counter(start["id"] for start in starts)
    late_s = sorted(start["at"] - load.accepted[start["id"]] for start in starts)

    assert statuses == [0, 0]
    assert load.accepted.keys() == ran.keys()
    assert ran.total() == len(ran), "what a node that was drained has run is run again"
    assert late_s[-1] < LATE_S
    assert told["topics"]["mail"]["delivered"] == told["accepted"] == len(load.accepted)
    assert (told["moving"], told["unaccounted"]) == (0, 0)
    proof("rolling-restart", events=len(ran), late_max_s=round(late_s[-1], 3))
