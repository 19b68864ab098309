"""A node that keeps everything in dictionaries: what the door needs of one, and no more."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING, Any

from eventflow.delivery import Attempt, Delivery, Reason, Tally
from eventflow.engine.embedded.backup import Written
from eventflow.engine.protocol import Receipt
from eventflow.errors import BackupRefused, ConfigError, UnknownName
from eventflow.event import Event
from eventflow.storage.audit import Head
from eventflow.storage.protocol import AuditRow, Filter, Group, Kept, Page, Verdict
from eventflow.web.node import Acted

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence

    from eventflow.config.settings import Token
    from eventflow.storage.protocol import Actor
    from eventflow.web.node import Node
    from eventflow.web.webhooks import Webhook

NOW = 1_795_507_200.0
"""2026-11-24T08:00:00Z."""


def delivery(number: int, topic: str = "email", **fields: Any) -> Delivery:
    """Return a delivery that failed once."""
    failure = Attempt(NOW, NOW + 1, "failed", "http 503", "no answer <1>", "f1")
    event = Event(type="user.registered", source="/shop", id=str(number), tenant="acme", data=1)
    return Delivery(
        event,
        f"ref-{number}",
        topic,
        NOW,
        tally=Tally(attempts=1),
        reason=Reason.ATTEMPTS_EXHAUSTED,
        history=(failure,),
        **fields,
    )


class FakeNode:
    """Accepts up to `room` events; does to deliveries what it is told."""

    def __init__(self) -> None:
        self.stopping = False
        self.tokens: Sequence[Token] = ()
        self.max_event_bytes = 2**20
        self.max_request_bytes = 8 * 2**20
        self.shown_since = NOW
        self.accepted: list[Event] = []
        self.requests: list[int] = []
        """How many events each call of `accept` brought."""
        self.principals: list[str] = []
        self.offered = 0
        """How many came without a task of their own."""
        self._telling: set[asyncio.Task[None]] = set()
        self.fails: Exception | None = None
        """Raised by every method, if set."""
        self.fails_after = 0
        """How many calls of `accept` are let pass before that."""
        self.webhooks: Mapping[str, Webhook] = {}
        self.now_s = NOW
        self.called: Counter[tuple[str, str]] = Counter()
        self.parks: list[bool] = []
        self.counted: Counter[str] = Counter()
        self.kept: dict[str, Kept] = {}
        self.elsewhere: dict[str, str] = {}
        """State of deliveries that are neither parked nor dead."""
        self.paused: dict[str, bool] = {"email": False}
        self.acts: list[tuple[str, Any, Actor]] = []
        self.reasons: list[str] = []
        self.backups: list[str | None] = []
        self.members: list[dict[str, Any]] = []

    def keep(self, *kept: Delivery, state: str = "dead") -> None:
        for one in kept:
            self.kept[one.id] = Kept(one, state, NOW, 100)

    def refused(self, reason: str, events: int) -> None:
        self.counted[reason] += events

    def webhook_called(self, webhook: str, result: str) -> None:
        self.called[webhook, result] += 1

    async def accept(
        self, events: Sequence[Event], *, principal: str, park: bool = False
    ) -> Sequence[Receipt]:
        self.parks.append(park)
        if len(self.requests) >= self.fails_after:
            self._check()
        self.requests.append(len(events))
        self.principals.append(principal)
        known = {event.key: f"ref-{n}" for n, event in reversed(list(enumerate(self.accepted)))}
        receipts = []
        for event in events:
            duplicate = event.key in known
            if not duplicate:
                known[event.key] = f"ref-{len(self.accepted)}"
                self.accepted.append(event)
            receipts.append(Receipt(known[event.key], duplicate))
        return receipts

    def offer(
        self, event: Event, told: Callable[[Receipt | Exception], None], *, principal: str
    ) -> bool:
        async def go() -> None:
            try:
                (receipt,) = await self.accept([event], principal=principal)
            except Exception as error:  # noqa: BLE001  # as any node says it
                told(error)
            else:
                told(receipt)

        self.offered += 1
        task = asyncio.create_task(go())
        self._telling.add(task)
        task.add_done_callback(self._telling.discard)
        return True

    async def stats(self) -> Mapping[str, Any]:
        self._check()
        topic = {"created": 3, "delivered": 1, "dead": 2, "paused": self.paused["email"]}
        return {
            "as_of": "2026-11-24T08:00:00.000000Z",
            "accepted": 3,
            "unaccounted": 0,
            "topics": {"common": {"created": 3}, "email": topic, "<x>": {}},
        }

    async def nodes(self) -> Mapping[str, Any]:
        self._check()
        return {"nodes": self.members, "undone": ["recover"]}

    async def topics(self) -> Sequence[Mapping[str, Any]]:
        self._check()
        return [{"name": name, "paused": paused} for name, paused in self.paused.items()]

    async def pause(self, topic: str, by: Actor) -> None:
        self._turn(topic, by, paused=True)

    async def override(self, topic: str, patch: Mapping[str, Any], by: Actor) -> None:
        self._turn(topic, by, paused=self.paused.get(topic, False))
        if "capacity" in patch and not isinstance(patch["capacity"], int):
            raise ConfigError([f"override: [topics.{topic}] capacity: expected a whole number"])
        self.acts.append(("override", topic, by))

    async def drop_overrides(self, topic: str, by: Actor) -> None:
        self._turn(topic, by, paused=self.paused.get(topic, False))
        self.acts.append(("drop_overrides", topic, by))

    async def resume(self, topic: str, by: Actor) -> None:
        self._turn(topic, by, paused=False)

    def _turn(self, topic: str, by: Actor, *, paused: bool) -> None:
        self._check()
        if topic not in self.paused:
            raise UnknownName("topic", topic, self.paused)
        self.paused[topic] = paused
        self.acts.append(("pause" if paused else "resume", topic, by))

    async def deliveries(self, which: Filter, *, after: str | None, limit: int) -> Page:
        self._check()
        found = self._matching(which)
        start = 0 if after is None else int(after)
        end = start + limit
        return Page(tuple(found[start:end]), str(end) if end < len(found) else None)

    async def groups(self, which: Filter, *, limit: int) -> Sequence[Group]:
        self._check()
        count = len(self._matching(which)[:limit])
        return [
            Group("email", "dead", "permanent", "c", "f1", count, "no", NOW, NOW, "ref-1.email")
        ]

    async def replay(self, which: Filter, by: Actor, *, dry_run: bool) -> Acted:
        return self._act("replay", which, by, dry_run=dry_run)

    async def discard(self, which: Filter, by: Actor, *, dry_run: bool) -> Acted:
        return self._act("discard", which, by, dry_run=dry_run)

    def _act(self, what: str, which: Filter, by: Actor, *, dry_run: bool) -> Acted:
        self._check()
        ids = which.ids or tuple(kept.delivery.id for kept in self._matching(which))
        if dry_run:
            return Acted(len(ids), {}, {}, dry_run=True)
        self.acts.append((what, which, by))
        done = {"replay": "replayed", "discard": "discarded"}[what]
        results = {id: done if id in self.kept else self.elsewhere.get(id, "unknown") for id in ids}
        return Acted(len(ids), results, Counter(results.values()))

    async def event(self, ref: str) -> Mapping[str, Any] | None:
        self._check()
        found = [kept for kept in self.kept.values() if kept.delivery.ref == ref]
        return {"ref": ref, "event": found[0].delivery.event.attributes()} if found else None

    async def event_by(self, source: str, id: str) -> Mapping[str, Any] | None:
        for kept in self.kept.values():
            if (kept.delivery.event.source, kept.delivery.event.id) == (source, id):
                return await self.event(kept.delivery.ref)
        return None

    async def trail(self, ref: str) -> Sequence[AuditRow]:
        self._check()
        return [AuditRow("node-1", 1, b'{"format":1,  "ref":"%s"}' % ref.encode(), b"\x01\x02")]

    async def verify(self, heads: Sequence[str] = ()) -> Verdict:
        self._check()
        against = Head.of(heads[0]).text if heads else "itself"
        return Verdict(ok=False, rows=7, faults=("chain node-1, seq 3: changed",), against=against)

    async def heads(self) -> Sequence[str]:
        self._check()
        return [f"node-1:7:{'ab' * 32}"]

    async def export(self, which: Filter, states: Sequence[str]) -> AsyncIterator[Sequence[Event]]:
        self._check()
        for kept in self._matching(which):
            if kept.state in states:
                yield [kept.delivery.event]

    async def backup(self, name: str | None, by: Actor) -> Written:
        self._check()
        if name in self.backups:
            raise BackupRefused(f"backups/{name}", "there is a file of that name", "Another one.")
        self.backups.append(name)
        self.acts.append(("backup", name, by))
        return Written(f"backups/{name}", 4_096)

    async def metrics(self) -> tuple[bytes, str]:
        self._check()
        return b"# EOF\n", "application/openmetrics-text; version=1.0.0; charset=utf-8"

    async def ready(self) -> Sequence[str]:
        self._check()
        return self.reasons

    def _matching(self, which: Filter) -> list[Kept]:
        return [
            kept
            for kept in self.kept.values()
            if which.state in {None, kept.state} and which.topic in {None, kept.delivery.topic}
        ]

    def _check(self) -> None:
        if self.fails is not None:
            raise self.fails


def _is_a_node(fake: FakeNode) -> Node:
    return fake
