"""`eventflow check`: say all that is wrong with a configuration."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

from cyclopts import Parameter

from eventflow.cli.serve import path_of
from eventflow.errors import ConfigError

if TYPE_CHECKING:
    from eventflow.config import Settings

NAME: Final = "check"
USAGE: Final = "usage: eventflow check [CONFIG]"
SUMMARY: Final = "say all that is wrong with a configuration"
HELP: Final = """\
Say all that is wrong with a configuration: each problem with its file, table and key, what was
expected and what was found. Handlers are imported and routes compiled; nothing is started.

examples:
  eventflow check              ./eventflow.toml
  eventflow check shop.toml    another file
"""


def command(
    config: Annotated[
        str, Parameter(help="the TOML file; left out: ./eventflow.toml, if there is one")
    ] = "",
    /,
) -> int:
    """Check a configuration; ConfigError tells what is wrong."""
    settings = checked(path_of(config))
    out = [f"warning: {warning}" for warning in settings.warnings]
    out.append(f"engine   {settings.engine.url}, durability {settings.engine.durability}")
    out.append(f"server   http://{settings.server.host}:{settings.server.port}")
    out += [
        f"topic    {topic.name}: {topic.handler or (topic.sink and topic.sink.type)}, "
        f"capacity {topic.capacity}, concurrency {topic.concurrency}"
        for topic in settings.topics
    ]
    out.append("The configuration can be used.")
    sys.stdout.write("\n".join(out) + "\n")
    return 0


def checked(path: Path | None) -> Settings:
    """Return the settings of a file that a node can be built of; None: the defaults.

    Raises:
        ConfigError: there are none, or it can't; all that is wrong at once.
    """
    from eventflow.app import build  # noqa: PLC0415  # a node: slow to load
    from eventflow.config import load  # noqa: PLC0415  # a node: slow to load

    settings = load(path, environ=os.environ)
    file = "settings" if path is None else str(path)
    try:
        build.wanted_of(settings, {})
    except ConfigError as error:
        raise ConfigError([f"{file}: {problem}" for problem in error.problems]) from error
    return settings
