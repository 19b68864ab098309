"""What is counted is what is shown, by anybody who reads OpenMetrics."""

from __future__ import annotations

import threading
from bisect import bisect_left
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from eventflow.telemetry import names
from eventflow.telemetry.metrics import CONTENT_TYPE, OTHER, Metrics

if TYPE_CHECKING:
    from eventflow.telemetry.names import Metric

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def samples(metrics: Metrics) -> Samples:
    """Return every series as a strict reader of OpenMetrics sees it."""
    families = text_string_to_metric_families(metrics.render().decode())  # type: ignore[no-untyped-call]  # theirs
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
    }


def test_what_is_rendered_is_openmetrics() -> None:
    metrics = Metrics("1.2.3")
    metrics.add_topic("email")
    for metric in names.metrics():
        labels = ["x"] * len(metric.labels)
        if metric.kind == "counter":
            metrics.count(metric, 2, *labels)
        elif metric.kind == "histogram":
            metrics.observe(metric, [0.5, 7.0], *labels)
        elif metric.kind == "info":
            metrics.inform(metric, *labels)
    metrics.read(
        lambda: [(m, ("x",) * len(m.labels), 3) for m in names.metrics() if m.kind == "gauge"]
    )
    shown = {name for name, _ in samples(metrics)}

    for metric in names.metrics():
        ending = "_count" if metric.kind == "histogram" else ""
        assert metric.shown + ending in shown
    assert metrics.render().endswith(b"# EOF\n")
    assert CONTENT_TYPE.startswith("application/openmetrics-text; version=1.0.0")


def test_a_counter_adds_up_by_label() -> None:
    metrics = Metrics()
    metrics.count(names.DELIVERIES_ROUTED, 500, "email")
    metrics.count(names.DELIVERIES_ROUTED, 20, "db")
    metrics.count(names.DELIVERIES_ROUTED, 1, "email")

    assert metrics.counted(names.DELIVERIES_ROUTED) == {("email",): 501, ("db",): 20}
    assert samples(metrics)["eventflow_deliveries_routed_total", (("topic", "email"),)] == 501


def test_series_begin_at_zero() -> None:
    """Or the first increase would not be seen as one."""
    metrics = Metrics()
    metrics.add_topic("email")
    seen = samples(metrics)

    assert seen["eventflow_events_accepted_total", ()] == 0
    assert seen["eventflow_deliveries_delivered_total", (("topic", "email"),)] == 0
    assert seen["eventflow_handler_seconds_count", (("topic", "email"),)] == 0


def test_a_topic_added_again_keeps_its_counts() -> None:
    metrics = Metrics()
    metrics.count(names.RETRIES, 3, "email")
    metrics.add_topic("email")

    assert metrics.counted(names.RETRIES) == {("email",): 3}


def test_the_51st_cause_counts_as_other() -> None:
    """Exceptions have any name they like; a database of metrics must not."""
    metrics = Metrics()
    for number in range(60):
        metrics.count(names.FAILURES, 1, "email", f"Error{number}")
    metrics.count(names.FAILURES, 1, "db", "Error0")
    metrics.count(names.FAILURES, 1, "db", "Error59")
    counted = metrics.counted(names.FAILURES)

    assert counted["email", OTHER] == 10
    assert counted["email", "Error49"] == 1
    assert counted["db", "Error0"] == 1, "a known cause stays known for other topics"
    assert counted["db", OTHER] == 1
    assert len({cause for _, cause in counted}) == 51


def test_labels_can_not_be_forgotten() -> None:
    with pytest.raises(ValueError, match=r"expected labels \('topic', 'cause'\), got \('email',\)"):
        Metrics().count(names.FAILURES, 1, "email")


def test_a_label_may_hold_anything() -> None:
    metrics = Metrics()
    nasty = 'quote " backslash \\ newline \n }'
    metrics.count(names.FAILURES, 1, "email", nasty)

    assert samples(metrics)["eventflow_failures_total", (("cause", nasty), ("topic", "email"))] == 1


