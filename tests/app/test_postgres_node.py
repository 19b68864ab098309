"""A node whose queues are on a NATS server and whose storage is PostgreSQL: as a user runs it."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import subprocess
import sys
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tests.engine.jetstream_server import Server as Nats
from tests.engine.jetstream_server import ask, connected
from tests.ports import free_port
from tests.postgres_server import PASSWORD, Database, running

from eventflow.engine.jetstream.stored import Rows, decode

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping

    from nats.aio.client import Client

pytestmark = [pytest.mark.slow, pytest.mark.timeout(90)]

EVENTFLOW = str(Path(sys.executable).parent / "eventflow")
SOON_S = 30.0

HANDLERS = """
from eventflow import Event, Permanent


async def send(event: Event) -> None:
    if event.data["n"] % 4 == 0:
        raise Permanent("no such customer")
    if event.data["n"] % 4 == 1:
        raise TimeoutError("the mail server is busy")
"""
CONFIG = """
[engine]
url = "{nats}"
node = "{node}"
[storage]
url = "${{STORAGE_URL}}"
[server]
port = {port}
[topics.mail]
match = "user.*"
handler = "handlers:send"
retry = {{ max_attempts = 2, base = "10ms", max = "20ms" }}
recovery = {{ after = "1h" }}
"""


@pytest.fixture(scope="module")
def database() -> Iterator[Database]:
    with running() as server, server.database() as one:
        yield one


class Machine:
    """A folder with a configuration, and the commands run in it."""

    def __init__(self, folder: Path, nats: Nats, storage_url: str, node: str = "n1") -> None:
        folder.mkdir()
        self.folder = folder
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.environ = {**os.environ, "STORAGE_URL": storage_url, "EVENTFLOW_URL": self.url}
        (folder / "handlers.py").write_text(HANDLERS)
        text = CONFIG.format(nats=nats.url, node=node, port=self.port)
        (folder / "eventflow.toml").write_text(text)

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text()

    async def run(self, *words: str, environ: Mapping[str, str] | None = None) -> tuple[int, str]:
        """Run a command to its end; return its exit status, and all that it said."""
        process = await asyncio.create_subprocess_exec(
            *(EVENTFLOW, *words),
            cwd=self.folder,
            env={**self.environ, **(environ or {})},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        async with asyncio.timeout(SOON_S):
            said, _ = await process.communicate()
        assert PASSWORD not in said.decode(), "a password was shown"
        return process.returncode or 0, said.decode()

    async def said(self, *words: str) -> str:
        status, said = await self.run(*words)
        assert status == 0, said
        return said

    async def asked(self, *words: str) -> Any:
        return json.loads(await self.said(*words, "--json"))

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[asyncio.subprocess.Process]:
        with (self.folder / "log").open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                EVENTFLOW, "serve", cwd=self.folder, env=self.environ, stdout=log, stderr=log
            )
        try:
            async with asyncio.timeout(SOON_S):
                while (await self.run("stats"))[0] != 0:
                    assert process.returncode is None, self.log
            yield process
        finally:
            if process.returncode is None:
                process.terminate()
                await process.wait()
            assert PASSWORD not in self.log

    async def publish(self, count: int, *, first: int = 0) -> None:
        lines = [
            json.dumps(
                {
                    "specversion": "1.0",
                    "id": str(n),
                    "source": "/shop",
                    "type": "user.registered",
                    "data": {"n": n},
                }
            )
            for n in range(first, first + count)
        ]
        (self.folder / "events.ndjson").write_text("\n".join(lines))
        await self.said("publish", "events.ndjson")

    async def until(self, **wanted: int) -> dict[str, Any]:
        """Wait until the topic's line of the ledger says so, and nothing is on its way."""
        async with asyncio.timeout(SOON_S):
            while True:
                stats: dict[str, Any] = await self.asked("stats")
                line = stats["topics"]["mail"]
                if line | wanted == line and not stats["moving"]:
                    return stats
                await asyncio.sleep(0.1)


@pytest.fixture
def nats(tmp_path: Path) -> Iterator[Nats]:
    server = Nats(tmp_path)
    server.start()
    yield server
    server.kill()


@pytest.fixture
def machine(tmp_path: Path, nats: Nats, database: Database) -> Iterator[Machine]:
    yield Machine(tmp_path / "node", nats, database.url)
    database.execute("DROP SCHEMA IF EXISTS eventflow CASCADE")


async def test_every_command_works_as_it_does_on_a_file(
    machine: Machine, database: Database
) -> None:
    server = f"postgresql://127.0.0.1:{database.server.port}"
    assert f"storage  {server}/{database.name}\n" in await machine.said("check")
    async with machine.serving():
        await machine.publish(20)
        stats = await machine.until(delivered=10, parked=5, dead=5)
        assert (stats["accepted"], stats["unaccounted"], stats["moving"]) == (20, 0, 0)
        assert stats["storage"]["used_bytes"] > 0
        (_, dead), (_, parked) = [
            (state, (await machine.asked("deliveries", "--state", state))["deliveries"])
            for state in ("dead", "parked")
        ]
        assert (len(dead), len(parked)) == (5, 5)
        groups = (await machine.asked("groups"))["groups"]
        assert sorted((g["state"], g["count"]) for g in groups) == [("dead", 5), ("parked", 5)]
        assert "no such customer" in await machine.said("explain", dead[0]["id"])
        assert "no such customer" in await machine.said("show", dead[0]["ref"])
        assert "permanent   mail    running   dead" in await machine.said("audit", dead[0]["ref"])
        exported = await machine.said("export", "--state", "dead")
        lines = [line for line in exported.splitlines() if line.startswith("{")]
        assert {json.loads(line)["id"] for line in lines} == {one["event"]["id"] for one in dead}

        said = await machine.asked("discard", dead[0]["id"], "--why", "a test")
        assert said["counts"] == {"discarded": 1}
        await machine.said("replay", dead[1]["id"], "--why", "again")
        await machine.until(dead=4)  # it is dead again
        assert "replayed" in await machine.said("audit", dead[1]["ref"])
        verdict = await machine.asked("audit", "--verify")
        assert verdict["ok"]
        assert verdict["rows"] == database.execute("SELECT count(*) FROM eventflow.audit")[0][0]
        heads = await machine.said("audit", "--heads")
        assert heads.startswith("n1:")
        status, said = await machine.run("backup")
        assert status == 1
        assert "Back up the servers, and what [storage] url names" in said
    # Stopped: nothing of it is in a file.
    status, said = await machine.run("stats", "--db", "eventflow.db")
    assert status == 1
    assert "there is no such file" in said
    status, said = await machine.run("doctor")
    assert status == 0, said


