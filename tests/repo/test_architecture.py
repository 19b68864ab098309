"""The shape of the code base, kept by test instead of by memory."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "eventflow"
PYPROJECT = ROOT / "pyproject.toml"
MODULES = sorted(PACKAGE.rglob("*.py"))

IMPURE = {
    *("apsw", "asyncio", "logging", "os", "random", "secrets", "socket", "sqlite3"),
    *("subprocess", "threading", "time", "uuid"),
}
BELOW_POLICY = {"policy", "delivery", "event", "errors", "clock"}

# A library that may spread nowhere else: where it is met, it is met in one room.
ROOMS = {
    "aiohttp": {"sinks", "client", "cli", "quickstart", "testing"},
    "aiosmtpd": {"quickstart", "testing"},
    "aiosmtplib": {"sinks"},
    "apsw": {"engine", "storage", "testing"},
    "cyclopts": {"cli"},
    "jinja2": {"sinks"},
    "nats": {"engine"},
    "prometheus_client": {"telemetry"},
    "rich": {"cli", "quickstart"},
    "psycopg": {"sinks", "storage"},
    "sqlalchemy": {"sinks"},
    "sqlite3": {"sinks", "quickstart"},  # engines and storage: apsw, whose SQLite is current
    "standardwebhooks": {"quickstart"},
    "starlette": {"web"},
    "uvicorn": {"web", "app", "cli", "quickstart"},
}

WAITS_FOR_REAL = {"chaos", "cluster", "crash", "e2e", "prove"}
"""Folders of tests that are about other processes, which no virtual clock can turn."""
SERVERS = re.compile("jetstream|postgres|web/test_quick")
"""Files of tests that are about such processes, or about sockets."""


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), str(path))


def room(path: Path) -> str:
    """Return the part of the package a file belongs to: `engine/protocol.py` is in "engine"."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def imports(path: Path) -> set[str]:
    """Return the full names of the modules and names that `path` imports."""
    found: set[str] = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module or ''}.{alias.name}" for alias in node.names}
    return found


def tops(path: Path) -> set[str]:
    return {module.partition(".")[0] for module in imports(path)}


def test_the_import_contracts_hold() -> None:
    """Layers, purity and who speaks to SQLite: what `make check` says too."""
    # In a process of its own: it configures logging, which would switch off loggers of others.
    call = f"lint_imports(config_filename={str(PYPROJECT)!r}, no_cache=True, no_logo=True)"
    code = f"from importlinter.cli import lint_imports; raise SystemExit({call})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_a_layer_in_parentheses_is_not_written_yet() -> None:
    """Parentheses forgive a missing layer. Once it is there, take them off."""
    (layers,) = (
        contract["layers"]
        for contract in tomllib.loads(PYPROJECT.read_text())["tool"]["importlinter"]["contracts"]
        if contract["type"] == "layers"
    )
    written = {room(path) for path in MODULES if path.parent == PACKAGE or path.stem == "__init__"}

    assert set(re.findall(r"\((\w+)\)", " ".join(layers))) & written == set()


@pytest.mark.parametrize("path", [m for m in MODULES if room(m) == "policy"], ids=name)
class TestPolicy:
    def test_is_pure(self, path: Path) -> None:
        """No clock, no chance, no I/O, no threads."""
        assert tops(path) & IMPURE == set()

    def test_knows_only_what_is_below(self, path: Path) -> None:
        inside = {m for m in imports(path) if m.partition(".")[0] == "eventflow"}

        assert {m for m in inside if m.split(".")[1] not in BELOW_POLICY} == set()

    def test_does_not_look_at_the_clock(self, path: Path) -> None:
        """Time is an argument: policies use only the formatting in `clock`."""
        assert imports(path) & {"eventflow.clock.Clock", "eventflow.clock.SystemClock"} == set()
        called = {
            node.func.attr
            for node in ast.walk(tree(path))
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
        }
        assert called & {"now", "today", "utcnow"} == set()

    def test_does_not_wait(self, path: Path) -> None:
        waits = ast.AsyncFunctionDef, ast.Await, ast.AsyncFor, ast.AsyncWith
        assert [node.lineno for node in ast.walk(tree(path)) if isinstance(node, waits)] == []


def test_each_library_keeps_to_its_rooms() -> None:
    strays = {
        f"{name(path)} imports {library}; its rooms: {', '.join(sorted(ROOMS[library]))}"
        for path in MODULES
        for library in tops(path) & ROOMS.keys()
        if room(path) not in ROOMS[library]
    }

    assert strays == set()


def test_only_configuration_and_the_command_line_read_the_environment() -> None:
    readers = {
        name(path)
        for path in MODULES
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Attribute) and node.attr in {"environ", "getenv"}
        if room(path) not in {"config", "cli", "quickstart"}
    }

    assert readers == set()


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_every_module_says_what_it_is_for(path: Path) -> None:
    assert ast.get_docstring(tree(path)), f"{name(path)} has no docstring"


def test_every_promise_of_an_engine_has_a_contract_test() -> None:
    """G1..G8 in the docstring of `Engine` and test_g1_..test_g8_ agree."""
    (engine,) = (
        node
        for node in tree(PACKAGE / "engine" / "protocol.py").body
        if isinstance(node, ast.ClassDef) and node.name == "Engine"
    )
    promised = set(re.findall(r"^G(\d+)  ", ast.get_docstring(engine) or "", re.MULTILINE))
    tested = {
        match[1]
        for node in ast.walk(tree(PACKAGE / "testing" / "engine_contract.py"))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        if (match := re.match(r"test_g(\d+)_", node.name))
    }

    assert promised == {str(n) for n in range(1, 9)}
    assert tested == promised


def test_fast_tests_do_not_sleep() -> None:
    """Time is turned by hand, or a test awaits the event it is about.

    `asyncio.sleep(0)` only yields; on the virtual clock of `eventflow.testing` any other takes no
    time either. `time.sleep` always takes it.
    """
    sleepers = {
        f"{name(path)}:{node.lineno}"
        for path in (ROOT / "tests").rglob("*.py")
        if not WAITS_FOR_REAL & set(path.parts) and not SERVERS.search(name(path))
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Call)
        if ast.unparse(node.func) in sleeps(path) and ast.unparse(node.args[0]) != "0"
    }

    assert sleepers == set()


@cache
def sleeps(path: Path) -> set[str]:
    """Return the calls that would take real time in this file of tests."""
    virtual = any(module.startswith("eventflow.testing") for module in imports(path))
    return {"time.sleep"} if virtual else {"time.sleep", "asyncio.sleep", "sleep"}
