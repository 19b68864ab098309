"""The state machine of the embedded engine.

A crash is a copy of the disk as the process leaves it; a power cut leaves of it what was synced.
Commits are awaited in each step, so both must show everything.
"""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from random import Random
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import Phase, settings
from hypothesis import seed as repeat_with
from hypothesis.stateful import invariant, rule, run_state_machine_as_test
from tests.engine.machine_model import ALWAYS, EXPECTED, NUMBERS, PLAN, QUIET, SEEN, TOPICS, missing
from tests.engine.machine_rules import QUEUES
from tests.engine.machine_runs import RUNS, STRAIGHT, RunRules

from eventflow.delivery import COMMON
from eventflow.engine.embedded import EmbeddedEngine, cleaning, open_engine
from eventflow.engine.embedded.queues import weigh
from eventflow.engine.embedded.writer import InlineWriter
from eventflow.errors import EngineUnavailable, QueueFull, StorageUnavailable
from eventflow.storage.shelf import Shelf
from eventflow.testing import CrashDisk, VirtualClock, VirtualLoop
from eventflow.testing.engine_bench import event, walk

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from eventflow.storage.protocol import Kept

CLOCK = VirtualClock()
LOTS = 8
STORIES = 1_500
UNSHORTENED = (Phase.explicit, Phase.reuse, Phase.generate)
"""To look for a shorter story that fails takes longer than a test may, and hides the first."""


class EmbeddedMachine(RunRules):
    engine: EmbeddedEngine

    def __init__(self) -> None:
        super().__init__()
        self.loop = VirtualLoop(seed=1)
        self.disk = CrashDisk()
        self.chance = Random(1)
        self.looking = False

    # the seam ----------------------------------------------------------------

    @property
    def storage(self) -> Any:
        return self.engine.storage

    async def _open(self) -> None:
        self.engine = await open_engine(
            "journal.db",
            clock=CLOCK,
            draw_bits=self.chance.getrandbits,
            writer=InlineWriter,
            vfs=self.disk.name,
            shelf=self._shelf,
        )
        await self.engine.apply(PLAN)
        cleaner = self.engine._cleaner  # noqa: SLF001  # to let it rest while the test looks
        ride = cleaner.ride
        cleaner.ride = lambda txn: None if self.looking else ride(txn)  # type: ignore[method-assign]

    def _shelf(self, connection: Any) -> Shelf:
        """Return a shelf that refuses while the story says so."""
        story = self

        class Switched(Shelf):
            def keep(self, items: Sequence[Kept]) -> None:
                story.check()
                super().keep(items)

            def forget(self, pairs: Sequence[tuple[str, int]]) -> list[bool]:
                story.check()
                return super().forget(pairs)

        return Switched(connection)

    def check(self) -> None:
        """Refuse, if storage does."""
        if self.refuses:
            raise StorageUnavailable("a test has switched it off")

    async def _die(self, *, power: bool) -> None:
        # Every start is on record then: a look at what is kept was a commit, or one is owed.
        await self.engine.committer.idle()
        await self._go_on_with(self.disk.crash(self.chance) if power else self.disk.killed())

    async def _go_on_with(self, image: Any) -> None:
        """Open what a disk holds; the engine before is not there any more."""
        old, old_disk = self.engine, self.disk
        self.disk = CrashDisk.from_image(image)
        await self._open()
        old.committer.shut("its process is gone")
        await old.close()
        old_disk.unregister()

    def now(self) -> float:
        async def ask() -> float:
            return CLOCK.now_s()

        return self.run(ask())

    async def _let_pass(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    @contextmanager
    def look(self) -> Iterator[None]:
        """Read without the cleaning that rides with every commit: it is for the rules to meet."""
        self.looking = True
        try:
            yield
        finally:
            self.looking = False

    def teardown(self) -> None:
        if hasattr(self, "engine"):
            self.run(self.engine.close())
        self.loop.close()
        self.disk.unregister()

    def _opened_anew(self) -> None:
        super()._opened_anew()
        for queue in QUEUES:
            for one in self.run(walk(self.engine, queue)):
                assert one.tally.crashes == self.model[one.id].crashes

    # a full disk -------------------------------------------------------------

    @rule(numbers=NUMBERS)
    def accept_on_a_full_disk(self, numbers: list[int]) -> None:
        """What could not be kept is not remembered either: it may come again."""
        events = [event(f"e{number}") for number in numbers]
        self.disk.fail_write()
        try:
            receipts = self.run(self.engine.accept(events))
        except (EngineUnavailable, QueueFull):
            return
        finally:
            self.disk.heal()
        assert all(receipt.duplicate for receipt in receipts), "acknowledged on a full disk"
        self._accepted(events, receipts)

    # what holds after every step ---------------------------------------------

    @invariant()
    def no_queue_is_above_its_capacity(self) -> None:
        if not hasattr(self, "engine"):
            return
        for name in (COMMON, *TOPICS):
            depth = self.engine.depth(name)
            assert depth.queued + depth.running <= PLAN.topics[name].capacity
            assert depth.retrying <= PLAN.topics[name].lane_capacity

    def _stored(self, items: Sequence[Kept]) -> None:
        usage = self.storage.usage()
        assert usage.used_bytes <= PLAN.storage_max_bytes
        assert usage.used_bytes == sum(one.size_bytes for one in items)

    @invariant()
    def no_room_is_promised_any_more(self) -> None:
        """Nothing is under way between two steps."""
        if not hasattr(self, "engine"):
            return
        state = self.engine.state
        assert state.memory_reserved == state.storage_reserved == state.passing == 0
        for name in (COMMON, *TOPICS):
            assert state.topics[name].reserved == state.lanes[name].reserved == 0
        waiting = [weigh(entry.delivery.event) for entry in state.entries()]
        assert state.memory_bytes == sum(waiting)


@pytest.fixture(autouse=True)
def _clean_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the journal be cleaned all the time: it must not show."""
    monkeypatch.setattr(cleaning, "JOURNAL_LIMIT_BYTES", 1)
    monkeypatch.setattr(cleaning, "BYTES_A_LIVE_ENTRY", 1)
    monkeypatch.setattr(cleaning, "BATCH", 3)


@pytest.mark.timeout(300)  # ten seconds on a machine with nothing else to do
def test_any_story() -> None:
    """Tells stories until each of the usual outcomes was met: almost always the first lot will do.

    Which ones a lot meets is chance, and a test must not fail by it.
    """
    SEEN.clear()
    for _ in range(LOTS):
        run_state_machine_as_test(
            EmbeddedMachine,
            settings=settings(
                max_examples=80,
                stateful_step_count=40,
                deadline=None,
                suppress_health_check=QUIET,
                phases=UNSHORTENED,
            ),
        )
        if not missing((*ALWAYS, *STRAIGHT)):
            return

    assert missing((*ALWAYS, *STRAIGHT)) == set(), "stories that go nowhere"


@pytest.mark.prove
@pytest.mark.timeout(3_600)
def test_many_long_stories(proof: Callable[..., dict[str, Any]], seed: int) -> None:
    SEEN.clear()
    run_state_machine_as_test(
        repeat_with(seed)(type("Stories", (EmbeddedMachine,), {})),
        settings=settings(
            max_examples=STORIES,
            stateful_step_count=80,
            deadline=None,
            suppress_health_check=QUIET,
        ),
    )
    proof("engine-state-machine", stories=STORIES, seen=dict(sorted(SEEN.items())))

    assert missing((*EXPECTED, *RUNS)) == set()
