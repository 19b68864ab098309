"""`make run ONCE=1` as a newcomer runs it: it ends by itself, and everything is accounted for."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import uuid
from contextlib import suppress
from pathlib import Path

import pytest


def run(*options: str, timeout_s: float) -> str:
    """Run the quickstart until it ends by itself; return what it printed."""
    done = subprocess.run(
        [sys.executable, "-m", "eventflow.quickstart", "--once", "--port", "0", *options],
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^unaccounted 0$", done.stdout, re.MULTILINE)
    return done.stdout


def running(mark: str) -> list[int]:
    """Return the processes that have this in their environment."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # gone meanwhile, or another user's
            if mark.encode() in (folder / "environ").read_bytes():
                found.append(int(folder.name))
    return found


def ledger_of(printed: str) -> dict[str, dict[str, int]]:
    """Return the ledger that was printed: a line a topic."""
    titles = next(line.split() for line in printed.splitlines() if " unaccounted" in line)
    rows = re.findall(r"^(common|api|db|email) +(.*)$", printed, re.MULTILINE)
    return {name: dict(zip(titles[1:], map(int, line.split()), strict=True)) for name, line in rows}


@pytest.mark.slow
@pytest.mark.timeout(150)
def test_once_ends_by_itself_with_nothing_unaccounted() -> None:
    printed = run(timeout_s=140)

    ledger = ledger_of(printed)
    total = {title: sum(line[title] for line in ledger.values()) for title in ledger["common"]}
    assert f"the database holds {ledger['db']['delivered']} rows" in printed
    for trouble in ("retried", "overflowed", "parked", "recovered", "dead"):
        assert total[trouble] > 0, f"nothing was {trouble}"
    assert ledger["email"]["retried"] >= ledger["email"]["delivered"] > 0, "nothing was greylisted"
    assert "http 401" not in printed, "the endpoint takes only what is signed"
    assert total["waiting"] == total["unaccounted"] == 0


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_cluster_goes_on_without_a_node_and_a_server() -> None:
    printed = run("--cluster", timeout_s=290)

    ledger = ledger_of(printed)
    killed = re.findall(r"^(\S+) is killed \(kill -9\)\.\n\1 is back\.$", printed, re.MULTILINE)
    assert killed == ["node-2", "server-1"]
    accepted, repeats, rows = (
        int(re.findall(rf"^{line}", printed, re.MULTILINE)[0])
        for line in (r"accepted (\d+)$", r"repeats (\d+)$", r".*the database holds (\d+) rows")
    )
    assert accepted == ledger["common"]["created"] >= 149
    assert rows <= ledger["db"]["delivered"] <= rows + repeats
    for name, topic in ledger.items():
        assert (topic["waiting"], topic["unaccounted"]) == (0, 0), name
        assert topic["dead"] == {"common": 1, "api": 2, "db": 0, "email": 1}[name]


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_a_cluster_that_is_told_to_end_leaves_nothing_running() -> None:
    mark = uuid.uuid4().hex
    with subprocess.Popen(
        [sys.executable, "-m", "eventflow.quickstart", "--cluster", "--once"],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "STARTED_BY": mark},
    ) as process:
        assert process.stdout is not None
        assert any("is killed" in line for line in process.stdout)  # all of it is running
        assert len(running(mark)) > 6  # three servers, two or three nodes, PostgreSQL
        process.terminate()
        assert process.wait(60) == 128 + signal.SIGTERM
    assert running(mark) == []
