"""Copies of a node: a backup while events come in, and events carried over to an empty node."""

from __future__ import annotations

import json
import subprocess
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from tests.e2e.shop import EVENTFLOW, ORDERS, Shop, event
from tests.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

LOAD = 30_000
BACKUPS = 3
STATES = ("queued", "running", "retrying")


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    one = Shop(tmp_path / "shop", free_port())
    with one.serving():
        yield one


def test_backups_under_load_open_and_verify(shop: Shop, proof: Callable[..., Any]) -> None:
    """Each copy is what the node was at one moment: it adds up, and nothing in it is half done."""
    load = shop.folder / "load.ndjson"
    load.write_text("".join(json.dumps(event(n, f"load-{n}")) + "\n" for n in range(LOAD)))
    sending = subprocess.Popen(
        [EVENTFLOW, "publish", str(load), "--wait", "60"],
        cwd=shop.folder,
        env=shop.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    said: list[str] = []
    reader = threading.Thread(target=lambda: said.extend(sending.communicate()))
    reader.start()
    copies: list[dict[str, Any]] = []
    while shop.asked("stats")["accepted"] == 0:
        assert sending.poll() is None, said
    while len(copies) < BACKUPS and sending.poll() is None:
        copies.append(shop.asked("backup", f"copy-{len(copies)}.db"))
    under_load = len(copies)
    reader.join()
    assert sending.returncode == 0, said
    assert said[0] == f"accepted {LOAD:,}, duplicates 0, refused 0\n"
    assert under_load >= 1, "the load ended before a backup did: LOAD is too small"

    accepted = []
    for copy in copies:
        at = ("--db", str(shop.folder / copy["path"]))
        stats = shop.asked("stats", *at)
        assert stats["unaccounted"] == 0
        accepted.append(stats["accepted"])
        assert shop.asked("audit", "--verify", *at)["ok"]
    assert accepted == sorted(accepted)
    assert accepted[0] < LOAD, "no backup was written while events came in"
    assert shop.settled()["unaccounted"] == 0
    proof("backup-under-load", events=LOAD, backups=under_load, accepted_in_copies=accepted)


def test_a_node_goes_on_from_a_backup(shop: Shop, tmp_path: Path) -> None:
    shop.done("publish", "events.ndjson")
    shop.settled()
    path = shop.folder / shop.asked("backup")["path"]

    other = Shop(tmp_path / "other", free_port())
    path.rename(other.folder / "running.db")
    with other.serving():
        stats = other.settled()
        assert stats["accepted"] == shop.asked("stats")["accepted"]
        assert stats["unaccounted"] == 0
        other.done("replay", "--state", "dead", "--yes")
        assert other.asked("audit", "--verify")["ok"]


def test_export_into_an_empty_node_brings_the_same_events(shop: Shop, tmp_path: Path) -> None:
    """Through a pipe, as one types it: what is dead in one topic, and what waits in another."""
    other = Shop(tmp_path / "other", free_port())
    with other.serving():
        for node in (shop, other):
            node.done("pause", "email")
        shop.done("publish", "events.ndjson")
        routed(shop)
        before = exported(shop)
        assert len(before) == ORDERS

        pipe = f"eventflow export --state all | eventflow publish - --url {other.url}"
        carried = shop.shell(pipe)
        assert carried.returncode == 0, carried.stderr
        assert carried.stdout == f"accepted {ORDERS}, duplicates 0, refused 0\n"
        routed(other)
        assert exported(other) == before
        assert shop.shell(pipe).stdout == f"accepted 0, duplicates {ORDERS}, refused 0\n"

    # The same from the file of a node that is stopped.
    lines = other.done("export", "--state", "all", "--db", "running.db").splitlines()
    assert sorted((json.loads(line) for line in lines), key=by_id) == before


def routed(shop: Shop) -> None:
    """Wait until all that came in has its place, and only the paused topic holds something."""
    until = time.monotonic() + 30
    while True:
        topics = shop.asked("stats")["topics"]
        moving = [topics[name][state] for name in ("common", "api", "db") for state in STATES]
        if not any(moving) and topics["email"]["queued"] == ORDERS:
            return
        assert time.monotonic() < until, topics
        time.sleep(0.05)


def exported(shop: Shop) -> list[dict[str, Any]]:
    """Return all that the events of a node say: ids, types, sources, data and extensions."""
    lines = shop.done("export", "--state", "all").splitlines()
    return sorted((json.loads(line) for line in lines), key=by_id)


def by_id(event: dict[str, Any]) -> str:
    """Return what events are sorted by."""
    return str(event["id"])
