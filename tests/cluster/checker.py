"""Whether a history keeps the promises: what was lost, made up, let in though refused, too much.

    lost        accepted, and for one of its topics neither done nor dead in the end
    made up     done or dead, and never offered, or not for that topic
    let in      done or dead, though the sender was told that it was refused
    too full    a queue held more than its capacity (G3)
    too early   nobody waited until the queues were empty after the last fault: then "lost" may
                only be on its way, and nothing is proven

What ran more than once is no fault, these are the promises of delivery at least once; how often is
told. So is how often one delivery ran in two places at a time: after its lease it may (G5).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from tests.cluster.history import Fact

SHOWN = 10
"""How many of each fault are named."""

Pair = tuple[str, str]
"""Event and topic."""


@dataclass
class Verdict:
    """What a history shows."""

    offered: int = 0
    accepted: int = 0
    refused: int = 0
    unknown: int = 0
    lost: list[str] = field(default_factory=list)
    made_up: list[str] = field(default_factory=list)
    let_in: list[str] = field(default_factory=list)
    too_full: list[str] = field(default_factory=list)
    shown_again: list[str] = field(default_factory=list)
    """Queues that a server showed above their capacity by what had gone already."""
    too_early: bool = False
    samples: int = 0
    """Depths that were looked at."""
    done: int = 0
    """Runs that ended well."""
    dead: int = 0
    repeats: int = 0
    """Runs that ended well though one had before."""
    overlaps: int = 0
    """Runs that ended well, beside which another node had begun one of the same delivery."""
    longest_gap_s: float = 0.0
    """Between one accepted event and the next."""
    repeats_by_node: Mapping[str, int] = field(default_factory=dict)
    """Who ran what had been done."""

    @property
    def faults(self) -> list[str]:
        """Each broken promise in a line; none: all were kept."""
        named = {
            "lost": self.lost,
            "made up": self.made_up,
            "let in though refused": self.let_in,
            "above capacity": self.too_full,
        }
        found = [
            f"{len(which)} {what}: {', '.join(which[:SHOWN])}"
            for what, which in named.items()
            if which
        ]
        if self.too_early:
            found.append("nobody waited until the queues were empty: nothing is proven")
        return found

    def figures(self) -> dict[str, Any]:
        """Return what is kept as proof."""
        return {
            "offered": self.offered,
            "accepted": self.accepted,
            "refused": self.refused,
            "unknown": self.unknown,
            "lost": len(self.lost),
            "made_up": len(self.made_up),
            "let_in_though_refused": len(self.let_in),
            "above_capacity": len(self.too_full),
            "above_capacity_by_what_had_gone": self.shown_again,
            "depths_looked_at": self.samples,
            "done": self.done,
            "dead": self.dead,
            "repeats": self.repeats,
            "repeats_per_1000": round(1000 * self.repeats / max(self.done, 1), 2),
            "overlaps": self.overlaps,
            "longest_gap_s": round(self.longest_gap_s, 1),
        }


def judge(facts: Iterable[Fact]) -> Verdict:
    """Hold a history against the promises."""
    reading = _Reading()
    for fact in sorted(facts, key=lambda one: one.at):
        reading.take(fact)
    return reading.verdict()


class _Reading:
    """A history, fact by fact."""

    def __init__(self) -> None:
        self.wanted: dict[str, tuple[str, ...]] = {}
        self.answers: dict[str, str] = {}
        self.accepted_at: list[float] = []
        self.done: Counter[Pair] = Counter()
        self.dead: set[Pair] = set()
        self.running: dict[Pair, dict[str, float]] = defaultdict(dict)
        """By delivery and node: since when."""
        self.overlaps = 0
        self.repeated: Counter[str] = Counter()
        self.samples = 0
        self.too_full: list[str] = []
        self.depths: dict[str, Fact] = {}
        """By queue: the latest."""
        self.again: Counter[str] = Counter()
        """By queue: messages that had gone, and are shown again."""
        self.shown_again: list[str] = []
        self.busy_at = self.still_at = 0.0

    def take(self, fact: Fact) -> None:
        """Take in the next fact."""
        pair = (fact.id, fact.topic)
        match fact.what:
            case "offered":
                self.wanted[fact.id] = fact.topics
            case "accepted" | "refused" | "unknown":
                self._answered(fact)
            case "started":
                self.running[pair][fact.node] = fact.at
            case "done":
                self._done(pair, fact.node)
            case "dead":
                self.dead.add(pair)
            case "depth":
                self._depth(fact)
            case "calm":
                self.busy_at = fact.at
            case "still":
                self.still_at = fact.at

    def _answered(self, fact: Fact) -> None:
        self.answers[fact.id] = fact.what
        if fact.what == "accepted":
            self.accepted_at.append(fact.at)
            self.busy_at = fact.at

    def _done(self, pair: Pair, node: str) -> None:
        began = self.running[pair].pop(node, 0.0)
        # Whoever began later did so beside this run; one that was killed never gets here.
        self.overlaps += any(other > began for other in self.running[pair].values())
        self.repeated[node] += self.done[pair] > 0
        self.done[pair] += 1

    def _depth(self, fact: Fact) -> None:
        self.samples += 1
        before = self.depths.get(fact.topic, fact)
        self.depths[fact.topic] = fact
        came = fact.given - before.given
        gone = came - (fact.held - before.held)
        # A server that was killed shows what was stored first, and lets go of what was acked
        # later. Each message is numbered, so that what came can be told from what is there again.
        self.again[fact.topic] = max(0, self.again[fact.topic] - gone)
        if fact.held <= fact.capacity:
            self.again[fact.topic] = 0
            return
        told = (
            f"{fact.topic} {fact.held} of {fact.capacity}, says {fact.node}; "
            f"{fact.at - before.at:.1f} s before: {before.held}, says {before.node}; "
            f"since then {came} came, {gone} went"
        )
        held = fact.held - self.again[fact.topic]
        (self.too_full if held > fact.capacity else self.shown_again).append(told)

    def verdict(self) -> Verdict:
        """Return what it shows."""
        told = Counter(self.answers.values())
        ended = sorted(self.done.keys() | self.dead)
        missing = [
            (id, topic)
            for id, answer in self.answers.items()
            if answer == "accepted"
            for topic in self.wanted.get(id, ())
            if not (self.done[id, topic] or (id, topic) in self.dead)
        ]
        return Verdict(
            offered=len(self.wanted),
            accepted=told["accepted"],
            refused=told["refused"],
            unknown=len(self.wanted) - told["accepted"] - told["refused"],
            lost=_named(missing),
            made_up=_named(pair for pair in ended if pair[1] not in self.wanted.get(pair[0], ())),
            let_in=_named(pair for pair in ended if self.answers.get(pair[0]) == "refused"),
            too_full=self.too_full,
            shown_again=self.shown_again,
            too_early=self.still_at <= self.busy_at,
            samples=self.samples,
            done=self.done.total(),
            dead=len(self.dead),
            repeats=self.done.total() - len(+self.done),
            overlaps=self.overlaps,
            longest_gap_s=max((b - a for a, b in pairwise(self.accepted_at)), default=0.0),
            repeats_by_node=dict(+self.repeated),
        )


def _named(pairs: Iterable[Pair]) -> list[str]:
    return [f"{id} in {topic}" for id, topic in pairs]
