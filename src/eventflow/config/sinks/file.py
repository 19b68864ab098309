"""The settings of the `file` sink."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from eventflow.config import texts
from eventflow.config.quantities import Duration, Size
from eventflow.config.units import DAY_S


@dataclass(frozen=True, slots=True, kw_only=True)
class FileSinkSettings:
    """`sink = { type = "file", … }`: each event is a line of a file, as JSON."""

    type: Literal["file"]
    """Which sink.

    It decides what else may be said here.
    """

    path: Annotated[Path, texts.NDJSON]
    """The file. Its folder must be there.

    A folder is not made: where a disk is not mounted, the file would land beneath it.
    """

    fsync: bool = True
    """Whether the lines of a batch are on the disk before its events are delivered.

    A file that loses its end in a power cut holds less than was said to be delivered. One a batch
    costs little; `false` leaves it to the system, which does so within half a minute.
    """

    rotate_bytes: Annotated[int, Size(2**10, 2**40)] = 100 * 2**20
    """The size a file may have: a batch that would make it larger goes into a new one.

    Small enough to be copied and searched, large enough that a day is not a thousand files. A batch
    that is larger by itself still is one file.
    """

    rotate_every_s: Annotated[float, Duration(60.0, 366 * DAY_S)] | None = None
    """How long a file is written to: "1d" begins one a day, at midnight UTC, with the first event.

    Left out: only its size counts.
    """
