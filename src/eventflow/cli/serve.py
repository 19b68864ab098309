"""`eventflow serve`: run a node until a signal."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Final

from cyclopts import Parameter

from eventflow.app import EventFlow
from eventflow.app.build import imported
from eventflow.app.serving import run
from eventflow.cli.stop import say, wrong

NAME: Final = "serve"
USAGE: Final = "usage: eventflow serve [CONFIG] [options]"
SUMMARY: Final = "run a node and its HTTP door until Ctrl-C or SIGTERM"
HELP: Final = """\
Run a node and its HTTP door until Ctrl-C or SIGTERM. A second signal ends it at once.

examples:
  eventflow serve                          with ./eventflow.toml, or the defaults without one
  eventflow serve shop.toml --port 9000    with another file, on another port
  eventflow serve --app shop.app:flow      the EventFlow object that Python code makes
"""
DEFAULT: Final = Path("eventflow.toml")


def command(
    config: Annotated[
        str, Parameter(help="the TOML file; left out: ./eventflow.toml, if there is one")
    ] = "",
    /,
    *,
    app: Annotated[
        str, Parameter(metavar="MODULE:NAME", help="an EventFlow object to run, instead of a file")
    ] = "",
    host: Annotated[
        str, Parameter(metavar="HOST", help="listen there, whatever the file says")
    ] = "",
    port: Annotated[
        int | None, Parameter(metavar="PORT", help="listen there; 0 takes a free one")
    ] = None,
) -> int:
    """Run a node; return its exit status."""
    if app and config:
        raise wrong("CONFIG and --app: expected one of them, got both. Nothing was started.")
    flow = _of_app(app) if app else EventFlow(path_of(config))
    server: dict[str, Any] = {"host": host or None, "port": port}
    flow.override({"server": {key: value for key, value in server.items() if value is not None}})
    try:
        return run(flow)
    except OSError as error:
        raise wrong(f"can't listen: {error}. Nothing was started.") from error


def path_of(config: str) -> Path | None:
    """Return the file that is meant; None: the defaults, which is said."""
    if config:
        return Path(config)
    if DEFAULT.exists():
        return DEFAULT
    say(f"eventflow: there is no ./{DEFAULT}: the defaults and the environment are used.")
    return None


def _of_app(name: str) -> EventFlow:
    found = imported(name, "--app")
    if not isinstance(found, EventFlow):
        raise wrong(f"--app: expected an EventFlow object, got {type(found).__name__} at {name!r}.")
    return found