async def test_what_operators_set_is_there_in_the_next_life(machine: Machine) -> None:
    async with machine.serving():
        await machine.said("pause", "mail", "--why", "provider is down")
        await machine.publish(4)
    async with machine.serving():
        stats = await machine.until(queued=4)
        assert stats["topics"]["mail"]["paused"]
        await machine.said("resume", "mail")
        await machine.until(queued=0, running=0, delivered=2)


async def test_each_node_has_a_chain_of_its_own(
    machine: Machine, tmp_path: Path, nats: Nats, database: Database
) -> None:
    other = Machine(tmp_path / "other", nats, database.url, "n2")
    for one in (machine, other):
        async with one.serving():
            await one.said("pause", "mail")
            await one.said("resume", "mail")
    async with machine.serving():
        heads = await machine.said("audit", "--heads")
        assert (await machine.asked("audit", "--verify"))["ok"]

    assert {line.partition(":")[0] for line in heads.split()} >= {"n1", "n2"}


async def test_the_trail_of_an_outage_outlives_a_killed_node(
    machine: Machine, nats: Nats, database: Database
) -> None:
    """What failed meanwhile waits on the server, and is in the chain of the node's next life."""
    async with machine.serving() as node:
        with database.server.frozen():
            await machine.publish(8)
            async with connected(nats) as client, asyncio.timeout(SOON_S):
                while (await waiting(client)).count("delivery.retry") < 2:  # noqa: ASYNC110  # asks
                    await asyncio.sleep(0.1)
            node.kill()
            await node.wait()
    async with machine.serving():
        async with connected(nats) as client, asyncio.timeout(SOON_S):
            while (await ask(client, "STREAM.INFO.EF_AUDIT"))["state"]["messages"]:  # noqa: ASYNC110  # asks
                await asyncio.sleep(0.1)
        assert (await machine.asked("audit", "--verify"))["ok"]

    rows = database.execute("SELECT convert_from(row, 'UTF8') FROM eventflow.audit")
    failed = [row for (text,) in rows if (row := json.loads(text))["what"] == "delivery.retry"]
    assert len({row["ref"] for row in failed}) == 2
    assert {row["chain"] for row in failed} == {"n1"}


async def waiting(client: Client) -> list[str]:
    """Return what the audit rows are about that wait on the server."""
    state = (await ask(client, "STREAM.INFO.EF_AUDIT"))["state"]
    found: list[str] = []
    for seq in range(1, state["last_seq"] + 1):
        message = (await ask(client, "STREAM.MSG.GET.EF_AUDIT", seq=seq))["message"]
        rows = decode(base64.b64decode(message["data"]), Rows, "audit rows")
        found += [json.loads(text)["what"] for text in rows.texts]
    return found


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("postgresql://eventflow:{secret}@127.0.0.1:{closed}/x", "connection refused"),
        ("postgresql://eventflow:{secret}-not@127.0.0.1:{port}/x", "password authentication"),
        ("postgresql://eventflow:{secret}@127.0.0.1:{port}/nowhere", "does not exist"),
        ("postgresql://eventflow:{secret}@127.0.0.1:port/x", "invalid integer value"),
    ],
)
async def test_a_database_that_can_not_be_used_is_said_so_without_its_password(
    url: str, says: str, machine: Machine, database: Database
) -> None:
    """`run` looks for the password in all that is said."""
    url = url.format(secret=PASSWORD, port=database.server.port, closed=free_port())
    status, said = await machine.run("serve", environ={"STORAGE_URL": url})

    assert status in {1, 2}
    assert says.lower() in said.lower()
    assert "Traceback" not in said


async def test_a_variable_may_name_the_database(machine: Machine, database: Database) -> None:
    machine.environ |= {"EVENTFLOW_STORAGE__URL": database.url, "STORAGE_URL": "sqlite:not.db"}
    async with machine.serving():
        await machine.publish(4)
        await machine.until(dead=1, parked=1)

    assert database.execute("SELECT count(*) FROM eventflow.kept") == [(2,)]


async def test_without_the_package_the_extra_is_named(machine: Machine) -> None:
    code = (
        "import sys; sys.modules['psycopg'] = None\n"
        "from eventflow.cli import main; sys.exit(main(['serve']))"
    )
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", code),
        cwd=machine.folder,
        env=machine.environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    said = (await process.communicate())[0].decode()

    assert process.returncode == 2
    assert "[storage] url: postgresql:// needs the package psycopg" in said
    assert "Install eventflow[postgres]" in said
