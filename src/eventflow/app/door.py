"""What the HTTP door (`eventflow.web.node.Node`) asks of a node, answered by the stages."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from eventflow.app import views
from eventflow.app.listing import Listing
from eventflow.app.outlook import Surroundings
from eventflow.clock import rfc3339
from eventflow.config import Share
from eventflow.config.units import format_share
from eventflow.delivery import COMMON
from eventflow.engine.protocol import unaccounted
from eventflow.errors import EngineUnavailable
from eventflow.policy.nodes import undone
from eventflow.telemetry import names
from eventflow.telemetry.logging import log
from eventflow.telemetry.metrics import CONTENT_TYPE
from eventflow.web.node import Acted
from eventflow.web.webhooks import compile_webhooks

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence

    from eventflow.app.engines import AnyEngine
    from eventflow.app.live import Live
    from eventflow.config import Settings
    from eventflow.config.settings import Token
    from eventflow.engine.embedded.backup import Written
    from eventflow.engine.protocol import Receipt
    from eventflow.event import Event
    from eventflow.flow.node import Flow
    from eventflow.storage.protocol import Actor, AuditRow, Filter, Group, Page, Verdict
    from eventflow.telemetry.names import Metric
    from eventflow.web.webhooks import Webhook

BATCH = 500
"""Deliveries replayed or discarded in one transaction."""


class Door:
    """A node, as its HTTP door sees it."""

    def __init__(self, flow: Flow, settings: Settings, engine: AnyEngine) -> None:
        self._flow = flow
        self._settings = settings
        self._engine = engine
        self._storage = engine.storage
        self._listing = Listing(engine)
        self.webhooks: Mapping[str, Webhook] = compile_webhooks(settings.webhooks)
        """Doors for senders that sign: to be replaced as a whole."""
        self.live: Live | None = None
        """What changes settings; None: nobody, as of a file that is only read."""
        self.running = True
        """False: the stages are not started, the file is only read."""
        self._clock = flow.tools.clock
        self._metrics = flow.tools.metrics
        self._started_at = self._clock.now_s()
        self.durability = engine.durability
        kind = "jetstream" if settings.engine.on_servers else "embedded"
        self._metrics.inform(names.DURABILITY, kind, self.durability)
        self._metrics.read(self._gauges)
        engine.watch(self._committed)

    def become(self, settings: Settings, webhooks: Mapping[str, Webhook]) -> None:
        """Be configured otherwise from now on: tokens, limits, webhooks, what is shown."""
        self._settings = settings
        self.webhooks = webhooks

    # what it is --------------------------------------------------------------

    @property
    def stopping(self) -> bool:
        """Whether the node takes nothing in any more."""
        return self._flow.ingress.stopping

    @property
    def tokens(self) -> Sequence[Token]:
        """Who may use it."""
        return self._settings.server.tokens

    @property
    def now_s(self) -> float:
        """Seconds since 1970."""
        return self._clock.now_s()

    @property
    def max_event_bytes(self) -> int:
        """Size of one event."""
        return self._settings.common.max_event_bytes

    @property
    def max_request_bytes(self) -> int:
        """Size of a request's body."""
        return self._settings.server.max_request_bytes

    @property
    def shown_since(self) -> float:
        """What was delivered without trouble before it is not shown."""
        history = self._flow.ledger.history
        oldest = history.since
        return self._started_at if oldest is None else max(oldest, self._started_at)

    # events ------------------------------------------------------------------

    def refused(self, reason: str, events: int) -> None:
        """Count what was not let in."""
        self._metrics.count(names.EVENTS_REFUSED, events, reason)

    def webhook_called(self, webhook: str, result: str) -> None:
        """Count a request to a webhook."""
        self._metrics.count(names.WEBHOOK_REQUESTS, 1, webhook, result)

    async def accept(
        self, events: Sequence[Event], *, principal: str, park: bool = False
    ) -> Sequence[Receipt]:
        """Take the events in, all or none."""
        del principal  # the trail begins where trouble does
        return await self._flow.ingress.accept(events, park=park)

    def offer(
        self, event: Event, told: Callable[[Receipt | Exception], None], *, principal: str
    ) -> bool:
        """Take one event in, and say what came of it by a call."""
        del principal
        return self._flow.ingress.offer(event, told)

    async def event(self, ref: str) -> Mapping[str, Any] | None:
        """Return where an event is and what happened to it."""
        return views.found_at(
            ref,
            await self._engine.find(ref),
            await self._storage.find(ref),
            self._flow.ledger.history.of(ref),
            await self._storage.trail(ref),
            self._around,
        )

    def _around(self, name: str) -> Surroundings:
        """Return how things are with a topic: what holds a delivery hangs on it."""
        topic = self._flow.topics.get(name)
        depth, now = self._engine.depth(name), self._clock.now_s()
        if topic is None:
            return Surroundings(depth, now, node_runs=self.running)
        return Surroundings(
            depth,
            now,
            concurrency=topic.concurrency,
            low_water=topic.policy.recovery.low_water,
            paused=topic.paused,
            orphan=topic.orphan,
            node_runs=self.running,
        )

    async def event_by(self, source: str, id: str) -> Mapping[str, Any] | None:
        """Return the same for the event of this source and id."""
        ref = self._engine.ref_of(source, id)
        if ref is None:
            ref = await self._storage.ref_of(source, id)
        return None if ref is None else await self.event(ref)

    # the ledger --------------------------------------------------------------

    async def stats(self) -> Mapping[str, Any]:
        """Return the whole ledger."""
        now = self._clock.now_s()
        census = await self._engine.census()
        topics: dict[str, Any] = {}
        for name, counts in census.topics.items():
            topic = self._flow.topics.get(name)
            shown = views.topic_stats(topic, counts, self._metrics, name, now=now)
            oldest = self._engine.oldest_at(name)
            shown["oldest_s"] = None if oldest is None else max(0.0, now - oldest)
            topics[name] = shown
        usage = self._storage.usage()
        return {
            "as_of": rfc3339(now),
            "since": rfc3339(census.since),
            "exact": not self._settings.engine.on_servers,  # else engine and storage are one file
            "durability": self.durability,
            "doubts": [
                {"what": one.what, "found": one.found, "advice": one.advice}
                for one in self._engine.doubts
            ],
            "accepted": census.topics[COMMON].created,
            "unaccounted": census.unaccounted,
            "moving": census.moving,
            "repeats": census.repeats,
            "dedup_window_s": self._engine.dedup_window_s(),
            "storage": {"used_bytes": usage.used_bytes, "max_bytes": usage.max_bytes},
            "topics": topics,
        }

    async def nodes(self) -> Mapping[str, Any]:
        """Return the nodes on the same queues, and what none of the living ones does."""
        members = self._engine.members()
        alive = [one.roles for one in members if one.state == "alive"]
        return {"nodes": [views.node(one) for one in members], "undone": list(undone(alive))}

    async def topics(self) -> Sequence[Mapping[str, Any]]:
        """Return each topic with its settings."""
        configured = {topic.name: topic for topic in self._settings.topics}
        overrides = await self._flow.tools.overrides.overrides()
        shown = []
        for name, topic in self._flow.topics.items():
            one: dict[str, Any] = {"name": name, "paused": topic.paused, "orphan": topic.orphan}
            settings = configured.get(name)
            if settings is not None:
                one |= {
                    "match": list(settings.match),
                    "capacity": settings.capacity,
                    "concurrency": settings.concurrency,
                    "timeout_s": settings.timeout_s,
                    "handler": topic.handler.name if topic.handler else None,
                    "retry": _plain(settings.retry),
                    "recovery": _plain(settings.recovery),
                    "overrides": {
                        key: value
                        for key, value in overrides.get(name, {}).items()
                        if key != "paused"
                    },
                }
            shown.append(one)
        return shown

    async def pause(self, topic: str, by: Actor) -> None:
        """Start no more of the topic's deliveries."""
        await self._flow.pause(topic, by)

    async def resume(self, topic: str, by: Actor) -> None:
        """Start the topic's deliveries again."""
        await self._flow.resume(topic, by)

    async def override(self, topic: str, patch: Mapping[str, Any], by: Actor) -> None:
        """Let settings of a topic win over the file."""
        await self._changer().override(topic, patch, by)

    async def drop_overrides(self, topic: str, by: Actor) -> None:
        """Let the file say again what a topic is."""
        await self._changer().drop(topic, by)

    def _changer(self) -> Live:
        if self.live is None:
            raise EngineUnavailable("the file is only read here; start its node for that")
        return self.live

    # deliveries --------------------------------------------------------------

    async def deliveries(self, which: Filter, *, after: str | None, limit: int) -> Page:
        """Return what is retrying (from the lanes), parked or dead (from storage)."""
        return await self._listing.page(list(self._flow.topics), which, after=after, limit=limit)

    def export(self, which: Filter, states: Sequence[str]) -> AsyncIterator[Sequence[Event]]:
        """Yield each event once that has a delivery that matches, in batches."""
        return self._listing.events(list(self._flow.topics), which, states)

    async def groups(self, which: Filter, *, limit: int) -> Sequence[Group]:
        """Return what is parked or dead, grouped by what its failures look like."""
        return await self._storage.groups(which, limit=limit)

    async def replay(self, which: Filter, by: Actor, *, dry_run: bool) -> Acted:
        """Make parked and dead deliveries due now."""
        return await self._act(which, by, "replay", dry_run=dry_run)

    async def discard(self, which: Filter, by: Actor, *, dry_run: bool) -> Acted:
        """Forget parked and dead deliveries."""
        return await self._act(which, by, "discard", dry_run=dry_run)

    async def _act(self, which: Filter, by: Actor, what: str, *, dry_run: bool) -> Acted:
        by_filter = not which.ids
        if dry_run:
            return Acted(await self._storage.count(which), {}, {}, dry_run=True)
        ids = list(which.ids) if which.ids else await self._storage.ids(which)
        act = self._storage.replay if what == "replay" else self._storage.discard
        results: dict[str, str] = {}
        for start in range(0, len(ids), BATCH):
            results |= await act(ids[start : start + BATCH], by)
        for id in [id for id, word in results.items() if word == "unknown"]:
            results[id] = await self._where(id)
        for topic in {id.rpartition(".")[2] for id in ids}:
            self._flow.nudge(topic)
        return Acted(len(ids), {} if by_filter else results, Counter(results.values()))

    async def _where(self, id: str) -> str:
        """Return the state that forbids an act on a delivery, "unknown" where there is none."""
        ref, _, topic = id.rpartition(".")
        for found in await self._engine.find(ref):
            if found.delivery.topic == topic:
                return found.state
        return "unknown"

    # the trail ---------------------------------------------------------------

    async def trail(self, ref: str) -> Sequence[AuditRow]:
        """Return the audit rows of an event."""
        return await self._storage.trail(ref)

    async def verify(self, heads: Sequence[str] = ()) -> Verdict:
        """Hold every audit chain against its hashes, and against ends noted before."""
        return await self._storage.verify(heads)

    async def heads(self) -> Sequence[str]:
        """Return the end of every audit chain."""
        return await self._storage.heads()

    # backup ------------------------------------------------------------------

    async def backup(self, name: str | None, by: Actor) -> Written:
        """Write a copy of the file, as it is at one moment, into the folder for backups."""
        began = self._clock.now_s()
        written = await self._engine.backup(self._settings.engine.backups / (name or self._stamp()))
        facts = {"path": written.path, "size_bytes": written.size_bytes, "by": by.name}
        row = {"at": self._clock.now_s(), "what": "backup.written", **facts, "why": by.why}
        await self._storage.note([row])
        seconds = self._clock.now_s() - began
        log(names.BACKUP_WRITTEN, **facts, seconds=round(seconds, 3), why=by.why)
        return written

    def _stamp(self) -> str:
        """Return a name for a backup: what it is of, and when."""
        path = self._settings.engine.path
        moment = rfc3339(self._clock.now_s())[:19].replace("-", "").replace(":", "")
        return f"{path.stem if path else 'memory'}-{moment}Z.db"

    # health ------------------------------------------------------------------

    async def metrics(self) -> tuple[bytes, str]:
        """Return the metrics and their content type."""
        return self._metrics.render(), CONTENT_TYPE

    async def ready(self) -> Sequence[str]:
        """Return why the node is not ready; nothing: it is."""
        return self._flow.unready()

    def _committed(self, seconds: float, operations: int) -> None:
        self._metrics.observe(names.COMMIT_SECONDS, [seconds])
        self._metrics.observe(names.COMMIT_OPERATIONS, [operations])

    def _gauges(self) -> Iterator[tuple[Metric, tuple[str, ...], float]]:
        lines = {name: self._engine.counts(name) for name in self._flow.topics}
        for name, topic in self._flow.topics.items():
            counts = lines[name]
            kind = "common" if name == COMMON else "topic"
            yield names.QUEUE_DEPTH, (name, kind), counts.queued + counts.running
            yield names.QUEUE_CAPACITY, (name, kind), topic.capacity
            if name != COMMON:
                yield names.QUEUE_DEPTH, (name, "lane"), counts.retrying
                yield names.QUEUE_CAPACITY, (name, "lane"), topic.lane_capacity
                yield names.TOPIC_PAUSED, (name,), float(topic.paused)
            yield names.PARKED, (name,), counts.parked
            yield names.DEAD, (name,), counts.dead
        usage = self._storage.usage()
        yield names.STORAGE_USED, (), usage.used_bytes
        yield names.STORAGE_MAX, (), usage.max_bytes
        yield names.UNACCOUNTED, (), unaccounted(lines.values())
        yield names.READY, (), float(not self._flow.unready())


def _plain(settings: Any) -> dict[str, Any]:
    return {name: _json(getattr(settings, name)) for name in settings.__dataclass_fields__}


def _json(value: Any) -> Any:
    return format_share(value) if isinstance(value, Share) else value
