"""Looking at servers without changing anything: what a node would meet there, judged."""

from __future__ import annotations

from typing import TYPE_CHECKING

from eventflow.engine.jetstream import gate, names
from eventflow.engine.jetstream.access import claims_of, context_of, keys_of, who
from eventflow.engine.jetstream.gate import GOOD, REFUSED, Verdict
from eventflow.engine.jetstream.layout import Layout
from eventflow.engine.jetstream.membership import living
from eventflow.engine.jetstream.streams import stream_of
from eventflow.engine.jetstream.watch import Claim, first, stream_verdicts
from eventflow.engine.jetstream.wire import Refused, Wire
from eventflow.errors import EngineUnavailable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from eventflow.clock import Clock
    from eventflow.config import EngineSettings
    from eventflow.engine.protocol import Plan


async def examine(said: EngineSettings, plan: Plan, clock: Clock) -> AsyncIterator[Verdict]:
    """Yield what is found, good or not. Nothing is changed, nothing is made.

    Args:
        said: How the servers are reached, and what is claimed of them.
        plan: What a node would ask for there.
        clock: Tells the time.

    Raises:
        ConfigError: a file that the node logs in with can't be used.
        EngineUnavailable: no server answers, or takes this node.
    """
    wire = await Wire.connect(said.url, said.replicas, said.nats, encrypted=said.encrypted)
    try:
        yield gate.connection(said.url, who(said.nats), wire.client.cipher)
        keys = keys_of(said.nats)
        if keys is not None and keys.jwt is not None:
            yield gate.credentials(claims_of(keys.jwt).exp, clock.now_s())
        claim = Claim(said.durability, said.replicas, said.monitor)
        try:
            for verdict in await first(wire, claim, context_of(said.nats)):
                yield verdict
        except EngineUnavailable as error:
            yield Verdict("monitor", REFUSED, error.reason)
        yield gate.payload(wire.client.max_payload, plan.max_event_bytes)
        try:
            for verdict in await _streams(wire, said.replicas, plan, clock):
                yield verdict
            for verdict in await _untold(wire, clock):
                yield verdict
        except (EngineUnavailable, Refused) as error:
            yield Verdict("streams", REFUSED, f"can't be looked at: {error}")
    finally:
        await wire.close()


async def _streams(wire: Wire, replicas: int, plan: Plan, clock: Clock) -> list[Verdict]:
    """Judge what is there of what a node would ask for: the good in one line."""
    layout = Layout(replicas)
    asked = [*layout.nodes(), *layout.books(plan), *layout.queues(plan)]
    found: list[Verdict] = []
    for one in asked:
        found += await stream_verdicts(wire, one, clock.now_s(), consumers=True, following=False)
    missing = sum(one.found == gate.MISSING for one in found)
    troubles = [one for one in found if one.state != GOOD]
    odd = len({one.what for one in troubles if one.what.startswith("stream ")})
    says = f"{len(asked) - missing - odd} of {len(asked)} as asked"
    if missing:
        says += f", {missing} not there yet: the node makes what is missing"
    return [Verdict("streams", GOOD, says), *troubles]


async def _untold(wire: Wire, clock: Clock) -> list[Verdict]:
    """Judge whether audit rows wait for nodes that do not run."""
    held = await stream_of(wire, names.AUDIT, subjects=names.audit_subject("*"))
    waiting = ((held or {}).get("state") or {}).get("subjects") or {}
    alive = {member.name for member in await living(wire, clock)} if waiting else set()
    left = [(names.ref_of(subject), count) for subject, count in sorted(waiting.items())]
    return [gate.untold(node, count) for node, count in left if node not in alive]
