"""What a user's test stands on: the twin of a node, on virtual time."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from eventflow import Batch, ConfigError, Event, EventFlow, Permanent
from eventflow.testing import (
    FailsTimes,
    Recorder,
    Scripted,
    census,
    on_virtual_time,
    run,
    settle,
    trial,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CONFIG = """\
[engine]
url = "sqlite:kept.db"

[topics.db]
match = "order.*"
sink = { type = "http", url = "http://127.0.0.1:1/" }

[topics.email]
match = "order.*"
handler = "json:dumps"
retry = { max_attempts = 3, base = "5m" }
"""


def order() -> Event:
    return Event(type="order.placed", source="/shop", data={"n": 1})


@pytest.fixture
def flow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[EventFlow]:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "eventflow.toml").write_text(CONFIG)
    yield EventFlow(tmp_path / "eventflow.toml")
    assert [path.name for path in tmp_path.iterdir()] == ["eventflow.toml"], "nothing is kept"


@on_virtual_time
async def test_handlers_and_sinks_have_stand_ins(flow: EventFlow) -> None:
    db, email = Recorder(), FailsTimes(2)
    before = asyncio.get_running_loop().time()
    async with trial(flow, handlers={"db": db, "email": email}) as node:
        receipt = await node.publish(order())
        ledger = await settle(node)
    assert receipt.ref is not None
    assert ledger.topics["db"].delivered == ledger.topics["email"].delivered == 1
    assert email.attempts == {3: 1}
    assert asyncio.get_running_loop().time() > before + 60, "backoff takes virtual time"


@on_virtual_time(seed=3)
async def test_topics_declared_in_python_are_there_too_each_time_anew() -> None:
    seen: list[str] = []
    flow = EventFlow(engine="sqlite:never.db")

    @flow.topic("rows", match="order.*", batch=Batch(max=10))
    def store(events: list[Event]) -> list[Exception | None]:
        seen.extend(event.id for event in events)
        return [Permanent("no") if event.data["n"] < 0 else None for event in events]

    for _ in range(2):
        async with trial(flow) as node:
            await node.publish_many(
                [order(), Event(type="order.placed", source="/shop", data={"n": -1})]
            )
            rows = (await settle(node)).topics["rows"]
            assert (rows.delivered, rows.dead) == (1, 1)
            assert (await census(node)).unaccounted == 0
    assert len(seen) == 4


@on_virtual_time
async def test_a_stand_in_for_no_topic_is_named(flow: EventFlow) -> None:
    with pytest.raises(ConfigError, match=r"topics, got 'emial'\. Did you mean 'email'"):
        async with trial(flow, handlers={"emial": Recorder(), "db": Recorder()}):
            pass


def test_the_environment_is_given() -> None:
    flow = EventFlow()
    flow.topic("email", match="order.*", retry={"max_attempts": 2})(Scripted([OSError("no")]))

    async def rounds(**environ: str) -> int:
        script = Scripted([OSError("no")])
        async with trial(flow, handlers={"email": script}, environ=environ) as node:
            await node.publish(order())
            await settle(node)
        return len(script.deliveries)

    assert run(rounds()) == 4
    assert run(rounds(EVENTFLOW_TOPICS__EMAIL__RECOVERY__MAX_ROUNDS="1")) == 2


def test_what_a_test_raises_is_shown_with_the_virtual_time() -> None:
    @on_virtual_time
    async def fails() -> None:
        await asyncio.sleep(3_600)
        raise LookupError("no")

    with pytest.raises(LookupError) as caught:
        fails()
    assert "3600" in caught.value.__notes__[0]
