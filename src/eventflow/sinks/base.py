"""What a sink is: a handler that comes with EventFlow and has something to open and close.

A sink says how a delivery ended by returning, or by raising `SinkError` with the outcome ready
made: it knows best what an answer of its target means. Anything else it raises is judged like the
exception of any handler.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeAlias, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from eventflow.delivery import Delivery
    from eventflow.event import Event
    from eventflow.policy.outcome import Failed


class Sink(Protocol):
    """Delivers events to one place."""

    async def start(self) -> None:
        """Open what deliveries need. Called once, in the event loop that will deliver."""
        ...

    async def deliver(self, event: Event, delivery: Delivery) -> None:
        """Deliver one event; returning means that the target has it.

        Raises:
            SinkError: the target did not take it; it carries what that means.
        """
        ...

    async def close(self) -> None:
        """Let go of what `start` opened. Deliveries still under way may fail."""
        ...


@runtime_checkable
class BatchSink(Protocol):
    """Delivers several events at once to one place; it blocks, so it runs in threads."""

    at_once: int
    """How many batches it can deliver at the same time; more would only wait for each other."""

    async def start(self) -> None:
        """As a `Sink`'s."""
        ...

    def deliver_batch(
        self, events: Sequence[Event], deliveries: Sequence[Delivery]
    ) -> Sequence[SinkError | None]:
        """Deliver events; return for each None, or why the target did not take it."""
        ...

    async def close(self) -> None:
        """As a `Sink`'s."""
        ...


AnySink: TypeAlias = Sink | BatchSink
"""What delivers, in whichever way."""


class SinkError(Exception):
    """The target did not take an event. Raised by sinks only; it never leaves EventFlow."""

    def __init__(self, failed: Failed, *, retry_after: str | None = None) -> None:
        super().__init__(failed.error)
        self.failed = failed
        """What it means for the delivery."""
        self.retry_after = retry_after
        """The target's `Retry-After`, as it came: whoever has a clock makes a time of it."""
