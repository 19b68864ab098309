"""The command line: help, exit statuses, and the words for common mistakes."""

from __future__ import annotations

from pathlib import Path

import pytest

from eventflow.cli import main
from eventflow.cli.main import COMMANDS
from eventflow.cli.reference import help_of, reference

DOCS = Path(__file__).parents[2] / "docs" / "reference" / "cli.md"


def test_the_reference_is_what_the_commands_say() -> None:
    assert DOCS.read_text() == reference()


@pytest.mark.parametrize("name", [command.name for command in COMMANDS])
def test_every_help_has_examples(name: str) -> None:
    assert f"examples:\n  eventflow {name}" in help_of(name)


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["serv"], 2, "serve"),
        (["publish"], 2, "expected a FILE (or -), or --type for one event. Nothing was sent."),
        (["publish", "nowhere.ndjson"], 2, "nowhere.ndjson: can't be read: No such file"),
        (["publish", "--type", "a.b", "--data", "{"], 2, "--data: expected JSON, got '{'"),
        (["stats", "--url", "nonsense"], 2, "--url: expected http://HOST:PORT, got 'nonsense'"),
        (["stats", "--url", "http://127.0.0.1:1"], 1, "no node answers at http://127.0.0.1:1"),
        (["check", "nowhere.toml"], 2, "nowhere.toml"),
        (["move"], 2, "--from: expected sqlite:FILE, got ''. Nothing was moved."),
        (["move", "--from", "sqlite:nowhere.db"], 1, "nowhere.db can't be opened: there is no"),
        (["serve", "--app", "no_such_module:flow"], 2, "expected a module to import"),
    ],
)
def test_a_mistake_is_explained(
    words: list[str], status: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == status
    assert said in capsys.readouterr().err


def test_check_names_all_that_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "eventflow.toml"
    config.write_text('[topics.email]\ncapacity = 0\nhandler = "a:b"\nmatch = "x"\ntimeot = "1s"\n')

    assert main(["check", str(config)]) == 2
    said = capsys.readouterr().err
    assert "capacity: expected 1 to" in said
    assert "Did you mean 'timeout'?" in said
