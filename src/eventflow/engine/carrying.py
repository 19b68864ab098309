"""What a move asks of the engine it goes to, beside the Protocol: put all of a file there as it is.

The target itself remembers how far it has come (`Carriage`), in the same record that will hold the
counters: so a move that was killed goes on where it was, and no node starts before it has ended.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

import msgspec

if TYPE_CHECKING:
    from eventflow.delivery import Delivery
    from eventflow.engine.protocol import Census, Queue


def name_of(queue: Queue) -> str:
    """Return what a queue is called in a `Carriage`."""
    return f"{queue.kind.value}:{queue.topic}"


class Carriage(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """How far the move of one file has come."""

    source: str
    """The file, for messages."""
    before: Mapping[str, int]
    """What each queue held before the first of these came, by the queue's name."""
    given: Mapping[str, int]
    """How many deliveries each queue had ever been given by then, by its name."""
    came: Mapping[str, int | str] = {}
    """Behind which entry each part goes on, by its name."""
    finished: bool = False


class Carrier(Protocol):
    """Puts what comes from a file into queues. One file, one `Carrier`."""

    @property
    def largest_bytes(self) -> int:
        """The largest delivery that can be put, in bytes as `size_bytes` counts."""
        ...

    def size_bytes(self, queue: Queue, delivery: Delivery) -> int:
        """Return what a delivery takes there."""
        ...

    async def found(self) -> Carriage | None:
        """Return how far the move of this file has come; None: it has not begun."""
        ...

    async def held(self) -> Mapping[Queue, int]:
        """Return what the queues hold, of those that are there."""
        ...

    async def given(self) -> Mapping[Queue, int]:
        """Return how many deliveries each queue was ever given, of those that are there."""
        ...

    async def remember(self, ids: Sequence[tuple[str, str]]) -> None:
        """Let events be known as accepted (G2), by key and ref, for a dedup window from now."""
        ...

    async def runners(self) -> Sequence[str]:
        """Return who runs there now, as in a sentence: they would take away what comes."""
        ...

    async def note(self, carriage: Carriage) -> None:
        """Remember how far it has come. Queues must be there: after `Engine.apply`."""
        ...

    async def put(self, queue: Queue, deliveries: Sequence[Delivery], *, anew: bool) -> None:
        """Put deliveries into a queue, in this order, at the hops they have.

        Args:
            queue: Where they go.
            deliveries: Some that follow each other there.
            anew: Some may be there already, put by a process that was killed.

        Raises:
            EngineUnavailable: not all of them are there.
        """
        ...

    async def finish(self, carriage: Carriage, census: Census) -> None:
        """Count what the file had counted, and let nodes start."""
        ...
