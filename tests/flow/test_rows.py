"""Every row of DESIGN's life of a delivery is taken by a whole node, and counted."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

from eventflow import Event, EventFlow, Permanent, RetryLater
from eventflow.clock import rfc3339
from eventflow.delivery import Row
from eventflow.errors import StorageUnavailable
from eventflow.storage.protocol import Actor, Filter
from eventflow.storage.shelf import Shelf
from eventflow.testing.clock import EPOCH_S
from eventflow.testing.harness import settle, started, virtual
from eventflow.testing.loop import run

ELSEWHERE = {
    Row.NODE_DIED: "tests/engine: the process has to die",
    Row.POISON: "tests/engine and tests/crash: it has to die three times",
    Row.REPLACED: "replay with an edit: not in this version",
    Row.RELEASED: "test_lifecycle: the node stops while a handler runs",
}


class Weak(Shelf):
    """A storage that refuses while it is told to."""

    refuses = False

    def keep(self, items: Any) -> None:
        if Weak.refuses:
            raise StorageUnavailable("told to refuse")
        super().keep(items)


def test_every_row_is_taken_and_counted(seed: int) -> None:  # noqa: PLR0915  # one long story
    counted: Counter[str] = Counter()

    async def story() -> None:
        flow = EventFlow(engine="memory:", surroundings=virtual(seed, shelf=Weak))
        flow.override({"common": {"capacity": 1000}})
        busy = asyncio.Event()
        runs: Counter[str] = Counter()

        @flow.topic("kinds", match="kinds.*", retry={"base": "100ms", "max_in_queue": "1m"})
        async def kinds(event: Event) -> None:
            runs[event.id] += 1
            match event.type.removeprefix("kinds."):
                case "shaky" if runs[event.id] < 3:
                    raise ConnectionError("not yet")
                case "doomed":
                    raise ConnectionError("never")
                case "later" if runs[event.id] < 2:
                    raise RetryLater(5)
                case "much-later" if runs[event.id] < 2:
                    raise RetryLater(3600, count=False)
                case "permanent":
                    raise Permanent("no use")
                case _:
                    return

        @flow.topic(
            "small",
            match="small.*",
            capacity=10,
            concurrency=1,
            retry={"base": "100ms", "max": "200ms", "capacity": 10, "max_overflows": 2},
        )
        async def small(event: Event) -> None:
            await busy.wait()

        async with started(flow):
            storage: Any = flow.flow.tools.storage
            soon, far, past = (rfc3339(EPOCH_S + after) for after in (30, 7200, -1))
            names = ("shaky", "doomed", "later", "much-later", "permanent", "fine")
            await flow.publish_many([Event(type=f"kinds.{n}", source="/t") for n in names])
            await flow.publish_many(
                [
                    Event(type="kinds.fine", source="/t", deliverat=soon),
                    Event(type="kinds.fine", source="/t", deliverat=far),
                    Event(type="kinds.fine", source="/t", expirytime=past),
                    Event(type="nobody.wants.it", source="/t"),
                ]
            )
            await flow.publish_many([Event(type="small.x", source="/t") for _ in range(40)])
            await asyncio.sleep(10)
            busy.set()
            Weak.refuses = True
            await flow.publish(Event(type="kinds.permanent", source="/t"))
            await asyncio.sleep(5)
            Weak.refuses = False
            await settle(flow)
            dead = await storage.ids(Filter(state="dead", reason="permanent"))
            who = Actor("a tester", "to see it")
            assert set((await storage.replay(dead[:1], who)).values()) == {"replayed"}
            assert set((await storage.discard(dead[1:], who)).values()) == {"discarded"}
            flow.flow.nudge("kinds")
            doors = (
                flow.flow.ingress.accept(
                    [Event(type="kinds.fine", source="/hook") for _ in range(101)], park=True
                )
                for _ in range(10)
            )
            answers = await asyncio.gather(*doors)
            assert sum(receipt.parked for receipts in answers for receipt in receipts) >= 100
            ledger = await settle(flow)
            assert ledger.unaccounted == 0
            counted.update(flow.flow.ledger.rows)
            trail = {row.row for ref in dead for row in await storage.trail(ref.partition(".")[0])}
            text = b"".join(trail).decode()
            counted.update(row for row in ("replayed", "discarded") if f"delivery.{row}" in text)
            assert (await storage.verify()).ok

    run(story(), seed=seed)

    missing = {row.value for row in Row} - set(counted) - {row.value for row in ELSEWHERE}
    assert not missing
