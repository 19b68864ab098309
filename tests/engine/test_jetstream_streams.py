"""Streams are made where the servers have places for them, and said to be lacking where not."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, cast

import pytest
from tests.engine.jetstream_server import Cluster

from eventflow.engine.jetstream.streams import Streams
from eventflow.engine.jetstream.wire import HORIZON_S, Refused, Wire
from eventflow.errors import EngineUnavailable

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

NO_PLACES = Refused(10005, 400, "no suitable peers for placement, peer offline")
TOO_FEW = "expected 3 servers that are up and have room"


class Servers:
    """What a `Wire` reaches: servers that hold no stream, and have places for some from a time."""

    def __init__(self, *, from_s: float) -> None:
        self._from_s = asyncio.get_running_loop().time() + from_s
        self.made: list[str] = []

    async def ask(self, what: str, _: Mapping[str, Any] | None = None) -> dict[str, Any]:
        if what.startswith("STREAM.INFO."):
            raise Refused(10059, 404, "stream not found")
        if asyncio.get_running_loop().time() < self._from_s:
            raise NO_PLACES
        self.made.append(what)
        return {}


async def declared(servers: Servers) -> None:
    await Streams(cast("Wire", cast("Any", servers)), replicas=3, rate=1.0).declare_nodes()


class TestPlaces:
    virtual_loop = True

    async def test_servers_that_have_just_met_are_waited_for(self) -> None:
        """They take each other for away at first."""
        servers = Servers(from_s=0.8 * HORIZON_S)
        await declared(servers)
        assert len(servers.made) > 1

    async def test_too_few_servers_are_said_to_be(self) -> None:
        servers = Servers(from_s=3600)
        with pytest.raises(EngineUnavailable, match=TOO_FEW) as refused:
            await declared(servers)
        assert "Start the servers that are away" in str(refused.value)
        assert NO_PLACES.text in str(refused.value)
        assert not servers.made


@pytest.mark.slow  # real servers
@pytest.mark.timeout(120)
async def test_three_servers_have_no_places_for_five_copies(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path)
    cluster.start()
    try:
        wire = await Wire.connect(cluster.url, replicas=5)
        with pytest.raises(EngineUnavailable, match="expected 5 servers that are up and have room"):
            await Streams(wire, replicas=5, rate=1.0).declare_nodes()
        await wire.close()
    finally:
        cluster.kill()
