"""GitHub's deliveries through the signed door, to an API, a database and a mail server in trouble.

The API answers 500, 429 or nothing; the database is locked for ten seconds, or its file is away;
the mail server greylists every first try and loses some answers; the node is killed twice.
"""

from __future__ import annotations

import asyncio
import random
import signal
import sqlite3
import sys
from collections import Counter
from contextlib import asynccontextmanager, closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from aiohttp import web
from tests.e2e.installations import EACH, proof_name
from tests.e2e.test_real_input import Endpoints, until_still
from tests.e2e.test_webhooks import SECRET, requests
from tests.ports import free_port
from tests.sinks.mail_server import MailServer
from tests.sinks.test_sql_outage import gone, locked

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from contextlib import AbstractContextManager
    from email.message import EmailMessage

    from tests.e2e.installations import Installation

ROOT = Path(__file__).parents[2]
TOPICS = ("api", "db", "email")
EVENTS = 329
SPOILED = 10
OUTAGE_S = 10.0
LOST_ANSWERS = 0.05
"""Of the mails that the server takes: it says that it did not."""


class Greylist:
    """Turns every first try away; of the second ones it takes some and says 451 all the same."""

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(seed)
        self.seen: Counter[str] = Counter()
        self.taken: Counter[str] = Counter()

    def answer(self, mail: EmailMessage) -> str | None:
        id = mail["message-id"]
        self.seen[id] += 1
        if self.seen[id] == 1:
            return "451 4.7.1 greylisted, come again"
        self.taken[id] += 1
        return "451 4.3.0 lost in the queue" if self._chance.random() < LOST_ANSWERS else None


def configuration(folder: Path, installed: str, port: int, api: str, mail_port: int) -> str:
    policy = """
retry = { base = "20ms", max = "500ms" }
recovery = { after = "1s", rate = "1000/s", max_rounds = 50 }
"""
    return f"""{installed}
[server]
port = {port}
tokens = [{{ name = "ops", role = "admin", secret = "1234567890123456" }}]
[log]
level = "error"
[webhooks.github]
scheme = "github"
secret = "{SECRET.decode()}"

[topics.api]
match = "github.*"
timeout = "400ms"
{policy}
sink = {{ type = "http", url = "{api}/api", allow_private = true }}

[topics.db]
match = "github.*"
batch = {{ max = 20 }}
{policy}
[topics.db.sink]
type = "sql"
url = "sqlite:///{folder}/shop.db"
table = "deliveries"
columns = {{ type = "event.type", data = "event.data" }}
timeout = "2s"
create = true

[topics.email]
match = "github.*"
{policy}
[topics.email.sink]
type = "smtp"
host = "127.0.0.1"
port = {mail_port}
from = "hooks@example.com"
to = "team@example.com"
subject = "{{{{ event.type }}}}"
text = "{{{{ event.id }}}}"
"""


class Node:
    """`eventflow serve` in a process of its own, which may be killed and started again."""

    def __init__(self, config: Path, port: int) -> None:
        self._config = config
        self.url = f"http://127.0.0.1:{port}"
        self.process: asyncio.subprocess.Process | None = None

    async def start(self, session: aiohttp.ClientSession) -> None:
        command = (sys.executable, "-m", "eventflow", "serve", str(self._config))
        self.process = await asyncio.create_subprocess_exec(*command)
        for _ in range(400):
            with suppress(aiohttp.ClientError):
                async with session.get("/readyz") as answer:
                    if answer.status == 200:
                        return
            assert self.process.returncode is None
            await asyncio.sleep(0.05)
        pytest.fail("the node was not ready within 20 s")

    async def end(self, how: signal.Signals) -> int:
        if self.process is None:
            return 0
        process, self.process = self.process, None
        if process.returncode is None:
            process.send_signal(how)
        return await process.wait()


async def send(session: aiohttp.ClientSession, body: bytes, headers: dict[str, str]) -> None:
    """Send a delivery as GitHub does, again until it is answered 202."""
    for _ in range(400):
        with suppress(aiohttp.ClientError):
            async with session.post("/v1/webhooks/github", data=body, headers=headers) as answer:
                await answer.read()
                if answer.status == 202:
                    return
                assert answer.status in {429, 503}, await answer.text()
        await asyncio.sleep(0.1)
    pytest.fail("not accepted within 40 s")


