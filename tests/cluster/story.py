"""One run: a cluster under load, faults, then calm; and what the history and the ledgers show."""

from __future__ import annotations

import asyncio
import random
import time
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import aiohttp
from tests import postgres_server
from tests.cluster import nodes as running_nodes
from tests.cluster import servers as running_servers
from tests.cluster.checker import judge
from tests.cluster.history import History, read
from tests.cluster.load import Load
from tests.cluster.nemesis import Nemesis
from tests.cluster.network import network
from tests.cluster.nodes import Node
from tests.cluster.watch import Watch

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from tests.cluster.checker import Verdict
    from tests.cluster.servers import Servers
    from tests.postgres_server import Server as Postgres

SERVERS = ("a", "b", "c")
NODES = ("n1", "n2", "n3")
ACCEPTING_S = 15.0
"""After the last fault every node accepts again within this time."""
HONEST_S = 30.0
"""From so long after it on, |unaccounted| <= moving."""
EMPTY_S = 120.0
"""So long after it all queues are empty, at the latest."""
BALANCED_S = 40.0
"""So long after that every ledger shows `unaccounted` and `moving` 0, at the latest."""
CALM_LOAD_S = 20.0
"""How long load goes on after the last fault."""


@dataclass(frozen=True)
class Setup:
    """What a cluster is made of."""

    replicas: int = 3
    cuts: bool = True
    """Whether servers live in networks that can be cut."""
    postgres: bool = True
    """Whether secondary storage is PostgreSQL; else a file a node."""
    sync: str = "always"
    """The servers' `sync_interval`; "default" is their own."""
    store: Path | None = None
    """Where servers keep their data; None: with all else."""


@dataclass(frozen=True)
class Cluster:
    """What runs."""

    servers: Servers
    nodes: list[Node]
    postgres: Postgres | None
    session: aiohttp.ClientSession
    history: History
    load: Load
    watch: Watch
    path: Path
    """The history's file."""

    def verdict(self) -> Verdict:
        """Hold the history against the promises."""
        return judge(read(self.path))


@asynccontextmanager
async def cluster(setup: Setup, folder: Path, chance: random.Random) -> AsyncIterator[Cluster]:
    """Run servers, storage and nodes; all ended on leaving."""
    path = folder / "history.jsonl"
    async with AsyncExitStack() as stack:
        history = stack.enter_context(History(path))
        net = stack.enter_context(network(SERVERS, cuts=setup.cuts))
        servers = stack.enter_context(
            running_servers.running(net, folder, store=setup.store, sync=setup.sync)
        )
        postgres = stack.enter_context(postgres_server.running()) if setup.postgres else None
        database = stack.enter_context(postgres.database()) if postgres else None
        session = await stack.enter_async_context(
            aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0),
                timeout=aiohttp.ClientTimeout(total=5.0),
            )
        )
        nodes = [Node(name, folder, path) for name in NODES]
        for node in nodes:
            storage = database.url if database else f"sqlite:{folder / node.name}.db"
            durability = "fsync" if setup.sync == "always" else "os"
            more = f'replicas = {setup.replicas}\ndurability = "{durability}"'
            node.configure(servers.url, servers.monitor, storage, more)
        await stack.enter_async_context(running_nodes.running(nodes, session))
        watch = Watch(session, servers, nodes, history)
        load = Load(session, nodes, history, chance)
        yield Cluster(servers, nodes, postgres, session, history, load, watch, path)


@asynccontextmanager
async def watched(one: Cluster) -> AsyncIterator[None]:
    """Look at it all the time."""
    watching = asyncio.create_task(one.watch.run())
    try:
        yield
    finally:
        watching.cancel()
        with suppress(asyncio.CancelledError):
            await watching


async def faults(setup: Setup, folder: Path, seed: int, lasts_s: float) -> dict[str, Any]:
    """Run once; return the figures."""
    chance = random.Random(seed)
    async with cluster(setup, folder, random.Random(seed + 1)) as one, watched(one):
        nemesis = Nemesis(one.servers, one.nodes, one.session, chance, one.postgres)
        stop = asyncio.Event()
        loading = asyncio.create_task(one.load.run(stop))
        await asyncio.sleep(2.0)
        over_at = await nemesis.run(lasts_s)
        one.history.note("calm", at=over_at)
        accepting_s = await until_all_accept(one, over_at)
        await asyncio.sleep(max(0.0, over_at + CALM_LOAD_S - time.time()))
        stop.set()
        await loading
        empty_s = await until_empty(one, over_at)
        balanced_s = await until_balanced(one)
        await note_the_dead(one)
        dishonest = [
            f"{look.node} {look.at - over_at:.1f} s: unaccounted, moving = {look.balance}"
            for look in one.watch.after(over_at + HONEST_S)
            if abs(look.balance[0]) > look.balance[1]
        ]
        repeats_told = max((look.stats["repeats"] for look in one.watch.latest()), default=-1)
        last = {look.node: look.stats for look in one.watch.latest()}
    verdict = one.verdict()
    return {
        "seed": seed,
        "faults": nemesis.log,
        **verdict.figures(),
        "broken_promises": verdict.faults,
        "offered_per_s": round(one.load.offered / one.load.lasted_s, 1),
        "answers": dict(one.load.statuses),
        "accepting_again_s": accepting_s,
        "empty_s": empty_s,
        "balanced_s": balanced_s,
        "dishonest_ledgers": len(dishonest),
        "dishonest_examples": dishonest[:5],
        "repeats_in_the_ledger": repeats_told,
        "last_balances": {
            node: [stats["moving"], {name: one["unaccounted"] for name, one in topics.items()}]
            for node, stats in last.items()
            if (topics := stats["topics"])
        },
    }


async def until_all_accept(one: Cluster, over_at: float) -> float:
    """Return how long after the last fault every node had accepted something; -1: not all did."""
    loop = asyncio.get_running_loop()
    over = loop.time() - (time.time() - over_at)
    found = await _within(
        over_at + CALM_LOAD_S,
        lambda: all(one.load.accepted_at.get(node.name, 0.0) > over for node in one.nodes),
    )
    return -1.0 if found is None else round(found - over_at, 1)


async def until_empty(one: Cluster, since: float, within_s: float = 2 * EMPTY_S) -> float:
    """Wait until all queues are empty.

    Returns:
        Seconds since a moment; -1: not within so many, twice the time allowed.
    """
    still_at = await _within(since + within_s, lambda: one.watch.is_still)
    if still_at is None:
        return -1.0
    one.history.note("still", at=still_at)
    return round(still_at - since, 1)


async def until_balanced(one: Cluster) -> float:
    """Wait until every ledger shows `unaccounted` and `moving` 0.

    Returns:
        For how many seconds; -1: not by twice the time allowed.
    """
    now = time.time()
    balanced_at = await _within(now + 2 * BALANCED_S, lambda: one.watch.is_balanced)
    return -1.0 if balanced_at is None else round(balanced_at - now, 1)


async def note_the_dead(one: Cluster) -> None:
    """Write into the history what nodes show as dead."""
    for node in one.nodes:
        async for id, topic in node.dead(one.session):
            one.history.note("dead", id, topic=topic, node=node.name)


async def _within(until: float, holds: Callable[[], bool]) -> float | None:
    """Return when it held (seconds since 1970); None: not until then."""
    while time.time() < until:
        if holds():
            return time.time()
        await asyncio.sleep(0.1)
    return None
