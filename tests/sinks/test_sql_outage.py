"""A database that is locked or gone for ten seconds: nothing dead, one row an event afterwards."""

from __future__ import annotations

import asyncio
import ctypes
import sqlite3
from contextlib import asynccontextmanager, closing, contextmanager
from typing import TYPE_CHECKING

import pytest

from eventflow import Event, EventFlow
from eventflow.config import parse
from eventflow.testing import run
from eventflow.testing.harness import census, settle, started, virtual

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

    from eventflow.engine.protocol import Census

OUTAGE_S = 10.0


def flow_on(path: Path, *, timeout: str = "10s", after: str = "15m", **keys: object) -> EventFlow:
    """Return a node whose one topic writes to a database, all else at its default."""
    text = f"""
        [engine]
        url = "memory:"
        [topics.db]
        match = "**"
        recovery = {{ after = "{after}" }}
        batch = {{ max = 50 }}
        [topics.db.sink]
        type = "sql"
        url = "sqlite:///{path}"
        table = "users"
        columns = {{ number = "int(event.data.number)" }}
        timeout = "{timeout}"
        create = true
    """
    return EventFlow(parse(text, name="", environ={}), **keys)  # type: ignore[arg-type]  # tests


def events(numbers: range) -> list[Event]:
    return [
        Event(type="a", source="/", id=str(number), data={"number": number}) for number in numbers
    ]


def rows(path: Path) -> list[int]:
    with closing(sqlite3.connect(path)) as database:
        found = database.execute("SELECT number FROM users ORDER BY number").fetchall()
    return [number for (number,) in found]


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock that a long transaction of another program holds."""
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        yield
        other.execute("ROLLBACK")


@contextmanager
def gone(path: Path) -> Iterator[None]:
    """Let the file be away, as when its disk is."""
    away = path.with_suffix(".away")
    away.mkdir()
    _exchange(path, away)  # a directory in its place, so that no new file is made meanwhile
    yield
    _exchange(path, away)
    away.rmdir()


def _exchange(one: Path, other: Path) -> None:
    """Give each the other's name, at one moment: renameat2(2)."""
    here, exchange = -100, 2
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.renameat2(here, bytes(one), here, bytes(other), exchange) != 0:
        raise OSError(ctypes.get_errno(), f"{one} and {other} could not be exchanged")


def assert_whole(ledger: Census, path: Path, count: int) -> None:
    db = ledger.topics["db"]
    assert (db.created, db.delivered, db.dead, ledger.unaccounted) == (count, count, 0, 0)
    assert rows(path) == list(range(count))


@pytest.mark.parametrize("trouble", [locked, gone])
def test_an_outage_of_ten_seconds_kills_nothing(
    trouble: Callable[[Path], Iterator[None]], tmp_path: Path
) -> None:
    """On virtual time; those that used up their attempts rest a quarter of an hour."""
    path = tmp_path / "shop.db"

    async def story() -> Census:
        flow = flow_on(path, timeout="1ms", surroundings=virtual(seed=7))
        async with started(flow):
            await flow.publish_many(events(range(5)))
            await settle(flow)
            with trouble(path):  # type: ignore[attr-defined]  # a context manager
                await flow.publish_many(events(range(5, 30)))
                await asyncio.sleep(OUTAGE_S)
                before = await census(flow)
                assert before.topics["db"].delivered == 5
            return await settle(flow)

    assert_whole(run(story(), seed=7), path, 30)


@pytest.mark.slow
@pytest.mark.timeout(90)
@pytest.mark.parametrize("trouble", [locked, gone])
async def test_an_outage_of_ten_real_seconds_kills_nothing(
    trouble: Callable[[Path], Iterator[None]], tmp_path: Path
) -> None:
    """With threads, and events that go on coming; some are sent twice."""
    path = tmp_path / "shop.db"
    async with running(flow_on(path, timeout="2s", after=f"{OUTAGE_S:g}s")) as flow:
        await flow.publish_many(events(range(100)))
        await flow.drain()
        with trouble(path):  # type: ignore[attr-defined]  # a context manager
            for start in range(100, 600, 50):
                await flow.publish_many(events(range(start, start + 50)))
                await flow.publish_many(events(range(start, start + 25)))
                await asyncio.sleep(OUTAGE_S / 10)
            assert len((await census(flow)).topics) == 2
        ledger = await settle(flow, within_s=60)

    assert_whole(ledger, path, 600)


@asynccontextmanager
async def running(flow: EventFlow) -> AsyncIterator[EventFlow]:
    await flow.start()
    try:
        yield flow
    finally:
        await flow.stop(drain_s=1.0)
