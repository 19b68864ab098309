"""`make run CLUSTER=1`: the same events on three nodes, three NATS servers and PostgreSQL.

One node and one server are killed meanwhile, and brought back.

The nodes run the same quickstart.toml. Two of its lines are others, told by environment variables:
where the queues are, and where secondary storage is.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import tempfile
import uuid
from collections import Counter
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import aiohttp

from eventflow.client.awaiting import AsyncClient
from eventflow.event import Event
from eventflow.quickstart import report
from eventflow.quickstart.destinations import rows_of
from eventflow.quickstart.processes import (
    READY_S,
    Postgres,
    Process,
    lasting_port,
    nats_servers,
    node,
)
from eventflow.quickstart.samples import sample_events

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from eventflow.quickstart.destinations import Endpoint, MailServer

CONFIG: Final = Path(__file__).with_name("quickstart.toml")
SERVERS: Final = ("server-1", "server-2", "server-3")
NODES: Final = ("node-1", "node-2", "node-3")
WITHIN_S: Final = 180.0
"""What a killed node had leased comes again when its lease is over, after 30 s."""
GONE_S: Final = 3.0
"""How long who is killed stays away."""
PARTS: Final = 30
"""The events are sent in so many batches, to the nodes in turn."""
_PAUSE_S: Final = 0.2


class Fleet:
    """What runs."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        servers: Sequence[Process],
        nodes: Sequence[tuple[Process, str]],
    ) -> None:
        self.session = session
        self.servers = servers
        self.nodes = nodes

    @property
    def url(self) -> str:
        """The door of the first node."""
        return self.nodes[0][1]

    async def stats(self) -> list[dict[str, Any]]:
        """Return what each node shows: the same ledger, and its own rates since it started."""
        found = []
        for _, url in self.nodes:
            async with self.session.get(f"{url}/v1/stats") as answer:
                answer.raise_for_status()
                found.append(await answer.json(content_type=None))
        return found


async def show(port: int, folder: Path, endpoint: Endpoint, mail: MailServer, *, once: bool) -> int:
    """Run it; return the exit status."""
    stop = asyncio.Event()
    if not once:
        for each in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(each, stop.set)
    print("Starting three NATS servers, PostgreSQL and three nodes on this machine.", flush=True)
    async with fleet(folder, port) as running:
        events = [event_of(one) for one in sample_events(uuid.uuid4().hex[:8])]
        print(f"Three nodes share one set of queues. Sending {len(events)} sample events to all:\n")
        print(f"    curl {running.url}/v1/stats        # the ledger, the same from each node")
        print(f"    curl {running.url}/v1/nodes        # who is there\n", flush=True)
        async with asyncio.TaskGroup() as group:  # nothing is brought back while all of it ends
            await send(running, events, group.create_task(kill_two(running)))
        told = await until_still(running, stop)
        return await conclude(running, told, len(events), endpoint, mail, stop, once=once)


@asynccontextmanager
async def fleet(folder: Path, port: int) -> AsyncIterator[Fleet]:
    """Run all of it, ended on leaving: nodes first, in order."""
    async with AsyncExitStack() as stack:
        session = await stack.enter_async_context(
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10.0))
        )
        servers, url, monitor = nats_servers(folder, SERVERS)
        for server in servers:
            stack.push_async_callback(server.stop)
            await server.start()
        # Not within `folder`: as root PostgreSQL runs as somebody who may not look into that.
        apart = stack.enter_context(tempfile.TemporaryDirectory(prefix="eventflow-postgres-"))
        postgres = Postgres(Path(apart))
        stack.push_async_callback(postgres.stop)
        await postgres.start()
        await asyncio.gather(*(server.until_ready(session) for server in servers))
        environment = {
            **os.environ,
            "EVENTFLOW_ENGINE__URL": url,
            "EVENTFLOW_ENGINE__REPLICAS": str(len(servers)),
            "EVENTFLOW_ENGINE__MONITOR": monitor,
            "EVENTFLOW_STORAGE__URL": postgres.url,
        }
        ports = [port, *(lasting_port() for _ in NODES[1:])]
        nodes = [
            node(name, folder, CONFIG, environment, port=at)
            for name, at in zip(NODES, ports, strict=True)
        ]
        for process, _ in nodes:
            stack.push_async_callback(process.stop)
            await process.start()
        await asyncio.gather(*(process.until_ready(session) for process, _ in nodes))
        yield Fleet(session, servers, nodes)


