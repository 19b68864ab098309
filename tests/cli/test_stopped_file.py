"""The commands on the file of a node that is stopped: questions are answered, acts are refused."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest

from eventflow import Event, EventFlow, Permanent
from eventflow.cli import main
from eventflow.storage.protocol import Actor
from eventflow.storage.sqlite import open_storage
from eventflow.testing import ManualClock

if TYPE_CHECKING:
    from pathlib import Path


async def _lived(path: Path) -> None:
    """Let a node run: of five events one is dead in `email`, all are delivered in `db`."""
    flow = EventFlow(engine=f"sqlite:{path}")

    @flow.topic("email", match="user.*")
    async def send(event: Event) -> None:
        if event.id == "0":
            raise Permanent("no such customer")

    @flow.topic("db", match="user.*")
    async def write(event: Event) -> None:
        del event

    async with flow:
        await flow.publish_many(
            [Event(type="user.registered", source="/shop", id=str(n), data=n) for n in range(5)]
        )
        await flow.drain()
        await flow.door.pause("email", Actor("anna", "provider is down"))


def apart(work: Any) -> Any:
    """Run a coroutine in a loop of its own, which the tests' own loop does not allow here."""
    result: list[Any] = []
    thread = threading.Thread(target=lambda: result.append(asyncio.run(work)))
    thread.start()
    thread.join()
    return result[0]


@pytest.fixture
def db(tmp_path: Path) -> str:
    """The file of a node that has lived."""
    path = tmp_path / "flow.db"
    apart(_lived(path))
    return str(path)


Capture = pytest.CaptureFixture[str]


