"""What an operator tells one node of several holds on all of them, and is audited once."""

from __future__ import annotations

import asyncio
import random
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from tests.app.jetstream_nodes import ledger, node, registered, until
from tests.engine.jetstream_server import Server, ask, connected

from eventflow.clock import SystemClock
from eventflow.engine.jetstream.operators import Operators
from eventflow.engine.jetstream.wire import Wire
from eventflow.errors import ChangedMeanwhile, StorageUnavailable
from eventflow.storage.protocol import Actor
from eventflow.storage.sqlite import SqliteStorage, open_storage

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping
    from pathlib import Path

    from eventflow import EventFlow

pytestmark = [pytest.mark.slow, pytest.mark.timeout(90)]  # a real server, and its real time

SOON_S = 20.0
"""Every second a node looks what others were told; the rest is for a busy machine."""
ANN = Actor("ann", "the provider is down")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path)
    server.start()
    yield server
    server.kill()


@asynccontextmanager
async def started(*flows: EventFlow) -> AsyncIterator[None]:
    try:
        for flow in flows:
            await flow.start()
        yield
    finally:
        for flow in flows:
            await flow.stop(0.0)


async def rows(*flows: EventFlow) -> int:
    """Return how many rows the trails of these nodes have, together."""
    heads = [head for flow in flows for head in await flow.door.heads()]
    return sum(int(head.split(":")[1]) for head in heads)


async def shown(flow: EventFlow) -> Mapping[str, Any]:
    return next(one for one in await flow.door.topics() if one["name"] == "mail")


async def test_a_pause_holds_on_all_nodes_and_over_restarts(server: Server, tmp_path: Path) -> None:
    first, by_first = node(server, tmp_path, "n1")
    second, by_second = node(server, tmp_path, "n2")
    async with started(first, second):
        before = await rows(first, second)
        await first.door.pause("mail", ANN)
        await until(lambda: second.flow.topics["mail"].paused, SOON_S)
        for n in range(6):
            await (first, second)[n % 2].publish(registered(f"e{n}"))
        await until(lambda: first.flow.tools.engine.depth("mail").queued == 6, SOON_S)
        assert await rows(first, second) == before + 1
    third, by_third = node(server, tmp_path, "n3")  # with an empty storage of its own
    again, by_again = node(server, tmp_path, "n2")
    async with started(third, again):
        assert third.flow.topics["mail"].paused
        assert again.flow.topics["mail"].paused
        await third.door.resume("mail", ANN)
        await until(lambda: not again.flow.topics["mail"].paused, SOON_S)
        assert (await ledger(again, 6))["topics"]["mail"]["delivered"] == 6

    assert by_first.total() + by_second.total() == 0
    assert by_third.total() + by_again.total() == 6


async def test_an_override_holds_on_all_nodes_until_it_is_taken_back(
    server: Server, tmp_path: Path
) -> None:
    first, _ = node(server, tmp_path, "n1")
    second, _ = node(server, tmp_path, "n2")
    async with started(first, second):
        before = await rows(first, second)
        await first.door.override("mail", {"concurrency": 1, "capacity": 7}, ANN)
        await until(lambda: second.flow.topics["mail"].concurrency == 1, SOON_S)
        assert (await shown(second))["overrides"]["set"]["by"] == "ann"
        assert second.settings.topics[0].capacity == 7
        await second.door.override("mail", {"capacity": 8}, ANN)
        await until(lambda: first.flow.topics["mail"].capacity == 8, SOON_S)
        assert first.flow.topics["mail"].concurrency == 1
        await second.door.drop_overrides("mail", ANN)
        await until(lambda: first.flow.topics["mail"].concurrency == 4, SOON_S)
        assert (await shown(first))["overrides"] == {}
        assert await rows(first, second) == before + 3
    again, _ = node(server, tmp_path, "n1")  # its storage still has what was taken back elsewhere
    async with started(again):
        assert again.settings.topics[0].concurrency == 4


async def test_what_storage_has_of_before_counts_until_somebody_says_otherwise(
    server: Server, tmp_path: Path
) -> None:
    storage = await open_storage(str(tmp_path / "n1.db"), clock=SystemClock(), chain="n1")
    await storage.override("mail", {"paused": True}, ANN)
    await storage.close()
    first, _ = node(server, tmp_path, "n1")
    async with started(first):
        assert first.flow.topics["mail"].paused
        second, _ = node(server, tmp_path, "n2")
        async with started(second):
            assert second.flow.topics["mail"].paused
            await second.door.resume("mail", ANN)
    again, _ = node(server, tmp_path, "n1")
    async with started(again):
        assert not again.flow.topics["mail"].paused


class Refusing(SqliteStorage):
    """Takes no override while `down`."""

    down = False

    async def override(self, *args: Any) -> None:
        if self.down:
            raise StorageUnavailable("a test has switched it off")
        await super().override(*args)


@asynccontextmanager
async def operators(server: Server, *names: str) -> AsyncIterator[list[Operators]]:
    """Yield what operators of several nodes have set, as each of them has read it."""
    made: list[tuple[Operators, Wire, Refusing]] = []
    async with connected(server) as client:
        stream = {"name": "EF_OPERATORS", "subjects": ["ef.set.>"], "allow_direct": True}
        await ask(client, "STREAM.CREATE.EF_OPERATORS", **stream, max_msgs_per_subject=1)
    for name in names:
        wire = await Wire.connect(server.url)
        storage = await open_storage(":memory:", clock=SystemClock(), chain=name, kind=Refusing)
        assert isinstance(storage, Refusing)
        one = Operators(wire, storage, random.getrandbits)
        await one.load()
        made.append((one, wire, storage))
    try:
        yield [one for one, _, _ in made]
    finally:
        for _, wire, storage in made:
            await wire.close()
            await storage.close()


async def test_of_two_changes_at_once_one_is_told_so(server: Server) -> None:
    async with operators(server, "n1", "n2") as (first, second):
        await first.override("mail", {"capacity": 1}, ANN)
        with pytest.raises(ChangedMeanwhile, match="changed by way of another node"):
            await second.override("mail", {"capacity": 2}, ANN)
        assert await second.overrides() == {"mail": {"capacity": 1}}
        await second.override("mail", {"capacity": 2}, ANN)
        await first.refresh()
        assert await first.overrides() == {"mail": {"capacity": 2}}
        await asyncio.gather(
            *(one.override(f"t{n}", {"capacity": n}, ANN) for n, one in enumerate((first, second)))
        )
        assert await first.overrides() == await second.overrides()


async def test_a_pause_needs_no_storage(server: Server) -> None:
    async with operators(server, "n1") as (only,):
        storage = only._storage  # noqa: SLF001  # to switch it off
        assert isinstance(storage, Refusing)
        storage.down = True
        await only.override("mail", {"paused": True}, ANN)
        assert await only.overrides() == {"mail": {"paused": True}}
        with pytest.raises(StorageUnavailable):
            await only.refresh()
        storage.down = False
        await only.refresh()
        await only.refresh()
        (head,) = await storage.heads()
        assert head.split(":")[1] == "1"
        assert await storage.overrides() == {"mail": {"paused": True}}
