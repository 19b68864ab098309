"""Several nodes on one NATS server: who is there, whose name is whose, one ledger."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from tests.app.jetstream_nodes import ledger, node, registered, until
from tests.engine.jetstream_server import Server, ask, connected

from eventflow.engine.jetstream import JetStreamEngine
from eventflow.errors import EngineUnavailable, NameInUse
from eventflow.policy.nodes import OVER_S

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from eventflow import Event, EventFlow

pytestmark = [pytest.mark.slow, pytest.mark.timeout(90)]  # a real server, and its real time


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path)
    server.start()
    yield server
    server.kill()


def states(flow: EventFlow) -> dict[str, str]:
    return {one.name: one.state for one in engine(flow).members()}


def engine(flow: EventFlow) -> JetStreamEngine:
    found = flow.flow.tools.engine
    assert isinstance(found, JetStreamEngine)
    return found


async def die(flow: EventFlow) -> None:
    """Be gone as after a kill: nothing is said, nothing given back."""
    await engine(flow).cut_off()


@asynccontextmanager
async def started(flow: EventFlow) -> AsyncIterator[EventFlow]:
    await flow.start()
    try:
        yield flow
    finally:
        await flow.stop(0.0)


async def test_each_node_shows_all_nodes_and_the_ledger_of_all(
    server: Server, tmp_path: Path
) -> None:
    first, by_first = node(server, tmp_path, "n1")
    second, by_second = node(server, tmp_path, "n2")
    async with started(first), started(second):
        first.announce("http://127.0.0.1:1111")
        for n in range(40):
            await (first, second)[n % 2].publish(registered(f"e{n}"))
        seen = [await ledger(flow, 40) for flow in (first, second)]
        await until(lambda: all(len(states(flow)) == 2 for flow in (first, second)))
        await until(lambda: engine(second).members()[0].url)
        told: Any = await second.door.nodes()

    assert by_first.total() + by_second.total() == 40
    assert min(by_first.total(), by_second.total()) > 0
    for stats in seen:
        mail = stats["topics"]["mail"]
        assert (stats["accepted"], mail["created"], mail["delivered"]) == (40, 40, 40)
        assert stats["unaccounted"] == 0
    assert [one["name"] for one in told["nodes"]] == ["n1", "n2"]
    assert told["nodes"][0]["url"] == "http://127.0.0.1:1111"
    assert told["nodes"][0]["roles"] == ["accept", "route", "deliver", "recover"]
    assert told["undone"] == []


async def test_a_name_is_one_nodes_until_it_has_stopped(server: Server, tmp_path: Path) -> None:
    first, _ = node(server, tmp_path, "n1")
    (tmp_path / "b").mkdir()
    second, _ = node(server, tmp_path / "b", "n1")
    async with started(first):
        with pytest.raises(NameInUse, match=r"name 'n1' is in use by pid \d+ on .*, since 20"):
            await second.start()
    began = asyncio.get_running_loop().time()
    async with started(second):  # the first one said that it stopped: nobody has to wait
        assert asyncio.get_running_loop().time() - began < OVER_S


async def test_a_dead_nodes_name_is_free_when_it_was_quiet_for_long_enough(
    server: Server, tmp_path: Path
) -> None:
    first, _ = node(server, tmp_path, "n1")
    other, _ = node(server, tmp_path, "n2")
    async with started(other):
        await first.start()
        await until(lambda: states(other) == {"n1": "alive", "n2": "alive"})
        await first.publish(registered("e1"))
        await ledger(other, 1)
        await die(first)
        await until(lambda: states(other) == {"n1": "missing", "n2": "alive"})
        # What it had counted stays in the ledger of all.
        assert (await ledger(other, 1))["accepted"] == 1

        again, _ = node(server, tmp_path, "n1")
        async with started(again):
            await until(lambda: states(other) == {"n1": "alive", "n2": "alive"})
        await until(lambda: states(other) == {"n1": "stopped", "n2": "alive"})


async def test_who_has_lost_its_name_does_nothing_more(server: Server, tmp_path: Path) -> None:
    first, _ = node(server, tmp_path, "n1")
    async with started(first):
        async with connected(server) as client:  # as if another life of it had taken the name
            await ask(client, "STREAM.PURGE.EF_NODES", filter="ef.node.n1")
            await client.request("ef.node.n1", b"{}", timeout=5)
        await until(lambda: engine(first).broken)
        with pytest.raises(EngineUnavailable, match="another node has its name now"):
            await first.publish(registered("e1"))


async def test_beats_go_on_where_the_record_was_removed(server: Server, tmp_path: Path) -> None:
    first, _ = node(server, tmp_path, "n1")
    async with started(first):
        async with connected(server) as client:
            await ask(client, "STREAM.PURGE.EF_NODES", filter="ef.node.n1")
        await until(lambda: not states(first))
        await until(lambda: states(first) == {"n1": "alive"})
        assert not engine(first).broken


async def test_nodes_with_roles_share_the_work(server: Server, tmp_path: Path) -> None:
    roles = {"door": ["accept"], "router": ["route"], "worker": ["deliver", "recover"]}
    flows, ran = {}, {}
    for name, some in roles.items():
        flow, ran[name] = node(server, tmp_path, name, engine__roles=json.dumps(some))
        flow.topic("other", match="user.*")(_nothing)  # two routes: through common
        flows[name] = flow
    async with started(flows["door"]):
        await flows["door"].publish(registered("e1"))
        assert engine(flows["door"]).depth("common").queued == 1
        told = await flows["door"].door.nodes()
        assert told["undone"] == ["route", "deliver", "recover"]
        async with started(flows["router"]):
            with pytest.raises(EngineUnavailable, match=r"\[engine\] roles leave out accept"):
                await flows["router"].publish(registered("e2"))
            await until(lambda: engine(flows["router"]).depth("mail").queued == 1)
            assert list(await flows["router"].door.ready()) == []
            async with started(flows["worker"]):
                await ledger(flows["worker"], 1)
    assert ran == {"door": {}, "router": {}, "worker": {"e1": 1}}


async def _nothing(event: Event) -> None:
    pass
