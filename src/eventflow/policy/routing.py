"""Which topics an event goes to.

A route takes an event when one of its patterns matches the event's type and its filter, if it has
one, says true. The topics of all routes that take it are united, in the order of the routes. A
filter that fails (its data is not there, or of another kind) is no match, and is counted.

What the type alone decides is remembered by type, up to `REMEMBERED_TYPES` of them: nearly every
event then costs one look into a dict.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from eventflow.errors import ConfigError
from eventflow.event import PRIORITIES, Priority
from eventflow.policy.expression import Expression, ExpressionError, Names
from eventflow.policy.glob import Glob

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from eventflow.event import Event

REMEMBERED_TYPES = 4096
_TIMES = frozenset({"expirytime", "deliverat"})
_NORMAL = PRIORITIES.index(Priority.NORMAL)
_LONGEST_REMEMBERED = 256
"""Characters of a type: types come from outside, and must not fill the memory."""


class Route(msgspec.Struct, frozen=True, gc=False):
    """One `[[routes]]` table, or a topic's own `match`."""

    match: tuple[str, ...]
    """Patterns of event types, see `Glob`; one of them has to match."""
    topics: tuple[str, ...]
    when: Expression | None = None
    """A filter, true or false; None: all that match."""


class Destinations(msgspec.Struct, frozen=True, gc=False):
    """Where an event goes."""

    topics: tuple[str, ...] = ()
    """Each once, in the order of the routes. Empty: no route takes it."""
    filter_errors: int = 0
    """Filters that failed."""


class Together(msgspec.Struct, frozen=True, gc=False):
    """Events of a batch that go the same way."""

    topics: tuple[str, ...]
    rank: int
    """Of their priority: 0 is critical."""
    indexes: list[int]
    """Which they are, growing."""


class _Compiled(msgspec.Struct, frozen=True, gc=False):
    globs: tuple[Glob, ...]
    topics: tuple[str, ...]
    when: Expression | None


class Router:
    """The routes, ready for use. Not for two threads at once."""

    def __init__(self, routes: Sequence[Route]) -> None:
        self._routes = [
            _Compiled(tuple(Glob(pattern) for pattern in route.match), route.topics, route.when)
            for route in routes
        ]
        self._by_type: dict[str, tuple[_Compiled, ...] | Destinations] = {}

    def topics_of(self, event: Event) -> Destinations:
        """Return where `event` goes."""
        found = self._by_type.get(event.type)
        if found is None:
            found = self._remember(event.type)
        return found if isinstance(found, Destinations) else _filtered(found, event)

    def together(self, events: Sequence[Event]) -> list[Together]:
        """Return where the events of a batch go, those that go the same way together.

        Left out is what takes more than a look at its routes: an event that expires or is to be
        delivered later, and one that no route takes.
        """
        kinds: dict[str | tuple[str, int], list[int]] = {}
        for index, event in enumerate(events):
            kind: str | tuple[str, int] = event.type
            if event.extensions is not None:
                if not _TIMES.isdisjoint(event.extensions):
                    continue
                kind = (event.type, event.rank)
            same = kinds.get(kind)
            if same is None:
                kinds[kind] = [index]
            else:
                same.append(index)
        ways: dict[tuple[tuple[str, ...], int], list[int]] = {}
        for kind, indexes in kinds.items():
            type, rank = (kind, _NORMAL) if isinstance(kind, str) else kind
            found = self._by_type.get(type) or self._remember(type)
            if isinstance(found, Destinations):
                ways.setdefault((found.topics, rank), []).extend(indexes)
            else:
                for index in indexes:
                    filtered = _filtered(found, events[index])
                    ways.setdefault((filtered.topics, rank), []).append(index)
        ways = {way: indexes for way, indexes in ways.items() if way[0]}
        return [Together(topics, rank, sorted(same)) for (topics, rank), same in ways.items()]

    def _remember(self, type: str) -> tuple[_Compiled, ...] | Destinations:
        """Keep all that the type says: where events of it go, or the routes still in question."""
        matching = tuple(r for r in self._routes if any(glob.matches(type) for glob in r.globs))
        found: tuple[_Compiled, ...] | Destinations = matching
        if all(route.when is None for route in matching):
            found = Destinations(_united(matching))
        if len(type) <= _LONGEST_REMEMBERED:
            if len(self._by_type) >= REMEMBERED_TYPES:
                del self._by_type[next(iter(self._by_type))]
            self._by_type[type] = found
        return found


def compile_routes(routes: Sequence[Route]) -> Router:
    """Return a router for the routes.

    Raises:
        ConfigError: a route without a pattern or topic, or an empty pattern; says which route.
    """
    problems = [
        problem for place, route in enumerate(routes, 1) for problem in _faults(place, route)
    ]
    if problems:
        raise ConfigError(problems)
    return Router(routes)


def _faults(place: int, route: Route) -> Iterator[str]:
    if not route.match:
        yield f"route {place}: match: expected at least one pattern such as 'user.*', got none"
    if "" in route.match:
        yield f"route {place}: match: expected a pattern such as 'user.*', got ''"
    if not route.topics:
        yield f"route {place}: topics: expected at least one, got none"


def _filtered(routes: tuple[_Compiled, ...], event: Event) -> Destinations:
    names = Names(event)
    taking = []
    errors = 0
    for route in routes:
        try:
            if route.when is None or route.when.test(names):
                taking.append(route)
        except ExpressionError:
            errors += 1
    return Destinations(_united(taking), errors)


def _united(routes: Sequence[_Compiled]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(topic for route in routes for topic in route.topics))
