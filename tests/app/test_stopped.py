"""A stopped node's file: read as it is, copied, and left byte for byte as it was."""

from __future__ import annotations

import asyncio
import hashlib
import shutil
from typing import TYPE_CHECKING

import pytest
from tests.web.client import Client

from eventflow import Event, EventFlow, Permanent
from eventflow.app.stopped import stopped
from eventflow.engine.embedded.committer import Committer
from eventflow.engine.embedded.stopped import backup_stopped, fault_of
from eventflow.errors import BackupRefused, JournalInUse, JournalUnreadable
from eventflow.storage.protocol import Actor
from eventflow.web.asgi import make_app

if TYPE_CHECKING:
    from pathlib import Path


def prints(folder: Path) -> dict[str, str]:
    """Return a fingerprint of each file in a folder, locks left out."""
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.iterdir()
        if path.is_file() and path.suffix != ".lock"
    }


def close_off(file: Path) -> None:
    file.chmod(0o400)
    file.with_name("flow.db.lock").chmod(0o400)
    file.parent.chmod(0o500)


async def lived(path: Path, *, events: int = 3) -> None:
    """Let a node run on a file: one event dead, one parked later, the rest delivered; paused."""
    flow = EventFlow(engine=f"sqlite:{path}")

    @flow.topic("email", match="user.*", retry={"max_attempts": 1})
    async def send(event: Event) -> None:
        if event.id == "0":
            raise Permanent("no such customer")
        if event.id == "1":
            raise ConnectionError("no route to host")

    async with flow:
        await flow.publish_many(
            [Event(type="user.registered", source="/shop", id=str(n)) for n in range(events)]
        )
        await flow.drain()
        await asyncio.wait_for(_settled(flow), 10)
        await flow.door.pause("email", Actor("test"))


async def _settled(flow: EventFlow) -> None:
    while flow.flow.tools.engine.depth("email").running:  # noqa: ASYNC110  # asks the engine
        await asyncio.sleep(0)


@pytest.fixture
async def file(tmp_path: Path) -> Path:
    path = tmp_path / "home" / "flow.db"
    await lived(path)
    return path


@pytest.fixture
async def killed(tmp_path: Path) -> Path:
    """The file of a node that was killed: the write-ahead log holds all of it, some running."""
    path = tmp_path / "alive" / "flow.db"
    flow = EventFlow(engine=f"sqlite:{path}")
    running = asyncio.Event()

    @flow.topic("email", match="user.*")
    async def send(event: Event) -> None:
        running.set()
        await asyncio.Event().wait()

    await flow.start()
    await flow.publish(Event(type="user.registered", source="/shop", id="1"))
    await running.wait()
    await flow.flow.tools.engine.committer.idle()  # type: ignore[attr-defined]  # the embedded one
    copy = tmp_path / "killed"
    shutil.copytree(path.parent, copy)
    await flow.stop(0.0)
    return copy / "flow.db"


async def test_is_read_as_a_node_is(file: Path) -> None:
    before = prints(file.parent)
    async with stopped(file) as door:
        client = Client(make_app(door))
        stats = (await client.get("/v1/stats")).json()
        kept = (await client.get("/v1/deliveries")).json()["deliveries"]
        (group,) = (await client.get("/v1/groups?state=dead")).json()["groups"]
        shown = (await client.get("/v1/events?source=/shop&id=0")).json()
        topics = (await client.get("/v1/topics")).json()["topics"]
        verdict = (await client.post("/v1/audit/verify")).json()
        lines = (await client.get("/v1/export?state=all")).lines()

    assert (stats["accepted"], stats["unaccounted"]) == (3, 0)
    assert (stats["topics"]["email"]["delivered"], stats["storage"]["max_bytes"]) == (1, None)
    assert sorted(one["state"] for one in kept) == ["dead", "parked"]
    assert group["error"] == "no such customer"
    assert shown["story"][-1]["text"].endswith("no such customer; dead")
    assert [(one["name"], one["paused"]) for one in topics] == [("common", False), ("email", True)]
    assert verdict["ok"]
    assert [line["id"] for line in lines] == ["0", "1"]
    assert prints(file.parent) == before


