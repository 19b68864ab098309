"""Bad disks under a real node: it says so, refuses what is new, and loses nothing it accepted."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import sys
import time
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from tests.ports import free_port

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]
ROOT = Path(__file__).parents[2]
SMALL_DISK_BYTES = 16 * 2**20
LEFT_BYTES = 4 * 2**20
"""Of the small disk, while it is filled.

What a journal's log holds has to fit into its file once more before the log can begin anew: so
much has to be free again, and what came meanwhile.
"""
BODY = "x" * 8_000
BATCH = 20


class Client:
    """Sends events, and knows which were accepted."""

    def __init__(self, session: aiohttp.ClientSession, port: int) -> None:
        self._session = session
        self._url = f"http://127.0.0.1:{port}"
        self._number = itertools.count()
        self.accepted: set[str] = set()

    async def send(self, kind: str = "ok") -> tuple[int, dict[str, Any]]:
        """Send a batch; return status and answer."""
        ids = [f"e{next(self._number)}" for _ in range(BATCH)]
        events = [
            {
                "specversion": "1.0",
                "id": id,
                "source": "/disk",
                "type": f"work.{kind}",
                "data": BODY,
            }
            for id in ids
        ]
        headers = {"content-type": "application/cloudevents-batch+json"}
        url = f"{self._url}/v1/events"
        async with self._session.post(url, json=events, headers=headers) as answer:
            if answer.status == 202:
                self.accepted |= set(ids)
            return answer.status, await answer.json(content_type=None)

    async def get(self, path: str) -> tuple[int, dict[str, Any]]:
        """Return status and answer of a GET."""
        async with self._session.get(f"{self._url}{path}") as answer:
            return answer.status, await answer.json(content_type=None)

    async def ready(self, process: asyncio.subprocess.Process) -> None:
        """Wait until the node is ready."""
        for _ in range(600):
            with suppress(aiohttp.ClientError):
                if (await self.get("/readyz"))[0] == 200:
                    return
            assert process.returncode is None, f"the node ended with {process.returncode}"
            await asyncio.sleep(0.05)
        pytest.fail("the node was not ready within 30 s")

    async def until_still(self) -> dict[str, Any]:
        """Wait until nothing waits any more; return the stats."""
        shown: dict[str, Any] = {}
        for _ in range(600):
            status, shown = await self.get("/v1/stats")
            moving = ("queued", "running", "retrying", "parked")
            if status == 200 and not any(
                topic[state] for topic in shown["topics"].values() for state in moving
            ):
                return shown
            await asyncio.sleep(0.1)
        pytest.fail(f"after 60 s something still waits: {shown}")


@asynccontextmanager
async def process(*command: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run a command, and end it by its own pid if it has not ended."""
    started = await asyncio.create_subprocess_exec(*command, cwd=ROOT, start_new_session=True)
    try:
        yield started
    finally:
        if started.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(started.pid, signal.SIGKILL)
            await started.wait()


def fill(path: str) -> None:
    """Leave little of the disk."""
    Path(path).write_bytes(bytes(SMALL_DISK_BYTES - LEFT_BYTES))


def free(path: str) -> None:
    """Give it back."""
    Path(path).unlink()


async def within(seconds: float, holds: Callable[[], Awaitable[bool]], what: str) -> None:
    """Wait until something holds."""
    until = time.monotonic() + seconds
    while not await holds():
        assert time.monotonic() < until, f"not within {seconds:g} s: {what}"
        await asyncio.sleep(0.05)


def delivered(runs: Path) -> set[str]:
    """Return what handlers have noted."""
    return set(runs.read_text().split())


def test_a_sync_that_fails_ends_the_node_and_loses_nothing(tmp_path: Path) -> None:
    runs, flag, port = tmp_path / "runs", tmp_path / "flag", free_port()
    app = (sys.executable, "-m", "tests.crash.disk_app")
    command = (*app, str(tmp_path / "journal.db"), str(runs), str(port), str(flag))

    async def story() -> None:
        async with aiohttp.ClientSession() as session:
            client = Client(session, port)
            async with process(*command) as node:
                await client.ready(node)
                for _ in range(5):
                    assert (await client.send("slow"))[0] == 202
                flag.touch()
                status, problem = await client.send()
                assert status == 503
                assert "the journal's file failed" in problem["detail"]
                assert await asyncio.wait_for(node.wait(), 20) == 1
            flag.unlink()
            async with process(*command) as node:
                await client.ready(node)
                shown = await client.until_still()
                assert shown["unaccounted"] == 0
                assert client.accepted <= delivered(runs)
                assert (await client.send())[0] == 202
                node.terminate()
                assert await node.wait() == 0

    asyncio.run(story())


def test_a_full_disk_refuses_and_goes_on_when_there_is_room(tmp_path: Path) -> None:
    disk, runs, port = tmp_path / "disk", tmp_path / "runs", free_port()
    disk.mkdir()
    app = (sys.executable, str(ROOT / "tests/crash/kill_app.py"))
    command = (*app, str(disk / "journal.db"), str(runs), str(port))
    mount = f"mount -t tmpfs -o size={SMALL_DISK_BYTES} none '{disk}' && exec \"$@\""
    alone = ("unshare", "--mount", *(() if os.geteuid() == 0 else ("--map-root-user",)))

    async def story() -> None:
        async with (
            aiohttp.ClientSession() as session,
            process(*alone, "sh", "-c", mount, "sh", *command) as node,
        ):
            client = Client(session, port)
            await client.ready(node)
            # The node's own view of its small disk, which only it has mounted.
            ballast = f"/proc/{node.pid}/root{disk}/ballast"
            fill(ballast)
            for _ in range(200):
                status, problem = await client.send("slow")
                if status == 503:
                    break
            else:
                pytest.fail("the disk was never full")
            assert "the disk is full" in problem["detail"]
            status, problem = await client.get("/readyz")
            assert status == 503
            assert "the disk is full" in problem["detail"]
            free(ballast)

            async def ready() -> bool:
                return (await client.get("/readyz"))[0] == 200

            async def accepts() -> bool:
                return (await client.send())[0] == 202

            await within(20, accepts, "events are accepted again")
            await within(20, ready, "the node is ready again")
            shown = await client.until_still()
            assert shown["unaccounted"] == 0
            assert client.accepted <= delivered(runs)
            node.terminate()
            assert await node.wait() == 0

    asyncio.run(story())
