"""A Redis server of its own: a free port of the loopback, a folder that goes with it."""

from __future__ import annotations

import contextlib
import ctypes
import shutil
import signal
import socket
import subprocess
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

UNTIL_UP_S = 10.0
_PARENT_DIED = 1
"""PR_SET_PDEATHSIG of prctl(2)."""
UNTIL_DOWN_S = 10.0


def end_with_parent() -> None:
    """Called in a new process: let it be told to end when who started it is gone, killed too."""
    ctypes.CDLL(None).prctl(_PARENT_DIED, signal.SIGTERM)


def program() -> str | None:
    """Return the server's program; None: it is not installed."""
    return shutil.which("redis-server")


@contextlib.contextmanager
def server(folder: Path, *, fsync: bool) -> Iterator[str]:
    """Run a server, and give its URL.

    Args:
        folder: Where it keeps its file.
        fsync: It syncs what it was told before it answers; else it keeps nothing on disk.
    """
    found = program()
    if found is None:
        raise FileNotFoundError("redis-server: install Debian's package redis-server")
    kept = ("yes", "--appendfsync", "always") if fsync else ("no",)
    port = _free_port()
    command = [found, "--bind", "127.0.0.1", "--port", str(port), "--dir", str(folder)]
    command += ["--save", "", "--appendonly", *kept, "--loglevel", "warning", "--daemonize", "no"]
    with subprocess.Popen(  # noqa: S603  # its words are all ours
        command,
        stdout=subprocess.DEVNULL,
        preexec_fn=end_with_parent,  # noqa: PLW1509  # no threads here
    ) as process:
        try:
            _wait_for(port, process)
            yield f"redis://127.0.0.1:{port}"
        finally:
            process.terminate()
            try:
                process.wait(UNTIL_DOWN_S)
            except subprocess.TimeoutExpired:
                process.kill()


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + UNTIL_UP_S
    while time.monotonic() < until and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1) as line:
            line.sendall(b"PING\r\n")
            if line.recv(16).startswith(b"+PONG"):
                return
        time.sleep(0.02)
    raise TimeoutError(f"redis-server did not answer on port {port} within {UNTIL_UP_S:g} s")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
