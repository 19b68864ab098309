"""The state machine of the engine on a real NATS server, with SQLite or PostgreSQL as storage.

The rules are those of any engine. What differs is in the seam: time is the server's, so whether a
lease is over can't be told near its end, and a place is free a moment after it was left. There are
few stories, for each waits out leases, and none is made smaller when it fails: the seed repeats it.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, ClassVar

import pytest
from hypothesis import Phase, settings
from hypothesis import seed as repeat_with
from hypothesis import strategies as st
from hypothesis.stateful import rule, run_state_machine_as_test
from tests import postgres_server
from tests.engine.jetstream_server import Server
from tests.engine.machine_model import ALWAYS, PLAN, QUIET, SEEN, TOPICS, missing
from tests.engine.machine_straight import StraightRules
from tests.engine.test_jetstream import WRITTEN_S, FastClock

from eventflow.config.secret import Secret
from eventflow.engine.jetstream import JetStreamEngine, open_engine
from eventflow.engine.jetstream.depths import FRESH_S
from eventflow.engine.protocol import Way
from eventflow.errors import StorageUnavailable
from eventflow.storage.postgres import open_postgres
from eventflow.storage.sqlite import open_storage
from eventflow.testing.engine_bench import LEASE_S, event

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from eventflow.engine.protocol import Receipt
    from eventflow.event import Event

pytestmark = pytest.mark.prove

RATE = 20.0
UNSURE_S = 0.5
"""How far from its end a lease may be over or not, in real seconds."""
STORIES = 8
"""In a lot: some three minutes."""
STEPS = 25
LOTS = 6
USUAL = (*ALWAYS, "straight", "not straight")


class JetStreamMachine(StraightRules):
    engine: JetStreamEngine

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.loop = self.runner.get_loop()
        self.folder = Path(tempfile.mkdtemp(prefix="eventflow-machine-"))
        self.clock_ = FastClock(RATE)
        self.chance = Random(1)
        self.server = Server(self.folder)
        self.server.start()
        self.server_died = False
        """Whether it did since ids were looked at: it then forgets those of what has left."""

    def teardown(self) -> None:
        if hasattr(self, "engine"):
            self.run(self.engine.close())
        self.server.kill()
        self.runner.close()  # with all that an engine that died has left under way
        shutil.rmtree(self.folder)

    # the seam ----------------------------------------------------------------

    @property
    def storage(self) -> Any:
        return self.engine.storage

    async def _open_storage(self) -> Any:
        return await open_storage(str(self.folder / "storage.db"), clock=self.clock_, chain="n1")

    async def _open(self) -> None:
        storage = await self._open_storage()
        for name in ("keep", "holds", "forget"):
            setattr(storage, name, self._unless_it_refuses(getattr(storage, name)))
        self.engine = await open_engine(
            self.server.url,
            storage=storage,
            clock=self.clock_,
            node="n1",
            rate=RATE,
            draw_bits=self.chance.getrandbits,
        )
        await self.engine.apply(PLAN)

    def _unless_it_refuses(self, call: Any) -> Any:
        async def called(*given: Any, **more: Any) -> Any:
            if self.refuses:
                raise StorageUnavailable("a test has switched it off")
            return await call(*given, **more)

        return called

    async def _die(self, *, power: bool) -> None:
        """Let the node die, and the server too where `power` fails."""
        await asyncio.sleep(WRITTEN_S)
        self.server_died |= power
        if power:
            self.server.kill()
        await self.engine.cut_off()
        await self.engine.storage.close()
        if power:
            self.server.start()
        await self._open()
        await self._let_pass(LEASE_S + 1)  # until then nobody has what the dead one had leased

    async def _reopen(self) -> None:
        await super()._reopen()
        await self._let_pass(LEASE_S + 1)

    def now(self) -> float:
        return self.clock_.now_s()

    async def _let_pass(self, seconds: float) -> None:
        await asyncio.sleep(seconds / RATE)

    def _over(self, until: float) -> bool | None:
        left_s = (until - self.now()) / RATE
        return None if abs(left_s) < UNSURE_S else left_s < 0

    def _refused_with_room(self, events: list[Event]) -> None:
        """What has left is found a moment later: then there must be room."""
        self.run(asyncio.sleep(FRESH_S + UNSURE_S))
        ways = _ways(events)
        receipts = self.run(self.engine.accept(events, ways))
        self._accepted(events, receipts)
        self._arrived(events, receipts)

    def _named(self, id: str, receipt: Receipt) -> None:
        if receipt.ref is not None:  # else the first one is not known any more (G2)
            super()._named(id, receipt)

    def _opened_anew(self) -> None:
        before = set(self.forgotten)
        super()._opened_anew()
        if not self.server_died:  # it is the server that knows ids
            self.forgotten = before
        self.server_died = False

    # straight into a topic -----------------------------------------------------

    @rule(
        name=st.sampled_from(TOPICS),
        numbers=st.lists(st.integers(0, 20), min_size=1, max_size=5, unique=True),
        urgent=st.booleans(),
    )
    def arrive(self, name: str, numbers: list[int], *, urgent: bool) -> None:
        """Accept events that go into their one topic at once, or through common if that is full."""
        given = [
            event(f"{name}{number}", "critical" if urgent and not at % 3 else None)
            for at, number in enumerate(numbers)
        ]
        self._arrive(given, _ways(given))


def _ways(events: Sequence[Event]) -> list[Way]:
    """Return the ways of events that are named for the topic they go to; the others have none."""
    name = events[0].id[0]
    if name not in TOPICS:
        return []
    ranks = {event.rank for event in events}
    return [
        Way((name,), [at for at, event in enumerate(events) if event.rank == rank], rank)
        for rank in sorted(ranks)
    ]


class OnPostgres(JetStreamMachine):
    postgres: ClassVar[postgres_server.Server]

    def __init__(self) -> None:
        super().__init__()
        self._made = self.postgres.database()
        self.database = self._made.__enter__()

    async def _open_storage(self) -> Any:
        return await open_postgres(Secret(self.database.url), clock=self.clock_, chain="n1")

    def teardown(self) -> None:
        super().teardown()
        self._made.__exit__(None, None, None)


def _tell_stories(machine: type[JetStreamMachine], seed: int) -> int:
    """Tell stories until each of the usual outcomes was met; return how many.

    Which ones a lot meets is chance, and a test must not fail by it.
    """
    SEEN.clear()
    for told in range(1, LOTS * STORIES + 1):
        run_state_machine_as_test(
            repeat_with(1_000 * seed + told)(type("Story", (machine,), {})),
            settings=settings(
                # The plainest one comes first. More in one go, and Hypothesis expects those
                # that begin alike to go on alike, which they don't in real time.
                max_examples=2,
                stateful_step_count=STEPS,
                deadline=None,
                suppress_health_check=QUIET,
                phases=[Phase.generate],
                database=None,
            ),
        )
        if told % STORIES == 0 and not missing(USUAL):
            return told
    return LOTS * STORIES


@pytest.mark.timeout(3_600)
def test_stories_on_a_server(proof: Callable[..., dict[str, Any]], seed: int) -> None:
    told = _tell_stories(JetStreamMachine, seed)
    proof("engine-state-machine-jetstream", stories=told, seen=dict(sorted(SEEN.items())))

    assert missing(USUAL) == set(), "stories that go nowhere"


@pytest.mark.timeout(3_600)
def test_stories_beside_postgresql(proof: Callable[..., dict[str, Any]], seed: int) -> None:
    with postgres_server.running() as OnPostgres.postgres:
        told = _tell_stories(OnPostgres, seed)
    proof("engine-state-machine-postgresql", stories=told, seen=dict(sorted(SEEN.items())))

    assert missing(USUAL) == set(), "stories that go nowhere"