@asynccontextmanager
async def endpoints(seed: int, spoiled: set[str]) -> AsyncIterator[str]:
    """Serve the API that fails; yield where."""
    application = web.Application()
    application.router.add_post("/{name}", Endpoints(seed, spoiled).answer)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]
    try:
        yield f"http://{host}:{port}"
    finally:
        await runner.cleanup()


def rows(folder: Path) -> int:
    """Return how many rows the database has."""
    with closing(sqlite3.connect(folder / "shop.db")) as database:
        there = database.execute("SELECT 1 FROM sqlite_schema WHERE name = 'deliveries'").fetchone()
        if there is None:
            return 0
        count: int = database.execute("SELECT count(*) FROM deliveries").fetchone()[0]
        return count


async def trouble(
    node: Node,
    session: aiohttp.ClientSession,
    outage: Callable[[Path], AbstractContextManager[None]],
    folder: Path,
) -> None:
    """Take the database away for ten seconds, and kill the node twice meanwhile."""
    for _ in range(200):
        if (folder / "shop.db").exists() and rows(folder):
            break
        await asyncio.sleep(0.05)
    with outage(folder / "shop.db"):
        for _ in range(2):
            await asyncio.sleep(OUTAGE_S / 3)
            await node.end(signal.SIGKILL)
            await node.start(session)
        await asyncio.sleep(OUTAGE_S / 3)


async def story(
    folder: Path, installed: str, seed: int, outage: Callable[[Path], AbstractContextManager[None]]
) -> dict[str, Any]:
    chance = random.Random(seed)
    sent = requests()
    spoiled = {headers["x-github-delivery"] for _, headers in chance.sample(sent, SPOILED)}
    greylist = Greylist(seed)
    port = free_port()
    node = Node(folder / "eventflow.toml", port)
    headers = {"authorization": "Bearer 1234567890123456"}
    async with (
        endpoints(seed, spoiled) as api,
        MailServer(on_data=greylist.answer).serving() as mail,
        aiohttp.ClientSession(node.url, headers=headers) as session,
        aiohttp.ClientSession(node.url) as github,
    ):
        text = configuration(folder, installed, port, api, mail.port)
        (folder / "eventflow.toml").write_text(text)
        await node.start(session)
        try:
            half = len(sent) // 2
            await asyncio.gather(*(send(github, *one) for one in sent[:half]))
            bad = asyncio.create_task(trouble(node, session, outage, folder))
            for one in sent[half:]:
                await send(github, *one)
                await asyncio.sleep(0.01)
            await bad
            await asyncio.gather(*(send(github, *one) for one in sent[:20]))
            stats = await until_still(session)
            async with session.get("/v1/deliveries?state=dead&limit=500") as answer:
                page = await answer.json()
            assert await node.end(signal.SIGTERM) == 0
        finally:
            await node.end(signal.SIGKILL)
    return {
        "stats": stats,
        "why": Counter(
            (item["topic"], item["reason"], item["cause"]) for item in page["deliveries"]
        ),
        "dead": {(item["topic"], item["event"]["id"]) for item in page["deliveries"]},
        "spoiled": spoiled,
        "mails": greylist,
    }


@pytest.mark.timeout(300)
@pytest.mark.parametrize("outage", [locked, gone])
@pytest.mark.parametrize("installation", EACH)
def test_github_to_api_database_and_mail(
    installation: Installation,
    outage: Callable[[Path], AbstractContextManager[None]],
    tmp_path: Path,
    seed: int,
    proof: Callable[..., dict[str, Any]],
) -> None:
    with installation(tmp_path) as installed:
        told = asyncio.run(story(tmp_path, installed, seed, outage))

    stats, mails = told["stats"], told["mails"]
    assert stats["unaccounted"] == 0
    assert stats["topics"]["common"]["created"] >= EVENTS
    assert told["dead"] == {("api", id) for id in told["spoiled"]}, told["why"]
    assert rows(tmp_path) == EVENTS
    # A Message-ID is an event's: what was sent again had the same.
    assert len(mails.taken) == EVENTS
    assert mails.seen.total() >= 2 * EVENTS
    proof(
        proof_name(f"signed-door-{outage.__name__}", installation),
        topics={name: stats["topics"][name]["delivered"] for name in TOPICS},
        dead=len(told["dead"]),
        rows=rows(tmp_path),
        mails=len(mails.taken),
        mails_repeated=mails.taken.total() - len(mails.taken),
        repeats=stats["repeats"],
        unaccounted=stats["unaccounted"],
    )
