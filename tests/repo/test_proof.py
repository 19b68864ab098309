"""Figures that are kept say what they were measured on, and never mix two commits."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EVENTFLOW_PROOF", str(tmp_path / "proof"))
    return tmp_path / "proof"


def test_a_proof_says_what_it_was_measured_on(
    folder: Path, proof: Callable[..., dict[str, Any]], seed: int
) -> None:
    run = proof("a-name", events=7)

    assert json.loads((folder / "a-name.json").read_text()) == [run]
    assert run["figures"] == {"events": 7}
    assert run["seed"] == seed
    assert all(run[key] for key in ("test", "date", "commit", "python", "machine"))


def test_a_second_run_with_the_same_seed_replaces_the_first(
    folder: Path, proof: Callable[..., dict[str, Any]]
) -> None:
    proof("a-name", events=7)
    run = proof("a-name", events=8)

    assert json.loads((folder / "a-name.json").read_text()) == [run]


def test_other_seeds_stay_and_other_commits_go(
    folder: Path, proof: Callable[..., dict[str, Any]]
) -> None:
    run = proof("a-name", events=7)
    beside, stale = run | {"seed": 1}, run | {"seed": 2, "commit": "another"}
    (folder / "a-name.json").write_text(json.dumps([beside, stale]))

    run = proof("a-name", events=7)
    assert json.loads((folder / "a-name.json").read_text()) == [beside, run]


def test_without_a_folder_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, proof: Callable[..., dict[str, Any]]
) -> None:
    monkeypatch.delenv("EVENTFLOW_PROOF", raising=False)
    monkeypatch.chdir(tmp_path)

    assert proof("a-name", events=7)["figures"] == {"events": 7}
    assert not list(tmp_path.iterdir())


def test_a_name_that_is_no_file_is_refused(proof: Callable[..., dict[str, Any]]) -> None:
    with pytest.raises(ValueError, match="expected like-this-1, got"):
        proof("../a b")


def test_a_given_seed_is_taken(
    monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    monkeypatch.setenv("EVENTFLOW_SEED", "42")

    assert request.getfixturevalue("seed") == 42
