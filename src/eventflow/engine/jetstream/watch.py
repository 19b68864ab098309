"""Whether the servers are as the promises need them: looked at before the start, and from then on.

What would break a promise refuses the start. What is doubtful is logged when it is first seen, and
shown for as long as it holds.
"""

from __future__ import annotations

import asyncio
from itertools import chain
from typing import TYPE_CHECKING, Any, Final

from eventflow.engine.jetstream import gate, monitoring
from eventflow.engine.jetstream.depths import moment_of
from eventflow.engine.jetstream.gate import DOUBTFUL, GOOD, Member, Verdict
from eventflow.engine.jetstream.streams import consumers_of, stream_of
from eventflow.errors import EngineUnavailable
from eventflow.telemetry import names
from eventflow.telemetry.logging import log

if TYPE_CHECKING:
    import ssl
    from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence

    from eventflow.clock import Clock
    from eventflow.engine.jetstream.layout import Asked, Config
    from eventflow.engine.jetstream.streams import Streams
    from eventflow.engine.jetstream.wire import Wire

LOOK_S: Final = 10.0
"""How often streams are looked at."""
CONSUMERS_EVERY: Final = 6
"""Of these looks every so many is at consumers and monitoring ports, too."""


class Claim:
    """What the configuration says of durability."""

    def __init__(self, durability: str, replicas: int, monitor: str = "") -> None:
        self.durability = durability
        self.replicas = replicas
        self.monitor = monitor


async def first(
    wire: Wire, claim: Claim, context: ssl.SSLContext | None = None
) -> tuple[Verdict, ...]:
    """Judge the servers by what they say of themselves, before anything is asked for there.

    Raises:
        EngineUnavailable: no monitoring port answers, of those that are named.
    """
    told, silent = await monitoring.ask(claim.monitor, context)
    found = [gate.silent(one.url, one.why) for one in silent]
    if silent and not told:
        raise EngineUnavailable(f"{'. '.join(map(str, found))}. Nothing was sent")
    info = wire.info
    found += [
        gate.server(wire.client.place, str(info.get("version", "0"))),
        gate.api(int(info.get("api_lvl", 0))),
        gate.servers(
            claim.replicas,
            clustered="cluster" in info,
            there=max((one.servers for one in told), default=None),
        ),
        gate.syncing(
            [one.url for one in told if not one.syncs] if told else None, claim.durability
        ),
    ]
    for one in told:
        found += [
            gate.server(one.url, one.version),
            gate.clock(one.url, one.ahead_s, one.unsure_s),
        ]
    return tuple(found)


def kept(verdicts: Iterable[Verdict], monitor: str) -> str:
    """Return what acceptance survives: "fsync", "os", or "unknown" where nobody can be asked."""
    lazy = any(one.what == "sync" and one.state != GOOD for one in verdicts)
    return "unknown" if not monitor else "os" if lazy else "fsync"


async def stream_verdicts(
    wire: Wire, asked: Asked, now_s: float | None, *, consumers: bool, following: bool = True
) -> list[Verdict]:
    """Judge one stream as it is now, its consumers and the clock of its leader.

    Args:
        wire: The connection.
        asked: What was declared.
        now_s: Seconds since 1970, to hold the server's clock against; None: not to.
        consumers: Whether to look at them, too.
        following: Whether what follows the configuration counts: it is not before a start.
    """
    loop, name = asyncio.get_running_loop(), asked.name
    began = loop.time()
    held = await stream_of(wire, name)
    took_s = loop.time() - began
    if held is None:
        return [Verdict(f"stream {name}", GOOD, gate.MISSING)]

    def drift(what: str, config: Config, there: Mapping[str, Any], rest: Any) -> Verdict:
        differing = gate.differences(config, there, rest)
        odd = [one for one in differing if following or not gate.follows(one)]
        return gate.otherwise(what, odd, "left") if odd else Verdict(what, GOOD, "as asked")

    found = [drift(f"stream {name}", asked.stream, held["config"], gate.STREAM_REST)]
    replicas = int(asked.stream["num_replicas"])
    if replicas > 1:
        found.append(gate.members(name, replicas, _members(held.get("cluster") or {})))
    there_s = moment_of(held.get("ts", ""))
    if now_s is not None and there_s is not None:
        leader = (held.get("cluster") or {}).get("leader", "")
        # `now_s` is from before it was asked.
        ahead_s = there_s - (now_s + took_s / 2)
        found.append(gate.clock(f"the server {leader}", ahead_s, took_s / 2))
    if consumers:
        there = await consumers_of(wire, name)
        found += [
            drift(f"consumer {one} of {name}", config, there[one], gate.CONSUMER_REST)
            if one in there
            else Verdict(f"consumer {one} of {name}", DOUBTFUL, "is gone", "Start a node anew")
            for one, config in asked.consumers.items()
        ]
    return found


def _members(cluster: dict[str, Any]) -> list[Member]:
    return [
        Member(one["name"], bool(one.get("current")), bool(one.get("offline")))
        for one in cluster.get("replicas") or ()
    ]


class Watch:
    """Looks again and again, and keeps what is doubtful."""

    def __init__(
        self,
        wire: Wire,
        streams: Streams,
        clock: Clock | None,
        before: Sequence[Verdict],
        again: Callable[[], Awaitable[Sequence[Verdict]]],
    ) -> None:
        """Of `clock`: None, where its seconds are not real ones; `again` brings a new `before`."""
        self._wire = wire
        self._streams = streams
        self._clock = clock
        self._before = before
        self._again = again
        self._now: list[Verdict] = []
        self._said: Collection[tuple[str, str]] = ()
        self._looks = 0
        self.max_event_bytes = 0
        """Of an event that is accepted; 0: not known."""

    @property
    def doubts(self) -> tuple[Verdict, ...]:
        """What is not as it should be, though the node runs."""
        found = chain(self._before, self._streams.righted.values(), self._now)
        return tuple(dict.fromkeys(one for one in found if one.state != GOOD))

    def check_payload(self, max_event_bytes: int) -> None:
        """Take the size of the largest event, and refuse it where a message can't hold it.

        Raises:
            EngineUnavailable: servers take less.
        """
        if max_event_bytes:
            gate.insist([gate.payload(self._wire.client.max_payload, max_event_bytes)])
        self.max_event_bytes = max_event_bytes

    async def look(self, *, at_start: bool = False) -> None:
        """Look at what was declared.

        Raises:
            EngineUnavailable: no answer; at the start also where the clocks are too far apart.
        """
        consumers = not at_start and self._looks % CONSUMERS_EVERY == 0
        self._looks += 1
        found: list[Verdict] = []
        for asked in list(self._streams.asked.values()):
            now_s = None if self._clock is None else self._clock.now_s()
            found += await stream_verdicts(self._wire, asked, now_s, consumers=consumers)
        if self.max_event_bytes:
            found.append(gate.payload(self._wire.client.max_payload, self.max_event_bytes))
        if at_start:
            # Servers that have just made a stream are behind for a moment.
            found = [one for one in found if one.what == "clock"]
            gate.insist(found)
        elif consumers:
            self._before = await self._again()
        else:
            found += [one for one in self._now if one.what.startswith("consumer ")]
        self._now = found
        self._say()

    def _say(self) -> None:
        """Log what is doubtful, each thing once for as long as it is."""
        # Of a clock the seconds change with every look.
        doubts = {(one.what, "" if one.what == "clock" else one.found): one for one in self.doubts}
        for key, one in doubts.items():
            if key not in self._said:
                log(names.SERVERS_DOUBTED, what=one.what, found=one.found, advice=one.advice)
        self._said = doubts.keys()
