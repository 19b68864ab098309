"""The handlers of the nodes under test. They note each run, and events say what becomes of it.

ok       it ends well          slow   after 50 ms
shaky    its first attempt fails, the next ends well
late     both attempts of the first round fail: parked, recovered, then it ends well
broken   dead at once
"""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

from tests.cluster.history import History

from eventflow import Delivery, Event, Permanent

if TYPE_CHECKING:
    from tests.cluster.history import What

_NODE = os.environ.get("CLUSTER_NODE", "")
_history = History(os.environ.get("CLUSTER_HISTORY", os.devnull))


async def work(event: Event, delivery: Delivery) -> None:
    """Do as the event says."""
    kind = event.type.removeprefix("work.")
    with _Run(event, delivery):
        if kind == "slow":
            await asyncio.sleep(0.05)
        elif kind == "broken":
            raise Permanent("no use")
        elif (kind == "shaky" and delivery.attempt == 1 and delivery.tally.rounds == 1) or (
            kind == "late" and delivery.tally.rounds == 1
        ):
            raise ConnectionError("not yet")


async def copy(event: Event, delivery: Delivery) -> None:
    """Take a little while: this topic's queue is small, and overflows."""
    with _Run(event, delivery):
        await asyncio.sleep(0.01)


class _Run:
    """Notes a run's start, and its end if that was good."""

    def __init__(self, event: Event, delivery: Delivery) -> None:
        self._id = event.id
        self._delivery = delivery

    def __enter__(self) -> None:
        self._note("started")

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._note("done")

    def _note(self, what: What) -> None:
        told = self._delivery
        _history.note(what, self._id, topic=told.topic, node=_NODE, attempt=told.attempt)
