"""Putting many messages into one stream: all in one batch where that can be, else one by one."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from eventflow.engine.jetstream.wire import Refused, Stored
from eventflow.errors import EngineUnavailable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from eventflow.engine.jetstream.wire import Item, Wire

BATCH_MAX = 500
"""Messages in one atomic batch. The server takes 1,000; larger ones are hardly faster."""

Outcome = Stored | Refused | EngineUnavailable


async def put_each(wire: Wire, items: Sequence[Item]) -> list[Outcome]:
    """Put messages into one stream, in their order; each stands for itself.

    One batch costs one sync of the disk. It is all or nothing, so where it is refused they go one
    by one: that tells which have room, and which are there already.
    """
    outcomes: list[Outcome] = []
    for start in range(0, len(items), BATCH_MAX):
        outcomes += await _put_some(wire, items[start : start + BATCH_MAX])
    return outcomes


async def _put_some(wire: Wire, items: Sequence[Item]) -> list[Outcome]:
    if len(items) > 1:
        try:
            last = await wire.put_all(items)
        except (Refused, EngineUnavailable):
            pass  # what was stored after all is a duplicate below, and answered so
        else:
            first = last.seq - len(items) + 1
            return [Stored(first + n) for n in range(len(items))]
    return list(await asyncio.gather(*(_put_one(wire, item) for item in items)))


async def _put_one(wire: Wire, item: Item) -> Outcome:
    try:
        return await wire.put(item)
    except (Refused, EngineUnavailable) as outcome:
        return outcome
