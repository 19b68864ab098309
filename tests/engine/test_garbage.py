"""What a commit has carried out is freed at once: cycles make the collector stop the node."""

from __future__ import annotations

import gc
from random import Random
from typing import TYPE_CHECKING

from eventflow.delivery import COMMON, DELIVERED, Queued, Reason, Retrying, Row, Tally
from eventflow.engine.embedded import open_engine
from eventflow.engine.embedded.placement import Placement
from eventflow.engine.embedded.settlement import Settlement
from eventflow.engine.embedded.writer import InlineWriter
from eventflow.engine.protocol import Placing, Plan, TopicPlan
from eventflow.testing import CrashDisk, VirtualClock, run
from eventflow.testing.engine_bench import bring, event, lane, lease, settle, topic

if TYPE_CHECKING:
    from eventflow.engine.embedded import EmbeddedEngine


async def settled(engine: EmbeddedEngine, number: int) -> None:
    """Bring an event in, retry it, and deliver it."""
    await bring(engine, "a", event(f"e{number}"))
    (first,) = await lease(engine, topic("a"))
    now = engine.clock.now_s()
    await settle(engine, first, Retrying(Row.RETRY, Tally(1), now, Reason.HANDLER_ERROR))
    (again,) = await lease(engine, lane("a"))
    await settle(engine, again, DELIVERED)
    await settle(engine, again, DELIVERED)  # of a lease that is over: nothing is planned
    await engine.place([Placing(again.delivery, Queued(Row.RECOVERED_DUE))])  # it is not there


def test_no_settlement_nor_placement_is_left_to_the_collector() -> None:
    async def story() -> int:
        with CrashDisk() as disk:
            engine = await open_engine(
                "j.db",
                clock=VirtualClock(),
                draw_bits=Random(1).getrandbits,
                writer=InlineWriter,
                vfs=disk.name,
            )
            await engine.apply(Plan({COMMON: TopicPlan(100), "a": TopicPlan(100, 100)}))
            gc.collect()
            gc.disable()
            try:
                for number in range(20):
                    await settled(engine, number)
                left = sum(isinstance(one, Settlement | Placement) for one in gc.get_objects())
            finally:
                gc.enable()
            await engine.close()
            return left

    assert run(story()) <= 1  # the last one may still be on its way out
