"""An answer on standard output: JSON for programs, or what people read."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from typing import Any, Final

import msgspec
from rich.table import Table

from eventflow.cli import tables
from eventflow.cli.asking import Asked
from eventflow.cli.stop import DONE, Stop

_SHAPES: Final = (LookupError, TypeError, ValueError, AttributeError)
"""What an answer that is JSON, but none of a node's, ends with."""


def printed(
    asked: Asked,
    answer: dict[str, Any],
    as_json: bool,  # noqa: FBT001  # the option --json
    for_people: Callable[[], Iterable[Table | str]],
) -> int:
    """Print an answer.

    Args:
        asked: Who gave it.
        answer: All of it.
        as_json: As programs want it.
        for_people: Makes what is shown else.

    Raises:
        Stop: it is no answer of a node.
    """
    try:
        parts = list(for_people())
    except _SHAPES as error:
        raise Stop(
            f"{asked.name} answered what no EventFlow node does; nothing was shown. "
            "Name a node with --url or EVENTFLOW_URL."
        ) from error
    if as_json:
        put_json(answer)
    else:
        tables.show(*parts)
    return DONE


def put_json(answer: Any) -> None:
    """Print JSON: in one line for programs, indented on a terminal."""
    text = msgspec.json.encode(answer)
    if sys.stdout.isatty():
        text = msgspec.json.format(text, indent=2)
    print(text.decode())
