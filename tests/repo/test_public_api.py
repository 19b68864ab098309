"""What `import eventflow` gives, and what it costs those who use a part of it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from tests.repo.python_reference import reference

import eventflow

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "python.md"


def loaded_by(code: str) -> set[str]:
    """Return the packages that a fresh Python has loaded after running `code`."""
    shown = f"import sys\n{code}\nprint(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", shown], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize("name", eventflow.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(eventflow, name) is not None
    assert name in dir(eventflow)


def test_the_reference_is_up_to_date() -> None:
    """If this fails: .venv/bin/python -m tests.repo.python_reference > docs/reference/python.md."""
    assert PAGE.read_text(encoding="utf-8") == reference()


def test_another_name_is_missing_as_everywhere() -> None:
    with pytest.raises(AttributeError, match="module 'eventflow' has no attribute 'Clint'"):
        eventflow.Clint  # type: ignore[attr-defined]  # noqa: B018  # that is the mistake
    with pytest.raises(ImportError, match="cannot import name 'Clint' from 'eventflow'"):
        exec("from eventflow import Clint")  # noqa: S102  # as a user writes it


@pytest.mark.slow
@pytest.mark.parametrize(
    ("code", "spared"),
    [
        ("import eventflow", {"aiohttp", "apsw", "asyncio", "cel", "starlette", "uvicorn"}),
        ("import eventflow; eventflow.Client()", {"aiohttp", "apsw", "starlette", "uvicorn"}),
        ("import eventflow; eventflow.AsyncClient()", {"apsw", "starlette", "uvicorn"}),
        ("import eventflow; eventflow.EventFlow()", {"aiohttp", "uvicorn"}),
    ],
)
def test_nobody_loads_what_he_does_not_use(code: str, spared: set[str]) -> None:
    """A command that publishes one event should not take half a second to start."""
    loaded = loaded_by(code)

    assert "msgspec" in loaded, "what is certainly used is seen"
    assert loaded & spared == set()


@pytest.mark.slow
def test_a_command_loads_no_node_to_start() -> None:
    """Each of the commands for daily work waited for SQLite, CEL and a web server first."""
    loaded = loaded_by("import eventflow.cli.main")

    assert "cyclopts" in loaded, "what is certainly used is seen"
    assert loaded & {"apsw", "cel", "prompt_toolkit", "starlette", "structlog", "uvicorn"} == set()
