"""EventFlow nodes as a user runs them: `eventflow serve FILE`, each in a process of its own."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
from tests.ports import lasting_port

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

EVENTFLOW = str(Path(sys.executable).parent / "eventflow")
ROOT = Path(__file__).parents[2]
READY_S = 45.0
"""How long a node may take to be ready while the servers are well."""
AGAIN_S = 1.0
"""How soon one that has ended by itself is started again."""
DRAIN_S = 20
"""As by default."""
COMMON_CAPACITY = 2_000

_CONFIG = """\
[engine]
url = {servers}
monitor = {monitor}
node = {name}
{more}

[storage]
url = {storage}

[server]
port = {port}
drain = "{drain_s}s"

[log]
level = "warning"

[common]
capacity = {common}

[topics.work]
match = "work.*"
handler = "tests.cluster.handlers:work"
capacity = 500
concurrency = 8
retry = {{ max_attempts = 2, base = "50ms", max = "500ms", capacity = 500, max_overflows = 3 }}
recovery = {{ after = "2s", rate = "1000/s", max_rounds = 50 }}

[topics.copy]
match = "work.both"
handler = "tests.cluster.handlers:copy"
capacity = 40
concurrency = 4
retry = {{ base = "50ms", max = "500ms", capacity = 80, max_overflows = 2 }}
recovery = {{ after = "2s", rate = "1000/s", max_rounds = 50 }}
"""
TOPICS = {"work.both": ("work", "copy")}
"""Where events of a type go; all others to `work` alone."""


class Node:
    """One node, the same in its next life."""

    def __init__(self, name: str, folder: Path, history: Path) -> None:
        self.name = name
        self.url = f"http://127.0.0.1:{(port := lasting_port())}"
        self._port = port
        self._config = folder / f"{name}.toml"
        self._log = folder / f"{name}.log"
        self._environment = os.environ | {
            "CLUSTER_NODE": name,
            "CLUSTER_HISTORY": str(history),
        }
        self._process: asyncio.subprocess.Process | None = None
        self._wanted = False

    def configure(self, servers: str, monitor: str, storage: str, more: str = "") -> None:
        """Write its file."""
        told = {"servers": servers, "monitor": monitor, "name": self.name, "storage": storage}
        self._config.write_text(
            _CONFIG.format(
                **{key: json.dumps(value) for key, value in told.items()},
                more=more,
                port=self._port,
                drain_s=DRAIN_S,
                common=COMMON_CAPACITY,
            )
        )

    async def start(self) -> None:
        """Start it, without waiting."""
        self._wanted = True
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *(EVENTFLOW, "serve", str(self._config)),
                cwd=ROOT,
                env=self._environment,
                stdout=log,
                stderr=log,
            )

    async def keep(self) -> None:
        """Start it again where it has ended by itself, as its supervisor would.

        One that comes back while PostgreSQL is gone ends, for instance, and says why.
        """
        while True:
            await asyncio.sleep(AGAIN_S)
            if self._wanted and not self.runs:
                await self.start()

    @property
    def runs(self) -> bool:
        """Whether there is a process."""
        return self._process is not None and self._process.returncode is None

    async def until_ready(self, session: aiohttp.ClientSession) -> None:
        """Wait until it is ready.

        Raises:
            RuntimeError: it did not get there in time; with what it logged.
        """
        give_up_at = time.monotonic() + READY_S
        while not await self.is_ready(session):
            if time.monotonic() > give_up_at:
                raise RuntimeError(f"{self.name} is not ready after {READY_S:g} s:\n{self.said()}")
            await asyncio.sleep(0.2)

    async def is_ready(self, session: aiohttp.ClientSession) -> bool:
        """Return whether it says so."""
        with suppress(aiohttp.ClientError, TimeoutError):
            async with session.get(f"{self.url}/readyz") as answer:
                return answer.status == 200
        return False

    async def stats(self, session: aiohttp.ClientSession) -> dict[str, Any] | None:
        """Return its `/v1/stats`; None where it does not answer."""
        with suppress(aiohttp.ClientError, TimeoutError):
            async with session.get(f"{self.url}/v1/stats") as answer:
                if answer.status == 200:
                    told: dict[str, Any] = await answer.json()
                    return told
        return None

    async def dead(self, session: aiohttp.ClientSession) -> AsyncIterator[tuple[str, str]]:
        """Yield event id and topic of all that it shows as dead."""
        cursor = ""
        while True:
            url = f"{self.url}/v1/deliveries?state=dead&limit=500{cursor}"
            async with session.get(url) as answer:
                answer.raise_for_status()
                page = await answer.json()
            for item in page["deliveries"]:
                yield item["event"]["id"], item["topic"]
            if not page.get("cursor"):
                return
            cursor = f"&cursor={page['cursor']}"

    async def end(self, how: signal.Signals) -> int:
        """Send it a signal that ends it; return its exit status."""
        self._wanted = False
        if self._process is None:
            return 0
        self._signal(how)
        return await self._process.wait()

    def stop(self) -> None:
        """Let it stand still."""
        self._signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """Let it run again."""
        self._signal(signal.SIGCONT)

    def _signal(self, which: signal.Signals) -> None:
        with suppress(ProcessLookupError):  # it has ended by itself
            if self._process is not None:
                self._process.send_signal(which)

    def said(self) -> str:
        """Return the end of its log."""
        return self._log.read_text()[-3_000:] if self._log.exists() else ""


@asynccontextmanager
async def running(
    nodes: Sequence[Node], session: aiohttp.ClientSession
) -> AsyncIterator[Sequence[Node]]:
    """Run nodes until all are ready; ended on leaving."""
    keeping = [asyncio.create_task(node.keep()) for node in nodes]
    try:
        for node in nodes:
            await node.start()
        await asyncio.gather(*(node.until_ready(session) for node in nodes))
        yield nodes
    finally:
        for task in keeping:
            task.cancel()
        await asyncio.wait(keeping)
        for node in nodes:
            await node.end(signal.SIGKILL)
