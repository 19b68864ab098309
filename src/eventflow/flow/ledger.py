"""What the stages tell about settlements: metrics, paces, the way back from storage, history.

Everything here happens once a batch.
"""

from __future__ import annotations

from collections import Counter, deque
from typing import TYPE_CHECKING

from eventflow.delivery import Dead, Parked, Place, Reason, Retrying, Row
from eventflow.telemetry import names
from eventflow.telemetry.logging import log

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from eventflow.clock import Clock
    from eventflow.engine.protocol import Run
    from eventflow.telemetry.metrics import Metrics


class History:
    """The latest deliveries that ended well: what can still be shown of them."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._batches: deque[tuple[float, str, Sequence[str]]] = deque()
        self._count = 0

    def add(self, now: float, topic: str, refs: Sequence[str]) -> None:
        """Remember deliveries of one topic; the oldest are let go."""
        self._batches.append((now, topic, refs))
        self._count += len(refs)
        while self._count > self.limit and self._batches:
            self._count -= len(self._batches.popleft()[2])

    def of(self, ref: str) -> list[tuple[str, float]]:
        """Return the topics an event was delivered to, and when (seconds since 1970)."""
        return [(topic, at) for at, topic, refs in self._batches if ref in refs]

    @property
    def since(self) -> float | None:
        """When the oldest one remembered was delivered; None: none is."""
        return self._batches[0][0] if self._batches else None


class Ledger:
    """Counts what settlements did, for people and for other stages. The engine's own counts are
    the truth about deliveries; these are rates and kinds.
    """  # noqa: D205  # one thought

    def __init__(self, metrics: Metrics, clock: Clock, history_max: int) -> None:
        self.metrics = metrics
        self.clock = clock
        self.history = History(history_max)
        self.rows: Counter[str] = Counter()
        """How often each row of DESIGN's table was taken."""
        self.on_parked: Callable[[str], None] = lambda _: None
        """Told the topic, when something came to storage that will come back."""

    def placed(self, topic: str, places: Iterable[Place | None]) -> None:
        """Count the places that a batch of one topic's deliveries took."""
        kinds = Counter(
            (type(place), place.row.value, str(getattr(place, "reason", "")))
            for place in places
            if place is not None
        )
        for (kind, row, reason), count in kinds.items():
            self.rows[row] += count
            self.metrics.count(names.ROW_TAKEN, count, row)
            if kind is Parked:
                self.metrics.count(names.DELIVERIES_PARKED, count, topic, reason)
                self.on_parked(topic)
            elif kind is Dead:
                self.metrics.count(names.DELIVERIES_DEAD, count, topic, reason)
                log(names.DELIVERY_DEAD, topic=topic, reason=reason, deliveries=count)
            elif kind is Retrying:
                overflow = reason == Reason.TOPIC_FULL.value
                self.metrics.count(names.OVERFLOWS if overflow else names.RETRIES, count, topic)

    def routed(self, topic: str, count: int) -> None:
        """Count deliveries that came into a topic's queue as they were accepted."""
        self.rows[Row.ROUTED.value] += count
        self.metrics.count(names.ROW_TAKEN, count, Row.ROUTED.value)
        self.metrics.count(names.DELIVERIES_ROUTED, count, topic)

    def delivered_of_run(self, topic: str, run: Run, spans: Sequence[tuple[int, int]]) -> None:
        """Count deliveries of a run that ended well."""
        now = self.clock.now_s()
        count = 0
        for start, stop in spans:
            count += stop - start
            self.history.add(now, topic, run.refs(start, stop))
        self.rows[Row.DELIVERED.value] += count
        self.metrics.count(names.ROW_TAKEN, count, Row.DELIVERED.value)
        self.metrics.count(names.DELIVERIES_DELIVERED, count, topic)
        self.metrics.observe_same(names.DELIVERY_SECONDS, now - run.accepted_at, count, topic)

    def delivered(self, topic: str, refs: Sequence[str], accepted: Sequence[float]) -> None:
        """Count deliveries that ended well, and how long each took since it was accepted."""
        if not refs:
            return
        now = self.clock.now_s()
        self.rows[Row.DELIVERED.value] += len(refs)
        self.metrics.count(names.ROW_TAKEN, len(refs), Row.DELIVERED.value)
        self.metrics.count(names.DELIVERIES_DELIVERED, len(refs), topic)
        self.metrics.observe(names.DELIVERY_SECONDS, [now - at for at in accepted], topic)
        self.history.add(now, topic, refs)
