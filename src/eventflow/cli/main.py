"""The commands of `eventflow`, and which exit status an error means."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Sequence
from typing import Final

from cyclopts import App, CycloptsError, Group
from rich.console import Console

from eventflow.cli import (
    acts,
    audit,
    backup,
    bench,
    check,
    completion,
    deliveries,
    doctor,
    event,
    export,
    init,
    move,
    publish,
    serve,
    stats,
    topics,
)
from eventflow.cli.commands import Command, of_module
from eventflow.cli.page import Page
from eventflow.cli.source import STDIN
from eventflow.cli.stop import FAILED, INTERRUPTED, WRONG, Stop, say
from eventflow.errors import ConfigError, EventFlowError
from eventflow.version import VERSION

TOP: Final = """\
Accept events, deliver them at least once, lose none, and be able to show it.

examples:
  eventflow init                                          write a commented ./eventflow.toml
  eventflow check                                         what is wrong with it
  eventflow serve                                         start a node with it
  eventflow publish events.ndjson                         send a file of CloudEvents, one a line
  eventflow publish --type user.registered --data '{"id": 7}'
                                                          send one event
  eventflow stats                                         what came in, and where all of it is
  eventflow groups                                        what is parked or dead, and why
  eventflow explain --source /shop --id 4711              what became of an event
"""

STATUSES: Final = """\
exit status:
  0    done
  1    the command was understood but could not be done; the reason is on stderr
  2    the command line or the configuration is wrong; nothing was started
  130  stopped with Ctrl-C; stderr tells how far it came
"""

COMMANDS: Final[tuple[Command, ...]] = (
    *map(of_module, (init, check, serve, publish, stats)),
    *topics.COMMANDS,
    *deliveries.COMMANDS,
    *event.COMMANDS,
    *acts.COMMANDS,
    *map(of_module, (export, audit, backup, move, doctor, bench)),
    completion.of(lambda: commands()),  # noqa: PLW0108  # it is defined below
)
"""In the order in which the help shows them."""


NO_ROOM: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""What writing into a redirection may end with."""


def commands() -> App:
    """Return the command line, ready to be called."""
    app = App(
        name="eventflow",
        usage="usage: eventflow COMMAND ...",
        version=VERSION,
        help_format="plaintext",
        help_formatter=Page(f"{TOP}\n{STATUSES}"),  # type: ignore[arg-type]  # it is one
        group_arguments=Group("arguments", sort_key=0),
        group_parameters=Group("options", sort_key=1),
        group_commands=Group("commands", sort_key=0),
        suppress_keyboard_interrupt=False,
        exit_on_error=False,
        print_error=False,
        result_action="return_value",
    )
    app["--help"].help = "show this text, or that of a command: eventflow publish --help"
    app["--help"].group = app["--version"].group = Group("options", sort_key=1)
    app["--version"].help = "show which EventFlow this is"
    for place, command in enumerate(COMMANDS):
        app.command(
            command.run,
            name=command.name,
            usage=command.usage,
            help=command.summary,
            help_formatter=Page(command.help),
            sort_key=place,
            version_flags=[],
        )
    return app


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command that `argv` (without the program's name) says; return the exit status."""
    # Help and version are text for people and pipes alike: no colours, no width of a terminal.
    console = Console(color_system=None, width=1000)
    given = sys.argv[1:] if argv is None else argv
    words = [STDIN if word == "-" else word for word in given]
    try:
        status = commands()(words, console=console)
        sys.stdout.flush()
    except CycloptsError as error:
        return _ended(f"{error}{_advice(error)}", WRONG)
    except Stop as error:
        return _ended(str(error), error.status)
    except ConfigError as error:
        return _ended(f"{error}\nNothing was started.", WRONG)
    except EventFlowError as error:
        return _ended(str(error), FAILED)
    except KeyboardInterrupt:
        return _ended("stopped with Ctrl-C.", INTERRUPTED)
    except BrokenPipeError:
        # Who read our output has gone, as `head` does: nobody is left to be told.
        _write_no_more()
        return FAILED
    except OSError as error:
        if error.errno not in NO_ROOM or error.filename is not None:
            raise
        _write_no_more()
        return _ended(f"standard output can't be written: {error.strerror}.", FAILED)
    return status if isinstance(status, int) else 0


def _write_no_more() -> None:
    """Let what is still to be printed go nowhere: at its end Python would try again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _ended(reason: str, status: int) -> int:
    say(f"eventflow: {reason}")
    return status


def _advice(error: CycloptsError) -> str:
    command = " ".join(("eventflow", *(error.command_chain or ())))
    return f" Nothing was started. See `{command} --help`."
