"""Carrying all of a file to its target, part by part, and looking whether all of it is there.

The order does not matter to deliveries, since no node runs on either side. Each part is put in
batches; after each the target notes how far it has come. So a run that was killed is gone on with:

    overrides   asked for, and written where there are none
    kept        parked and dead: storage takes no hop twice
    trail       a row that is there stays
    queues      the first batch of each is looked for before it is put
    ids         of events accepted lately: known twice is known
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from eventflow.engine.carrying import Carriage, name_of
from eventflow.engine.protocol import Kind
from eventflow.errors import StorageUnavailable
from eventflow.storage.protocol import Actor

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from eventflow.app.moving.source import Source
    from eventflow.engine.carrying import Carrier
    from eventflow.engine.protocol import Queue
    from eventflow.storage.protocol import Keeper

    Told = Callable[[str, int], None]
    """Called with what is being moved, and how many of it were moved since the last call."""

BY = "eventflow move"
_FIRST = -1
"""The cursor before all entries of a queue."""
_KEPT, _TRAIL = "kept", "trail"


async def baseline(source: Source, carrier: Carrier, storage: Keeper) -> Carriage:
    """Return the beginning of a move: what was there before."""
    before = {name_of(queue): count for queue, count in (await carrier.held()).items()}
    for (topic, state), (count, _) in (await storage.totals()).items():
        before[f"{state}:{topic}"] = count
    given = {name_of(queue): count for queue, count in (await carrier.given()).items()}
    came: dict[str, int | str] = {name_of(queue): _FIRST for queue in source.queues}
    return Carriage(str(source.path), before, given, {**came, _KEPT: "", _TRAIL: ":0"})


class Carrying:
    """One run of a move."""

    def __init__(
        self, source: Source, carrier: Carrier, storage: Keeper, carriage: Carriage, told: Told
    ) -> None:
        """Of `carriage`: as the target has it; `told` is for progress."""
        self.carriage = carriage
        self._source = source
        self._carrier = carrier
        self._storage = storage
        self._told = told

    async def run(self) -> None:
        """Carry what is not there yet.

        Raises:
            EngineUnavailable, StorageUnavailable: it stopped; run again it goes on.
        """
        await self._overrides()
        await self._kept()
        await self._trail()
        for queue in self._source.queues:
            await self._queue(queue)

    async def remember(self, since: float) -> None:
        """Let events that were accepted since a time be known there, if they are still somewhere.

        The last thing before nodes may start, and all of it in each run: ids last for a time.
        """
        async for some in self._source.ids(since):
            await self._carrier.remember(some)

    async def _note(self, part: str, came: int | str) -> None:
        carriage = msgspec.structs.replace(self.carriage, came={**self.carriage.came, part: came})
        await self._carrier.note(carriage)
        self.carriage = carriage

    async def _overrides(self) -> None:
        there = await self._storage.overrides()
        why = f"was so in {self._source.path}"
        for topic, values in (await self._source.overrides()).items():
            if topic not in there:
                await self._storage.override(topic, values, Actor(BY, why))

    async def _kept(self) -> None:
        async for some in self._source.kept(str(self.carriage.came.get(_KEPT, ""))):
            refusals = await self._storage.keep(some, [[] for _ in some])
            for refusal in refusals:
                if refusal is not None:
                    raise StorageUnavailable(refusal)
            await self._note(_KEPT, some[-1].delivery.id)
            self._told("parked and dead deliveries", len(some))

    async def _trail(self) -> None:
        chain, _, seq = str(self.carriage.came.get(_TRAIL, ":0")).rpartition(":")
        async for rows in self._source.rows(chain, int(seq)):
            await self._storage.adopt(rows)
            await self._note(_TRAIL, f"{rows[-1].chain}:{rows[-1].seq}")
            self._told("audit rows", len(rows))

    async def _queue(self, queue: Queue) -> None:
        """Put one queue.

        Where it goes on, the batch behind the cursor may be there. Without a cursor any may be:
        `missing` has taken it away.
        """
        name = name_of(queue)
        lost = name not in self.carriage.came
        anew = True
        what = f"{'retrying' if queue.kind is Kind.LANE else 'queued'} deliveries of {queue.topic}"
        after = int(self.carriage.came.get(name, _FIRST))
        async for batch in self._source.batches(queue, after):
            await self._carrier.put(queue, batch.deliveries, anew=anew)
            if not lost:
                await self._note(name, batch.last)
                anew = False
            self._told(what, len(batch.deliveries))

    # afterwards ----------------------------------------------------------------------

    async def missing(self) -> list[str]:
        """Return what is not there as it should be: a sentence each, [] if all is.

        A part of which something is missing is moved from its beginning when the move is run
        again: what is there is found, what is not is put.
        """
        here, there = self._source.census.topics, await self._there()
        wanted = {name_of(queue): self._source.count(queue) for queue in self._source.queues}
        for topic, counts in here.items():
            wanted |= {f"parked:{topic}": counts.parked, f"dead:{topic}": counts.dead}
        before = self.carriage.before
        wrong = {
            name: (before.get(name, 0) + count, there.get(name, 0))
            for name, count in wanted.items()
            if before.get(name, 0) + count != there.get(name, 0)
        }
        parts = {name if name in self.carriage.came else _KEPT for name in wrong}
        if parts:
            came = {name: at for name, at in self.carriage.came.items() if name not in parts}
            self.carriage = msgspec.structs.replace(self.carriage, came=came)
            await self._carrier.note(self.carriage)
        return [
            f"{name}: expected {count:,} deliveries, found {held:,}"
            for name, (count, held) in sorted(wrong.items())
        ]

    async def _there(self) -> Mapping[str, int]:
        held = {name_of(queue): count for queue, count in (await self._carrier.held()).items()}
        totals = await self._storage.totals()
        return held | {f"{state}:{topic}": count for (topic, state), (count, _) in totals.items()}
