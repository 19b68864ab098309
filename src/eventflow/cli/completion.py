"""`eventflow completion`: the shell completes commands and options."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Annotated, Final, Literal

from cyclopts import App, Parameter

from eventflow.cli.commands import Command
from eventflow.cli.stop import DONE

HELP: Final = """\
Print a script that has the shell complete commands and options of eventflow.

examples:
  eventflow completion bash > ~/.local/share/bash-completion/completions/eventflow
  eventflow completion zsh > ~/.zfunc/_eventflow
  eventflow completion fish > ~/.config/fish/completions/eventflow.fish
"""


def of(app: Callable[[], App]) -> Command:
    """Return the command, for the command line that `app` makes."""

    def command(
        shell: Annotated[Literal["bash", "zsh", "fish"], Parameter(help="bash, zsh or fish")], /
    ) -> int:
        """Print the script."""
        script = app().generate_completion(prog_name="eventflow", shell=shell)
        # Where it knows nothing, bash shall go on with names of files: CONFIG and FILE are some.
        sys.stdout.write(script.replace("complete -F ", "complete -o default -F "))
        return DONE

    return Command(
        "completion",
        command,
        "usage: eventflow completion SHELL",
        "print a script that completes commands and options in your shell",
        HELP,
    )
