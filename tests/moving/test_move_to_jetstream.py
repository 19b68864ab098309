"""A file is moved to real servers by the command itself, which is killed on its way."""

from __future__ import annotations

import asyncio
import json
import random
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import nats
import pytest
from tests.engine.jetstream_server import Refused, Server, ask, running
from tests.moving.mixed import TOPICS, Held, fill, held_by, held_by_file, plan_for, same

from eventflow import Event, EventFlow
from eventflow.app import engines
from eventflow.clock import SystemClock
from eventflow.config import load
from eventflow.delivery import Delivery
from eventflow.errors import EngineUnavailable
from eventflow.storage.protocol import Actor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

COMMAND = Path(sys.executable).with_name("eventflow")
SOON_S = 60.0


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    (tmp_path / "nats").mkdir()
    with running(tmp_path / "nats") as server:
        yield server


def configured(folder: Path, server: Server, storage: str, capacity: int) -> Path:
    topics = [
        f'[topics.{name}]\nhandler = "a:b"\nmatch = "shop.{name}"\ncapacity = {capacity}\n'
        f"retry = {{ capacity = {capacity} }}\n"
        for name in TOPICS
    ]
    file = folder / "eventflow.toml"
    file.write_text(
        f'[engine]\nurl = "{server.url}"\nnode = "n1"\n[storage]\nurl = "{storage}"\n'
        f"[common]\ncapacity = {capacity}\n" + "".join(topics)
    )
    return file


class Command:
    """`eventflow move`, in a folder."""

    def __init__(self, folder: Path, *more: str) -> None:
        self._folder = folder
        self._words = [str(COMMAND), "move", "--from", "sqlite:eventflow.db", "--json", *more]

    def start(self) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self._words,
            cwd=self._folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self) -> tuple[int, Any, str]:
        """Run it to its end; return its status, what it told, and what it said beside."""
        process = self.start()
        out, said = process.communicate(timeout=SOON_S * 10)
        return process.returncode, json.loads(out) if out else None, said


async def messages(client: Any) -> int:
    """Return how many deliveries are in the streams."""
    total = 0
    for name in ("EF_COMMON", *(f"EF_{kind}_{topic}" for kind in "TR" for topic in TOPICS)):
        try:
            total += int((await ask(client, f"STREAM.INFO.{name}"))["state"]["messages"])
        except Refused:  # not made yet
            continue
    return total


async def killed_at(command: Command, server: Server, wanted: int) -> int:
    """Kill a run once so many deliveries are in the streams; return how many there are then."""
    client = await nats.connect(server.url)
    try:
        process = command.start()
        while process.poll() is None:
            if await messages(client) >= wanted:
                break
        process.kill()
        process.communicate()
        return await messages(client)
    finally:
        await client.close()


async def held_there(folder: Path) -> Held:
    """Return what servers and storage hold, as the first node there finds it."""
    settings = load(folder / "eventflow.toml", environ={})
    engine = await engines.on_servers(settings, SystemClock(), random.getrandbits)
    try:
        await engine.apply(plan_for(100))
        return await held_by(engine, engine.storage)
    finally:
        await engine.close()


async def test_moved_and_killed_on_the_way_all_is_there_once(
    tmp_path: Path, server: Server, seed: int
) -> None:
    chance = random.Random(seed)
    await fill(tmp_path / "eventflow.db", 2_000, seed)
    configured(tmp_path, server, f"sqlite:{tmp_path / 'parked.db'}", 10_000)
    command = Command(tmp_path)
    there = 0
    for _ in range(3):
        there = await killed_at(command, server, there + chance.randrange(1, 700))
    status, told, said = command.run()
    assert status == 0, said

    before = await held_by_file(tmp_path / "eventflow.db")
    same(before, await held_there(tmp_path))
    assert told["file"] == told["servers"]
    assert told["trail_faults"] == []
    again = command.run()
    assert (again[0], again[1]["before"]) == (0, True)


async def test_nodes_go_on_with_it(tmp_path: Path, server: Server, seed: int) -> None:
    """Every delivery that is not dead is delivered by the first node there."""
    await fill(tmp_path / "eventflow.db", 100, seed)
    configured(tmp_path, server, f"sqlite:{tmp_path / 'parked.db'}", 1_000)
    status, told, said = Command(tmp_path).run()
    assert status == 0, said
    flow = EventFlow(on(server, tmp_path))

    for name in TOPICS:

        @flow.topic(name, match=f"shop.{name}", recovery={"rate": "1000/s"})
        async def deliver(event: Event) -> None:
            assert event.source == "/shop"

    async with flow:
        await flow.door.resume("email", Actor("somebody"))
        give_up_at = time.monotonic() + SOON_S
        while _left(stats := dict(await flow.door.stats())):
            assert time.monotonic() < give_up_at, stats
            await asyncio.sleep(0.2)
        verdict = await flow.flow.tools.storage.verify()

    assert (stats["unaccounted"], stats["moving"], stats["repeats"]) == (0, 0, 0)
    assert stats["accepted"] == 100
    for name, line in told["file"]["topics"].items():
        assert stats["topics"][name]["dead"] == line["dead"]
    assert verdict.ok


