"""How a command ends before it is done."""

from __future__ import annotations

import sys
from typing import Final

DONE: Final = 0
FAILED: Final = 1
"""The command was understood but could not be done."""
WRONG: Final = 2
"""The command line or the configuration is wrong; nothing was started."""
INTERRUPTED: Final = 130
"""Ctrl-C, as shells count it."""


class Stop(Exception):
    """The command can't go on: the reason, and what to do, for standard error."""

    def __init__(self, reason: str, *, status: int = FAILED) -> None:
        super().__init__(reason)
        self.status = status


def wrong(reason: str) -> Stop:
    """Return the end of a command whose options can't be followed."""
    return Stop(reason, status=WRONG)


def say(text: str) -> None:
    """Print to standard error, out of the way of what the command is for."""
    print(text, file=sys.stderr, flush=True)
