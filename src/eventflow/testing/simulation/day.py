"""A simulated day: lives of a node, one after the other, and the account in the end."""

from __future__ import annotations

import gc
import random
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from eventflow.delivery import Row
from eventflow.testing.clock import EPOCH_S, VirtualClock
from eventflow.testing.crash_vfs import CrashDisk
from eventflow.testing.loop import run
from eventflow.testing.simulation.book import Book, Broken
from eventflow.testing.simulation.life import Died, Life
from eventflow.testing.simulation.runs import Runs
from eventflow.testing.simulation.watch import Trace
from eventflow.testing.simulation.weather import draw
from eventflow.testing.simulation.weights import Weights

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from eventflow.app.eventflow import EventFlow, Surroundings
    from eventflow.event import Event
    from eventflow.testing.simulation.weather import Weather

    Build = Callable[[Surroundings], EventFlow]
    Make = Callable[[random.Random, int, float], Event]

MOST_LIVES = 60
_GARBAGE = 1_000_000
"""New objects between two looks for cyclic garbage: a day leaves little, and 700 cost a tenth."""


@dataclass(frozen=True, slots=True)
class Report:
    """What a day was like."""

    seed: int
    steps: int
    """Calls into engine and storage, and starts and ends of handlers."""
    trace: int
    """Digest of all steps: equal for the same seed, code and Python."""
    events: int
    """Accepted."""
    deaths: int
    outages: int
    virtual_s: float
    rows: dict[str, int]
    """How often each row of DESIGN's life of a delivery was taken."""
    repeats: int
    """Runs that ended well though an earlier one of the same delivery had."""
    duplicates: int
    """Events sent once more, and answered so."""
    dead: int
    walks: int
    """Full walks whose counts were held against the ledger (G8)."""
    compared: int
    """Of those, how many found no call under way: each delivery was held against the book."""
    shares: int
    """How often the shares of two priorities could be compared."""


@dataclass(slots=True)
class Day:
    """What outlives a process: the disk, the time, what is known of every delivery."""

    seed: int
    build: Build
    make: Make
    weather: Weather
    chance: random.Random
    disk: CrashDisk
    book: Book = field(default_factory=Book)
    trace: Trace = field(default_factory=Trace)
    runs: Runs = field(default_factory=Runs)
    weights: Weights = field(default_factory=lambda: Weights((64, 16, 4, 1)))
    elapsed_s: float = 0.0
    """When the present life began, in seconds of the day."""
    next_moment: int = 0
    """Which of the weather's moments comes next."""
    next_event: int = 0
    waiting: list[Event] = field(default_factory=list)
    """Events to be published whose acceptance is not known."""
    batch_size: int = 0
    """How many of those are being sent."""
    last_batch: list[Event] = field(default_factory=list)
    calling: dict[str, Event] = field(default_factory=dict)
    """By id, what webhooks bring whose call was not answered."""
    acknowledged: set[str] = field(default_factory=set)
    """Event ids that the node said it has."""
    poisons: set[str] = field(default_factory=set)
    """Event ids whose handlers end their process."""
    deaths: int = 0
    lives: int = 0
    walks: int = 0
    compared: int = 0
    over: bool = False

    @property
    def clock(self) -> VirtualClock:
        """The time of day in the present life."""
        return VirtualClock(EPOCH_S + self.elapsed_s)


def simulate(
    build: Build,
    make: Make,
    *,
    seed: int,
    weather: Weather | None = None,
    topics: Sequence[str] | None = None,
    **trouble: Any,
) -> Report:
    """Let a node live through a day, and hold all it does against what DESIGN promises.

    Args:
        build: Makes the node, with topics and handlers; called anew after each death. Its engine
            has to be "sqlite:" with any name: the file is on the simulated disk.
        make: Given chance, n and the time (seconds since 1970), makes the n-th event; its id has
            to be another one for each n.
        seed: Draws everything.
        weather: What befalls it. None: drawn from the seed.
        topics: Names of the destinations that may be in trouble; None: all of the node's.
        **trouble: For `weather.draw`: `hours`, `events`, `wave`, `steps`, `accepted`,
            `deaths`, `poisons`.

    Raises:
        Broken: a promise does not hold; its note says seed, step and time.
    """
    chance = random.Random(seed)
    if topics is None:
        topics = _topics_of(build)
    if weather is None:
        weather = draw(chance, topics, **trouble)
    day = Day(seed, build, make, weather, chance, CrashDisk())
    before = random.getstate()
    random.seed(seed)  # for handlers that draw from the module
    try:
        with _little_garbage():
            _live(day)
    except BaseException as error:
        error.add_note(f"simulation: seed {seed}, step {day.trace.steps}, life {day.lives}")
        raise
    finally:
        random.setstate(before)
        day.disk.unregister()
    day.runs.account(day.book, day.acknowledged)
    return _report(day)


@contextmanager
def _little_garbage() -> Iterator[None]:
    """Look for a day's cyclic garbage in the end, and not among what was there before it."""
    rarely, ours = gc.get_threshold(), not gc.get_freeze_count()
    gc.set_threshold(_GARBAGE, *rarely[1:])
    if ours:
        gc.freeze()
    try:
        yield
    finally:
        gc.collect()
        gc.set_threshold(*rarely)
        if ours:
            gc.unfreeze()


def _live(day: Day) -> None:
    while not day.over:
        day.lives += 1
        if day.lives > MOST_LIVES:
            raise Broken(f"{MOST_LIVES} lives, and it is not over")
        life = Life(day)
        try:
            run(life.main(), seed=day.chance.getrandbits(32), on_step=[life.look])
        except Died:
            _die(day, life)
        except BaseException:
            life.bury()
            raise
        day.elapsed_s += life.now_s


def _die(day: Day, life: Life) -> None:
    """Leave what the disk has, and nothing of the process."""
    assert life.image is not None
    life.bury()
    day.deaths += 1
    day.disk.unregister()
    day.disk = CrashDisk.from_image(life.image)


def _topics_of(build: Build) -> list[str]:
    from eventflow.testing.harness import virtual  # noqa: PLC0415  # needs the whole of app

    return [topic.name for topic in build(virtual()).settings.topics]


def _report(day: Day) -> Report:
    rows = {row.value: day.book.rows[row.value] for row in Row if day.book.rows[row.value]}
    states = Counter(one.state for one in day.book.known.values())
    return Report(
        seed=day.seed,
        steps=day.trace.steps,
        trace=day.trace.digest,
        events=len(day.acknowledged),
        deaths=day.deaths,
        outages=len(day.weather.outages),
        virtual_s=day.elapsed_s,
        rows=rows,
        repeats=day.runs.repeats,
        duplicates=day.book.duplicates,
        dead=states["dead"],
        walks=day.walks,
        compared=day.compared,
        shares=day.weights.checked,
    )
