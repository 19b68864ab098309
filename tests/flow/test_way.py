"""The folder listing is the way of an event: the package's docstring names every file."""

from __future__ import annotations

import re
from pathlib import Path

import eventflow.flow as way


def test_the_list_and_the_files_are_the_same() -> None:
    listed = set(re.findall(r"^    ([a-z_]+)  ", way.__doc__ or "", re.MULTILINE))
    files = {path.stem for path in Path(way.__file__).parent.glob("*.py")} - {"__init__"}

    assert listed == files
