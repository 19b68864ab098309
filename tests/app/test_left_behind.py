"""No node starts on servers while the file of before holds what nobody would deliver."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from eventflow import Event, EventFlow
from eventflow.app.engines import refuse_left_behind, shown
from eventflow.config import EngineSettings, Secret, Settings, StorageSettings
from eventflow.engine.embedded.leaving import Mark, glance, is_journal, set_mark
from eventflow.errors import ConfigError, JournalMoved

FILE = Path("eventflow.db")
NATS = "nats://shop:secret@10.0.0.1:4222"


def settings(storage: str = "sqlite:eventflow-storage.db") -> Settings:
    return Settings(engine=EngineSettings(url=NATS), storage=StorageSettings(url=Secret(storage)))


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


async def lived(name: str, *, delivered: bool) -> None:
    flow = EventFlow(engine=f"sqlite:{name}")

    @flow.topic("email", match="**")
    async def send(event: Event) -> None:
        if not delivered:
            raise ConnectionError("no route to host")

    async with flow:
        await flow.publish(Event(type="user.registered", source="/shop", id="1"))
        await flow.drain()


async def test_the_default_file_with_deliveries_is_said_with_the_command(tmp_path: Path) -> None:
    await lived("eventflow.db", delivered=False)
    with pytest.raises(ConfigError) as refused:
        refuse_left_behind(settings())

    assert str(refused.value) == (
        "[engine] url: the queues are to be at nats://10.0.0.1:4222, but eventflow.db still holds "
        "1 delivery, which nobody would deliver. Move them: `eventflow move --from "
        "sqlite:eventflow.db --to nats://10.0.0.1:4222 --storage sqlite:eventflow-storage.db`. "
        "Or set the file aside under another name, to leave it behind."
    )
    (tmp_path / "eventflow.db").rename("aside.db")
    refuse_left_behind(settings())


async def test_the_file_that_storage_names_is_looked_at_too() -> None:
    await lived("shop.db", delivered=False)
    with pytest.raises(ConfigError, match=r"--from sqlite:shop.db .* sqlite:eventflow-storage.db"):
        refuse_left_behind(settings("sqlite:shop.db"))


async def test_a_file_of_queues_is_no_storage() -> None:
    await lived("shop.db", delivered=True)
    with pytest.raises(ConfigError, match=r"Name another, such as .sqlite:eventflow-storage.db"):
        refuse_left_behind(settings("sqlite:shop.db"))


async def test_a_file_in_which_all_is_delivered_is_in_nobodys_way() -> None:
    await lived("eventflow.db", delivered=True)
    refuse_left_behind(settings())


async def test_a_moved_file_is_in_nobodys_way_a_half_moved_one_is() -> None:
    await lived("eventflow.db", delivered=False)
    mark = Mark("nats://10.0.0.1:4222", "sqlite:parked.db", 1.0)
    set_mark(FILE, mark)
    with pytest.raises(ConfigError, match=r"not wholly moved.*--storage sqlite:parked\.db`"):
        refuse_left_behind(settings())
    set_mark(FILE, Mark("nats://10.0.0.1:4222", "sqlite:parked.db", 1.0, done_at=2.0))
    refuse_left_behind(settings())
    with pytest.raises(JournalMoved):
        await EventFlow(engine="sqlite:eventflow.db").start()
    set_mark(FILE, None)
    assert glance(FILE).mark is None


async def test_a_file_whose_node_runs_is_said_with_its_holder() -> None:
    async with EventFlow(engine="sqlite:eventflow.db"):
        with pytest.raises(ConfigError, match=rf"in use by process {os.getpid()} on .* Stop that"):
            refuse_left_behind(settings())


def test_what_is_no_journal_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "eventflow.db").write_bytes(b"SQLite format 3\0" + bytes(200))
    assert not is_journal(FILE)
    assert not is_journal(tmp_path)
    refuse_left_behind(settings())


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("nats://u:p@a:1,nats://b:2", "nats://a:1,nats://b:2"),
        ("postgresql://u:p@h:5432/db?password=x", "postgresql://h:5432/db"),
        ("sqlite:a@b.db", "sqlite:a@b.db"),
    ],
)
def test_no_password_is_shown(url: str, said: str) -> None:
    assert shown(url) == said
