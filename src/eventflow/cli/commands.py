"""What a command is, for the help and for docs/reference/cli.md."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Command:
    """A command of `eventflow`."""

    name: str
    run: Callable[..., int]
    """Returns the exit status; its parameters are the options."""
    usage: str
    summary: str
    """For the list of commands."""
    help: str
    """What it does, then `examples:`."""


class CommandModule(Protocol):
    """A module that holds one command."""

    NAME: str
    USAGE: str
    SUMMARY: str
    HELP: str
    command: Callable[..., int]


def of_module(module: CommandModule) -> Command:
    """Return the command that a module holds."""
    return Command(module.NAME, module.command, module.USAGE, module.SUMMARY, module.HELP)
