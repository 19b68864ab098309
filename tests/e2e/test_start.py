"""The first ten minutes: docs/start.md word by word, and a configuration that `init` wrote."""

from __future__ import annotations

import asyncio
import json
import subprocess
from pathlib import Path
from urllib.request import urlopen

import pytest
from tests.e2e.shop import EVENTFLOW
from tests.e2e.terminal import follow
from tests.ports import free_port

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

PAGE = Path(__file__).parents[2] / "docs" / "start.md"


def test_the_page_does_what_it_says(tmp_path: Path) -> None:
    for name in ("page", "scratch"):
        (tmp_path / name).mkdir()
    asyncio.run(follow(PAGE, tmp_path / "page", tmp_path / "scratch"))


def test_a_node_runs_with_what_init_wrote(tmp_path: Path) -> None:
    subprocess.run([EVENTFLOW, "init"], cwd=tmp_path, check=True, capture_output=True)
    port = str(free_port())
    node = subprocess.Popen(
        [EVENTFLOW, "serve", "--port", port], cwd=tmp_path, stderr=subprocess.PIPE, text=True
    )
    try:
        assert node.stderr is not None
        assert "./eventflow.toml is used" in node.stderr.readline()
        assert "node.started" in node.stderr.readline()
        with urlopen(f"http://127.0.0.1:{port}/v1/stats") as answer:
            stats = json.load(answer)
    finally:
        node.terminate()
        said = node.communicate(timeout=30)[1]
    assert node.returncode == 0, said
    assert set(stats["topics"]) == {"common", "api"}
    assert stats["unaccounted"] == 0