def answer(capsys: Capture, *words: str) -> Any:
    assert main([*words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_its_ledger(db: str, capsys: Capture) -> None:
    assert main(["stats", "--db", db]) == 0
    head, _, *rows = capsys.readouterr().out.split("\n\n")[0].splitlines()
    assert head.split() == [
        *("topic", "created", "delivered", "queued", "running"),
        *("retrying", "parked", "dead", "unaccounted"),
    ]
    assert [row.split() for row in rows] == [
        ["common", "5", "5", "0", "0", "0", "0", "0", "0"],
        ["email", "(paused)", "5", "4", "0", "0", "0", "0", "1", "0"],
        ["db", "5", "5", "0", "0", "0", "0", "0", "0"],
    ]


def test_its_topics(db: str, capsys: Capture) -> None:
    topics = answer(capsys, "topics", "--db", db)["topics"]
    assert {one["name"]: one["paused"] for one in topics} == {
        "common": False,
        "db": False,
        "email": True,
    }
    assert main(["topics", "--db", db]) == 0
    assert "paused" in capsys.readouterr().out


def test_what_is_dead_and_why(db: str, capsys: Capture) -> None:
    (one,) = answer(capsys, "deliveries", "--state", "dead", "--db", db)["deliveries"]
    (group,) = answer(capsys, "groups", "--db", db)["groups"]
    assert group["example"] == one["id"]

    assert main(["deliveries", "--db", db]) == 0
    assert "no such customer" in capsys.readouterr().out
    assert main(["groups", "--db", db]) == 0
    said = capsys.readouterr().out
    assert said.endswith(
        "1 delivery in 1 group. Of the largest one:\n"
        f"  eventflow explain {one['id']}\n"
        f"  eventflow replay --topic email --fingerprint {group['fingerprint']}\n"
    )


@pytest.mark.parametrize("by", ["ref", "delivery", "source"])
def test_an_event_is_shown_and_explained(by: str, db: str, capsys: Capture) -> None:
    (one,) = answer(capsys, "deliveries", "--db", db)["deliveries"]
    which = {
        "ref": [one["ref"]],
        "delivery": [one["id"]],
        "source": ["--source", "/shop", "--id", "0"],
    }[by]

    assert main(["show", *which, "--db", db]) == 0
    shown = capsys.readouterr().out
    assert shown.splitlines()[0].split() == ["ref", one["ref"]]
    assert "\ndata:\n0\n" in shown

    assert main(["explain", *which, "--db", db]) == 0
    told = capsys.readouterr().out
    assert "Attempt 1 failed for good: Permanent: no such customer; dead\n" in told
    assert f"  to try it again: eventflow replay {one['id']}\n" in told


def test_a_delivery_is_explained_without_its_sisters(db: str, capsys: Capture) -> None:
    ref = answer(capsys, "deliveries", "--db", db)["deliveries"][0]["ref"]

    assert main(["explain", f"{ref}.db", "--db", db]) == 0
    assert "\nemail\n" not in capsys.readouterr().out
    assert main(["explain", ref, "--db", db]) == 0
    assert "\nemail\n" in capsys.readouterr().out


def test_its_trail(db: str, tmp_path: Path, capsys: Capture) -> None:
    ref = answer(capsys, "deliveries", "--db", db)["deliveries"][0]["ref"]
    assert main(["audit", ref, "--db", db]) == 0
    assert "permanent" in capsys.readouterr().out

    assert main(["audit", "--heads", "--db", db]) == 0
    heads = tmp_path / "heads.txt"
    heads.write_text(capsys.readouterr().out)
    assert main(["audit", "--verify", "--against", str(heads), "--db", db]) == 0
    assert "nothing was changed" in capsys.readouterr().out

    chain, seq, hash_ = heads.read_text().strip().split(":")
    heads.write_text(f"{chain}:{seq}:{'0' * len(hash_)}\n")
    assert main(["audit", "--verify", "--against", str(heads), "--db", db]) == 1
    assert "THE TRAIL WAS CHANGED" in capsys.readouterr().out


def test_its_events_are_exported(db: str, tmp_path: Path, capsys: Capture) -> None:
    assert main(["export", "--db", db]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["id"] == "0"
    assert err == "1 event written.\n"

    file = tmp_path / "dead.ndjson"
    assert main(["export", str(file), "--db", db]) == 0
    assert file.read_text() == out
    assert main(["export", str(file), "--db", db]) == 1
    assert "there is a file of that name" in capsys.readouterr().err


def test_it_is_copied(db: str, tmp_path: Path, capsys: Capture) -> None:
    copy = tmp_path / "copies" / "monday.db"
    assert main(["backup", str(copy), "--db", db]) == 0
    assert capsys.readouterr().out.startswith(f"{copy}: ")
    assert answer(capsys, "stats", "--db", str(copy))["accepted"] == 5
    assert main(["audit", "--verify", "--db", str(copy)]) == 0

    assert main(["backup", str(copy), "--db", db]) == 1
    assert "there is a file of that name; none was written" in capsys.readouterr().err
    assert main(["backup", "--db", db]) == 2


@pytest.mark.parametrize(
    "words",
    [
        ["pause", "email"],
        ["resume", "email"],
        ["replay", "--state", "dead", "--yes"],
        ["discard", "--state", "dead", "--yes"],
    ],
    ids=lambda words: words[0],
)
def test_acts_are_refused(words: list[str], db: str, capsys: Capture) -> None:
    assert main([*words, "--db", db]) == 2
    assert capsys.readouterr().err == (
        "eventflow: --db: the file of a stopped node is only read, so "
        f"{words[0]} needs one that runs; nothing was changed. Start it with `eventflow serve`, "
        "or name one with --url.\n"
    )


@pytest.mark.parametrize("command", ["deliveries", "groups", "export"])
def test_a_misspelt_topic_is_no_empty_list(command: str, db: str, capsys: Capture) -> None:
    assert main([command, "--topic", "emial", "--db", db]) == 1
    assert "there is no topic 'emial'. Did you mean 'email'?" in capsys.readouterr().err
    assert main([command, "--topic", "db", "--db", db]) == 0


def test_an_unknown_event(db: str, capsys: Capture) -> None:
    for command in ("show", "explain", "audit"):
        assert main([command, "nope", "--db", db]) == 1
        assert "event nope was never accepted here" in capsys.readouterr().err


async def test_of_a_node_that_runs_it_is_refused(tmp_path: Path, capsys: Capture) -> None:
    path = tmp_path / "flow.db"
    async with EventFlow(engine=f"sqlite:{path}") as flow:
        flow.announce("http://127.0.0.1:8080")
        assert await asyncio.to_thread(main, ["stats", "--db", str(path)]) == 1
        assert await asyncio.to_thread(main, ["backup", "x.db", "--db", str(path)]) == 1
    first, second = capsys.readouterr().err.splitlines()
    assert first.endswith(
        "http://127.0.0.1:8080; nothing was shown. --db is for a node that is stopped: ask one "
        "that runs with --url."
    )
    assert second.endswith(
        "http://127.0.0.1:8080; nothing was written. Have that node write a copy: `eventflow "
        "backup`, with its --url."
    )


@pytest.mark.parametrize(
    ("content", "said"),
    [(None, "there is no such file"), (b"", "it is empty"), (b"x" * 5_000, "no SQLite file")],
)
def test_what_is_no_file_of_a_node(
    content: bytes | None, said: str, tmp_path: Path, capsys: Capture
) -> None:
    path = tmp_path / "other.db"
    if content is not None:
        path.write_bytes(content)
    for words in (["stats"], ["explain", "x"], ["export"], ["audit", "--verify"], ["backup", "c"]):
        assert main([*words, "--db", str(path)]) == 1
        assert said in capsys.readouterr().err


@pytest.mark.parametrize("url", ["postgresql://shop:hunter2@db/shop", "nats://hunter2@host:4222"])
def test_servers_are_no_file(url: str, capsys: Capture) -> None:
    """Other nodes may be working there; and what is behind the scheme may hold a password."""
    for words in (["stats"], ["groups"], ["explain", "x"], ["export"], ["backup", "c"]):
        assert main([*words, "--db", url]) == 2
        err = capsys.readouterr().err
        assert "expected the file of a stopped node, got " in err
        assert "--url, or start one" in err
        assert "hunter2" not in err


def test_the_storage_file_of_a_node_on_servers_is_no_journal(
    tmp_path: Path, capsys: Capture
) -> None:
    path = tmp_path / "eventflow-storage.db"

    async def made() -> None:
        storage = await open_storage(str(path), clock=ManualClock(), chain="n1")
        await storage.close()

    apart(made())
    for words in (["stats"], ["groups"], ["audit", "--verify"], ["backup", "c"]):
        assert main([*words, "--db", str(path)]) == 1
        err = capsys.readouterr().err
        assert "secondary storage of a node whose queues are on NATS servers" in err
        assert "--url" in err


@pytest.mark.slow
@pytest.mark.parametrize("command", ["stats", "export", "groups", "deliveries"])
def test_a_full_disk_behind_standard_output_is_said(command: str, db: str) -> None:
    with open("/dev/full", "wb") as full:  # noqa: PTH123  # it is no path of ours
        ended = subprocess.run(
            [sys.executable, "-m", "eventflow", command, "--db", db],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            timeout=30,
        )
    assert ended.returncode == 1
    assert ended.stderr == (
        "eventflow: standard output can't be written: No space left on device.\n"
    )
