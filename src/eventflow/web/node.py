"""What the HTTP door asks of the node behind it, and nothing more.

The door reads requests, checks who sent them and writes answers. It never sees an engine or a
storage: it knows a `Node`, which `eventflow.app` implements and tests play with a dictionary.

A method says no with an error of `eventflow.errors`; `web.problem` knows the status of each.
Any other exception is a fault of EventFlow: the sender gets a 500 without its text, the log all.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

if TYPE_CHECKING:
    from eventflow.config.settings import Token
    from eventflow.engine.embedded.backup import Written
    from eventflow.engine.protocol import Receipt
    from eventflow.event import Event
    from eventflow.storage.protocol import Actor, AuditRow, Filter, Group, Page, Verdict
    from eventflow.web.webhooks import Webhook

DONE = frozenset({"replayed", "discarded", "already"})
"""Words of `Acted.results` that mean: it is as it was asked for."""


class Acted(msgspec.Struct, frozen=True, gc=False):
    """What became of a replay or discard."""

    matched: int
    """Deliveries that were meant: the ids given, or those that the filter found."""
    results: Mapping[str, str]
    """For each id given: "replayed", "already", "discarded", "unknown", "max_replays", or the
    state that forbids it: "queued", "running", "retrying". For a filter it may be empty.
    """
    counts: Mapping[str, int]
    """How many of each word; empty after a dry run."""
    dry_run: bool = False
    """Only counted; nothing was changed."""


class Node(Protocol):
    """One node, as its door sees it. Every method may be called at any time after start."""

    @property
    def stopping(self) -> bool:
        """Whether the node takes nothing in any more: doors answer 503."""
        ...

    @property
    def tokens(self) -> Sequence[Token]:
        """Who may use it (`[server] tokens`). None: everybody on this machine may do everything.

        Read at each request; a new object where they have changed.
        """
        ...

    @property
    def webhooks(self) -> Mapping[str, Webhook]:
        """Doors for senders that sign, by name. Read at each request."""
        ...

    @property
    def now_s(self) -> float:
        """Seconds since 1970, now: signed times are held against it."""
        ...

    def webhook_called(self, webhook: str, result: str) -> None:
        """Count a request: `eventflow_webhook_requests_total`.

        Args:
            webhook: Its name.
            result: "accepted", "duplicate", "parked", or the code of the problem.
        """
        ...

    @property
    def max_event_bytes(self) -> int:
        """Size of one event (`[common] max_event`)."""
        ...

    @property
    def max_request_bytes(self) -> int:
        """Size of a request's body (`[server] max_request`)."""
        ...

    @property
    def shown_since(self) -> float:
        """Seconds since 1970: what was delivered without trouble before it is not shown."""
        ...

    def refused(self, reason: str, events: int) -> None:
        """Count what was not let in: `eventflow_events_refused_total`.

        Args:
            reason: "full", "invalid", "too_large", "unroutable", "unauthorized", "stopping" or
                "unavailable". The door calls it for each of them, also for what `accept` raised.
            events: How many; 1 for a request that could not be read.
        """
        ...

    async def accept(
        self, events: Sequence[Event], *, principal: str, park: bool = False
    ) -> Sequence[Receipt]:
        """Take the events in, all or none; they are checked. Returns once they are durable (G1).

        Args:
            events: The events.
            principal: Who sent them.
            park: Where common has no room, park them in storage.

        Raises:
            QueueFull: no room; nothing was stored.
            Unroutable: no route takes one of them, with its index; nothing was stored.
            InvalidEvent: one breaks the schema of its type; nothing was stored.
            EngineUnavailable: they could not be made durable, or the node is stopping.
        """
        ...

    def offer(
        self, event: Event, told: Callable[[Receipt | Exception], None], *, principal: str
    ) -> bool:
        """Take one event in as `accept` does, and say what came of it by a call: later, once.

        Returns:
            Whether it will. If not, nothing was done, and `accept` takes it.

        Raises:
            EventFlowError: as `accept`, where that is known at once; nobody is told again.
        """
        ...

    async def stats(self) -> Mapping[str, Any]:
        """Return the ledger as `GET /v1/stats` shows it: what JSON can hold, times as text."""
        ...

    async def nodes(self) -> Mapping[str, Any]:
        """Return `nodes`, those on the same queues, and `undone`: roles that no living one has."""
        ...

    async def topics(self) -> Sequence[Mapping[str, Any]]:
        """Return each topic with its settings and whether it is `paused`, `common` included.

        Each has at least `name` (text) and `paused` (a boolean).
        """
        ...

    async def pause(self, topic: str, by: Actor) -> None:
        """Start no more of the topic's deliveries, until resumed. Twice changes nothing.

        Raises:
            UnknownName: there is no such topic.
        """
        ...

    async def override(self, topic: str, patch: Mapping[str, Any], by: Actor) -> None:
        """Let settings of a topic win over the file, over restarts too. None takes one away.

        Raises:
            UnknownName: there is no such topic.
            Orphaned: it has gone from the configuration.
            ConfigError: they can't be used. Nothing was changed.
        """
        ...

    async def drop_overrides(self, topic: str, by: Actor) -> None:
        """Let the file say again what a topic is.

        Raises:
            UnknownName: there is no such topic.
            Orphaned: it has gone from the configuration.
        """
        ...

    async def resume(self, topic: str, by: Actor) -> None:
        """Start the topic's deliveries again. Twice changes nothing.

        Raises:
            UnknownName: there is no such topic.
        """
        ...

    async def deliveries(self, which: Filter, *, after: str | None, limit: int) -> Page:
        """Return a page of what is retrying, parked or dead and matches.

        Raises:
            UnknownName: `after` is no cursor of this listing.
            StorageUnavailable: it can't be read now.
        """
        ...

    def export(self, which: Filter, states: Sequence[str]) -> AsyncIterator[Sequence[Event]]:
        """Yield each event once that has a delivery that matches, in batches.

        Args:
            which: What is meant, beside the states.
            states: Of "queued", "running", "retrying", "parked" and "dead".

        Raises:
            StorageUnavailable: (on the way) it can't be read now.
        """
        ...

    async def groups(self, which: Filter, *, limit: int) -> Sequence[Group]:
        """Return what is parked or dead and matches, grouped by what its failures look like."""
        ...

    async def replay(self, which: Filter, by: Actor, *, dry_run: bool) -> Acted:
        """Make parked and dead deliveries due now: those of `which.ids`, or all that match."""
        ...

    async def discard(self, which: Filter, by: Actor, *, dry_run: bool) -> Acted:
        """Forget parked and dead deliveries: those of `which.ids`, or all that match."""
        ...

    async def event(self, ref: str) -> Mapping[str, Any] | None:
        """Return where an event is and what happened to it; None if that is not known (any more).

        What JSON can hold; `msgspec.Raw` for data that is JSON.
        """
        ...

    async def event_by(self, source: str, id: str) -> Mapping[str, Any] | None:
        """Return the same for the event of this source and id, the latest accepted one."""
        ...

    async def trail(self, ref: str) -> Sequence[AuditRow]:
        """Return the audit rows of an event, oldest first."""
        ...

    async def verify(self, heads: Sequence[str] = ()) -> Verdict:
        """Hold every audit chain against its hashes, and against ends noted before.

        Raises:
            ValueError: one of `heads` is none.
        """
        ...

    async def heads(self) -> Sequence[str]:
        """Return the end of every audit chain: `<chain>:<seq>:<hash>`."""
        ...

    async def backup(self, name: str | None, by: Actor) -> Written:
        """Write a copy of the node's file, as it is at one moment, into its folder for backups.

        Args:
            name: Of the file, without a folder; None: after the time.
            by: Who asks for it.

        Raises:
            BackupRefused: it can't be written, or not now. None was written.
        """
        ...

    async def metrics(self) -> tuple[bytes, str]:
        """Return the metrics and their content type (OpenMetrics)."""
        ...

    async def ready(self) -> Sequence[str]:
        """Return why the node is not ready, a sentence each; nothing: it is."""
        ...
