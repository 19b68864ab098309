"""A small shop in a folder: a node in a process of its own, with trouble in two topics."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

EVENTFLOW: Final = str(Path(sys.executable).parent / "eventflow")
ORDERS: Final = 60
"""Events published at first: a third is dead in `email`, a fifth in `db`."""

HANDLERS: Final = '''\
"""The handlers of a shop."""

from eventflow import Event, EventFlow, Permanent


async def api(event: Event) -> None:
    """Take everything."""


async def db(event: Event) -> None:
    """Store what has a price."""
    if event.data["n"] % 5 == 0:
        raise KeyError("price")


async def email(event: Event) -> None:
    """Mail who takes mail."""
    if event.data["n"] % 3 == 0:
        raise Permanent("no such customer")


flow = EventFlow(engine="memory:")
'''

CONFIG: Final = """\
[engine]
url = "sqlite:running.db"

[server]
port = {port}

[common]
capacity = 1_000_000

[topics.api]
match = "**"
handler = "shop.app:api"

[topics.db]
match = "order.*"
handler = "shop.app:db"

[topics.email]
match = "order.*"
handler = "shop.app:email"
"""


def event(n: int, id: str = "") -> dict[str, Any]:
    """Return an order."""
    kind = {"specversion": "1.0", "source": "/shop", "type": "order.placed"}
    return {**kind, "id": id or str(4711 + n), "data": {"n": n}}


class Shop:
    """A folder with a configuration, handlers and events; and commands run in it."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder = folder
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        package = folder / "shop"
        package.mkdir(parents=True)
        (package / "app.py").write_text(HANDLERS)
        (folder / "eventflow.toml").write_text(CONFIG.format(port=port))
        (folder / "shop.toml").write_text(CONFIG.format(port=port))
        lines = [json.dumps(event(n)) for n in range(ORDERS)]
        (folder / "events.ndjson").write_text("\n".join(lines) + "\n")

    def environment(self) -> dict[str, str]:
        """Return the environment of commands: it names the node, and nothing else of ours."""
        kept = {name: value for name, value in os.environ.items() if "EVENTFLOW" not in name}
        path = f"{Path(EVENTFLOW).parent}{os.pathsep}{os.environ.get('PATH', '')}"
        return kept | {"PATH": path, "EVENTFLOW_URL": self.url, "HOME": str(self.folder)}

    def run(
        self, *words: str, timeout_s: float = 60.0, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """Run `eventflow` with these words."""
        return subprocess.run(
            [EVENTFLOW, *words],
            cwd=self.folder,
            env=self.environment() | environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout_s,
            stdin=subprocess.DEVNULL,
        )

    def done(self, *words: str, timeout_s: float = 60.0) -> str:
        """Run a command that has to succeed; return what it printed."""
        ended = self.run(*words, timeout_s=timeout_s)
        assert ended.returncode == 0, f"{words}: {ended.stderr}"
        return ended.stdout

    def asked(self, *words: str) -> Any:
        """Return a command's answer for programs."""
        return json.loads(self.done(*words, "--json"))

    def shell(self, command: str, timeout_s: float = 60.0) -> subprocess.CompletedProcess[str]:
        """Run a line as a reader would type it."""
        return subprocess.run(
            ["bash", "-o", "pipefail", "-c", command],  # noqa: S607  # the reader's
            cwd=self.folder,
            env=self.environment(),
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout_s,
            stdin=subprocess.DEVNULL,
        )

    @contextmanager
    def serving(self) -> Iterator[subprocess.Popen[bytes]]:
        """Run a node, with what it says in node.log."""
        with (self.folder / "node.log").open("ab") as log:
            node = subprocess.Popen(
                [EVENTFLOW, "serve"],
                cwd=self.folder,
                env=self.environment(),
                stdout=log,
                stderr=log,
            )
            try:
                self._await_door(node)
                yield node
            finally:
                node.terminate()
                node.wait(30)

    def _await_door(self, node: subprocess.Popen[bytes]) -> None:
        until = time.monotonic() + 30
        while time.monotonic() < until and node.poll() is None:
            try:
                with urllib.request.urlopen(f"{self.url}/readyz", timeout=5):  # noqa: S310  # ours
                    return
            except OSError:
                time.sleep(0.05)
        raise AssertionError((self.folder / "node.log").read_text())

    def settled(self) -> dict[str, Any]:
        """Wait until nothing is queued, running or retrying; return the ledger."""
        until = time.monotonic() + 60
        moving = ("queued", "running", "retrying")
        while True:
            stats: dict[str, Any] = self.asked("stats")
            if not any(topic[state] for topic in stats["topics"].values() for state in moving):
                return stats
            assert time.monotonic() < until, f"it does not settle: {stats}"
            time.sleep(0.1)
