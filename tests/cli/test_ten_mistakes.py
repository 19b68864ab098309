"""Ten mistakes that people make on a command line: the whole text they read, and how it ends."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, NamedTuple

import pytest

from eventflow.cli import main

if TYPE_CHECKING:
    from pathlib import Path

ENDS = "Nothing was started. See `eventflow {} --help`."


class Mistake(NamedTuple):
    """What was typed, how it ends, and the text on standard error behind "eventflow: "."""

    words: str
    status: int
    says: str


MISTAKES = {
    "a command misspelt": Mistake(
        "repaly --state dead",
        2,
        'Unknown command "repaly". Did you mean "replay"? Available commands: {commands}. Nothing '
        "was started. See `eventflow --help`.",
    ),
    "an option misspelt": Mistake(
        "groups --topci email",
        2,
        f"Unknown option: --topci. Did you mean --topic? {ENDS.format('groups')}",
    ),
    "a state that is none": Mistake(
        "deliveries --state ded",
        2,
        'Invalid value "ded" for --state. Choose from: "retrying", "parked", "dead". Did you mean '
        f'"dead"? {ENDS.format("deliveries")}',
    ),
    "an option without its value": Mistake(
        "replay --topic",
        2,
        f'Command "replay" parameter --topic requires an argument. {ENDS.format("replay")}',
    ),
    "a topic left out": Mistake(
        "pause",
        2,
        f'Command "pause" parameter TOPIC requires an argument. {ENDS.format("pause")}',
    ),
    "all or nothing": Mistake(
        "replay",
        2,
        "replay: expected ids of deliveries, or filters such as --state dead, got neither. "
        "Nothing was changed.",
    ),
    "ids and a filter": Mistake(
        "discard abc.email --state dead",
        2,
        "discard: expected ids of deliveries, or filters such as --state dead, got both. "
        "Nothing was changed.",
    ),
    "half of what names an event": Mistake(
        "explain --id 4711",
        2,
        "explain: expected an EVENT, or --source and --id. Nothing was shown.",
    ),
    "an address without http": Mistake(
        "stats --url localhost:8080",
        2,
        "--url: expected http://HOST:PORT, got 'localhost:8080'. Nothing was sent.",
    ),
    "no node there": Mistake(
        "stats --url http://127.0.0.1:{free}",
        1,
        "no node answers at http://127.0.0.1:{free} (Connection refused); nothing was shown. Start "
        "one with `eventflow serve`, or name another with --url or EVENTFLOW_URL.",
    ),
    "a file that is not there": Mistake(
        "check nowhere.toml",
        2,
        "nowhere.toml: there is no such file; looked for {here}/nowhere.toml. Check the path and "
        "the directory.\nNothing was started.",
    ),
    "the file of a node that is not there": Mistake(
        "stats --db nowhere.db",
        1,
        "journal nowhere.db can't be opened: there is no such file. It was left as it is. Name the "
        "file of a node.",
    ),
    "a backup into another folder": Mistake(
        "backup /mnt/backups/monday.db",
        2,
        "backup: expected a name without a folder, got '/mnt/backups/monday.db'. A running node "
        "writes into the folder that its [engine] backups names: set that to '/mnt/backups', and "
        "say 'monday.db'.",
    ),
    "what to check an audit against, without a check": Mistake(
        "audit --heads --against heads.txt",
        2,
        "--against: expected only beside --verify. Nothing was shown.",
    ),
    "an act on a file": Mistake(
        "resume email --db eventflow.db",
        2,
        "--db: the file of a stopped node is only read, so resume needs one that runs; nothing was "
        "changed. Start it with `eventflow serve`, or name one with --url.",
    ),
    "a shell that is none": Mistake(
        "completion bsh",
        2,
        'Invalid value "bsh" for SHELL. Choose from: "bash", "zsh", "fish". Did you mean "bash"? '
        f"{ENDS.format('completion')}",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_explained_in_full(
    mistake: Mistake,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as found:
        free = str(found.getsockname()[1])
    words = mistake.words.replace("{free}", free).split()

    assert main(words) == mistake.status
    out, err = capsys.readouterr()
    wanted = mistake.says.replace("{free}", free).replace("{here}", str(tmp_path))
    before, listed, behind = wanted.partition("{commands}")
    assert out == ""
    assert err.startswith(f"eventflow: {before}")
    assert err.endswith(f"{behind}\n")
    assert listed or err == f"eventflow: {wanted}\n"
