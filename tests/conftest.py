"""What every test may ask for: chance it can repeat, and a place for its figures.

    EVENTFLOW_SEED=N        tests with chance take this seed instead of drawing one
    EVENTFLOW_PROOF=FOLDER  `proof` writes its figures to FOLDER/NAME.json

A failed test shows the seed it had, whichever it was.
"""

from __future__ import annotations

import json
import os
import platform
import re
import secrets
import shutil
import subprocess
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import pytest
from hypothesis import settings

ROOT = Path(__file__).parent.parent

# A busy machine makes an example slow, not wrong; pytest's own timeout ends a hanging one.
settings.register_profile("eventflow", deadline=None, print_blob=True)
settings.load_profile("eventflow")


class Proof(Protocol):
    """Keeps the figures of a run. Tests annotate it as `Callable[..., dict[str, Any]]`."""

    def __call__(self, name: str, **figures: Any) -> dict[str, Any]:
        """Return `figures` with what they were measured on, written if a proof is wanted."""


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """The seed for a test with chance: what it does must follow from this number alone."""
    given = os.environ.get("EVENTFLOW_SEED")
    value = int(given) if given else secrets.randbits(32)
    request.node.add_report_section("setup", "seed", f"EVENTFLOW_SEED={value} repeats this run")
    return value


@pytest.fixture
def proof(request: pytest.FixtureRequest) -> Proof:
    """A function `proof(name, **figures)` that keeps what a run has shown."""
    chance = request.getfixturevalue("seed") if "seed" in request.fixturenames else None

    def keep(name: str, **figures: Any) -> dict[str, Any]:
        if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name):
            raise ValueError(f"a proof's name is a file's: expected like-this-1, got {name!r}")
        run = {
            "test": request.node.nodeid,
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "commit": commit(),
            "python": platform.python_version(),
            "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs",
            "seed": chance,
            "figures": figures,
        }
        folder = os.environ.get("EVENTFLOW_PROOF")
        if folder:
            write(Path(folder) / f"{name}.json", run)
        return run

    return keep


def write(path: Path, run: dict[str, Any]) -> None:
    """Put `run` into the file beside the runs of other seeds, if they are of the same commit.

    So a file never mixes what different code has shown.
    """
    runs = json.loads(path.read_text()) if path.exists() else []
    kept = [r for r in runs if r["commit"] == run["commit"] and r["seed"] != run["seed"]]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([*kept, run], indent=2) + "\n")


@cache
def commit() -> str:
    """Return the commit under test; "+" follows where files differ from it, proofs aside."""
    git = shutil.which("git")
    if git is None or not (ROOT / ".git").exists():
        return "unknown"
    head = subprocess.check_output([git, "rev-parse", "--short=12", "HEAD"], cwd=ROOT, text=True)
    changed = subprocess.check_output(
        [git, "status", "--porcelain", "--", ".", ":!docs/proof"], cwd=ROOT, text=True
    )
    return head.strip() + ("+" if changed else "")
