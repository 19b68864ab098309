"""`eventflow check`: say all that is wrong with a configuration."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

from cyclopts import Parameter

from eventflow.cli.serve import app_of, path_of
from eventflow.cli.stop import wrong
from eventflow.errors import ConfigError

if TYPE_CHECKING:
    from eventflow.config import Settings, TopicSettings

NAME: Final = "check"
USAGE: Final = "usage: eventflow check [CONFIG] [options]"
SUMMARY: Final = "say all that is wrong with a configuration"
HELP: Final = """\
Say all that is wrong with a configuration: each problem with its file, table and key, what was
expected and what was found. Handlers are imported and routes compiled; nothing is started.

examples:
  eventflow check                         ./eventflow.toml
  eventflow check shop.toml               another file
  eventflow check --app shop.app:flow     the EventFlow object that Python code makes
"""


def command(
    config: Annotated[
        str, Parameter(help="the TOML file; left out: ./eventflow.toml, if there is one")
    ] = "",
    /,
    *,
    app: Annotated[
        str,
        Parameter(metavar="MODULE:NAME", help="an EventFlow object to check, instead of a file"),
    ] = "",
) -> int:
    """Check a configuration; ConfigError tells what is wrong."""
    if app and config:
        raise wrong("CONFIG and --app: expected one of them, got both. Nothing was checked.")
    settings = app_of(app).check() if app else checked(path_of(config))
    out = [f"warning: {warning}" for warning in settings.warnings]
    out.append(f"engine   {settings.engine.url}, durability {settings.engine.durability}")
    if settings.engine.on_servers:
        alone = "" if settings.storage.in_database else ", for this node alone"
        out.append(f"storage  {settings.storage.shown}{alone}")
    out.append(f"server   http://{settings.server.host}:{settings.server.port}")
    out += [
        f"topic    {topic.name}: {_handled_by(topic)}, "
        f"capacity {topic.capacity}, concurrency {topic.concurrency}"
        for topic in settings.topics
    ]
    out.append("The configuration can be used.")
    sys.stdout.write("\n".join(out) + "\n")
    return 0


def _handled_by(topic: TopicSettings) -> str:
    return topic.handler or (topic.sink.type if topic.sink is not None else "a function in Python")


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
