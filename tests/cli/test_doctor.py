"""`eventflow doctor`: what it prints, and how it ends."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from eventflow.cli import main

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def config(tmp_path: Path) -> Path:
    config = tmp_path / "eventflow.toml"
    config.write_text(f'[engine]\nurl = "sqlite:{tmp_path}/flow.db"\n[server]\nport = 0\n')
    return config


def test_bad_ends_with_1(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", str(config)]) == 0
    assert " is not there yet; the node makes it" in capsys.readouterr().out

    config.with_name("flow.db").write_bytes(b"x" * 5_000)
    assert main(["doctor", str(config)]) == 1
    said = capsys.readouterr().out
    assert "bad        journal" in said
    assert "1 thing is bad" in said


def test_for_programs(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", str(config), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["findings"]
    assert {"what": "door", "state": "good", "found": "127.0.0.1, any free port", "advice": ""} in (
        found
    )


def test_a_faulty_configuration_ends_with_2(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config.write_text("[server]\nprot = 0\n")
    assert main(["doctor", str(config)]) == 2
    assert "Did you mean 'port'?" in capsys.readouterr().err
