"""What is done for each event, counted: figures that no slower machine changes.

The bars of `make bench` are times, and need a quiet machine. What makes them possible is checked
here: for an event of the everyday way there is the call of its handler, and next to nothing else.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import eventflow
from eventflow import Event, EventFlow
from eventflow.testing.harness import started, virtual
from eventflow.testing.loop import run

if TYPE_CHECKING:
    from types import FrameType

    import apsw

TOPICS = ("a", "b", "c")
BATCH, BATCHES = 500, 4
EVENTS = BATCH * BATCHES
OURS = str(Path(eventflow.__file__).parent)


class Counted:
    """What was done while events went from the door to their end."""

    def __init__(self) -> None:
        self.calls = 0
        """Of EventFlow's functions."""
        self.commits = 0
        self.statements = 0
        self.tasks = 0
        self.handled = 0

    def profile(self, frame: FrameType, what: str, _: Any) -> None:
        if what == "call" and frame.f_code.co_filename.startswith(OURS):
            self.calls += "/testing/" not in frame.f_code.co_filename

    def trace(self, _: apsw.Cursor, statement: str, __: Any) -> bool:
        self.statements += not statement.startswith("SELECT")
        return True

    def task(self, loop: asyncio.AbstractEventLoop, coro: Any, **more: Any) -> asyncio.Task[Any]:
        self.tasks += 1
        return asyncio.Task(coro, loop=loop, **more)


def batches(**attributes: Any) -> list[list[Event]]:
    return [
        [
            Event(
                type=f"{TOPICS[n % 3]}.made", source="/s", id=f"{batch}-{n}", data=n, **attributes
            )
            for n in range(BATCH)
        ]
        for batch in range(BATCHES)
    ]


async def counted(path: Path, given: list[list[Event]]) -> Counted:
    """Publish batch after batch, and count until all are settled."""
    counts = Counted()
    flow = EventFlow(engine=f"sqlite:{path}/e.db", surroundings=virtual())
    for name in TOPICS:

        @flow.topic(name, match=f"{name}.*", capacity=100_000)
        async def handle(event: Event) -> None:
            counts.handled += 1

    async with started(flow):
        journal: Any = flow.flow.tools.engine.journal  # type: ignore[attr-defined]  # embedded
        commit = journal.commit

        def commit_counted(what: Any) -> Any:
            counts.commits += 1
            return commit(what)

        journal.commit = commit_counted
        journal.connection.exec_trace = counts.trace
        asyncio.get_running_loop().set_task_factory(counts.task)
        sys.setprofile(counts.profile)
        try:
            for batch in given:
                await flow.publish_many(batch)
            await flow.drain()
        finally:
            sys.setprofile(None)
            asyncio.get_running_loop().set_task_factory(None)
            journal.connection.exec_trace = None
    assert counts.handled == EVENTS
    return counts


def test_an_event_costs_the_call_of_its_handler(tmp_path: Path) -> None:
    counts = run(counted(tmp_path, batches()))

    assert counts.calls / EVENTS < 2.5
    assert counts.tasks == 0


def test_a_batch_costs_a_few_commits_and_each_of_them_a_statement(tmp_path: Path) -> None:
    counts = run(counted(tmp_path, batches()))

    assert counts.commits <= 3 * BATCHES
    assert counts.statements <= counts.commits


@pytest.mark.parametrize("attributes", [{"priority": "high"}, {"partitionkey": "k"}])
def test_what_has_extensions_stays_together_too(tmp_path: Path, attributes: dict[str, str]) -> None:
    counts = run(counted(tmp_path, batches(**attributes)))

    assert counts.calls / EVENTS < 10


def test_what_expires_goes_the_long_way(tmp_path: Path) -> None:
    """And shows that calls are counted: it has an entry, a lease and an act of its own, twice."""
    counts = run(counted(tmp_path, batches(expirytime="2099-01-01T00:00:00Z")))

    assert counts.calls / EVENTS > 20