@given(
    st.lists(
        st.lists(st.floats(0, 200) | st.sampled_from(names.HANDLER_SECONDS.buckets), max_size=60),
        max_size=4,
    )
)
def test_every_value_of_every_batch_is_counted_in_its_bucket(batches: list[list[float]]) -> None:
    """Small batches and large ones go different ways; both are exact, on the bounds too."""
    metrics = Metrics()
    for batch in batches:
        metrics.observe(names.HANDLER_SECONDS, batch, "email")
    values = sorted(value for batch in batches for value in batch)
    seen = samples(metrics)

    for bound in names.HANDLER_SECONDS.buckets:
        key = ("eventflow_handler_seconds_bucket", (("le", repr(bound)), ("topic", "email")))
        assert seen.get(key, 0) == sum(value <= bound for value in values)
    assert seen.get(("eventflow_handler_seconds_count", (("topic", "email"),)), 0) == len(values)
    assert seen.get(("eventflow_handler_seconds_sum", (("topic", "email"),)), 0) == pytest.approx(
        sum(values)
    )


@given(st.lists(st.floats(0, 59.9), min_size=1, max_size=50), st.sampled_from([0.5, 0.95, 0.99]))
def test_a_quantile_lies_in_the_bucket_of_the_true_one(values: list[float], q: float) -> None:
    metrics = Metrics()
    metrics.observe(names.HANDLER_SECONDS, values, "email")
    found = metrics.quantile(names.HANDLER_SECONDS, q, "email")
    true = sorted(values)[max(0, -int(-q * len(values) // 1) - 1)]
    bounds = names.HANDLER_SECONDS.buckets
    upper = bisect_left(bounds, true)
    lower = bounds[upper - 1] if upper else 0.0

    assert found is not None
    assert lower <= found <= bounds[upper]


def test_a_quantile_of_nothing_is_none() -> None:
    metrics = Metrics()
    assert metrics.quantile(names.HANDLER_SECONDS, 0.5, "email") is None
    metrics.add_topic("email")
    assert metrics.quantile(names.HANDLER_SECONDS, 0.5, "email") is None


def test_a_quantile_past_the_last_bound_is_that_bound() -> None:
    metrics = Metrics()
    metrics.observe(names.HANDLER_SECONDS, [1e6], "email")

    assert metrics.quantile(names.HANDLER_SECONDS, 0.5, "email") == 300.0


def test_a_gauge_is_read_from_its_owner_each_time() -> None:
    metrics = Metrics()
    depth = 3
    forget = metrics.read(lambda: [(names.QUEUE_DEPTH, ("email", "topic"), depth)])
    key = ("eventflow_queue_depth_deliveries", (("queue", "topic"), ("topic", "email")))
    assert samples(metrics)[key] == 3
    depth = 7
    assert samples(metrics)[key] == 7
    forget()

    assert key not in samples(metrics)


def test_a_reader_that_fails_is_no_empty_queue() -> None:
    def broken() -> list[tuple[Metric, tuple[str, ...], float]]:
        raise OSError("disk")

    metrics = Metrics()
    metrics.read(broken)
    with pytest.raises(OSError, match="disk"):
        metrics.render()


def test_who_collects_hands_over_before_anything_is_read() -> None:
    metrics = Metrics()
    collected = [0.5]

    def flush() -> None:
        values = collected[:]
        collected.clear()
        metrics.observe(names.COMMIT_SECONDS, values)
        metrics.count(names.EVENTS_ACCEPTED, len(values))

    forget = metrics.on_read(flush)
    assert metrics.quantile(names.COMMIT_SECONDS, 0.5) is not None
    collected.append(1.5)
    assert metrics.counted(names.EVENTS_ACCEPTED) == {(): 2}
    forget()
    collected.append(2.5)

    assert samples(metrics)["eventflow_commit_seconds_count", ()] == 2


def test_nodes_in_one_process_count_apart() -> None:
    first, second = Metrics(), Metrics()
    first.count(names.EVENTS_ACCEPTED, 5)

    assert second.counted(names.EVENTS_ACCEPTED) == {(): 0}


def test_threads_lose_no_count() -> None:
    """The loop counts, and so does the journal's writer."""
    metrics = Metrics()

    def work() -> None:
        for _ in range(2_000):
            metrics.count(names.EVENTS_ACCEPTED, 1)
            metrics.observe(names.COMMIT_SECONDS, [0.1])

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert metrics.counted(names.EVENTS_ACCEPTED) == {(): 8_000}
    assert samples(metrics)["eventflow_commit_seconds_count", ()] == 8_000


def test_the_build_is_told() -> None:
    info = [labels for name, labels in samples(Metrics("1.2.3")) if name == "eventflow_build_info"]

    assert dict(info[0])["version"] == "1.2.3"
