"""Looks at servers and nodes all the time: depths into the history, ledgers kept for the bars."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    import aiohttp
    from tests.cluster.history import History
    from tests.cluster.nodes import Node
    from tests.cluster.servers import Servers

EVERY_S = 0.5
WAITING = ("queued", "running", "retrying", "parked")


@dataclass(frozen=True)
class Look:
    """One node's ledger at one moment."""

    at: float
    """Seconds since 1970."""
    node: str
    stats: dict[str, Any]

    @property
    def waiting(self) -> int:
        """Deliveries that are not at their end."""
        topics = self.stats["topics"].values()
        return sum(topic[state] for topic in topics for state in WAITING)

    @property
    def balance(self) -> tuple[int, int]:
        """`unaccounted` and `moving`: of the topic that is furthest from 0, since sums hide it."""
        topics = self.stats["topics"].values()
        return max((one["unaccounted"] for one in topics), key=abs), self.stats["moving"]


class Watch:
    """Keeps looking until it is cancelled."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        servers: Servers,
        nodes: Sequence[Node],
        history: History,
    ) -> None:
        self._session = session
        self._servers = servers
        self._nodes = nodes
        self._history = history
        self.looks: list[Look] = []
        self.held = -1
        """Messages in all queues and lanes, by the fullest server's account; -1: nobody said."""

    async def run(self) -> None:
        """Look every half second."""
        await asyncio.gather(self._watch_servers(), *map(self._watch_node, self._nodes))

    async def _watch_servers(self) -> None:
        while True:
            held: dict[str, int] = {}
            for depth in await self._servers.depths():
                held[depth.stream] = max(depth.held, held.get(depth.stream, 0))
                # One that was killed follows what was stored first, then what was acked (seen: 57
                # of 40, while both others said 40). What is let in is the leader's to say.
                if depth.leads:
                    self._history.note(
                        "depth",
                        topic=depth.stream,
                        held=depth.held,
                        capacity=depth.capacity,
                        given=depth.given,
                        node=depth.server,
                    )
            self.held = sum(held.values()) if held else -1
            await asyncio.sleep(EVERY_S)

    async def _watch_node(self, node: Node) -> None:
        while True:
            stats = await node.stats(self._session)
            if stats is not None:
                self.looks.append(Look(time.time(), node.name, stats))
            await asyncio.sleep(EVERY_S)

    def latest(self) -> list[Look]:
        """Return each node's latest ledger, where it is not older than two looks."""
        newest = {look.node: look for look in self.looks}
        return [look for look in newest.values() if time.time() - look.at < 4 * EVERY_S]

    def after(self, at: float) -> list[Look]:
        """Return all ledgers seen after a time."""
        return [look for look in self.looks if look.at > at]

    @property
    def is_still(self) -> bool:
        """Whether servers hold nothing and each node's ledger shows nothing that waits."""
        seen = self.latest()
        everybody = len(seen) == len(self._nodes)
        return self.held == 0 and everybody and not any(look.waiting for look in seen)

    @property
    def is_balanced(self) -> bool:
        """Whether each node's ledger shows `unaccounted` 0 and `moving` 0."""
        seen = self.latest()
        return len(seen) == len(self._nodes) and all(look.balance == (0, 0) for look in seen)
