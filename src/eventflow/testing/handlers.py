"""Handlers for tests: they fail as often as told, and remember what they were given.

    handler = FailsTimes(3)                                    three failures a delivery, then well
    handler = Scripted([RetryLater(60), OSError("no"), None])  by attempt; the last one stays

All of them are `Recorder`s, and work with any topic that takes one event at a time.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from eventflow.delivery import Delivery
    from eventflow.event import Event

    Error = BaseException | Callable[[], BaseException]


def _no() -> ConnectionError:
    return ConnectionError("the test says no")


class Recorder:
    """A handler that succeeds, and remembers every run."""

    def __init__(self) -> None:
        self.deliveries: list[Delivery] = []
        """What it was run with, in the order of the runs."""
        self.runs: Counter[str] = Counter()
        """How often it was run, by delivery id."""
        self.succeeded: list[Delivery] = []
        """Those of the runs that ended well."""

    async def __call__(self, event: Event, delivery: Delivery) -> None:
        """Remember the run, then end it as told."""
        del event  # the delivery has it
        self.deliveries.append(delivery)
        self.runs[delivery.id] += 1
        error = self._error(delivery)
        if error is not None:
            raise error if isinstance(error, BaseException) else error()
        self.succeeded.append(delivery)

    @property
    def events(self) -> list[Event]:
        """The events it was run with, in the order of the runs."""
        return [delivery.event for delivery in self.deliveries]

    @property
    def attempts(self) -> dict[int, int]:
        """How many deliveries were run how often: `{1: 20_000}` is each of them once."""
        return dict(Counter(self.runs.values()))

    def _error(self, delivery: Delivery) -> Error | None:
        del delivery
        return None


class FailsTimes(Recorder):
    """A handler that fails the first `n` runs of each delivery, and succeeds from then on.

    Args:
        n: How often. Runs are counted over all rounds and replays.
        error: What it raises; something that makes exceptions, to have a new one each time.
    """

    def __init__(self, n: int, error: Error = _no) -> None:
        super().__init__()
        self.n = n
        self.error = error

    def _error(self, delivery: Delivery) -> Error | None:
        return self.error if self.runs[delivery.id] <= self.n else None


class Scripted(Recorder):
    """A handler whose runs of each delivery end as written: None is well, an exception is raised.

    Args:
        outcomes: By run, from the first; runs after the last one end as that did.

    Raises:
        ValueError: there are no outcomes.
    """

    def __init__(self, outcomes: Sequence[Error | None]) -> None:
        super().__init__()
        if not outcomes:
            raise ValueError("outcomes: expected at least one, got none")
        self.outcomes = tuple(outcomes)

    def _error(self, delivery: Delivery) -> Error | None:
        return self.outcomes[min(self.runs[delivery.id], len(self.outcomes)) - 1]
