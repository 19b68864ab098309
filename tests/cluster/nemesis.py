"""Faults, one after the other, in an order and with victims that follow from a seed alone.

    kill node          kill -9 of a node, started again at once or after seconds
    kill leader        kill -9 of the server that leads common's stream
    kill servers       kill -9 of all three, started again after a second or two
    stop leader        SIGSTOP of that server: it is neither there nor gone
    stop node          SIGSTOP of a node
    cut leader         that server and the other two hear nothing of each other; clients reach all
    mute leader        it hears the others, they hear nothing of it (one-way)
    unplug server      nobody reaches one of them, clients neither

Beside them, once, from a moment that is drawn too: PostgreSQL is stopped for 30 s.
"""

from __future__ import annotations

import asyncio
import signal
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import random
    from collections.abc import Awaitable, Callable, Sequence

    import aiohttp
    from tests.cluster.nodes import Node
    from tests.cluster.servers import Servers
    from tests.postgres_server import Server as Postgres

STREAM = "EF_COMMON"
SHORT_S, LONG_S = 2.0, 5.0
"""How long a fault lasts."""
BETWEEN_S = 2.0
POSTGRES_GONE_S = 30.0


class Nemesis:
    """Carries out faults."""

    def __init__(
        self,
        servers: Servers,
        nodes: Sequence[Node],
        session: aiohttp.ClientSession,
        chance: random.Random,
        postgres: Postgres | None = None,
    ) -> None:
        self._servers = servers
        self._nodes = nodes
        self._session = session
        self._chance = chance
        self._postgres = postgres
        self.log: list[str] = []
        """What was done, and when."""
        self._began = 0.0

    @property
    def kinds(self) -> dict[str, Callable[[float], Awaitable[None]]]:
        """The faults that can be made here; each lasts so many seconds."""
        everywhere: dict[str, Callable[[float], Awaitable[None]]] = {
            "kill node": self._kill_node,
            "kill leader": self._kill_leader,
            "kill servers": self._kill_servers,
            "stop leader": self._stop_leader,
            "stop node": self._stop_node,
        }
        if not self._servers.network.can_cut:
            return everywhere
        return everywhere | {
            "cut leader": self._cut_leader,
            "mute leader": self._mute_leader,
            "unplug server": self._unplug_server,
        }

    async def run(self, lasts_s: float) -> float:
        """Make each kind of fault once, and then more, until time is up; return when it was over.

        Returns:
            Seconds since 1970: when all servers and nodes had been told to go on.
        """
        self._began = time.monotonic()
        storage = asyncio.create_task(self._stop_postgres(lasts_s))
        todo: list[str] = []
        while time.monotonic() - self._began < lasts_s:
            if not todo:
                todo = sorted(self.kinds)
                self._chance.shuffle(todo)
            kind = todo.pop()
            await self.make(kind, self._chance.uniform(SHORT_S, LONG_S))
            await asyncio.sleep(self._chance.uniform(0.5, BETWEEN_S))
        await storage
        over_at = time.time()
        await asyncio.gather(*(node.until_ready(self._session) for node in self._nodes))
        return over_at

    async def make(self, kind: str, seconds: float) -> None:
        """Make one fault, and mend it."""
        self._say(f"{kind}, {seconds:.1f} s")
        await self.kinds[kind](seconds)

    def _say(self, what: str) -> None:
        self.log.append(f"{time.monotonic() - self._began:5.1f} s: {what}")

    @property
    def leader(self) -> int:
        """Which server leads common's stream."""
        return self._servers.leader_of(STREAM)

    async def _kill_node(self, seconds: float) -> None:
        node = self._chance.choice(self._nodes)
        await node.end(signal.SIGKILL)
        await asyncio.sleep(self._chance.choice((0.0, seconds)))
        await node.start()

    async def _stop_node(self, seconds: float) -> None:
        node = self._chance.choice(self._nodes)
        node.stop()
        await asyncio.sleep(seconds)
        node.go_on()

    async def _kill_leader(self, seconds: float) -> None:
        server = self._servers.all[await asyncio.to_thread(lambda: self.leader)]
        server.kill()
        await asyncio.sleep(seconds)
        server.start()

    async def _kill_servers(self, seconds: float) -> None:
        for server in self._servers.all:
            server.kill()
        await asyncio.sleep(seconds / 2)
        for server in self._servers.all:
            server.start()

    async def _stop_leader(self, seconds: float) -> None:
        server = self._servers.all[await asyncio.to_thread(lambda: self.leader)]
        server.stop()
        await asyncio.sleep(2 * seconds)  # its silence is noticed later than its end
        server.go_on()

    async def _cut_leader(self, seconds: float) -> None:
        leader = await asyncio.to_thread(lambda: self.leader)
        await self._mended(lambda: self._servers.network.cut(leader), seconds)

    async def _mute_leader(self, seconds: float) -> None:
        leader = await asyncio.to_thread(lambda: self.leader)
        others = [number for number in range(len(self._servers.all)) if number != leader]
        await self._mended(lambda: self._servers.network.mute(leader, others), seconds)

    async def _unplug_server(self, seconds: float) -> None:
        one = self._chance.randrange(len(self._servers.all))
        await self._mended(lambda: self._servers.network.unplug(one), seconds)

    async def _mended(self, cut: Callable[[], Any], seconds: float) -> None:
        cut()
        try:
            await asyncio.sleep(2 * seconds)
        finally:
            self._servers.network.mend()

    async def _stop_postgres(self, lasts_s: float) -> None:
        if self._postgres is None:
            return
        await asyncio.sleep(self._chance.uniform(0, max(0.0, lasts_s - POSTGRES_GONE_S)))
        self._say(f"stop PostgreSQL, {POSTGRES_GONE_S:g} s")
        await asyncio.to_thread(self._postgres.stop)
        await asyncio.sleep(POSTGRES_GONE_S)
        await asyncio.to_thread(self._postgres.start)
