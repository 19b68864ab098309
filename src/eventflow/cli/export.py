"""`eventflow export`: events as lines, to be kept or published elsewhere."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, contextmanager
from pathlib import Path
from typing import Annotated, BinaryIO, Final, Literal

from cyclopts import Parameter

from eventflow.cli.asking import Reaches, reading
from eventflow.cli.source import STDIN
from eventflow.cli.stop import DONE, Stop, say
from eventflow.cli.which import Which, check_topic, counted

NAME: Final = "export"
USAGE: Final = "usage: eventflow export [FILE|-] [options]"
SUMMARY: Final = "write events as lines of JSON, to be kept or published elsewhere"
HELP: Final = """\
Write events as CloudEvents in JSON, one a line, each event once: what is parked or dead, or what
--state says. `eventflow publish` takes the lines as they are.

examples:
  eventflow export dead.ndjson --state dead
  eventflow export --topic email --cause "smtp 550" > bounced.ndjson
  eventflow export --state all --db eventflow.db | eventflow publish -
"""

States = Literal["queued", "running", "retrying", "parked", "dead", "all"]


def command(
    file: Annotated[
        str, Parameter(help="a new file; left out or -: standard output", show_default=False)
    ] = STDIN,
    /,
    *,
    state: Annotated[
        States | None,
        Parameter(
            metavar="STATE",
            help="queued, running, retrying, parked, dead or all; parked and dead if left out",
        ),
    ] = None,
    which: Which = Which(),  # noqa: B008  # frozen
    where: Reaches = Reaches(),  # noqa: B008  # frozen
) -> int:
    """Write the events."""
    return asyncio.run(_run(file, which.members(state), where))


async def _run(file: str, which: dict[str, str], where: Reaches) -> int:
    async with reading(where, "nothing was written") as asked:
        async with aclosing(asked.lines("/v1/export", which)) as pieces:
            if file == STDIN:
                number = await _write(pieces, sys.stdout.buffer)
            else:
                with _whole(Path(file)) as out:
                    number = await _write(pieces, out)
        if not number:
            await check_topic(asked, which.get("topic", ""))
    say(f"{counted(number, 'event', 'events')} written.")
    return DONE


@contextmanager
def _whole(path: Path) -> Iterator[BinaryIO]:
    """Open a new file; it has its name once it is whole and on the disk."""
    if path.exists():
        raise Stop(f"{path}: there is a file of that name; nothing was written. Choose another.")
    partial = path.with_name(f"{path.name}.partial")
    try:
        with partial.open("wb") as out:
            yield out
            os.fsync(out.fileno())
        partial.rename(path)
    except OSError as error:
        raise Stop(f"{path}: can't be written: {error.strerror}; there is no such file.") from error
    finally:
        partial.unlink(missing_ok=True)


async def _write(pieces: AsyncIterator[bytes], out: BinaryIO) -> int:
    """Write an answer as it comes; return how many lines it had."""
    number, last = 0, b"\n"
    async for piece in pieces:
        out.write(piece)
        number += piece.count(b"\n")
        last = piece
    out.flush()
    if not last.endswith(b"\n"):
        raise Stop(f"the answer broke off in the midst of event {number + 1:,}; export again.")
    return number
