"""Writes a journal with something in every place, as SQL that can be kept and read by people.

    python -m tests.engine.older_journal VERSION

writes `journals/VERSION.sql` and, beside it, what a later EventFlow has to find in it. Run it once
for each version of the journal, with the code that writes that version, and never again.
"""

from __future__ import annotations

import asyncio
import io
import json
import sys
import tempfile
from contextlib import closing
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

import apsw
import apsw.shell

from eventflow.delivery import (
    COMMON,
    DELIVERED,
    Attempt,
    Dead,
    Parked,
    Place,
    Queued,
    Reason,
    Retrying,
    Row,
    Tally,
)
from eventflow.engine.embedded import EmbeddedEngine, open_engine
from eventflow.engine.embedded.writer import InlineWriter
from eventflow.engine.protocol import (
    Finish,
    Kind,
    Lease,
    Note,
    Plan,
    Queue,
    Route,
    Settle,
    Target,
    TopicPlan,
    Way,
)
from eventflow.event import Event
from eventflow.storage.protocol import Actor, Filter
from eventflow.testing import VirtualClock, run

if TYPE_CHECKING:
    from collections.abc import Sequence

FOLDER = Path(__file__).parent / "journals"
PLAN = Plan({COMMON: TopicPlan(1_000), "a": TopicPlan(1_000, 1_000), "b": TopicPlan(1_000, 1_000)})
QUEUES = [Queue(kind, name) for name in PLAN.topics for kind in (Kind.TOPIC, Kind.LANE)]
WHO = Actor("a tester", "to have one of each")
NOTE = Note(
    {"attempts": 1, "max_attempts": 5},
    Attempt(1.0, 2.0, "failed", "http 503", "no room: überfüllt", "f1"),
    "Traceback: no",
)


async def opened(path: Path, clock: VirtualClock) -> EmbeddedEngine:
    """Return the engine of a file."""
    engine = await open_engine(
        str(path), clock=clock, draw_bits=Random(1).getrandbits, writer=InlineWriter
    )
    await engine.apply(PLAN)
    return engine


async def found(engine: EmbeddedEngine) -> dict[str, Any]:
    """Return all that is in the file, as JSON has it."""
    places: dict[str, Any] = {}
    for queue in QUEUES:
        for one in await engine.walk(queue, limit=10_000):
            places[one.delivery.id] = [queue.kind.value, *_told(one.delivery)]
    kept = await engine.storage.page(Filter(), limit=10_000)
    for item in kept.items:
        places[item.delivery.id] = [item.state, *_told(item.delivery)]
    census = await engine.census()
    ledger = {
        name: [line.created, line.delivered, line.discarded, line.unaccounted]
        for name, line in census.topics.items()
    }
    trail = [
        row
        for ref in sorted({id.partition(".")[0] for id in places})
        for row in await engine.storage.trail(ref)
    ]
    return {"places": places, "ledger": ledger, "audit_rows": len(trail)}


def _told(delivery: Any) -> Sequence[Any]:
    event = delivery.event
    tally = delivery.tally
    return [
        delivery.hop,
        event.id,
        event.type,
        event.data,
        dict(event.extensions or {}),
        [tally.attempts, tally.rounds, tally.overflows, tally.crashes],
        delivery.due_at,
        None if delivery.reason is None else str(delivery.reason),
        [[attempt.outcome, attempt.cause, attempt.error] for attempt in delivery.history],
    ]


