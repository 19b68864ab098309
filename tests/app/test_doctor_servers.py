"""The doctor at NATS servers and a database: what a node would meet there, and nothing changed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest
from tests.engine.jetstream_server import Server, ask, connected
from tests.ports import free_port
from tests.postgres_server import running

from eventflow.app.doctor import BAD, DOUBTFUL, GOOD, examine
from eventflow.clock import SystemClock
from eventflow.config import parse
from eventflow.engine.jetstream.membership import Beat
from eventflow.engine.members import Member

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.slow  # real servers


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path)
    server.start()
    yield server
    server.kill()


async def findings(url: str, more: str = "", storage: str = "") -> dict[str, tuple[str, str]]:
    """Return what is found, by what was looked at: the state, and all that is said."""
    text = f'engine.url = "{url}"\n{more}\n{storage}\n[topics.mail]\nmatch = "user.*"\n'
    text += 'sink = { type = "file", path = "mail.ndjson" }\n'
    settings = parse(text, name="eventflow.toml", environ={})
    found = [one async for one in examine(settings, now_s=SystemClock().now_s())]
    return {one.what: (one.state, f"{one.found} | {one.advice}") for one in found}


async def test_servers_that_are_as_they_should_be(server: Server) -> None:
    found = await findings(server.url, f'engine.monitor = "{server.monitor}"')

    for what in ("NATS servers", "sync", "max_payload", "streams"):
        assert found[what][0] == GOOD, (what, found)
    assert "the node makes what is missing" in found["streams"][1]
    async with connected(server) as client:  # nothing was made
        assert (await ask(client, "STREAM.NAMES"))["total"] == 0


async def test_servers_that_do_not_keep_what_is_claimed(server: Server) -> None:
    found = await findings(server.url, "engine.replicas = 3\ncommon.max_event = '2MiB'")

    assert found["replicas"][0] == BAD
    assert found["max_payload"][0] == BAD
    assert "2 MiB" in found["max_payload"][1] or "2,097,152" in found["max_payload"][1]
    assert found["sync"][0] == DOUBTFUL


async def test_a_stream_that_somebody_has_changed(server: Server) -> None:
    async with connected(server) as client:
        await ask(
            client,
            "STREAM.CREATE.EF_T_mail",
            name="EF_T_mail",
            subjects=["ef.t.mail.>"],
            retention="limits",
            max_age=3_600_000_000_000,
        )
        found = await findings(server.url)
        state, said = found["stream EF_T_mail"]

        assert state == BAD
        assert "retention" in said
        assert "max_age" in said
        told = await ask(client, "STREAM.INFO.EF_T_mail")
        assert told["config"]["retention"] == "limits"  # left as it was


async def test_audit_rows_of_a_node_that_does_not_come_back(server: Server) -> None:
    async with connected(server) as client:
        for name, subjects in (("EF_AUDIT", "ef.audit.>"), ("EF_NODES", "ef.node.>")):
            await ask(client, f"STREAM.CREATE.{name}", name=name, subjects=[subjects])
        now_s = SystemClock().now_s()
        here = Member(name="here", host="h", pid=1, version="0", started_at=now_s, beat_at=now_s)
        await client.request("ef.node.here", msgspec.json.encode(Beat(member=here, life="1")))
        for node in ("gone", "here", "gone"):
            await client.request(f"ef.audit.{node}", b"rows")
        found = await findings(server.url)

    assert found["audit rows of gone"][0] == DOUBTFUL
    assert found["audit rows of gone"][1].startswith("2 messages of them in EF_AUDIT")
    assert 'node = "gone"' in found["audit rows of gone"][1]
    assert "audit rows of here" not in found


async def test_no_server_there() -> None:
    found = await findings(f"nats://127.0.0.1:{free_port()}")

    assert found["NATS servers"][0] == BAD


async def test_a_database(server: Server) -> None:
    with running() as postgres, postgres.database() as database:
        where = f'storage.url = "{database.url}"'
        found = await findings(server.url, storage=where)
        assert found["PostgreSQL"][0] == GOOD, found
        schemas = database.execute("SELECT 1 FROM pg_namespace WHERE nspname = 'eventflow'")
        assert schemas == []  # nothing was made
        postgres.administer("ALTER SYSTEM SET synchronous_commit = off")
        postgres.administer("SELECT pg_reload_conf()")
        for _ in range(1_000):  # it is told by a signal
            if database.execute("SHOW synchronous_commit") == [("off",)]:
                break
        state, said = (await findings(server.url, storage=where))["PostgreSQL"]
        assert (state, "synchronous_commit" in said) == (BAD, True)
    found = await findings(server.url, storage=where)
    assert found["PostgreSQL"][0] == BAD
