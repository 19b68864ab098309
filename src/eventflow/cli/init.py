"""`eventflow init`: a commented configuration to begin with."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

from cyclopts import Parameter

from eventflow.cli.stop import DONE, Stop

NAME: Final = "init"
USAGE: Final = "usage: eventflow init [FILE]"
SUMMARY: Final = "write a commented configuration to begin with"
HELP: Final = """\
Write a commented configuration: every setting with what it means, at its default. It can be used as
it is. A file that is there is left alone.

examples:
  eventflow init              ./eventflow.toml
  eventflow init shop.toml    another file
"""


def command(
    file: Annotated[
        str, Parameter(help="the TOML file to write; left out: ./eventflow.toml")
    ] = "eventflow.toml",
    /,
) -> int:
    """Write the file."""
    from eventflow.config.example import example  # noqa: PLC0415  # every setting: slow to load

    path = Path(file)
    try:
        with path.open("x", encoding="utf-8") as out:
            out.write(example())
    except FileExistsError:
        raise Stop(
            f"{path} is there already; it was left as it is. Give another name, or see "
            f"`eventflow check {path}`."
        ) from None
    except OSError as error:
        raise Stop(f"{path}: can't be written: {error.strerror}. Nothing was written.") from None
    print(f"{path} is written. Next: eventflow check {path}, then eventflow serve {path}.")
    return DONE
