"""Several nodes on one NATS server: each with a file and a storage of its own."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from typing import TYPE_CHECKING, Any

from eventflow import Event, EventFlow

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.engine.jetstream_server import Server

SOON_S = 30.0


def config(server: Server, folder: Path, name: str, **more: str) -> Path:
    """Write the file of a node.

    Args:
        server: Where its queues are.
        folder: For its file and its storage.
        name: Of the node.
        **more: Further settings as in TOML, `__` for the dot.
    """
    lines = [
        f"engine.url = {json.dumps(server.url)}",
        f"engine.node = {json.dumps(name)}",
        f'storage.url = "sqlite:{folder / name}.db"',
        *(f"{key.replace('__', '.')} = {value}" for key, value in more.items()),
    ]
    file = folder / f"{name}.toml"
    file.write_text("\n".join(lines))
    return file


def node(server: Server, folder: Path, name: str, **more: str) -> tuple[EventFlow, Counter[str]]:
    """Return a node, not started, and what its topic `mail` has delivered; see `config`."""
    flow = EventFlow(config(server, folder, name, **more))
    ran: Counter[str] = Counter()

    @flow.topic("mail", match="user.*", concurrency=4)
    async def mail(event: Event) -> None:
        ran[event.id] += 1

    return flow, ran


def registered(id: str) -> Event:
    return Event(type="user.registered", source="/shop", id=id, data={})


async def until(true: Callable[[], Any], within_s: float = SOON_S) -> None:
    """Wait until something is true.

    Raises:
        AssertionError: it was not, for too long.
    """
    loop = asyncio.get_running_loop()
    give_up_at = loop.time() + within_s
    while not true():
        assert loop.time() < give_up_at, "it did not come true in time"
        await asyncio.sleep(0.05)


async def ledger(flow: EventFlow, delivered: int) -> dict[str, Any]:
    """Return the ledger as one node shows it, once so many are delivered and all is still."""
    loop = asyncio.get_running_loop()
    give_up_at = loop.time() + SOON_S
    while True:
        stats = dict(await flow.door.stats())
        done = stats["topics"]["mail"]["delivered"] >= delivered and not stats["unaccounted"]
        if done or loop.time() > give_up_at:
            return stats
        await asyncio.sleep(0.1)
