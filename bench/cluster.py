"""EventFlow on three NATS servers, beside a floor: plain requests, the same hops, nothing else.

    python -m bench.cluster floor --hops 1      publish, lease, ack
    python -m bench.cluster floor --hops 2      publish, lease, publish on, ack, lease, ack
    python -m bench.cluster node --hops 1       batches of one topic: straight into it
    python -m bench.cluster node --hops 2       batches of several topics: through common
    python -m bench.cluster latency             from the scheduled send to the handler, open loop

Three servers with three replicas and `sync_interval: always`, on this machine. The floor, too,
forgets the old place only when the server has said so; its batches are the best found for it.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import time
from typing import TYPE_CHECKING, Any

import uvloop
from tests.engine.jetstream_server import Cluster, ask

from bench.payload import TOPICS, batches
from bench.report import answer, fresh_folder
from eventflow import Event, EventFlow
from eventflow.app.measure.latency import by_python
from eventflow.app.measure.lateness import Lateness
from eventflow.app.measure.rate import measured
from eventflow.app.serving import tune
from eventflow.engine.jetstream.answers import ACK
from eventflow.engine.jetstream.publishing import put_each
from eventflow.engine.jetstream.wire import Item, Wire

if TYPE_CHECKING:
    from pathlib import Path

    from nats.aio.client import Client
    from nats.aio.msg import Msg

CAPACITY = 100_000
PULLED = 500
"""Messages leased at once by the floor; 100 and 1,000 were slower or the same."""
AHEAD = 4
LATENCY_PER_S = 500
_TICK_S = 0.002


def cpu_s(servers: Cluster) -> float:
    """Return the processor time that the servers have used."""
    ticks = 0
    for pid in servers.pids:
        fields = open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()  # noqa: SIM115, PTH123  # one line
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


# the floor -------------------------------------------------------------------------


async def queue_of(client: Client, name: str) -> None:
    """Make a work queue with one consumer."""
    await ask(
        client,
        f"STREAM.CREATE.{name}",
        name=name,
        subjects=[f"{name}.>"],
        retention="workqueue",
        storage="file",
        num_replicas=3,
        discard="new",
        max_msgs=CAPACITY,
        allow_atomic=True,
    )
    config = {"durable_name": "c", "ack_policy": "explicit", "max_ack_pending": 10_000}
    await ask(client, f"CONSUMER.CREATE.{name}.c", stream_name=name, config=config)


async def pulled(client: Client, name: str) -> list[Msg]:
    """Lease what is there now."""
    inbox = client.new_inbox()
    waiting = await client.subscribe(inbox)
    wish = b'{"batch": %d, "no_wait": true}' % PULLED
    await client.publish(f"$JS.API.CONSUMER.MSG.NEXT.{name}.c", wish, reply=inbox)
    found: list[Msg] = []
    while len(found) < PULLED:
        message = await waiting.next_msg(timeout=5)
        if not message.reply:  # a status: there is no more
            break
        found.append(message)
    await waiting.unsubscribe()
    if not found:
        await asyncio.sleep(_TICK_S)
    return found


async def floor(servers: Cluster, events: int, hops: int) -> dict[str, float]:
    """Publish in atomic batches, lease, move on, ack with an answer: as fast as it goes."""
    wire = await Wire.connect(servers.url, 3)
    client = wire.client
    first, others = ("Q", TOPICS) if hops == 2 else (None, TOPICS)
    for name in filter(None, (first, *others)):
        await queue_of(client, name)
    bodies = batches(events, 500)
    moved = 0

    async def feed() -> None:
        given = iter(range(0, events, 500))

        async def some() -> None:
            for start in given:
                body = bodies[start // 500]
                size = len(body) // 500
                queue = first or TOPICS[start // 500 % 3]
                items = [
                    Item(f"{queue}.{start + n}", f"{start + n}", body[n * size : (n + 1) * size])
                    for n in range(500)
                ]
                await put_each(wire, items)

        await asyncio.gather(*(some() for _ in range(AHEAD)))

    async def onward(name: str) -> None:
        left = events
        while left:
            found = await pulled(client, name)
            items = [
                [Item(f"{to}.{m.subject}", f"{m.subject}:1", m.data) for m in found[nth::3]]
                for nth, to in enumerate(TOPICS)
            ]
            await asyncio.gather(*(put_each(wire, some) for some in items if some))
            await wire.answers.give([(m.reply, ACK) for m in found])
            left -= len(found)

    async def end(name: str) -> None:
        nonlocal moved
        while moved < events:
            found = await pulled(client, name)
            await wire.answers.give([(m.reply, ACK) for m in found])
            moved += len(found)

    servers_s, own_s = cpu_s(servers), time.process_time()
    began = time.perf_counter()
    stages = [end(name) for name in TOPICS]
    await asyncio.gather(feed(), *stages, *([onward(first)] if first else []))
    took_s = time.perf_counter() - began
    servers_s, own_s = cpu_s(servers) - servers_s, time.process_time() - own_s
    await wire.close()
    return _figures(events, took_s, own_s, servers_s)


def _figures(events: int, took_s: float, own_s: float, servers_s: float) -> dict[str, float]:
    return {
        "per_s": events / took_s,
        "cpu_s_per_1000": own_s / events * 1000,
        "servers_cpu_s_per_1000": servers_s / events * 1000,
    }


# EventFlow -------------------------------------------------------------------------


def node(servers: Cluster, folder: Path, handler: Any) -> EventFlow:
    """Return a node with the three topics."""
    flow = EventFlow(engine=servers.url)
    flow.override(
        {
            "common": {"capacity": CAPACITY},
            "engine": {"replicas": 3, "monitor": servers.monitor, "node": "bench"},
            "storage": {"url": f"sqlite:{folder / 'storage.db'}"},
        }
    )
    for name in TOPICS:
        flow.topic(name, match=f"{name}.made", capacity=CAPACITY, concurrency=1_000)(handler)
    return flow


def in_turn(events: int) -> list[bytes]:
    """Return batches, each of one topic: the topics take turns, as in the floor."""
    of_each = [batches(events // len(TOPICS), 500, topic=topic) for topic in TOPICS]
    return [body for turn in zip(*of_each, strict=True) for body in turn]


async def through(servers: Cluster, folder: Path, events: int, hops: int) -> dict[str, float]:
    """Accept batches, and wait until all is settled."""

    async def nothing(event: Event) -> None:
        pass

    flow = node(servers, folder, nothing)
    await flow.start()
    bodies = in_turn(events) if hops == 1 else batches(events, 500)
    servers_s = cpu_s(servers)
    took = await measured(flow, bodies)
    servers_s = cpu_s(servers) - servers_s
    census = await flow.flow.tools.engine.census(walk=True)
    await flow.stop()
    assert census.unaccounted == 0, census
    assert census.topics["common"].created == took.events, census
    return _figures(took.events, took.seconds, took.cpu_s, servers_s)


async def latency(servers: Cluster, folder: Path, seconds: float) -> dict[str, float]:
    """Publish each event by itself at its time."""
    late = Lateness()
    flow = node(servers, folder, late.handle)
    await flow.start()
    types = [f"{name}.made" for name in TOPICS]
    await by_python(flow, late, types, seconds, LATENCY_PER_S)
    await flow.stop()
    return dict(late.figures())


def main() -> None:
    """Measure once."""
    parser = argparse.ArgumentParser()
    parser.add_argument("kind", choices=("floor", "node", "latency"))
    parser.add_argument("--events", type=int, default=45_000)
    parser.add_argument("--hops", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=10.0)
    given = parser.parse_args()
    tune()
    with fresh_folder() as folder:
        servers = Cluster(folder)
        servers.start()
        try:
            if given.kind == "floor":
                figures = floor(servers, given.events, given.hops)
            elif given.kind == "node":
                figures = through(servers, folder, given.events, given.hops)
            else:
                figures = latency(servers, folder, given.seconds)
            answer(uvloop.run(figures))
        finally:
            servers.kill()


if __name__ == "__main__":
    main()
