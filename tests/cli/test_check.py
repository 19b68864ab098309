"""`eventflow check`: planted faults, each named by file, table and key, expected and got."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from tests.config.test_faults import FAULTS, Fault

from eventflow.cli import main
from eventflow.config.example import example

if TYPE_CHECKING:
    from pathlib import Path

NAMED = re.compile(
    r"eventflow\.toml: (?:\[[^\]]+\](?: [\w.#]+(?: \S+)*?)?): expected .+, got .+", re.DOTALL
)
"""File, table, key where there is one, what was expected, what came."""

PLANTED = {name: fault for name, fault in FAULTS.items() if NAMED.fullmatch(fault.says)}


def test_there_are_faults_enough() -> None:
    assert len(PLANTED) >= 25


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_check_finds_a_planted_fault(
    fault: Fault,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "eventflow.toml").write_text(fault.text)

    assert main(["check", "eventflow.toml"]) == 2
    out, err = capsys.readouterr()
    assert (out, err) == ("", f"eventflow: {fault.says}\nNothing was started.\n")


GOOD = '[topics.db]\nmatch = "order.*"\nhandler = "shop_of_check:store"\n'
BUILT = {
    "no such module": (
        GOOD.replace("shop_of_check", "shop_of_chekc"),
        (
            "[topics.db] handler: expected a module to import, got 'shop_of_chekc': "
            "ModuleNotFoundError: No module named 'shop_of_chekc'"
        ),
    ),
    "no such function": (
        GOOD.replace("store", "stroe"),
        (
            "[topics.db] handler: expected a name of module 'shop_of_check', got 'stroe'. "
            "Did you mean 'store'?"
        ),
    ),
    "an expression that is none": (
        GOOD + '[[routes]]\nmatch = "x.*"\nwhen = "event.data.country =="\ntopics = ["db"]\n',
        "[routes #1] when: expected a CEL expression, got 'event.data.country =='",
    ),
    "a schema that is not there": (
        GOOD + '[schemas]\n"order.placed" = "nowhere.json"\n',
        "[schemas] 'order.placed': expected a JSON Schema in nowhere.json, got ",
    ),
}


@pytest.mark.parametrize(("text", "says"), BUILT.values(), ids=BUILT)
def test_check_finds_what_only_building_shows(
    text: str,
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "shop_of_check.py").write_text("async def store(event): ...\n")
    (tmp_path / "eventflow.toml").write_text(text)

    assert main(["check", "eventflow.toml"]) == 2
    err = capsys.readouterr().err
    assert says in err
    assert err.startswith("eventflow: eventflow.toml: ["), err


def test_what_init_writes_is_taken_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["init"]) == 0
    assert (tmp_path / "eventflow.toml").read_text() == example()
    assert main(["check"]) == 0
    assert "The configuration can be used." in capsys.readouterr().out

    assert main(["init"]) == 1
    assert capsys.readouterr().err == (
        "eventflow: eventflow.toml is there already; it was left as it is. Give another name, or "
        "see `eventflow check eventflow.toml`.\n"
    )
    assert main(["init", "no/such/folder.toml"]) == 1
    assert capsys.readouterr().err == (
        "eventflow: no/such/folder.toml: can't be written: No such file or directory. "
        "Nothing was written.\n"
    )
