"""`make run ONCE=1` as a newcomer runs it: it ends by itself, and everything is accounted for."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest


@pytest.mark.slow
@pytest.mark.timeout(150)
def test_once_ends_by_itself_with_nothing_unaccounted() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "eventflow.quickstart", "--once", "--port", "0"],
        capture_output=True,
        text=True,
        timeout=140,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^unaccounted 0$", done.stdout, re.MULTILINE)
    titles, *lines = [line.split() for line in done.stdout.splitlines() if " unaccounted" in line]
    assert not lines
    rows = re.findall(r"^(common|api|db|email) +(.*)$", done.stdout, re.MULTILINE)
    ledger = {
        name: dict(zip(titles[1:], map(int, line.split()), strict=True)) for name, line in rows
    }
    total = {title: sum(line[title] for line in ledger.values()) for title in titles[1:]}
    assert f"the database holds {ledger['db']['delivered']} rows" in done.stdout
    for trouble in ("retried", "overflowed", "parked", "recovered", "dead"):
        assert total[trouble] > 0, f"nothing was {trouble}"
    assert ledger["email"]["retried"] >= ledger["email"]["delivered"] > 0, "nothing was greylisted"
    assert "http 401" not in done.stdout, "the endpoint takes only what is signed"
    assert total["waiting"] == total["unaccounted"] == 0
