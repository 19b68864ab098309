"""329 real deliveries, signed as GitHub signs them, through the HTTP door of a real node."""

from __future__ import annotations

import asyncio
import hmac
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from eventflow import Event, EventFlow
from eventflow.app.eventflow import Surroundings
from eventflow.app.serving import serve

if TYPE_CHECKING:
    from collections.abc import Sequence

DATA = Path(__file__).parents[2].parent / "shared" / "data" / "github-deliveries.ndjson"
SECRET = b"long and hard to guess"


def requests() -> list[tuple[bytes, dict[str, str]]]:
    """Return body and headers of each delivery, as GitHub sends it."""
    found = []
    for line in map(json.loads, DATA.read_text().splitlines()):
        body = json.dumps(line["payload"], separators=(",", ":"), ensure_ascii=False).encode()
        headers = {
            "content-type": "application/json",
            "user-agent": "GitHub-Hookshot/044aadd",
            "x-github-delivery": line["delivery"],
            "x-github-event": line["event"],
            "x-hub-signature": "sha1=" + hmac.digest(SECRET, body, "sha1").hex(),
            "x-hub-signature-256": "sha256=" + hmac.digest(SECRET, body, "sha256").hex(),
        }
        found.append((body, headers))
    return found


async def post_all(
    address: str, sent: Sequence[tuple[bytes, dict[str, str]]]
) -> list[tuple[int, Any]]:
    async with aiohttp.ClientSession(address) as session:

        async def post(body: bytes, headers: dict[str, str]) -> tuple[int, Any]:
            async with session.post("/v1/webhooks/github", data=body, headers=headers) as answer:
                return answer.status, await answer.json(content_type=None)

        return list(await asyncio.gather(*(post(*one) for one in sent)))


def configuration(folder: Path) -> str:
    return f"""
[engine]
url = "sqlite:{folder}/e.db"
[server]
port = 0
tokens = [{{ name = "ops", role = "admin", secret = "1234567890123456" }}]
[log]
level = "error"
[webhooks.github]
scheme = "github"
secret = ["{SECRET.decode()}", "the next one"]
"""


@pytest.mark.slow
@pytest.mark.timeout(90)
def test_real_deliveries_come_in_signed_and_once(tmp_path: Path) -> None:
    """Signed they need no token. Sent again they are duplicates; with another byte, forged."""
    seen: dict[str, tuple[str, bytes | None]] = {}

    async def story() -> None:
        (tmp_path / "eventflow.toml").write_text(configuration(tmp_path))
        flow = EventFlow(tmp_path / "eventflow.toml", surroundings=Surroundings(environ={}))

        @flow.topic("all", match="**", timeout="10s")
        async def keep(event: Event) -> None:
            seen[event.id] = event.type, event.body

        stop = asyncio.Event()
        opened: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        node = asyncio.create_task(serve(flow, started=opened.set_result, stop=stop, signals=False))
        address, sent = await opened, requests()
        first, again = await post_all(address, sent), await post_all(address, sent)
        forged = await post_all(address, [(body + b" ", headers) for body, headers in sent])
        await flow.drain()
        ledger = await flow.door.stats()
        stop.set()
        assert await node == 0

        assert len(sent) == 329
        assert [(status, answer["accepted"]) for status, answer in first] == [(202, 1)] * 329
        assert [(status, answer["duplicates"]) for status, answer in again] == [(202, 1)] * 329
        assert {status for status, _ in forged} == {401}
        assert (ledger["accepted"], ledger["unaccounted"]) == (329, 0)
        assert seen == {
            headers["x-github-delivery"]: (f"github.{headers['x-github-event']}", body)
            for body, headers in sent
        }

    asyncio.run(story())
