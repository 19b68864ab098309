"""What operators set on servers, told to storage: in order, each once."""

from __future__ import annotations

import asyncio
from random import Random
from typing import Any

from eventflow.engine.jetstream.operators import Operators
from eventflow.engine.jetstream.wire import Stored
from eventflow.storage.protocol import Actor
from eventflow.testing import run

ANNA = Actor("anna", "a try")


class Wire:
    """Servers on which nobody else sets anything."""

    seq = 0

    async def put(self, _: Any) -> Stored:
        self.seq += 1
        return Stored(self.seq, duplicate=False)

    async def read(self, *_: Any) -> list[Any]:
        return []


class Slow:
    """Storage that takes its time."""

    def __init__(self) -> None:
        self.told: list[Any] = []

    async def override(self, topic: str, values: Any, _: Actor) -> None:
        await asyncio.sleep(1)
        self.told.append((topic, values))


def test_a_beat_while_an_operator_waits_tells_nothing_twice() -> None:
    async def story() -> list[Any]:
        storage = Slow()
        wire: Any = Wire()
        operators = Operators(wire, storage, Random(1).getrandbits)  # type: ignore[arg-type]  # all it asks of it
        async with asyncio.TaskGroup() as acts:
            acts.create_task(operators.override("a", {"paused": True}, ANNA))
            await asyncio.sleep(0.5)
            acts.create_task(operators.refresh())
            acts.create_task(operators.override("b", {"paused": True}, ANNA))
        return storage.told

    assert run(story()) == [("a", {"paused": True}), ("b", {"paused": True})]
