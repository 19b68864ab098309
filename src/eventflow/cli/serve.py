"""`eventflow serve`: run a node until a signal."""

from __future__ import annotations

import asyncio
import errno
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

from cyclopts import Parameter

from eventflow.cli.stop import DONE, Stop, say, wrong
from eventflow.errors import ConfigError

if TYPE_CHECKING:
    from eventflow.app import EventFlow

NAME: Final = "serve"
USAGE: Final = "usage: eventflow serve [CONFIG] [options]"
SUMMARY: Final = "run a node and its HTTP door until Ctrl-C or SIGTERM"
HELP: Final = """\
Run a node and its HTTP door until Ctrl-C or SIGTERM. A second signal ends it at once.

examples:
  eventflow serve                          with ./eventflow.toml, or the defaults without one
  eventflow serve shop.toml --port 9000    with another file, on another port
  eventflow serve --app shop.app:flow      the EventFlow object that Python code makes
  eventflow serve --check-free             only see whether nobody listens there yet
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
    check_free: Annotated[
        bool, Parameter(negative=(), help="only say whether it can listen there; start nothing")
    ] = False,
) -> int:
    """Run a node; return its exit status."""
    from eventflow.app import EventFlow  # noqa: PLC0415  # a node: slow to load
    from eventflow.app.serving import run  # noqa: PLC0415  # a node: slow to load

    if app and config:
        raise wrong("CONFIG and --app: expected one of them, got both. Nothing was started.")
    flow = app_of(app) if app else EventFlow(path_of(config))
    server: dict[str, Any] = {"host": host or None, "port": port}
    flow.override({"server": {key: value for key, value in server.items() if value is not None}})
    try:
        if check_free:
            where = flow.settings.server
            print(f"{asyncio.run(_listen_once(where.host, where.port))} is free")
            return DONE
        return run(flow)
    except ConfigError as error:
        cause = error.__cause__
        if isinstance(cause, OSError) and cause.errno == errno.EADDRINUSE:
            # Nothing is wrong with the settings: they work once the other one has ended.
            raise Stop(f"{error} Nothing was started.") from error
        raise


def path_of(config: str) -> Path | None:
    """Return the file that is meant; None: the defaults, which is said."""
    if config:
        return Path(config)
    if DEFAULT.exists():
        say(f"eventflow: ./{DEFAULT} is used.")
        return DEFAULT
    say(f"eventflow: there is no ./{DEFAULT}: the defaults and the environment are used.")
    return None


def app_of(name: str) -> EventFlow:
    """Return the EventFlow object that "module:name" names."""
    from eventflow.app import EventFlow  # noqa: PLC0415  # a node: slow to load
    from eventflow.app.importing import imported  # noqa: PLC0415  # a node: slow to load

    found = imported(name, "--app")
    if not isinstance(found, EventFlow):
        got = f"{type(found).__name__} at {name!r}"
        raise wrong(f"--app: expected an EventFlow object, got {got}. Nothing was started.")
    return found


async def _listen_once(host: str, port: int) -> str:
    """Listen, stop again, and return where that was.

    Raises:
        ConfigError: it can't be listened on.
    """
    from eventflow.web.server import Server  # noqa: PLC0415  # a node: slow to load

    server = Server(_nobody, host, port)
    address = await server.start()
    await server.stop()
    return address.url


async def _nobody(_scope: Any, _receive: Any, _send: Any) -> None:
    """Answer nobody: nobody has been told the address."""
