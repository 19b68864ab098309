"""The programs in examples/ are run as they stand there."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.error import HTTPError

import pytest
from tests.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

EXAMPLES: Final = Path(__file__).parents[2] / "examples"
ORDER: Final = {"number": 4711, "email": "ada@example.org", "total": 12.5}


class Programs:
    """Runs programs in a copy of an example's folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.web_port = free_port()
        kept = {name: value for name, value in os.environ.items() if "EVENTFLOW" not in name}
        self.environment = kept | {
            "EVENTFLOW_SERVER__PORT": str(self.port),
            "EVENTFLOW_URL": f"http://127.0.0.1:{self.port}",
        }

    @contextmanager
    def running(self, *words: str, until: Callable[[], object]) -> Iterator[Path]:
        """Run a program until the end of the block; give the file with what it prints."""
        said = self.folder / f"{words[0]}.out"
        with said.open("w") as out:
            program = subprocess.Popen(
                [sys.executable, *words],
                cwd=self.folder,
                env=self.environment,
                stdout=out,
                stderr=out,
            )
            try:
                eventually(until)
                yield said
            finally:
                program.terminate()
                ended = program.wait(30)
        # uvicorn ends by the signal it was given, once it has closed everything.
        assert ended == (-signal.SIGTERM if "uvicorn" in words else 0), said.read_text()

    def worker(self) -> Any:
        return self.running("worker.py", until=lambda: asked(f"{self._node}/readyz"))

    def web(self) -> Any:
        words = ("-m", "uvicorn", "web:app", "--port", str(self.web_port), "--log-level", "warning")
        return self.running(*words, until=lambda: self.order(b"no JSON")[0] == 400)

    def order(self, body: object, key: str = "") -> tuple[int, dict[str, Any]]:
        """Place an order in the shop."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = {"idempotency-key": key} if key else {}
        return asked(f"http://127.0.0.1:{self.web_port}/orders", data, headers)

    def topics(self) -> Any:
        return asked(f"{self._node}/v1/stats")[1]["topics"]

    @property
    def _node(self) -> str:
        return f"http://127.0.0.1:{self.port}"


def asked(url: str, data: bytes | None = None, headers: Any = None) -> tuple[int, dict[str, Any]]:
    request = urllib.request.Request(url, data, headers or {})  # noqa: S310  # ours
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310  # ours
            return answer.status, json.load(answer)
    except HTTPError as error:
        with error:
            return error.code, json.load(error)


def eventually(holds: Callable[[], object]) -> None:
    until = time.monotonic() + 30
    while True:
        try:
            if holds():
                return
        except OSError:
            pass  # nobody listens yet
        assert time.monotonic() < until
        time.sleep(0.05)


@pytest.fixture
def programs(tmp_path: Path) -> Programs:
    shutil.copytree(EXAMPLES / "shop", tmp_path / "shop")
    return Programs(tmp_path / "shop")


def test_an_order_comes_from_the_web_to_books_and_mails(programs: Programs) -> None:
    with programs.worker() as said, programs.web():
        assert programs.order(ORDER, key="basket-1") == (202, {"id": "basket-1", "known": False})
        assert programs.order(ORDER, key="basket-1") == (202, {"id": "basket-1", "known": True})
        assert programs.order({**ORDER, "email": "nowhere"})[0] == 202
        assert programs.order({"number": "many"})[0] == 202
        eventually(lambda: all(t["created"] == 3 for t in programs.topics().values()))
        eventually(lambda: not any(t["queued"] + t["running"] for t in programs.topics().values()))
        topics = programs.topics()
    assert (topics["books"]["delivered"], topics["books"]["dead"]) == (2, 1)
    assert (topics["mails"]["delivered"], topics["mails"]["dead"]) == (1, 2)
    with sqlite3.connect(programs.folder / "orders.db") as database:
        assert database.execute("SELECT number, total FROM orders").fetchall() == [(4711, 12.5)] * 2
    database.close()
    assert "to ada@example.org: Thank you for order 4711. (attempt 1)\n" in said.read_text()


def test_without_a_worker_the_shop_asks_to_come_back(programs: Programs) -> None:
    with programs.web():
        assert programs.order(ORDER) == (503, {"detail": "please order again in a moment"})


def test_all_examples_are_run() -> None:
    assert {path.name for path in EXAMPLES.iterdir()} - {"__pycache__"} == {"README.md", "shop"}
    assert {path.name for path in (EXAMPLES / "shop").glob("*.py")} == {"web.py", "worker.py"}
