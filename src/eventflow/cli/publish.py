"""`eventflow publish`: send events from a file, standard input or options."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Annotated, Final

from cyclopts import Parameter
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from eventflow.cli.node import DEFAULT_URL, Node, Token, Url, node_of
from eventflow.cli.patience import Patience
from eventflow.cli.sender import WINDOW, WINDOW_BYTES, Report, Sender, Tally
from eventflow.cli.source import Source, opened, single
from eventflow.cli.stop import DONE, FAILED, INTERRUPTED, Stop, say, wrong
from eventflow.client.lines import windows

NAME: Final = "publish"
USAGE: Final = "usage: eventflow publish [FILE|-] [options]"
SUMMARY: Final = "send CloudEvents from a file, standard input or options"
HELP: Final = """\
Send CloudEvents to a node: from a file or standard input (one a line, or a JSON array), or one
event from options. Sent again under the same ids they are duplicates: repeating is safe for the
node's [common] dedup_window. An event that is wrong is named and left out, the rest is sent.

examples:
  eventflow publish events.ndjson                    a file, one event a line
  zcat old.ndjson.gz | eventflow publish -           standard input
  eventflow publish --type user.registered --data '{"id": 7}'
                                                     one event
  eventflow publish events.ndjson --wait 60          wait up to a minute for room
"""


def command(  # noqa: PLR0913  # the options of a command line
    file: Annotated[str, Parameter(help="the file, or - for standard input")] = "",
    /,
    *,
    type: Annotated[str, Parameter(metavar="TYPE", help="type of the one event to send")] = "",
    source: Annotated[str, Parameter(metavar="URI", help="source of the one event")] = "/cli",
    data: Annotated[str | None, Parameter(metavar="JSON", help="data of the one event")] = None,
    id: Annotated[
        str | None, Parameter(metavar="ID", help="id of the one event, else made up")
    ] = None,
    wait: Annotated[
        float, Parameter(metavar="SECONDS", help="how long to try without progress")
    ] = 0.0,
    url: Url = DEFAULT_URL,
    token: Token = "",
) -> int:
    """Send the events; return 1 where some were refused."""
    if bool(file) == bool(type):
        raise wrong("expected a FILE (or -), or --type for one event. Nothing was sent.")
    node, patience = node_of(url, token), Patience(wait)
    with nullcontext(single(type, source, data, id)) if type else opened(file) as events:
        return publish(node, events, patience)


def publish(node: Node, source: Source, patience: Patience) -> int:
    """Send what `source` holds and say what became of it; return the exit status."""
    tally = Tally()
    status = DONE
    try:
        with _progress(source, tally) as report:
            _send(Sender(node, patience, report, source.unit, tally), source)
    except KeyboardInterrupt:
        say("eventflow: stopped with Ctrl-C; what was sent without an answer may be accepted too.")
        status = INTERRUPTED
    except Stop as stop:
        say(f"eventflow: {stop}")
        status = stop.status
    if status != DONE and tally.done:
        say(f"What came up to {source.unit} {tally.done} was answered, what follows was not.")
    print(
        f"accepted {tally.accepted:,}, duplicates {tally.duplicates:,}, refused {tally.refused:,}"
    )
    return FAILED if status == DONE and tally.refused else status


def _send(sender: Sender, source: Source) -> None:
    # The loop rests while lines are read: so Ctrl-C also ends a read that waits for input.
    with asyncio.Runner() as runner:
        try:
            for window in windows(source.lines, WINDOW, WINDOW_BYTES):
                runner.run(sender.send(window))
        finally:
            runner.run(sender.close())


@contextmanager
def _progress(source: Source, tally: Tally) -> Iterator[Report]:
    """Show how far it is, where somebody looks."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield Report(say)
        return
    columns = (BarColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=source.size_bytes)

        def moved(size: int) -> None:
            done = tally.accepted + tally.duplicates
            bar.update(task, advance=size, description=f"{done:,} taken, {tally.refused:,} refused")

        def told(text: str) -> None:
            console.print(text, markup=False, highlight=False, soft_wrap=True)

        yield Report(told, moved)
