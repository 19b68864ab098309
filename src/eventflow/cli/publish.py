"""`eventflow publish`: send events from a file, standard input or options."""

from __future__ import annotations

import asyncio
import sys
from contextlib import nullcontext
from typing import Annotated, Final

from cyclopts import Parameter

from eventflow.cli.node import DEFAULT_URL, Token, Url, node_of
from eventflow.cli.sender import Sender
from eventflow.cli.source import opened, single
from eventflow.cli.stop import wrong

NAME: Final = "publish"
USAGE: Final = "usage: eventflow publish [FILE|-] [options]"
SUMMARY: Final = "send CloudEvents from a file, standard input or options"
HELP: Final = """\
Send CloudEvents to a node: from a file or standard input (one a line, or a JSON array), or one
event from options. Sent again under the same ids they are duplicates: repeating is safe.

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
        float, Parameter(metavar="SECONDS", help="how long to wait for room or for the node")
    ] = 0.0,
    url: Url = DEFAULT_URL,
    token: Token = "",
) -> int:
    """Send the events; return 1 where some were refused."""
    if bool(file) == bool(type):
        raise wrong("expected a FILE (or -), or --type for one event. Nothing was sent.")
    node = node_of(url, token)
    with nullcontext(single(type, source, data, id)) if type else opened(file) as events:
        sender = Sender(node, events, wait)
        try:
            status = asyncio.run(sender.send())
        finally:
            sys.stderr.write(sender.summary() + "\n")
    return status
