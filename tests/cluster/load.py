"""What is offered: so many events a second over HTTP, to all nodes in turn, whatever they answer.

It does not wait for answers before it sends more, as senders in the world don't: where a node
hangs, requests pile up until each has waited `PATIENCE_S`.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from typing import TYPE_CHECKING, Any

import aiohttp
from tests.cluster.nodes import TOPICS

if TYPE_CHECKING:
    import random
    from collections.abc import Sequence

    from tests.cluster.history import History, What
    from tests.cluster.nodes import Node

TICK_S = 0.05
PATIENCE_S = 15.0
"""How long a request waits for its answer."""
SIZES = (1, 1, 1, 2, 5)
"""Events in a request."""
KINDS = ("ok",) * 16 + ("both",) * 8 + ("slow",) * 4 + ("shaky",) * 3 + ("late", "broken")


class Load:
    """Offers events until told to stop; what becomes of each goes into the history."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        nodes: Sequence[Node],
        history: History,
        chance: random.Random,
        per_s: float = 220.0,
    ) -> None:
        self._session = session
        self._nodes = itertools.cycle(nodes)
        self._history = history
        self._chance = chance
        self._per_s = per_s
        self._number = itertools.count()
        self.offered = 0
        self.lasted_s = 0.0
        """For how long it offered."""
        self.statuses: Counter[str] = Counter()
        """Requests by what was answered."""
        self.accepted_at: dict[str, float] = {}
        """By node: when it last accepted something, by the event loop's clock."""

    async def run(self, stop: asyncio.Event) -> None:
        """Offer until told to stop, and hear out all answers."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        async with asyncio.TaskGroup() as requests:
            while not stop.is_set():
                while self.offered < self._per_s * (loop.time() - began):
                    size = self._chance.choice(SIZES)
                    self.offered += size
                    requests.create_task(self._request(size))
                await asyncio.sleep(TICK_S)
            self.lasted_s = loop.time() - began

    async def _request(self, size: int) -> None:
        node = next(self._nodes)
        batch = [self._event() for _ in range(size)]
        for event in batch:
            type = event["type"]
            topics = TOPICS.get(type, ("work",))
            self._history.note("offered", event["id"], topics=topics, node=node.name)
        answer, status = await self._send(node, batch)
        self.statuses[status] += 1
        for event in batch:
            self._history.note(answer, event["id"], node=node.name)
        if answer == "accepted":
            self.accepted_at[node.name] = asyncio.get_running_loop().time()

    def _event(self) -> dict[str, Any]:
        return {
            "specversion": "1.0",
            "id": f"e{next(self._number)}",
            "source": "/cluster",
            "type": f"work.{self._chance.choice(KINDS)}",
            "data": {"padding": "x" * 200},
        }

    async def _send(self, node: Node, batch: list[dict[str, Any]]) -> tuple[What, str]:
        headers = {"content-type": "application/cloudevents-batch+json"}
        timeout = aiohttp.ClientTimeout(total=PATIENCE_S)
        url = f"{node.url}/v1/events"
        try:
            async with self._session.post(
                url, json=batch, headers=headers, timeout=timeout
            ) as answer:
                await answer.read()
        except aiohttp.ClientConnectorError:
            return "refused", "nobody there"
        except TimeoutError:
            return "unknown", "no answer"
        except aiohttp.ClientError as error:
            return "unknown", type(error).__name__
        if answer.status == 202:
            return "accepted", "202"
        # 503 says that the node can't be sure, or is stopping; only 4xx that nothing was stored.
        return ("refused" if answer.status < 500 else "unknown"), str(answer.status)
