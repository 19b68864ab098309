"""What the watch makes of calls that are not answered."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import pytest

from eventflow import Event
from eventflow.errors import EngineUnavailable
from eventflow.testing import VirtualClock, run
from eventflow.testing.simulation.book import Book
from eventflow.testing.simulation.watch import Trace, Watched
from eventflow.testing.simulation.weights import Weights

if TYPE_CHECKING:
    from collections.abc import Sequence

    from eventflow.engine.protocol import Engine


class Failing:
    """An engine that accepts nothing."""

    depth = None

    def __init__(self, *, broken: bool, breaks: bool) -> None:
        self.broken = broken
        self._breaks = breaks

    async def accept(self, events: Sequence[Event], _ways: object, *, fallback: object) -> None:
        self.broken = self.broken or self._breaks
        raise EngineUnavailable(f"{len(events)} events, {fallback=}")


@pytest.mark.parametrize(
    ("broken", "breaks", "may_have_happened"),
    [
        pytest.param(False, False, False, id="refused"),
        pytest.param(False, True, True, id="under-way-when-it-broke"),
        # A client that tries again has one call after the other refused: none can have happened,
        # and a death that leaves what the first one brought has to be laid at its door alone.
        pytest.param(True, False, False, id="after-it-broke"),
    ],
)
def test_only_a_call_under_way_when_the_journal_broke_may_have_happened(
    *, broken: bool, breaks: bool, may_have_happened: bool
) -> None:
    book = Book()
    engine = cast("Engine", Failing(broken=broken, breaks=breaks))
    storage: Any = None
    watched = Watched(engine, storage, book, Trace(), Weights((64, 16, 4, 1)), VirtualClock())

    async def main() -> None:
        with pytest.raises(EngineUnavailable):
            await watched.accept([Event(type="order", source="/shop", id="1")])

    run(main())
    assert book.quiet is not may_have_happened