async def test_a_killed_node_s_log_is_read_and_left(killed: Path) -> None:
    before = prints(killed.parent)
    assert "flow.db-wal" in before
    async with stopped(killed) as door:
        stats = (await Client(make_app(door)).get("/v1/stats")).json()
        (place,) = (await Client(make_app(door)).get("/v1/events?source=/shop&id=1")).json()[
            "deliveries"
        ]

    assert stats["topics"]["email"]["queued"] == 1
    assert place["held_by"].startswith("its node is not running")
    assert place["crashes"] == 0  # counting it is for the node that starts
    assert prints(killed.parent) == before


async def test_what_could_be_dropped_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A busy node's file has rows at its front that the next commit would drop."""
    monkeypatch.setattr(Committer, "_drop_rows", lambda _: 0)
    path = tmp_path / "busy.db"
    await lived(path, events=50)
    monkeypatch.undo()
    before = prints(tmp_path)
    async with stopped(path) as door:
        assert (await Client(make_app(door)).get("/v1/stats")).json()["accepted"] == 50
    assert prints(tmp_path) == before


@pytest.mark.parametrize("act", ["/v1/topics/email/resume", "/v1/deliveries/replay", "/v1/backup"])
async def test_nothing_can_be_changed(file: Path, act: str) -> None:
    before = prints(file.parent)
    body = {"filter": {"state": "dead"}} if "deliveries" in act else {}
    async with stopped(file) as door:
        answer = await Client(make_app(door)).post(act, body)

    assert answer.status == 503
    assert prints(file.parent) == before


async def test_is_refused_while_its_node_runs(file: Path) -> None:
    async with EventFlow(engine=f"sqlite:{file}") as flow:
        flow.announce("http://127.0.0.1:8080")
        with pytest.raises(JournalInUse, match=r"process \d+ on \S+, http://127.0.0.1:8080;"):
            async with stopped(file):
                pass


async def test_keeps_nobody_out_once_read(file: Path) -> None:
    async with stopped(file):
        pass
    async with EventFlow(engine=f"sqlite:{file}"):
        pass


async def test_a_file_that_may_not_be_written_is_read(file: Path) -> None:
    """As on a medium that is read only."""
    close_off(file)
    async with stopped(file) as door:
        assert (await Client(make_app(door)).get("/v1/stats")).json()["accepted"] == 3


@pytest.mark.parametrize(
    ("content", "said"),
    [(None, "there is no such file"), (b"", "it is empty"), (b"x" * 5_000, "no SQLite file")],
)
async def test_what_is_no_file_of_a_node(tmp_path: Path, content: bytes | None, said: str) -> None:
    path = tmp_path / "other.db"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(JournalUnreadable, match=said):
        async with stopped(path):
            pass
    assert list(prints(tmp_path)) == ([] if content is None else ["other.db"])


async def test_is_copied(file: Path, tmp_path: Path) -> None:
    before = prints(file.parent)
    copy = tmp_path / "copies" / "monday.db"
    written = backup_stopped(file, copy)

    assert written.size_bytes == copy.stat().st_size
    assert fault_of(copy) is None
    async with stopped(copy) as door:
        assert (await Client(make_app(door)).get("/v1/stats")).json()["accepted"] == 3
    assert prints(file.parent) == before
    with pytest.raises(BackupRefused, match="there is a file of that name"):
        backup_stopped(file, copy)


async def test_a_damaged_page_is_found(file: Path) -> None:
    with file.open("r+b") as damaged:
        damaged.seek(4_096 * 3)
        damaged.write(b"\xff" * 4_096)
    assert fault_of(file) is not None
