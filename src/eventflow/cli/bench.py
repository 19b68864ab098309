"""`eventflow bench`: how many events a second, and how late, with one's own configuration."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Final

import msgspec
from cyclopts import Parameter
from cyclopts.validators import Number
from rich.table import Table

from eventflow.cli import tables
from eventflow.cli.asking import AsJson
from eventflow.cli.check import checked
from eventflow.cli.printing import put_json
from eventflow.cli.serve import app_of, path_of
from eventflow.cli.stop import DONE, FAILED, Stop, say, wrong

if TYPE_CHECKING:
    from eventflow.app.measure import Bounds, Report
    from eventflow.config import Settings

NAME: Final = "bench"
USAGE: Final = "usage: eventflow bench [CONFIG] [options]"
SUMMARY: Final = "measure events a second and latency with a configuration"
HELP: Final = """\
Measure what a node of this configuration does on this machine: events a second, published in
batches until all are handled and settled, and how late handlers are called while single events
come at a steady rate. Topics, capacities, routes and durability are those of the configuration;
handlers and sinks are replaced by ones that do nothing, and the events are made up from the routes'
patterns. Your data is not touched: the journal is a new one, in a folder beside the configured one
and so on the same disk, which is removed again.

examples:
  eventflow bench                           ./eventflow.toml, or three plain topics without one
  eventflow bench shop.toml --seconds 6     longer, and so steadier
  eventflow bench --app shop.app:flow       the EventFlow object that Python code makes
  eventflow bench --json                    for programs
"""


def command(  # options
    config: Annotated[
        str, Parameter(help="the TOML file; left out: ./eventflow.toml, if there is one")
    ] = "",
    /,
    *,
    app: Annotated[
        str,
        Parameter(metavar="MODULE:NAME", help="an EventFlow object to measure, instead of a file"),
    ] = "",
    seconds: Annotated[
        float,
        Parameter(
            metavar="SECONDS",
            validator=Number(gte=0.1, lte=600),
            help="how long each of the two parts lasts at most",
        ),
    ] = 3.0,
    events: Annotated[
        int,
        Parameter(
            metavar="NUMBER",
            validator=Number(gte=1, lte=2_000_000),
            help="publish at most so many in batches",
        ),
    ] = 200_000,
    per_second: Annotated[
        int,
        Parameter(
            metavar="NUMBER",
            validator=Number(gte=1, lte=100_000),
            help="single events a second while latency is measured",
        ),
    ] = 5_000,
    json: AsJson = False,
) -> int:
    """Measure, and print what was found."""
    from eventflow.app.measure import Bounds  # noqa: PLC0415  # a node: slow to load

    if app and config:
        raise wrong("CONFIG and --app: expected one of them, got both. Nothing was measured.")
    settings = app_of(app).check() if app else checked(path_of(config))
    if settings.engine.on_servers:
        raise Stop(
            "the queues are on NATS servers, and their streams would get the events; nothing was "
            "measured. Name a configuration whose [engine] url is a file, or memory."
        )
    report = _measured(settings, Bounds(seconds, events, per_second))
    if json:
        put_json(msgspec.to_builtins(report))
    else:
        tables.show(*_told(report))
    if report.unaccounted:
        say(f"eventflow: {report.unaccounted:,} deliveries can't be accounted for.")
        return FAILED
    return DONE


def _measured(settings: Settings, bounds: Bounds) -> Report:
    from eventflow.app.measure import trial  # noqa: PLC0415  # a node: slow to load
    from eventflow.app.serving import in_loop, tune  # noqa: PLC0415  # a node: slow to load

    if not settings.topics:
        say("eventflow: no topics are configured: three plain ones are measured.")
    tune()
    try:
        return in_loop(trial(settings, bounds, lambda text: say(f"eventflow: {text}")))
    except ValueError as error:
        raise Stop(
            f"{error}: nothing was measured. A topic is reached by its `match`, or by a route "
            "whose `when` a made-up event fulfils."
        ) from error
    except OSError as error:
        where = f"{error.filename or 'the journal folder'}: {error.strerror}"
        raise Stop(f"{where}: no journal could be made there; nothing was measured.") from error


def _told(report: Report) -> Iterator[Table | str]:
    rate, late = report.rate, report.latency
    rows = [
        ("durability", report.durability, _DURABILITIES.get(report.durability, "")),
        (
            "events a second",
            f"{rate.per_s:,.0f}",
            f"{rate.events:,} of {report.event_bytes} bytes, {rate.batch} at once, until settled",
        ),
        (
            "deliveries a second",
            f"{rate.deliveries_per_s:,.0f}",
            f"to {', '.join(report.topics)}; {rate.cpu_s / rate.events * 1e6:.1f} µs an event",
        ),
        (
            "latency p50",
            _ms(late.p50_s),
            f"from publish to handler, {late.per_s:,} single events a second",
        ),
        ("latency p99", _ms(late.p99_s), f"of {late.deliveries:,}; the greatest {_ms(late.max_s)}"),
        ("unaccounted", f"{report.unaccounted:,}", "deliveries; 0, or something was lost"),
    ]
    yield tables.table(["", "found", ""], rows, numbers=("found",))
    if late.refused:
        yield f"\n{late.refused:,} single events were refused: the common queue was full."
    if report.astray:
        yield f"\n{report.astray:,} deliveries overflowed a queue, and had not come back."
    for topic in report.missed:
        yield f"\nTopic {topic} was not measured: no made-up event goes there."
    if report.folder:
        yield f"\nMeasured in {report.folder}, which is removed again. Your data was not touched."
    else:
        yield "\nMeasured in memory. Your data was not touched."


_DURABILITIES: Final = {
    "fsync": "what is accepted survives a power cut",
    "os": "what is accepted survives a crash of the process, not a power cut",
    "memory": "what is accepted is gone when the process ends",
}


def _ms(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds * 1e3:.1f} ms"