async def test_an_event_that_comes_again_after_the_move_is_a_duplicate(
    tmp_path: Path, server: Server
) -> None:
    """However it got there: queued, retrying or parked."""
    await fill(tmp_path / "eventflow.db", 60, 1, now=time.time())
    configured(tmp_path, server, f"sqlite:{tmp_path / 'parked.db'}", 1_000)
    assert Command(tmp_path).run()[0] == 0
    before = await held_by_file(tmp_path / "eventflow.db")
    lines = [one for name, lines in before.places.items() for one in lines if "dead" not in name]
    held = [msgspec.json.decode(re.sub(rb"}[0-9.]+$", b"}", line), type=Delivery) for line in lines]
    refs = {one.event.id: one.ref for one in held}
    assert len(refs) > 40
    async with EventFlow(on(server, tmp_path)) as flow:
        receipts = await flow.publish_many(
            [Event(type="shop.email", source="/shop", id=id) for id in refs]
        )

    assert all(receipt.duplicate for receipt in receipts)
    assert [receipt.ref for receipt in receipts] == list(refs.values())


def on(server: Server, folder: Path) -> Path:
    file = folder / "node.toml"
    file.write_text(
        f'[engine]\nurl = "{server.url}"\nnode = "n1"\n'
        f'[storage]\nurl = "sqlite:{folder / "parked.db"}"\n'
    )
    return file


def _left(stats: dict[str, Any]) -> int:
    places = ("queued", "running", "retrying", "parked")
    left = sum(line[place] for line in stats["topics"].values() for place in places)
    return int(left + abs(stats["unaccounted"]) + stats["moving"])


async def test_no_node_starts_there_while_it_is_half_done(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(tmp_path / "eventflow.db", 3_000, 1)
    configured(tmp_path, server, f"sqlite:{tmp_path / 'parked.db'}", 10_000)
    assert 0 < await killed_at(Command(tmp_path), server, 1) < 6_000
    flow = EventFlow(on(server, tmp_path))
    with pytest.raises(EngineUnavailable, match=r"the move of eventflow\.db to these servers has"):
        await flow.start()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Exception, match=r"eventflow\.db is not wholly moved.* Run `eventflow mov"):
        await flow.start()


async def test_a_running_node_is_found(tmp_path: Path, server: Server) -> None:
    await fill(tmp_path / "eventflow.db", 20, 1)
    configured(tmp_path, server, f"sqlite:{tmp_path / 'parked.db'}", 1_000)
    flow = EventFlow(on(server, tmp_path))

    @flow.topic("email", match="shop.email")
    async def deliver(event: Event) -> None:
        pass

    async with flow:
        status, _, said = await asyncio.to_thread(Command(tmp_path).run)
    assert status == 1
    assert re.search(r"node 'n1' \(pid \d+ on .*\) runs there", said)
    assert Command(tmp_path).run()[0] == 0


async def test_what_the_servers_hold_of_others_stays(tmp_path: Path, server: Server) -> None:
    """Two files that are moved to the same servers add up; ids known there hide nothing."""
    for name, seed in (("one", 1), ("two", 2)):
        (tmp_path / name).mkdir()
        await fill(tmp_path / name / "eventflow.db", 200, seed)
        configured(tmp_path / name, server, f"sqlite:{tmp_path / 'parked.db'}", 10_000)
        status, _, said = Command(tmp_path / name).run()
        assert status == 0, said
    one = await held_by_file(tmp_path / "one" / "eventflow.db")
    two = await held_by_file(tmp_path / "two" / "eventflow.db")
    both = await held_there(tmp_path / "two")

    assert both.count == one.count + two.count
    assert both.census.unaccounted == 0
    for topic, counts in both.census.topics.items():
        assert counts.created == one.census.topics[topic].created + two.census.topics[topic].created


@pytest.mark.prove
@pytest.mark.timeout(1_800)
async def test_100_000_deliveries_killed_in_the_middle(
    tmp_path: Path, server: Server, seed: int, proof: Callable[..., dict[str, Any]]
) -> None:
    chance = random.Random(seed)
    await fill(tmp_path / "eventflow.db", 100_000, seed)
    configured(tmp_path, server, f"sqlite:{tmp_path / 'parked.db'}", 200_000)
    command = Command(tmp_path)
    queued = 0
    kills: list[int] = []
    for _ in range(5):
        queued = await killed_at(command, server, queued + chance.randrange(1, 12_000))
        kills.append(queued)
    began = time.monotonic()
    status, told, said = command.run()
    assert status == 0, said
    last_run_s = time.monotonic() - began

    before = await held_by_file(tmp_path / "eventflow.db")
    after = await held_there(tmp_path)
    same(before, after)
    assert before.count >= 100_000
    proof(
        "move",
        deliveries=before.count,
        places={name: len(lines) for name, lines in sorted(before.places.items())},
        killed_with_in_streams=kills,
        lost=0,
        twice=0,
        unaccounted={"file": before.census.unaccounted, "servers": after.census.unaccounted},
        trail_rows=told["trail_rows"],
        last_run_s=round(last_run_s, 1),
    )
