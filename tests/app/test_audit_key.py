"""`[audit] key`: who has it can tell whether the trail was made anew."""

from __future__ import annotations

from typing import TYPE_CHECKING

from eventflow import EventFlow
from eventflow.config import parse
from eventflow.storage.audit import link
from eventflow.storage.protocol import Actor
from eventflow.testing import run
from eventflow.testing.harness import started, virtual

if TYPE_CHECKING:
    from pathlib import Path

    from eventflow.storage.protocol import Verdict

WHO = Actor("ann", "to have a row")
TOPIC = '[topics.work]\nmatch = "**"\nhandler = "math:sqrt"\n'


def acted(path: Path, key: str | None, *, paused: bool) -> Verdict:
    """Do something that is audited, under a key, and verify."""
    text = f'[engine]\nurl = "sqlite:{path}"\n{TOPIC}'
    environ = {} if key is None else {"AUDIT_KEY": key}
    if key is not None:
        text += '[audit]\nkey = "${AUDIT_KEY}"\n'

    async def story() -> Verdict:
        settings = parse(text, name="t", environ=environ)
        async with started(EventFlow(settings, surroundings=virtual())) as flow:
            await (flow.door.pause if paused else flow.door.resume)("work", WHO)
            return await flow.door.verify()

    return run(story())


def test_a_chain_is_held_against_the_key(tmp_path: Path) -> None:
    path = tmp_path / "e.db"
    first = acted(path, "a-key-of-mine", paused=True)
    assert (first.ok, first.against) == (True, "the key")

    other = acted(path, "another-key", paused=False)
    assert not other.ok
    assert "was changed" in other.faults[0]


def test_rows_from_before_the_key_are_vouched_for_by_those_after(tmp_path: Path) -> None:
    path = tmp_path / "e.db"
    assert acted(path, None, paused=True).against == "itself"
    keyed = acted(path, "a-key-of-mine", paused=False)
    assert (keyed.ok, keyed.against, keyed.rows) == (True, "the key", 2)


def test_a_key_is_another_hash() -> None:
    assert link(bytes(32), b"{}", b"k") != link(bytes(32), b"{}")
