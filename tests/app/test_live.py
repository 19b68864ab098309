"""A node is configured otherwise while it runs: by its file, and by operators."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from eventflow import Event, EventFlow
from eventflow.app.live import merged
from eventflow.errors import ConfigError, Orphaned, UnknownName
from eventflow.storage.protocol import Actor
from eventflow.testing import run
from eventflow.testing.harness import census, settle, started, virtual

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

WHO = Actor("ann", "to see it")
HANDLERS = """
import asyncio
from eventflow import Event

ran = []


async def work(event: Event) -> None:
    await asyncio.sleep(1)
    ran.append(event.id)
"""
TOML = """
[engine]
url = "sqlite:{folder}/e.db"
[server]
port = {port}
[topics.work]
match = "work.*"
handler = "live_handlers:work"
concurrency = {concurrency}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "live_handlers.py").write_text(HANDLERS)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def write(folder: Path, more: str = "", *, port: int = 1, concurrency: int = 2) -> Path:
    path = folder / "eventflow.toml"
    path.write_text(TOML.format(folder=folder, port=port, concurrency=concurrency) + more)
    return path


def node(folder: Path) -> EventFlow:
    return EventFlow(folder / "eventflow.toml", surroundings=virtual())


async def shown(flow: EventFlow, name: str = "work") -> Mapping[str, Any]:
    return next(topic for topic in await flow.door.topics() if topic["name"] == name)


def events(count: int) -> list[Event]:
    return [Event(type="work.x", source="/t", id=str(n)) for n in range(count)]


class TestReload:
    def test_what_can_change_does_and_the_rest_is_told(self, folder: Path) -> None:
        async def story() -> None:
            write(folder)
            async with started(node(folder)) as flow:
                write(folder, 'timeout = "5s"\n', port=2, concurrency=7)
                found = await flow.reload()
                assert found.live == ("topics.work.concurrency", "topics.work.timeout")
                assert found.restart == ("server.port",)
                assert flow.settings.server.port == 1
                verdict = await flow.door.verify()
                assert (verdict.ok, verdict.rows) == (True, 1)
                assert (await shown(flow))["concurrency"] == 7
                assert flow.flow.topics["work"].concurrency == 7

        run(story())

    @pytest.mark.parametrize("faulty", ["capacity = 'many'\n", "[topics.x]\nmatch = 1\n", "=\n"])
    def test_a_faulty_file_changes_nothing(self, folder: Path, faulty: str) -> None:
        async def story() -> None:
            write(folder)
            async with started(node(folder)) as flow:
                before = await flow.door.topics()
                write(folder, faulty, concurrency=9)
                with pytest.raises(ConfigError):
                    await flow.reload()
                assert await flow.door.topics() == before
                await flow.publish_many(events(3))
                assert (await settle(flow)).topics["work"].delivered == 3

        run(story())

    def test_a_topic_that_has_gone_keeps_what_it_holds(self, folder: Path) -> None:
        async def story() -> None:
            write(folder, concurrency=1)
            async with started(node(folder)) as flow:
                await flow.publish_many(events(5))
                await asyncio.sleep(0.5)
                other = '[topics.other]\nmatch = "**"\nhandler = "live_handlers:work"\n'
                (folder / "eventflow.toml").write_text(
                    f'[engine]\nurl = "sqlite:{folder}/e.db"\n[server]\nport = 1\n{other}'
                )
                await flow.reload()
                await asyncio.sleep(5)
                assert (await shown(flow))["orphan"]
                assert (await census(flow)).topics["work"].queued == 4
                with pytest.raises(Orphaned):
                    await flow.door.override("work", {"concurrency": 2}, WHO)
                write(folder)
                await flow.reload()
                assert (await settle(flow)).topics["work"].delivered == 5

        run(story())


class TestOverrides:
    def test_one_wins_over_the_file_and_survives(self, folder: Path) -> None:
        async def first() -> None:
            write(folder)
            async with started(node(folder)) as flow:
                patch = {"concurrency": 5, "retry": {"max_attempts": 2, "base": "3s"}}
                await flow.door.override("work", patch, WHO)
                write(folder, concurrency=9)
                await flow.reload()
                assert (await shown(flow))["concurrency"] == 5

        async def second() -> None:
            async with started(node(folder)) as flow:
                topic = await shown(flow)
                assert (topic["concurrency"], topic["retry"]["max_attempts"]) == (5, 2)
                assert topic["overrides"]["set"]["by"] == "ann"
                await flow.door.override("work", {"retry": {"base": None}}, WHO)
                assert (await shown(flow))["overrides"]["retry"] == {"max_attempts": 2}
                await flow.door.drop_overrides("work", WHO)
                topic = await shown(flow)
                assert (topic["concurrency"], topic["retry"]["max_attempts"]) == (9, 5)
                assert topic["overrides"] == {}
                assert (await flow.flow.tools.storage.verify()).ok

        run(first())
        run(second())

    @pytest.mark.parametrize(
        ("patch", "why"),
        [
            ({"concurrency": 0}, r"override: \[topics.work\] concurrency: expected 1 to"),
            ({"concurency": 3}, "Did you mean 'concurrency'"),
            ({"handler": "live_handlers:other"}, "can't be overridden"),
            ({"paused": True}, "can't be overridden"),
            ({"retry": {"max_attempts": "many"}}, r"\[topics.work.retry\] max_attempts"),
        ],
    )
    def test_what_can_not_be_used_changes_nothing(
        self, folder: Path, patch: dict[str, Any], why: str
    ) -> None:
        async def story() -> None:
            write(folder)
            async with started(node(folder)) as flow:
                before = await flow.door.topics()
                with pytest.raises(ConfigError, match=why):
                    await flow.door.override("work", patch, WHO)
                assert await flow.door.topics() == before
                assert await flow.flow.tools.storage.overrides() == {}

        run(story())

    def test_an_unknown_topic_is_said(self, folder: Path) -> None:
        async def story() -> None:
            write(folder)
            async with started(node(folder)) as flow:
                with pytest.raises(UnknownName):
                    await flow.door.override("wrok", {"concurrency": 1}, WHO)

        run(story())

    def test_a_paused_topic_stays_so(self, folder: Path) -> None:
        async def story() -> None:
            write(folder)
            async with started(node(folder)) as flow:
                await flow.door.pause("work", WHO)
                await flow.door.override("work", {"concurrency": 3}, WHO)
                await flow.door.drop_overrides("work", WHO)
                assert (await shown(flow))["paused"]
                await flow.door.override("work", {"concurrency": 3}, WHO)
                await flow.door.resume("work", WHO)
                assert not (await shown(flow))["paused"]
                assert (await shown(flow))["concurrency"] == 3

        run(story())

    def test_one_that_does_not_fit_any_more_keeps_no_node_down(self, folder: Path) -> None:
        async def first() -> None:
            write(folder)
            async with started(node(folder)) as flow:
                await flow.flow.tools.storage.override("work", {"nonsense": 1}, WHO)

        async def second() -> None:
            async with started(node(folder)) as flow:
                assert (await shown(flow))["concurrency"] == 2

        run(first())
        run(second())


def test_a_merge_patch_takes_away_with_null() -> None:
    kept = {"a": 1, "b": {"c": 2, "d": 3}}
    assert merged(kept, {"a": None, "b": {"c": None, "e": 4}}) == {"b": {"d": 3, "e": 4}}
    assert merged(kept, {"b": {"c": None, "d": None}}) == {"a": 1}
