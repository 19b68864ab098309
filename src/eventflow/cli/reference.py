"""docs/reference/cli.md, from the help texts: `python -m eventflow.cli.reference > ...`."""

from __future__ import annotations

import io
import sys

from rich.console import Console

from eventflow.cli.main import COMMANDS, commands


def help_of(*words: str) -> str:
    """Return the help text of a command, as a terminal shows it."""
    out = io.StringIO()
    console = Console(file=out, color_system=None, width=1000)
    commands()([*words, "--help"], console=console)
    return out.getvalue().strip()


def reference() -> str:
    """Return the page."""
    parts = ["# Commands\n\nThe help texts, as `eventflow COMMAND --help` prints them.\n"]
    for words in ((), *((command.name,) for command in COMMANDS)):
        title = " ".join(("eventflow", *words))
        parts.append(f"## {title}\n\n```text\n{help_of(*words)}\n```\n")
    return "\n".join(parts)


if __name__ == "__main__":
    sys.stdout.write(reference())
