"""Every name stands once in the code and once in the reference, and both say the same."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from eventflow.telemetry import names

if TYPE_CHECKING:
    from eventflow.telemetry.names import LogEvent, Metric

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "reference" / "telemetry.md"
PACKAGE = ROOT / "src" / "eventflow"


def rows(about: str) -> list[list[str]]:
    """Return the cells of the tables in one part of the page."""
    part = re.split(r"^## (.+)$", PAGE.read_text(), flags=re.MULTILINE)
    text = part[part.index(about) + 1]
    return [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in text.splitlines()
        if line.startswith("| `")
    ]


def listed(values: tuple[str, ...]) -> str:
    return ", ".join(f"`{value}`" for value in values)


def test_the_reference_has_every_metric_as_it_is() -> None:
    assert rows("Metrics") == [
        [f"`{metric.shown}`", metric.kind, listed(metric.labels), metric.unit, metric.help]
        for metric in names.metrics()
    ]


def test_the_reference_has_every_log_event_as_it_is() -> None:
    assert rows("Log") == [
        [f"`{event.name}`", event.level, listed(event.fields), event.help]
        for event in names.log_events()
    ]


def test_every_name_is_there_once() -> None:
    every = [metric.name for metric in names.metrics()]
    every += [event.name for event in names.log_events()]

    assert len(every) == len(set(every))


@pytest.mark.parametrize("metric", names.metrics(), ids=lambda metric: metric.name)
def test_a_metric_is_named_as_openmetrics_asks(metric: Metric) -> None:
    assert re.fullmatch(r"eventflow(_[a-z]+)+", metric.name)
    assert not metric.name.endswith(("_total", "_info", "_count", "_sum", "_bucket"))
    assert not metric.unit or metric.name.endswith(f"_{metric.unit}")
    assert bool(metric.buckets) == (metric.kind == "histogram")
    assert list(metric.buckets) == sorted(set(metric.buckets))
    assert metric.help.endswith(".")


@pytest.mark.parametrize("metric", names.metrics(), ids=lambda metric: metric.name)
def test_a_metric_can_not_grow_without_bound(metric: Metric) -> None:
    """Labels that are not the configuration's own are cut off, or few by what they are."""
    if metric.kind == "counter":
        assert set(metric.labels) <= {"topic"} or metric.values_max is not None
    elif metric.kind in {"gauge", "histogram"}:
        assert set(metric.labels) <= {"topic", "queue"}


@pytest.mark.parametrize("event", names.log_events(), ids=lambda event: event.name)
def test_a_log_event_is_something_that_happened(event: LogEvent) -> None:
    assert re.fullmatch(r"[a-z]+\.[a-z]+", event.name)
    assert event.help.endswith(".")


def test_only_the_metrics_module_makes_series() -> None:
    """One place knows prometheus-client; everybody else counts by name."""
    strangers = {
        str(path.relative_to(ROOT))
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Import | ast.ImportFrom)
        if "prometheus_client" in ast.unparse(node)
        if path != PACKAGE / "telemetry" / "metrics.py"
    }

    assert strangers == set()


def test_only_names_makes_names() -> None:
    strangers = {
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        if ast.unparse(node.func).rpartition(".")[2] in {"Metric", "LogEvent"}
        if path != PACKAGE / "telemetry" / "names.py"
    }

    assert strangers == set()


def test_what_is_logged_has_the_fields_that_the_reference_says() -> None:
    """Each call of `log` in the package gives all fields of its event, and no others."""
    strangers = [
        f"{path.relative_to(ROOT)}:{call.lineno}: {event.name} has {event.fields}, got {given}"
        for path in PACKAGE.rglob("*.py")
        for call, event in logged(path)
        if None not in (given := {keyword.arg for keyword in call.keywords})
        if given != set(event.fields)
    ]

    assert strangers == []


def test_every_log_event_of_the_reference_is_logged() -> None:
    """Somebody waits for it: an alert on a line that never comes is none."""
    used = {event.name for path in PACKAGE.rglob("*.py") for _call, event in logged(path)}

    assert {event.name for event in names.log_events()} - used == set()


def logged(path: Path) -> list[tuple[ast.Call, LogEvent]]:
    """Return the calls `log(names.X, ...)` of a file, and what X is."""
    calls = [
        node
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "log" and node.args
    ]
    named = [(call, ast.unparse(call.args[0])) for call in calls]
    return [
        (call, getattr(names, name.removeprefix("names.")))
        for call, name in named
        if hasattr(names, name.removeprefix("names."))
    ]
