"""What "module:name" names, and what is said where it names nothing."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from eventflow import ConfigError
from eventflow.app.importing import imported

if TYPE_CHECKING:
    from collections.abc import Iterator

MODULE = "expected a module to import, got "
MODULES = {
    "app": "class Box:\n    inner = 7\nflow = 7\n",
    "needs": "import json\n\nimport nothere\n",
    "faulty": "flow = 7\ndef f(:\n",
    "raises": "def f():\n    return undefined\nf()\n",
    "deep": "import json\njson.loads('{')\n",
    "ends": "raise SystemExit(0)\n",
    "runs": "from eventflow import EventFlow\nflow = EventFlow('nowhere.toml')\nflow.run()\n",
}


@pytest.fixture(autouse=True)
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A folder with a package of faulty modules, as the working directory."""
    (tmp_path / "depot").mkdir()
    for name, text in MODULES.items():
        (tmp_path / "depot" / f"{name}.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path.copy())
    yield
    for name in [one for one in sys.modules if one.partition(".")[0] == "depot"]:
        del sys.modules[name]


def test_a_name_within_a_name_is_found() -> None:
    assert imported("depot.app:Box.inner", "--app") == 7


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("depot.app", "expected MODULE:NAME such as shop.app:flow, got 'depot.app'."),
        ("depot.app:", "expected MODULE:NAME such as shop.app:flow, got 'depot.app:'."),
        (
            "depot/app.py:flow",
            (
                "expected MODULE:NAME such as shop.app:flow, got 'depot/app.py:flow'. "
                "Did you mean 'depot.app:flow'?"
            ),
        ),
        (
            "./depot/app.py",
            (
                "expected MODULE:NAME such as shop.app:flow, got './depot/app.py'. "
                "Did you mean 'depot.app:NAME'?"
            ),
        ),
        (
            "depot.ap:flow",
            (
                MODULE + "'depot.ap': ModuleNotFoundError: No module named "
                "'depot.ap'. Looked in {here}, then where Python does. Did you mean 'depot.app'?"
            ),
        ),
        (
            "depto.app:flow",
            (
                MODULE + "'depto.app': ModuleNotFoundError: No module named "
                "'depto'. Looked in {here}, then where Python does. Did you mean 'depot'?"
            ),
        ),
        (
            "depot.needs:flow",
            (
                MODULE + "'depot.needs': ModuleNotFoundError: No module named "
                "'nothere' (depot/needs.py, line 3)"
            ),
        ),
        (
            "depot.faulty:flow",
            (MODULE + "'depot.faulty': SyntaxError: invalid syntax (depot/faulty.py, line 2)"),
        ),
        (
            "depot.raises:flow",
            (
                MODULE + "'depot.raises': NameError: name 'undefined' is not "
                "defined (depot/raises.py, line 2)"
            ),
        ),
        (
            "depot.deep:flow",
            (
                MODULE + "'depot.deep': JSONDecodeError: Expecting property "
                "name enclosed in double quotes: line 1 column 2 (char 1) (depot/deep.py, line 2)"
            ),
        ),
        (
            "depot.ends:flow",
            (
                MODULE + "'depot.ends': it ended the program while it was "
                'imported. Put what only a script does under\n    if __name__ == "__main__":'
            ),
        ),
        (
            "depot.runs:flow",
            MODULE + "'depot.runs': ConfigError: flow.run() is called while module 'depot.runs' is "
            "only imported for what it names. Put it under `if __name__ == '__main__':` "
            "(depot/runs.py, line 3)",
        ),
        (
            "depot.app:flwo",
            "expected a name of module 'depot.app', got 'flwo'. Did you mean 'flow'?",
        ),
    ],
)
def test_what_is_wrong_is_said_with_its_place(name: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        imported(name, "--app")

    assert str(caught.value) == f"--app: {said.format(here=Path.cwd())}"
