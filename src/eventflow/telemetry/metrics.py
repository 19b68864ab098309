"""The metrics of one node: counted a batch at a time, read when somebody asks.

Nothing here is global: two nodes in one process count apart. Counters and histograms are added
to by whoever saw something happen; gauges are read from their owners at each scrape, so a depth
is never a copy that could be wrong.

A histogram takes the values of a whole batch. It sorts them and looks up each bound once, which
costs a tenth of observing one by one, and counts every one of them.
"""

from __future__ import annotations

import platform
from bisect import bisect_left, bisect_right
from functools import partial
from itertools import accumulate
from threading import Lock
from typing import TYPE_CHECKING, Any, assert_never

from prometheus_client import CollectorRegistry
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
)
from prometheus_client.openmetrics.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

from eventflow.telemetry import names

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from prometheus_client.metrics_core import Metric as Family

    from eventflow.telemetry.names import Metric

    Labels = tuple[str, ...]
    Reading = tuple[Metric, Labels, float]

CONTENT_TYPE = CONTENT_TYPE_LATEST
"""What `Metrics.render` returns: OpenMetrics 1.0 text."""

OTHER = "other"
"""What a label's value counts as once its metric has as many values as it may."""

_FEW = 16
"""Up to so many values, looking each up is faster than sorting (both are exact)."""


class Metrics:
    """Everything that one node counts.

    Methods may be called from any thread. Labels are given in the order of `Metric.labels`.

    Args:
        version: EventFlow's, for `eventflow_build_info`.
    """

    def __init__(self, version: str = "") -> None:
        self._lock = Lock()
        every = names.metrics()
        self._counts: dict[Metric, dict[Labels, float]] = {
            metric: {} for metric in every if metric.kind == "counter"
        }
        self._histograms: dict[Metric, dict[Labels, _Buckets]] = {
            metric: {} for metric in every if metric.kind == "histogram"
        }
        self._infos: dict[Metric, Labels] = {}
        self._known: dict[Metric, set[str]] = {}
        self._readers: list[Callable[[], Iterable[Reading]]] = []
        self._flushes: list[Callable[[], None]] = []
        for metric in every:
            if not metric.labels:
                self._start_at_zero(metric, ())
        self.registry = CollectorRegistry(auto_describe=False)
        self.registry.register(_NodeCollector(self))
        self.inform(names.BUILD, version, platform.python_version())

    def count(self, metric: Metric, n: float = 1, *labels: str) -> None:
        """Add `n` (0 or more) to a counter."""
        with self._lock:
            series = self._counts[metric]
            if labels not in series:
                labels = self._bounded(metric, labels)
            series[labels] = series.get(labels, 0) + n

    def observe(self, metric: Metric, values: Sequence[float], *labels: str) -> None:
        """Add the values of a batch to a histogram."""
        with self._lock:
            self._buckets(metric, labels).add(values)

    def observe_same(self, metric: Metric, value: float, n: int, *labels: str) -> None:
        """Add the same value `n` times to a histogram."""
        with self._lock:
            self._buckets(metric, labels).add_same(value, n)

    def _buckets(self, metric: Metric, labels: Labels) -> _Buckets:
        series = self._histograms[metric]
        buckets = series.get(labels)
        if buckets is None:
            labels = self._bounded(metric, labels)
            buckets = series.setdefault(labels, _Buckets(metric.buckets))
        return buckets

    def read(self, reader: Callable[[], Iterable[Reading]]) -> Callable[[], None]:
        """Ask `reader` for gauges at each scrape: (metric, labels, value) for each series.

        A reader that raises fails the whole scrape: a gauge that silently vanished would look
        like an empty queue.

        Returns:
            What ends it: call it when the reader's subject is gone.
        """
        self._readers.append(reader)
        return partial(self._readers.remove, reader)

    def on_read(self, flush: Callable[[], None]) -> Callable[[], None]:
        """Call `flush` before anything is read: who collects a batch hands over what it has.

        Returns:
            What ends it.
        """
        self._flushes.append(flush)
        return partial(self._flushes.remove, flush)

    def inform(self, metric: Metric, *labels: str) -> None:
        """Set an info metric, such as `names.DURABILITY`."""
        self._infos[metric] = self._checked(metric, labels)

    def add_topic(self, topic: str) -> None:
        """Begin the topic's own series at 0, so that a first increase can be seen as one."""
        for metric in (*self._counts, *self._histograms):
            if metric.labels == ("topic",):
                self._start_at_zero(metric, (topic,))

    def counted(self, metric: Metric) -> Mapping[Labels, float]:
        """Return a copy of a counter's series."""
        self._flush()
        with self._lock:
            return dict(self._counts[metric])

    def quantile(self, metric: Metric, q: float, *labels: str) -> float | None:
        """Return about where the share `q` (0 to 1) of a histogram's values lies below.

        Taken as evenly spread within a bucket; past the last bound, that bound. None where
        nothing was observed.
        """
        self._flush()
        with self._lock:
            buckets = self._histograms[metric].get(labels)
            return None if buckets is None else buckets.quantile(q)

    def render(self) -> bytes:
        """Return all series as OpenMetrics text; see `CONTENT_TYPE`."""
        text: bytes = generate_latest(self.registry)  # type: ignore[no-untyped-call]  # theirs
        return text

    def families(self) -> Iterator[Family]:
        """Yield every metric with its series, for the registry."""
        self._flush()
        gauges = self._gauges()
        for metric in names.metrics():
            yield self._family(metric, gauges)

    def _flush(self) -> None:
        for flush in list(self._flushes):
            flush()

    def _gauges(self) -> dict[Metric, dict[Labels, float]]:
        found: dict[Metric, dict[Labels, float]] = {}
        for reader in list(self._readers):
            for metric, labels, value in reader():
                found.setdefault(metric, {})[self._checked(metric, labels)] = value
        return found

    def _family(self, metric: Metric, gauges: Mapping[Metric, Mapping[Labels, float]]) -> Family:
        about: dict[str, Any] = {"labels": metric.labels}
        match metric.kind:
            case "counter":
                counter = CounterMetricFamily(metric.name, metric.help, unit=metric.unit, **about)
                with self._lock:
                    for labels, value in sorted(self._counts[metric].items()):
                        counter.add_metric(labels, value)
                return counter
            case "histogram":
                histogram = HistogramMetricFamily(
                    metric.name, metric.help, unit=metric.unit, **about
                )
                with self._lock:
                    for labels, buckets in sorted(self._histograms[metric].items()):
                        histogram.add_metric(labels, buckets.cumulated(), buckets.sum)
                return histogram
            case "gauge":
                gauge = GaugeMetricFamily(metric.name, metric.help, unit=metric.unit, **about)
                for labels, value in sorted(gauges.get(metric, {}).items()):
                    gauge.add_metric(labels, value)
                return gauge
            case "info":
                info = InfoMetricFamily(metric.name, metric.help)
                if metric in self._infos:
                    values = zip(metric.labels, self._infos[metric], strict=True)
                    info.add_metric((), dict(values))
                return info
            case _:
                assert_never(metric.kind)

    def _start_at_zero(self, metric: Metric, labels: Labels) -> None:
        if metric.kind == "counter":
            self._counts[metric].setdefault(labels, 0)
        elif metric.kind == "histogram":
            self._histograms[metric].setdefault(labels, _Buckets(metric.buckets))

    def _bounded(self, metric: Metric, labels: Labels) -> Labels:
        """Return the labels of a new series; the last one may have to be `OTHER`."""
        self._checked(metric, labels)
        if metric.values_max is None:
            return labels
        known = self._known.setdefault(metric, set())
        if labels[-1] not in known and len(known) >= metric.values_max:
            return (*labels[:-1], OTHER)
        known.add(labels[-1])
        return labels

    @staticmethod
    def _checked(metric: Metric, labels: Labels) -> Labels:
        if len(labels) != len(metric.labels):
            raise ValueError(f"{metric.name}: expected labels {metric.labels}, got {labels}")
        return labels


