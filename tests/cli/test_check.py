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
    "no function": (
        GOOD.replace("store", "__name__"),
        "[topics.db] handler: expected a function, got 'shop_of_check' at 'shop_of_check:__na",
    ),
    "a function of another kind": (
        GOOD.replace("store", "nothing"),
        "[topics.db] handler shop_of_check.nothing: it takes no event.",
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
    (tmp_path / "shop_of_check.py").write_text(
        "async def store(event): ...\nasync def nothing(): ...\n"
    )
    (tmp_path / "eventflow.toml").write_text(text)

    assert main(["check", "eventflow.toml"]) == 2
    err = capsys.readouterr().err
    assert says in err
    assert err.startswith("eventflow: eventflow.toml: ["), err


APP = """\
from eventflow import Batch, EventFlow

flow = EventFlow(engine="memory:")
thing = 7

@flow.topic("db", match="order.*", capacity=50)
async def store(event): ...

faulty = EventFlow(engine="memory:")

@faulty.topic("db", match="order.*", capcity=50)
async def store_too(): ...

class Store:
    def __init__(self, event): ...

wrong = EventFlow(engine="memory:")
wrong.topic("db", match="order.*")(Store)
wrong.topic("rows", match="order.*", batch=Batch())(lambda: None)
"""


@pytest.mark.parametrize(
    ("words", "status", "says"),
    [
        (["shop_app_of_check:flow"], 0, "topic    db: a function in Python, capacity 50, "),
        (["shop_app_of_check:faulty"], 2, "has no setting \"capcity\". Did you mean 'capacity'"),
        (["shop_app_of_check:wrong"], 2, "Store: expected a function, got a class: a call would"),
        (["shop_app_of_check:wrong"], 2, "it takes no event.\n    def <lambda>(): ...  "),
        (["shop_app_of_check:thing"], 2, "--app: expected an EventFlow object, got int at 'shop_"),
        (["shop_app_of_check:flwo"], 2, "got 'flwo'. Did you mean 'flow'?"),
        (["shop_app_of_check:flow", "eventflow.toml"], 2, "CONFIG and --app: expected one of them"),
    ],
)
def test_check_looks_at_what_python_makes(
    words: list[str],
    status: int,
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "shop_app_of_check.py").write_text(APP)

    assert main(["check", "--app", *words]) == status
    assert says in "".join(capsys.readouterr())
    assert [path.name for path in tmp_path.glob("*.db*")] == [], "nothing is started"


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