async def fill(engine: EmbeddedEngine, clock: VirtualClock) -> None:
    """Bring deliveries into every place, and leave some in the midst of a run."""
    for batch in range(4):
        await engine.accept(
            [
                Event(
                    type=f"order.{batch}",
                    source="/shop",
                    id=f"{batch}-{nth}",
                    data={"nth": nth, "text": "Grüße\n" * (nth % 3)},
                    **({"priority": "high"} if nth % 4 == 0 else {}),
                )
                for nth in range(8)
            ]
        )
        await _route(engine, 7)
        await asyncio.sleep(1.0)
    now = clock.now_s()
    later: list[tuple[Place, ...]] = [
        (DELIVERED,),
        (DELIVERED,),
        (Retrying(Row.RETRY, Tally(attempts=1), now + 60, Reason.HANDLER_ERROR),),
        (Parked(Row.RETRY_FULL, Tally(attempts=1), now + 60, Reason.RETRY_FULL),),
        (Dead(Row.PERMANENT, Tally(attempts=1), Reason.PERMANENT),),
        (Dead(Row.PERMANENT, Tally(attempts=1), Reason.PERMANENT),),
    ]
    for name in ("a", "b"):
        leases = await engine.lease(Queue(Kind.TOPIC, name), limit=9, wait_s=0)
        await engine.start(leases)
        await engine.settle(
            [Settle(lease, tries, NOTE) for lease, tries in zip(leases, later, strict=False)]
        )
    dead = await engine.storage.ids(Filter(state="dead"))
    await engine.storage.discard(sorted(dead)[:1], WHO)
    await engine.storage.replay(sorted(dead)[1:2], WHO)
    await engine.accept([Event(type="order.last", source="/shop", id="last")])  # commits the rest


async def fill_with_runs(engine: EmbeddedEngine) -> None:
    """Bring deliveries into topics by runs: some wait, some have ended, some are being run."""
    for batch in range(3):
        given = [
            Event(type=f"run.{batch}", source="/shop", id=f"run-{batch}-{nth}", data={"nth": nth})
            for nth in range(6)
        ]
        ways = [Way(("a",), [0, 2, 4], 2), Way(("a", "b"), [1, 3, 5], 2)]
        receipts = await engine.accept(given, ways)
        assert receipts.ways
        await asyncio.sleep(1.0)
    leases = await engine.lease(Queue(Kind.TOPIC, "a"), limit=5, wait_s=0)
    first, _ = (part for part in leases.parts if not isinstance(part, Lease))
    await engine.settle([Finish(first, [(0, 1), (2, 3)])])


async def _route(engine: EmbeddedEngine, limit: int) -> None:
    leases = await engine.lease(Queue(Kind.TOPIC, COMMON), limit=limit, wait_s=0)
    acts = []
    for nth, lease in enumerate(leases):
        tries = (Queued(Row.ROUTED),)
        names = (("a",), ("b",), ("a", "b"))[nth % 3]
        acts.append(Route(lease, tuple(Target(name, tries) for name in names)))
    await engine.settle(acts)


def dump(path: Path) -> str:
    """Return a file's content as SQL, with what tells its version."""
    with closing(apsw.Connection(str(path))) as connection:
        version = connection.pragma("user_version")
        application = connection.pragma("application_id")
        text = io.StringIO()
        shell = apsw.shell.Shell(stdout=text, db=connection)
        shell.process_command(".dump")  # type: ignore[no-untyped-call]  # apsw leaves it untyped
        head = f"PRAGMA user_version = {version};\nPRAGMA application_id = {application};\n"
        # The comments between them tell of this machine.
        lines = [line for line in text.getvalue().splitlines() if line and line[:2] != "--"]
        return head + "\n".join(lines) + "\n"


def write(version: str) -> None:
    """Write the sample of a version."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "journal.db"
        clock = VirtualClock()

        async def made() -> None:
            engine = await opened(path, clock)
            await fill_with_runs(engine)
            await fill(engine, clock)
            engine.journal.close(clean=False)  # as a death leaves it

        async def told() -> dict[str, Any]:
            engine = await opened(path, clock)
            return await found(engine)

        run(made())
        FOLDER.mkdir(exist_ok=True)
        with closing(apsw.Connection(str(path))) as connection:
            connection.pragma("journal_mode", "DELETE")
        (FOLDER / f"{version}.sql").write_text(dump(path))
        (FOLDER / f"{version}.json").write_text(
            json.dumps(run(told()), indent=1, ensure_ascii=False) + "\n"
        )


if __name__ == "__main__":
    write(sys.argv[1])