def event_of(attributes: dict[str, Any]) -> Event:
    """Return an event for the client, which says itself which version of CloudEvents it speaks."""
    return Event(**{name: value for name, value in attributes.items() if name != "specversion"})


async def send(running: Fleet, events: Sequence[Event], trouble: asyncio.Task[None]) -> None:
    """Send the events bit by bit until the killed are back; a node that is away gets none."""
    async with AsyncExitStack() as stack:
        doors = [
            await stack.enter_async_context(AsyncClient(url, wait_s=READY_S))
            for _, url in running.nodes
        ]
        size = -(-len(events) // PARTS)
        for number, start in enumerate(range(0, len(events), size)):
            await doors[number % len(doors)].publish_many(events[start : start + size])
            if not trouble.done():
                await asyncio.sleep(_PAUSE_S)


async def kill_two(running: Fleet) -> None:
    """Kill a node and a server while events come in, and bring both back."""
    victim, (bystander, _) = running.servers[0], running.nodes[1]
    await asyncio.sleep(1.0)
    for process in (bystander, victim):
        await process.kill()
        print(f"{process.name} is killed (kill -9).", flush=True)
        await asyncio.sleep(GONE_S)
        await process.start()
        await process.until_ready(running.session)
        print(f"{process.name} is back.", flush=True)


async def until_still(running: Fleet, stop: asyncio.Event) -> list[dict[str, Any]]:
    """Wait until every delivery is at its end; return the ledgers."""
    told: list[dict[str, Any]] = []
    print("Waiting for what the killed node was working on: its leases last 30 s.\n", flush=True)
    for _ in range(int(WITHIN_S)):
        with suppress(aiohttp.ClientError, TimeoutError):  # the next second asks again
            told = await running.stats()
            if stop.is_set() or all(is_still(stats) for stats in told):
                break
        await asyncio.sleep(1.0)
    return told


def is_still(stats: dict[str, Any]) -> bool:
    """Return whether a ledger shows everything at its end."""
    return not (report.waiting(stats) or stats["unaccounted"] or stats["moving"])


def together(told: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return one ledger: the cluster's, with what each node has met of retries and the like."""
    first = told[0]
    topics = {}
    for name, topic in first["topics"].items():
        met: Counter[str] = Counter()
        for stats in told:
            met.update(stats["topics"][name]["since_start"])
        topics[name] = {**topic, "since_start": dict(met)}
    return {**first, "topics": topics}


async def conclude(  # noqa: PLR0913  # what there is to tell of
    running: Fleet,
    told: Sequence[dict[str, Any]],
    sent: int,
    endpoint: Endpoint,
    mail: MailServer,
    stop: asyncio.Event,
    *,
    once: bool,
) -> int:
    """Print what became of all; return the exit status."""
    if not told:
        print("No node has told its ledger.", file=sys.stderr)
        return 1
    stats = together(told)
    async with running.session.get(f"{running.url}/v1/deliveries?state=dead") as answer:
        dead = (await answer.json(content_type=None))["deliveries"]
    print(report.ledger(stats))
    print(f"\nDead, with the reason (kept until replayed or discarded):\n{report.dead(dead)}")
    print(
        f"\nThe endpoint took {len(endpoint.accepted)} events, the database holds "
        f"{rows_of(Path(os.environ['QUICKSTART_DB']))} rows, the mail server took "
        f"{len(mail.taken)} mails."
    )
    print(f"\naccepted {stats['accepted']}")
    print(f"repeats {stats['repeats']}")
    print(f"unaccounted {stats['unaccounted']}", flush=True)
    well = all(is_still(one) for one in told) and stats["accepted"] >= sent
    if not well:
        print("Something is not at its end, or not accounted for.", file=sys.stderr)
    if not once and not stop.is_set():
        print(f"\nServing at {running.url} until Ctrl-C.", flush=True)
        await stop.wait()
    return 0 if well else 1
