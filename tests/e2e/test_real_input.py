"""329 real deliveries of GitHub, through the HTTP door, to three endpoints that misbehave."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter, defaultdict
from io import BytesIO
from math import sqrt
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from aiohttp import web
from tests.e2e.installations import EACH, proof_name

from eventflow import EventFlow
from eventflow.app.eventflow import Surroundings
from eventflow.app.serving import serve

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.e2e.installations import Installation

DATA = Path(__file__).parents[2].parent / "shared" / "data" / "github-deliveries.ndjson"
TOPICS = ("left", "middle", "right")
SPOILED = 10
FAULTS = 0.30  # 20 % 500, 5 % 429, 5 % no answer in time
TIMEOUT_S = 0.4


class Endpoints:
    """Three endpoints: faults drawn from a seed, and a memory of what they answered."""

    def __init__(self, seed: int, spoiled: set[str]) -> None:
        self._chance = random.Random(seed)
        self._spoiled = spoiled
        self.answers: dict[tuple[str, str], list[int]] = defaultdict(list)
        """By endpoint and event id: the statuses answered, 0 for none in time."""

    async def answer(self, request: web.Request) -> web.Response:
        await request.read()
        seen = self.answers[request.match_info["name"], request.headers["ce-id"]]
        status, headers = 200, {}
        draw = self._chance.random()
        if request.headers["ce-id"] in self._spoiled:
            status = 410
        elif draw < 0.20:
            status = 500
        elif draw < 0.25:
            status, headers = 429, {"retry-after": "1"}
        elif draw < 0.30:
            seen.append(0)
            await asyncio.sleep(2 * TIMEOUT_S)
            return web.Response(status=503)
        seen.append(status)
        return web.Response(status=status, headers=headers)


def cloudevents() -> list[dict[str, Any]]:
    lines = DATA.read_text().splitlines()
    return [
        {
            "specversion": "1.0",
            "id": line["delivery"],
            "source": "/github",
            "type": f"github.{line['event']}",
            "datacontenttype": "application/json",
            "data": line["payload"],
        }
        for line in map(json.loads, lines)
    ]


def configuration(installed: str, base: str, types: list[str]) -> str:
    text = f"""{installed}
[server]
port = 0
[log]
level = "error"
"""
    for place, name in enumerate(TOPICS):
        text += f"""
[topics.{name}]
match = {json.dumps(types[place::3])}
timeout = "{int(TIMEOUT_S * 1000)}ms"
retry = {{ base = "10ms", max = "100ms" }}
recovery = {{ after = "1s", rate = "1000/s" }}
sink = {{ type = "http", url = "{base}/{name}", allow_private = true }}
"""
    return text


async def story(
    folder: Path, installed: str, seed: int
) -> tuple[dict[str, Any], Endpoints, set[str]]:
    events = cloudevents()
    chance = random.Random(seed)
    spoiled = {event["id"] for event in chance.sample(events, SPOILED)}
    endpoints = Endpoints(seed, spoiled)
    application = web.Application()
    application.router.add_post("/{name}", endpoints.answer)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]

    config = folder / "eventflow.toml"
    types = sorted({event["type"] for event in events})
    config.write_text(configuration(installed, f"http://{host}:{port}", types))
    flow = EventFlow(config, surroundings=Surroundings(environ={}, random_source=chance))
    stop = asyncio.Event()
    opened: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    node = asyncio.create_task(serve(flow, started=opened.set_result, stop=stop, signals=False))
    async with aiohttp.ClientSession(await opened) as session:
        body = BytesIO("\n".join(map(json.dumps, events)).encode())
        headers = {"content-type": "application/x-ndjson"}
        async with session.post("/v1/events", data=body, headers=headers) as answer:
            assert answer.status == 200, await answer.text()
            chunks = [json.loads(line) for line in (await answer.text()).splitlines()]
        assert sum(chunk["accepted"] for chunk in chunks) == len(events)
        stats = await until_still(session)
        async with session.get("/v1/deliveries?state=dead&limit=500") as answer:
            page = await answer.json()
    stop.set()
    assert await node == 0
    await runner.cleanup()
    stats["dead"] = [item["event"]["id"] for item in page["deliveries"]]
    return stats, endpoints, spoiled


async def until_still(session: aiohttp.ClientSession) -> dict[str, Any]:
    shown: dict[str, Any] = {}
    for _ in range(900):
        async with session.get("/v1/stats") as answer:
            shown = await answer.json()
        waiting = ("queued", "running", "retrying", "parked")
        lines = shown["topics"].values()
        if not (shown["moving"] or any(line[state] for line in lines for state in waiting)):
            return shown
        await asyncio.sleep(0.1)
    pytest.fail(f"after 90 s something still waits: {shown}")


def hold_against_chance(tries: Counter[int], total: int) -> dict[int, tuple[int, float]]:
    """Each bin of the histogram lies within three standard deviations of the fault rate's."""
    bins = {}
    for n in range(1, 6):
        share = (1 - FAULTS) * FAULTS ** (n - 1)
        expected = total * share
        if expected >= 5:
            assert abs(tries[n] - expected) <= 3 * sqrt(expected * (1 - share)), (n, tries)
            bins[n] = tries[n], round(expected, 1)
    return bins


@pytest.mark.timeout(240)
@pytest.mark.parametrize("installation", EACH)
def test_real_deliveries_reach_endpoints_that_fail(
    installation: Installation, tmp_path: Path, seed: int, proof: Callable[..., dict[str, Any]]
) -> None:
    with installation(tmp_path) as installed:
        stats, endpoints, spoiled = asyncio.run(story(tmp_path, installed, seed))

    delivered = sum(stats["topics"][name]["delivered"] for name in TOPICS)
    assert stats["unaccounted"] == 0
    assert stats["accepted"] == 329
    assert delivered == 329 - SPOILED
    assert set(stats["dead"]) == spoiled
    for seen in endpoints.answers.values():
        assert 200 not in seen[:-1], "an endpoint saw an event again that it had answered 2xx"
    good = {key: seen for key, seen in endpoints.answers.items() if key[1] not in spoiled}
    assert all(seen[-1] == 200 for seen in good.values())
    tries = Counter(len(seen) for seen in good.values())
    bins = hold_against_chance(tries, len(good))
    proof(
        proof_name("real-input", installation),
        accepted=stats["accepted"],
        delivered=delivered,
        dead=len(stats["dead"]),
        attempts=dict(sorted(tries.items())),
        attempts_got_and_expected=bins,
        unaccounted=stats["unaccounted"],
    )
