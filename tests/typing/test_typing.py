"""A user's module is held against the types of EventFlow as it is installed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

API = Path(__file__).with_name("api.py")


def checked(folder: Path, text: str) -> subprocess.CompletedProcess[str]:
    """Run mypy as a user does: in a folder without our configuration."""
    (folder / "api.py").write_text(text)
    return subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(folder), "api.py"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_users_module_is_checked_strictly(tmp_path: Path) -> None:
    """What is right passes; each mistake in it is found, where it stands."""
    text = API.read_text()
    mistakes = [n for n, line in enumerate(text.splitlines(), 1) if "# type: ignore[" in line]

    right = checked(tmp_path, text)
    assert right.returncode == 0, right.stdout

    wrong = checked(tmp_path, text.replace("# type: ignore[", "# once ignored: ["))
    found = {int(line.split(":")[1]) for line in wrong.stdout.splitlines() if " error: " in line}
    assert found == set(mistakes), wrong.stdout
    assert len(mistakes) >= 10
