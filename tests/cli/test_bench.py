"""`eventflow bench`: what it measures, what it leaves alone, and how it ends."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from eventflow.cli import main

if TYPE_CHECKING:
    from pathlib import Path

CONFIG = """
[engine]
url = "sqlite:{folder}/flow.db"
durability = "{durability}"

[schemas]
"user.made" = "{folder}/schema.json"

[topics.one]
match = "user.*"
capacity = 400
sink = {{ type = "file", path = "{folder}/one" }}

[topics.lists]
match = "user.made"
batch = {{ max = 50 }}
executor = "process"
handler = "shop:handle"

[topics.french]
sink = {{ type = "file", path = "{folder}/french" }}

[[routes]]
match = "**"
when = "event.data.country == 'FR'"
topics = ["french"]
"""
HANDLER = """
def handle(events):
    raise AssertionError("the bench must not call anybody's handler")
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    config = tmp_path / "eventflow.toml"
    config.write_text(CONFIG.format(folder=tmp_path, durability="os"))
    (tmp_path / "schema.json").write_text('{"required": ["name"]}')
    (tmp_path / "shop.py").write_text(HANDLER)
    (tmp_path / "flow.db").write_text("what a node has kept")
    return config


def bench(config: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run it in a process of its own, which it sets up for speed; a little of everything."""
    short = ("--seconds", "0.2", "--events", "4000", "--per-second", "200")
    command = [sys.executable, "-m", "eventflow", "bench", str(config), *short, *words]
    return subprocess.run(
        command, cwd=config.parent, capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.slow
@pytest.mark.timeout(90)
def test_the_configured_topics_are_measured_and_nothing_else_is_touched(config: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in config.parent.iterdir() if path.is_file()}

    ended = bench(config, "--json")

    assert ended.returncode == 0, ended.stderr
    found = json.loads(ended.stdout)
    rate, latency = found["rate"], found["latency"]
    assert found["durability"] == "os"
    assert (found["topics"], found["missed"]) == (["one", "lists"], ["french"])
    assert found["unaccounted"] == 0
    assert found["folder"].startswith(f"{config.parent}/.eventflow-bench-")
    # Types in turns: user.bench goes to one, user.made to both.
    assert 0 < rate["events"] <= 4000
    assert rate["batch"] == 20
    assert rate["deliveries"] == pytest.approx(rate["events"] * 1.5, abs=rate["batch"])
    assert rate["per_s"] == pytest.approx(rate["events"] / rate["took_s"])
    assert (latency["events"], latency["deliveries"], latency["refused"]) == (40, 60, 0)
    assert 0 < latency["p50_s"] <= latency["p99_s"] <= latency["max_s"]
    after = {path: path.stat().st_mtime_ns for path in config.parent.iterdir() if path.is_file()}
    assert after == before
    assert not list(config.parent.glob(".eventflow-bench-*"))


@pytest.mark.slow
@pytest.mark.timeout(90)
def test_for_people_it_says_what_was_measured(config: Path) -> None:
    ended = bench(config)

    assert ended.returncode == 0, ended.stderr
    assert "survives a crash of the process, not a power cut" in ended.stdout
    assert "latency p99" in ended.stdout
    assert "Topic french was not measured" in ended.stdout
    assert "Your data was not touched." in ended.stdout


@pytest.mark.parametrize(
    ("replaced", "status", "said"),
    [
        (("sqlite:{folder}/flow.db", "nats://127.0.0.1:1"), 1, "queues are on NATS servers"),
        (("{folder}/flow.db", "/dev/null/flow.db"), 1, "no journal could be made there"),
        (('match = "user.*"', "match = 5"), 2, "match"),
        (("capacity = 400", "capacity = 0"), 2, "capacity: expected 1 to"),
    ],
)
def test_what_can_not_be_measured_is_explained(
    replaced: tuple[str, str],
    status: int,
    said: str,
    config: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    old, new = (text.format(folder=config.parent) for text in replaced)
    text = config.read_text()
    assert old in text
    config.write_text(text.replace(old, new))
    monkeypatch.syspath_prepend(config.parent)
    monkeypatch.setattr("eventflow.app.serving.tune", lambda: None)  # this process is the tests'

    assert main(["bench", str(config), "--seconds", "0.1"]) == status
    assert said in capsys.readouterr().err


def test_topics_that_nothing_reaches_can_not_be_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "eventflow.toml"
    config.write_text('[topics.idle]\nsink = { type = "file", path = "x" }\n')
    monkeypatch.setattr("eventflow.app.serving.tune", lambda: None)

    assert main(["bench", str(config)]) == 1
    assert "no route takes an event that could be made up" in capsys.readouterr().err


def test_its_bounds_are_checked(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--seconds", "0"]) == 2
    assert "--seconds" in capsys.readouterr().err
    assert main(["bench", "x.toml", "--app", "a:b"]) == 2
    assert "Nothing was measured." in capsys.readouterr().err
