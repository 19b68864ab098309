"""How a help text looks: what it is, examples to copy, then the options in two columns.

Plain text of at most 100 columns, the same on every terminal, so that docs/reference/cli.md can be
held against it.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from cyclopts.help import HelpEntry, HelpPanel
    from rich.console import Console, ConsoleOptions

WIDTH: Final = 100
_LONGEST_LABEL: Final = 26


class Page:
    """Prints the help of one command, for cyclopts.

    Args:
        text: What stands above the options: what the command does, and examples.
    """

    def __init__(self, text: str) -> None:
        self._text = text.strip()

    def render_usage(self, console: Console, _options: ConsoleOptions, usage: object) -> None:
        """Print how the command is written."""
        _put(console, f"{str(usage).strip()}\n")

    def render_description(self, console: Console, _options: ConsoleOptions, _text: object) -> None:
        """Print what the command does, with examples."""
        _put(console, f"{self._text}\n")

    def __call__(self, console: Console, _options: ConsoleOptions, panel: HelpPanel) -> None:
        """Print a group of commands or options."""
        rows = [(_label(entry), _said(entry)) for entry in panel.entries]
        if not rows:
            return
        column = 4 + max(len(label) for label, _ in rows if len(label) <= _LONGEST_LABEL)
        lines = [line for label, said in rows for line in _row(label, said, column)]
        _put(console, "\n".join([f"{panel.title}:", *lines, ""]))


def _put(console: Console, text: str) -> None:
    console.print(text, soft_wrap=True, highlight=False, markup=False, emoji=False)


def _label(entry: HelpEntry) -> str:
    if entry.positional_label:
        return entry.positional_label
    names = ", ".join((*entry.positive_shorts, *entry.positive_names))
    return f"{names} {entry.metavar}" if entry.metavar else names


def _said(entry: HelpEntry) -> str:
    said = entry.description
    inner = getattr(said, "primary_renderable", said)  # cyclopts wraps what it shows
    text = "" if inner is None else str(getattr(inner, "plain", inner))
    if entry.env_var:
        text += f" (variable: {', '.join(entry.env_var)})"
    if entry.default and str(entry.default) not in {'""', "False"}:
        text += f" (default: {entry.default})"
    return text


def _row(label: str, said: str, column: int) -> Iterator[str]:
    lines = textwrap.wrap(said, WIDTH - column, break_on_hyphens=False) or [""]
    if len(label) + 4 > column:
        yield f"  {label}"
    else:
        yield f"  {label:<{column - 4}}  {lines.pop(0)}".rstrip()
    for line in lines:
        yield f"{'':<{column}}{line}"