class _Buckets:
    """One series of a histogram: how many values lie up to each bound, and their sum."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def add(self, values: Sequence[float]) -> None:
        self.sum += sum(values)
        counts, bounds = self.counts, self.bounds
        if len(values) <= _FEW:
            for value in values:
                counts[bisect_left(bounds, value)] += 1
            return
        ordered = sorted(values)
        below = 0
        for index, bound in enumerate(bounds):
            upto = bisect_right(ordered, bound, below)
            counts[index] += upto - below
            below = upto
        counts[-1] += len(ordered) - below

    def add_same(self, value: float, n: int) -> None:
        self.sum += value * n
        self.counts[bisect_left(self.bounds, value)] += n

    def cumulated(self) -> list[tuple[str, float]]:
        bounds = [*map(repr, self.bounds), "+Inf"]
        return list(zip(bounds, accumulate(self.counts), strict=True))

    def quantile(self, q: float) -> float | None:
        total = sum(self.counts)
        if not total:
            return None
        wanted, below, lower = q * total, 0, 0.0
        for count, upper in zip(self.counts, self.bounds, strict=False):
            if count and below + count >= wanted:
                return lower + (upper - lower) * (wanted - below) / count
            below, lower = below + count, upper
        return self.bounds[-1]


class _NodeCollector(Collector):
    """What the registry asks; apart from `Metrics`, whose methods are for EventFlow."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Family]:
        return self._metrics.families()
