"""Calls that share a batch: where it is refused, none waits for all the others."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

from eventflow.clock import SystemClock
from eventflow.engine.jetstream.entrance import Arrival, Entrance
from eventflow.engine.jetstream.names import COMMON_QUEUE
from eventflow.engine.jetstream.wire import Duplicated, Stored
from eventflow.testing import run
from eventflow.testing.engine_bench import event

if TYPE_CHECKING:
    from collections.abc import Sequence

    from eventflow.engine.jetstream.desk import Desk
    from eventflow.engine.jetstream.wire import Item

TAKES_S = 0.1


class Servers:
    """They refuse a batch of several, and take their time."""

    def __init__(self) -> None:
        self.at_once = self.most = self.stored = 0

    async def put_all(self, items: Sequence[Item]) -> Stored:
        self.at_once += 1
        self.most = max(self.most, self.at_once)
        await asyncio.sleep(TAKES_S)
        self.at_once -= 1
        if len(items) > 1:
            raise Duplicated(10201, 400, "duplicate message id")
        self.stored += 1
        return Stored(self.stored)


def test_calls_whose_batch_is_refused_are_tried_some_at_once() -> None:
    servers = Servers()

    async def story() -> float:
        gauge: Any = SimpleNamespace(promise=lambda _: None, came=lambda *_: None)
        desk: Any = SimpleNamespace(
            wire=servers,
            clock=SystemClock(),
            depths=SimpleNamespace(gauge=lambda _: gauge),
        )
        entrance = Entrance(cast("Desk", desk), COMMON_QUEUE, lambda *_: None)
        loop = asyncio.get_running_loop()
        calls = [
            entrance.store([Arrival(one, f"ref{n}", one.key)])
            for n, one in enumerate(event(f"e{n}") for n in range(81))
        ]
        began = loop.time()
        receipts = await asyncio.gather(*calls)
        assert [next(iter(one.values())).ref for one in receipts] == [f"ref{n}" for n in range(81)]
        return loop.time() - began

    took_s = run(story())
    assert servers.stored == 81
    assert 2 <= servers.most <= 16, "of three nodes they must not come near the servers' 50"
    assert took_s < 81 * TAKES_S / 4
