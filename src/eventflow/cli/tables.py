"""Tables and times for people: aligned, coloured on a terminal only, nothing cut off in a pipe."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from rich.text import Text

_WIDE: Final = 10_000
"""A pipe has no width, and nothing may be cut off."""
_CONTROL: Final = dict.fromkeys((*range(32), *range(127, 160)), " ")
_COLOURS: Final = {
    "dead": "red",
    "parked": "yellow",
    "retrying": "yellow",
    "paused": "yellow",
    "bad": "red",
    "doubtful": "yellow",
    "good": "green",
}
"""Of the words that a person on call looks for."""
_SPANS: Final = ((86_400.0, "d"), (3_600.0, "h"), (60.0, "min"), (1.0, "s"))


def table(
    heads: Sequence[str], rows: Iterable[Sequence[object]], *, numbers: Iterable[str] = ()
) -> Table:
    """Return a table.

    Args:
        heads: Of its columns.
        rows: What stands in them. None is an empty place.
        numbers: Which columns hold numbers.
    """
    made = Table(box=SIMPLE, pad_edge=False, show_edge=False)
    right = set(numbers)
    for head in heads:
        made.add_column(head, justify="right" if head in right else "left", overflow="fold")
    for row in rows:
        made.add_row(*(_cell(value) for value in row))
    return made


def show(*parts: Table | Text | str) -> None:
    """Print tables and lines. NO_COLOR and a pipe get no colours."""
    if sys.stdout.isatty():
        console = Console(highlight=False)
    else:
        console = Console(width=_WIDE, color_system=None, highlight=False)
    for part in parts:
        console.print(part, markup=False, emoji=False, soft_wrap=not isinstance(part, Table))


def line(text: object) -> str:
    """Return a text as it can stand in one line of a terminal, whatever is in it."""
    return str(text).translate(_CONTROL)


def cut(text: object, most: int) -> str:
    """Return a text in one line, of at most `most` characters on a terminal."""
    plain = line(text)
    if len(plain) <= most or not sys.stdout.isatty():
        return plain
    return plain[: most - 1] + "…"


def ago(moment: object) -> str:
    """Return how long ago an RFC 3339 time was, or how far it is ahead: "3 min ago", "in 2 h"."""
    if not isinstance(moment, str):
        return ""
    try:
        seconds = (datetime.now(UTC) - datetime.fromisoformat(moment)).total_seconds()
    except (ValueError, TypeError):  # not from a node of ours, or without a zone
        return line(moment)
    if abs(seconds) < 1.0:
        return "now"
    return f"{span(seconds)} ago" if seconds > 0 else f"in {span(-seconds)}"


def span(seconds: float) -> str:
    """Return a time in its largest unit: "45 s", "3 min", "2 h", "5 d"."""
    for size, unit in _SPANS:
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds * 1000:.0f} ms"


def size(count: Any) -> str:
    """Return bytes as people say them: "512 B", "3.4 MiB"."""
    amount = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if amount < 1024:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} TiB"


def _cell(value: object) -> Text:
    if value is None:
        return Text("")
    text = f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else line(value)
    return Text(text, style=_COLOURS.get(text, ""))
