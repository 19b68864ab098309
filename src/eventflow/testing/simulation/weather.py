"""What befalls a node in a simulated day: drawn once from a seed, then a value to look at.

    bursts      events published at once
    waves       so many webhooks call at once that their door parks what finds common full
    outages     a destination is down (every run fails), flaky (some do) or slow
    poisons     events whose handler takes its process along
    deaths      the process is killed, or the machine loses power
    refusals    secondary storage takes nothing and gives nothing back
    full disks  every write of the journal fails for want of room
    acts        an operator pauses and resumes, replays, discards; a clean restart

Times are seconds since the simulation began.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from random import Random

Manner = Literal["down", "flaky", "slow"]
Death = Literal["killed", "power", "bad_sync"]
"""A signal; the power; a sync that fails, after which a node has to stop by itself or be ended."""
Act = Literal["pause", "replay", "discard", "restart"]

HOUR_S = 3_600.0
_APART_S = 90.0
_COMMIT_S = (0.005, 0.02, 0.1)
"""A fast disk, a slow one, and one that others keep busy."""
_DEATHS: tuple[Death, ...] = ("killed", "killed", "power", "power", "bad_sync")


class Span(NamedTuple):
    """A time in which something lasts."""

    from_s: float
    until_s: float

    def has(self, at_s: float) -> bool:
        """Return whether it lasts at this time."""
        return self.from_s <= at_s < self.until_s


class Burst(NamedTuple):
    """Events published at once."""

    at_s: float
    events: int


class Wave(NamedTuple):
    """Webhooks that call at once, each with one event; their door has `when_full = "park"`."""

    at_s: float
    events: int


class Outage(NamedTuple):
    """A destination in trouble."""

    topic: str
    manner: Manner
    span: Span


class Dying(NamedTuple):
    """The end of a process without a word."""

    at_s: float
    manner: Death
    after_ops: int
    """Disk operations that it still gets done: so it dies in the midst of a commit too."""


class DiskFull(NamedTuple):
    """No room for a write of the journal, or room again."""

    at_s: float
    full: bool


class Doing(NamedTuple):
    """What an operator does."""

    at_s: float
    act: Act
    topic: str


@dataclass(frozen=True, slots=True)
class Weather:
    """All that befalls a node."""

    bursts: tuple[Burst, ...]
    waves: tuple[Wave, ...] = ()
    outages: tuple[Outage, ...] = ()
    deaths: tuple[Dying, ...] = ()
    refusals: tuple[Span, ...] = ()
    full_disks: tuple[Span, ...] = ()
    poisons: frozenset[int] = frozenset()
    """Which events (the n-th made) end every process that handles them."""
    doings: tuple[Doing, ...] = ()
    commit_s: float = 0.0
    """How long the disk takes for a commit, at most: meanwhile others go on, and gather."""
    least_steps: int = 0
    """A day goes on, with a few more events at a time, until it has taken so many."""
    least_events: int = 0
    """It goes on likewise until so many events were let in: one that has expired is not."""
    calm_at_s: float = HOUR_S
    """From here on nothing befalls it any more, and all has to come to its end."""

    @property
    def times(self) -> list[tuple[float, NamedTuple]]:
        """What happens at a moment (bursts, waves, deaths, acts, a disk that fills), by time."""
        disk = [DiskFull(at, at == span.from_s) for span in self.full_disks for at in span]
        moments: Iterable[Burst | Wave | Dying | Doing | DiskFull] = (
            *self.bursts,
            *self.waves,
            *self.deaths,
            *self.doings,
            *disk,
        )
        return sorted(((each.at_s, each) for each in moments), key=lambda pair: pair[0])

    def manner(self, topic: str, at_s: float) -> Manner | None:
        """Return how a destination is in trouble now; None: it is well."""
        for outage in self.outages:
            if outage.topic == topic and outage.span.has(at_s):
                return outage.manner
        return None


def draw(  # noqa: PLR0913  # all that can be asked of a day
    chance: Random,
    topics: Sequence[str],
    *,
    hours: float = 1.0,
    events: int = 1_000,
    wave: int = 0,
    steps: int = 0,
    accepted: int = 0,
    deaths: int = 3,
    poisons: float = 0.15,
) -> Weather:
    """Return a day's trouble.

    Args:
        chance: Draws all of it.
        topics: The destinations.
        hours: How long trouble lasts, above 0.
        events: How many are published, those of waves among them.
        wave: How many webhooks call at once, once or twice a day; what common has no room for,
            their door parks. 0: never.
        steps: A day that is over sooner goes on until it has taken so many.
        accepted: Likewise until so many events were let in.
        deaths: How often the process dies, at least 90 s between two; a clean restart and what
            poisons do come on top.
        poisons: How probable it is that there is an event that ends its process, 0 to 1.

    Raises:
        ValueError: so many deaths don't fit into the time, or two waves into the events.
    """
    if 2 * wave > events:
        raise ValueError(
            f"expected {2 * wave} or more events for two waves of {wave}, got {events}"
        )
    if deaths * 2 * _APART_S > hours * HOUR_S:
        raise ValueError(f"{deaths} deaths, {_APART_S:g} s apart, don't fit into {hours:g} hours")
    end = hours * HOUR_S
    waves = tuple(Wave(at, wave) for at in _times(chance, chance.randint(1, 2) if wave else 0, end))
    return Weather(
        bursts=tuple(_bursts(chance, end, events - wave * len(waves))),
        waves=waves,
        outages=tuple(_outages(chance, topics, end)),
        deaths=tuple(
            Dying(at, chance.choice(_DEATHS), chance.randint(0, 60))
            for at in _apart(chance, deaths, end)
        ),
        refusals=tuple(_span(chance, end, 30, 240) for _ in range(chance.randint(1, 2))),
        full_disks=tuple(_span(chance, end, 5, 60) for _ in range(chance.randint(0, 2))),
        doings=tuple(_doings(chance, topics, end)),
        poisons=frozenset([chance.randrange(events)] if chance.random() < poisons else []),
        commit_s=chance.choice(_COMMIT_S),
        least_steps=steps,
        least_events=accepted,
        calm_at_s=end,
    )


def _bursts(chance: Random, end: float, events: int) -> Iterable[Burst]:
    left = events
    while left > 0:
        count = min(left, chance.choice((1, 5, 20, 60)))
        left -= count
        yield Burst(chance.uniform(0, end), count)


def _outages(chance: Random, topics: Sequence[str], end: float) -> Iterable[Outage]:
    manners: tuple[Manner, ...] = ("down", "flaky", "slow")
    yield Outage(chance.choice(topics), "down", _span(chance, end, 60, 240))
    yield Outage(chance.choice(topics), "flaky", _span(chance, end, 60, 240))
    for _ in range(chance.randint(0, 2)):
        yield Outage(chance.choice(topics), chance.choice(manners), _span(chance, end, 30, 240))


def _doings(chance: Random, topics: Sequence[str], end: float) -> Iterable[Doing]:
    yield Doing(chance.uniform(0, end), "restart", "")
    acts: tuple[Act, ...] = ("pause", "replay", "discard")
    for act in acts:
        for at in _times(chance, chance.randint(1, 2), end):
            yield Doing(at, act, chance.choice(topics))


def _span(chance: Random, end: float, least_s: float, most_s: float) -> Span:
    begin = chance.uniform(0, end)
    return Span(begin, min(end, begin + chance.uniform(least_s, most_s)))


def _times(chance: Random, count: int, end: float) -> list[float]:
    return sorted(chance.uniform(0, end) for _ in range(count))


def _apart(chance: Random, count: int, end: float) -> list[float]:
    """Return so many times, each 90 s or more after the one before."""
    room = end - count * _APART_S
    return [at + nth * _APART_S for nth, at in enumerate(_times(chance, count, room))]
