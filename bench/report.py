"""What every program of the bench shares: a folder of its own, and one line of JSON at the end."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

FOLDER = "EVENTFLOW_BENCH_FOLDER"
"""Names a folder on the disk to be measured; without it, where temporary files go."""


@contextlib.contextmanager
def fresh_folder() -> Iterator[Path]:
    """Give a folder that is gone afterwards."""
    with tempfile.TemporaryDirectory(dir=os.environ.get(FOLDER)) as folder:
        yield Path(folder)


def answer(figures: Mapping[str, float]) -> None:
    """Tell who started this program what was measured."""
    sys.stdout.write(json.dumps(dict(figures)) + "\n")
