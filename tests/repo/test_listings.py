"""Who opens a package reads what each of its files is for: none left out, none that has gone."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path

import pytest


@pytest.mark.parametrize(
    "name", ["eventflow.flow", "eventflow.engine.embedded", "eventflow.engine.jetstream"]
)
def test_a_package_says_what_each_file_is_for(name: str) -> None:
    package = import_module(name)
    listed = set(re.findall(r"^ *([a-z_]+)  +\S", package.__doc__ or "", re.MULTILINE))
    files = {path.stem for path in Path(str(package.__file__)).parent.glob("[a-z]*.py")}
    assert listed == files
