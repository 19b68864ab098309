"""A real node under load is configured otherwise: nothing is lost, nothing is run twice."""

from __future__ import annotations

import asyncio
import itertools
import signal
from collections import Counter
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from tests.e2e.test_signed_door import Node
from tests.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.slow
CHANGES = 12
HANDLERS = """
import asyncio, os
from eventflow import Event

runs = os.open(os.environ["RUNS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)


async def work(event: Event) -> None:
    await asyncio.sleep(0.002)
    os.write(runs, f"{event.id}\\n".encode())
"""


def write(path: Path, folder: Path, port: int, topics: dict[str, int], more: str = "") -> None:
    """Write the configuration: topics with their concurrency."""
    text = f'[engine]\nurl = "sqlite:{folder}/e.db"\n[server]\nport = {port}\n'
    text += '[log]\nlevel = "error"\n[common]\ncapacity = 200_000\n'
    for name, concurrency in topics.items():
        text += f'[topics.{name}]\nmatch = "{name}.*"\nhandler = "live_app:work"\n'
        text += f"capacity = 100_000\nconcurrency = {concurrency}\n"
    path.write_text(text + more)


async def load(session: aiohttp.ClientSession, stop: asyncio.Event, sent: set[str]) -> None:
    """Send batches until told to stop; note what was accepted."""
    numbers = itertools.count()
    headers = {"content-type": "application/cloudevents-batch+json"}
    while not stop.is_set():
        batch = [f"e{next(numbers)}" for _ in range(20)]
        events = [
            {"specversion": "1.0", "id": id, "source": "/live", "type": "work.x"} for id in batch
        ]
        async with session.post("/v1/events", json=events, headers=headers) as answer:
            assert answer.status == 202, await answer.text()
            sent.update(batch)
        await asyncio.sleep(0.002)


async def until_empty(session: aiohttp.ClientSession) -> dict[str, Any]:
    shown: dict[str, Any] = {}
    for _ in range(600):
        async with session.get("/v1/stats") as answer:
            shown = await answer.json()
        lines = shown["topics"].values()
        if not any(line[state] for line in lines for state in ("queued", "running", "retrying")):
            return shown
        await asyncio.sleep(0.1)
    pytest.fail(f"after 60 s something still waits: {shown}")


@pytest.mark.timeout(120)
def test_signals_and_patches_under_load(  # noqa: PLR0915  # one long story
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, proof: Callable[..., dict[str, Any]]
) -> None:
    runs, config, port = tmp_path / "runs", tmp_path / "eventflow.toml", free_port()
    (tmp_path / "live_app.py").write_text(HANDLERS)
    monkeypatch.setenv("RUNS", str(runs))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    write(config, tmp_path, port, {"work": 4})
    node = Node(config, port)
    sent: set[str] = set()

    async def patched(session: aiohttp.ClientSession, concurrency: int) -> None:
        body = {"concurrency": concurrency, "timeout": f"{10 + concurrency}s", "why": "a test"}
        async with session.patch("/v1/topics/work", json=body) as answer:
            assert answer.status == 200, await answer.text()

    async def concurrency(session: aiohttp.ClientSession) -> int:
        async with session.get("/v1/topics") as answer:
            topics = {one["name"]: one for one in (await answer.json())["topics"]}
        return int(topics["work"]["concurrency"])

    async def story() -> dict[str, Any]:
        async with aiohttp.ClientSession(node.url) as session:
            await node.start(session)
            assert node.process is not None
            stop = asyncio.Event()
            loading = asyncio.create_task(load(session, stop, sent))
            for nth in range(CHANGES):
                match nth % 4:
                    case 0:
                        write(config, tmp_path, port, {"work": 1 + nth, "other": 2})
                        node.process.send_signal(signal.SIGHUP)
                    case 1:
                        await patched(session, 2 + nth)
                        assert await concurrency(session) == 2 + nth
                    case 2:
                        write(config, tmp_path, port, {"work": 50}, "[topics.bad]\nmatch = 1\n")
                        node.process.send_signal(signal.SIGHUP)
                    case _:
                        url = "/v1/topics/work/overrides"
                        async with session.delete(url) as answer:
                            assert answer.status == 200, await answer.text()
                await asyncio.sleep(0.25)
            write(config, tmp_path, port, {"work": 6})
            node.process.send_signal(signal.SIGHUP)
            stop.set()
            await loading
            stats = await until_empty(session)
            assert await concurrency(session) == 6
            assert await node.end(signal.SIGTERM) == 0
            return stats

    async def whole() -> dict[str, Any]:
        try:
            return await story()
        finally:
            await node.end(signal.SIGKILL)

    stats = asyncio.run(whole())
    ran = Counter(runs.read_text().split())
    assert stats["unaccounted"] == 0
    assert set(ran) == sent
    assert set(ran.values()) == {1}
    proof("live-settings", changes=CHANGES, events=len(sent), lost=0, run_twice=0)
