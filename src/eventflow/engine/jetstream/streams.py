"""Streams and consumers, declared up front: what the layout asks for, made or changed, not removed.

No consumer is made or removed while deliveries move. What somebody else has changed is put right
and said; what can't be put right is refused.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from eventflow.engine.jetstream import gate, names
from eventflow.engine.jetstream.layout import Layout
from eventflow.engine.jetstream.wire import HORIZON_S, LONGEST_PAUSE_S, Refused
from eventflow.errors import EngineUnavailable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from eventflow.engine.jetstream.gate import Difference, Verdict
    from eventflow.engine.jetstream.layout import Asked, Config
    from eventflow.engine.jetstream.wire import Wire
    from eventflow.engine.protocol import Plan, Queue

_STREAM_NOT_FOUND = 10059
_NO_CLUSTER = 10074
_NO_PLACES = 10005
"""Too few servers of the cluster are up and have room."""


class Streams:
    """What there is on the server, and what is asked for."""

    def __init__(self, wire: Wire, replicas: int, rate: float) -> None:
        self._wire = wire
        self._layout = Layout(replicas, rate)
        self.asked: dict[str, Asked] = {}
        """What has been declared, by the name of the stream."""
        self.righted: dict[str, Verdict] = {}
        """What was found otherwise, and put right."""

    @property
    def replicas(self) -> int:
        """How many servers hold each stream."""
        return self._layout.replicas

    async def declare_nodes(self) -> None:
        """Make what nodes need to know of each other, before anything else."""
        await asyncio.gather(*map(self._declare, self._layout.nodes()))

    async def declare(self, plan: Plan) -> None:
        """Make or change all that this plan asks for.

        Raises:
            EngineUnavailable: something is otherwise, and can't be put right; no answer.
        """
        await asyncio.gather(*map(self._declare, self._layout.books(plan)))
        *others, common = self._layout.queues(plan)
        await asyncio.gather(*map(self._declare, others))
        await self._declare(common)

    async def present(self) -> Sequence[Queue]:
        """Return the queues that are there, planned or not."""
        found: list[Queue] = []
        while True:
            told = await self._wire.ask("STREAM.NAMES", {"offset": len(found), "subject": "ef.>"})
            listed = told.get("streams") or []
            found += [queue for name in listed if (queue := names.queue_of(name)) is not None]
            if not listed or len(listed) >= told.get("total", 0):
                return found

    async def _declare(self, asked: Asked) -> None:
        name = asked.name
        held = await stream_of(self._wire, name)
        if held is None:
            await self._ask(f"STREAM.CREATE.{name}", asked.stream, name, ())
        else:
            differing = gate.differences(asked.stream, held["config"], gate.STREAM_REST)
            if differing:
                wanted = {one.field: one.expected for one in differing}
                wish = {**held["config"], **wanted}
                await self._ask(f"STREAM.UPDATE.{name}", wish, f"stream {name}", differing)
        self.asked[name] = asked
        there = {} if held is None else await consumers_of(self._wire, name)
        await asyncio.gather(
            *(self._consumer(name, *one, there.get(one[0])) for one in asked.consumers.items())
        )

    async def _consumer(
        self, stream: str, name: str, config: Config, held: Mapping[str, Any] | None
    ) -> None:
        differing: Sequence[Difference] = ()
        if held is not None:
            differing = gate.differences(config, held, gate.CONSUMER_REST)
            if not differing:
                return
        await self._ask(
            f"CONSUMER.CREATE.{stream}.{name}.{config['filter_subject']}",
            {"stream_name": stream, "config": config, "action": ""},
            f"consumer {name} of {stream}",
            differing,
        )

    async def _ask(
        self, what: str, wish: Config, about: str, differing: Sequence[Difference]
    ) -> None:
        """Make something, or put right in what it differs."""
        try:
            await self._placed(what, wish)
        except Refused as refused:
            if refused.code == _NO_CLUSTER and self.replicas > 1:
                raise _unfit(gate.servers(self.replicas, clustered=False), refused) from refused
            if refused.code == _NO_PLACES:
                raise _unfit(gate.unplaced(self.replicas), refused) from refused
            if differing:
                raise _unfit(gate.otherwise(about, differing, "refused"), refused) from refused
            raise
        odd = [one for one in differing if not gate.follows(one)]
        if odd:
            self.righted[about] = gate.otherwise(about, odd, "put right")

    async def _placed(self, what: str, wish: Config) -> None:
        """Ask for it as long as for what is not answered at all.

        Servers that have just met take each other for away. Who starts nodes and servers together
        would otherwise see nodes end over it.
        """
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + HORIZON_S
        while True:
            try:
                await self._wire.ask(what, wish)
            except Refused as refused:
                if refused.code != _NO_PLACES or loop.time() >= give_up_at:
                    raise
            else:
                return
            await asyncio.sleep(LONGEST_PAUSE_S)


async def stream_of(wire: Wire, name: str, *, subjects: str = "") -> dict[str, Any] | None:
    """Return what the server says of a stream, None where there is none.

    Args:
        wire: The connection.
        name: The stream's name.
        subjects: Which of its subjects it is to tell, and how many messages each has.
    """
    try:
        return await wire.ask(
            f"STREAM.INFO.{name}", {"subjects_filter": subjects} if subjects else None
        )
    except Refused as refused:
        if refused.code == _STREAM_NOT_FOUND:
            return None
        raise


async def consumers_of(wire: Wire, stream: str) -> dict[str, dict[str, Any]]:
    """Return the configurations of a stream's consumers, by name."""
    found: dict[str, dict[str, Any]] = {}
    while True:
        told = await wire.ask(f"CONSUMER.LIST.{stream}", {"offset": len(found)})
        listed = told.get("consumers") or []
        found |= {one["name"]: one["config"] for one in listed}
        if not listed or len(found) >= told.get("total", 0):
            return found


def _unfit(verdict: Verdict, refused: Refused) -> EngineUnavailable:
    return EngineUnavailable(f"{verdict} (the servers: {refused.text}). Nothing was accepted")
