"""A whole node on virtual time: publish, let a week pass, look where everything is.

    def test_a_week_of_trouble() -> None:
        async def story() -> None:
            flow = EventFlow(engine="memory:", surroundings=virtual(seed=7))

            @flow.topic("email", match="user.*")
            async def send(event: Event) -> None:
                raise ConnectionError("no route to host")

            async with started(flow):
                await flow.publish(Event(type="user.registered", source="/shop"))
                await settle(flow)
                assert (await census(flow)).topics["email"].dead == 1

        run(story(), seed=7)

`run` gives the loop whose time is virtual: ten attempts with backoff and a rest of a quarter of
an hour between them take milliseconds.
"""

from __future__ import annotations

import asyncio
import random
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from eventflow.app.eventflow import EventFlow, Surroundings
from eventflow.engine.embedded import open_engine
from eventflow.engine.embedded.writer import InlineWriter
from eventflow.testing.clock import VirtualClock

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from eventflow.engine.protocol import Census

DAY_S = 86_400.0


def virtual(seed: int = 0, environ: Mapping[str, str] | None = None, **engine: Any) -> Surroundings:
    """Return virtual time and seeded chance for a node.

    Args:
        seed: Of jitter and refs.
        environ: The environment; empty if left out.
        **engine: Further arguments of `open_engine`: `vfs`, `shelf`.
    """

    async def opened(settings: Any, clock: Any, draw_bits: Any, writer: Any) -> Any:
        path = settings.engine.path
        return await open_engine(
            ":memory:" if path is None else str(path),
            clock=clock,
            draw_bits=draw_bits,
            durability=settings.engine.durability,
            writer=writer,
            **engine,
        )

    return Surroundings(
        clock=VirtualClock(),
        random_source=random.Random(seed),
        environ=environ or {},
        writer=InlineWriter,
        engine=opened,
    )


@asynccontextmanager
async def started(flow: EventFlow) -> AsyncIterator[EventFlow]:
    """Start a node and stop it in the end, without waiting for its queues to be empty."""
    await flow.start()
    try:
        yield flow
    finally:
        await flow.stop()


async def census(flow: EventFlow) -> Census:
    """Return the ledger, every queue walked."""
    return await flow.flow.tools.engine.census(walk=True)


async def settle(flow: EventFlow, *, within_s: float = 30 * DAY_S) -> Census:
    """Let time pass until every delivery is delivered, dead or discarded; return the ledger.

    Raises:
        TimeoutError: something still waits after `within_s` seconds; the message says what.
    """
    loop = asyncio.get_running_loop()
    until = loop.time() + within_s
    pause_s = 0.05
    while True:
        ledger = await flow.flow.tools.engine.census()
        waiting = {
            name: counts
            for name, counts in ledger.topics.items()
            if counts.queued or counts.running or counts.retrying or counts.parked
        }
        if not waiting:
            return await census(flow)
        if loop.time() > until:
            raise TimeoutError(f"after {within_s:g} s there still wait: {waiting}")
        await asyncio.sleep(pause_s)
        pause_s = min(pause_s * 1.5, 30.0)
