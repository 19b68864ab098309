"""What is known of every delivery from the engine's answers alone, held against the engine.

After each answer the book has the delivery where the answer says, at the hop it must have there.
When no call is under way, book and engine must agree, delivery by delivery. A call that a death
cut short may have happened or not: at reopening each delivery has to be in one of the places that
it can be in, and nowhere else.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from functools import partial
from math import inf
from typing import TYPE_CHECKING, Any

import msgspec

from eventflow.delivery import COMMON, Delivered, Delivery, Place, Released, Row
from eventflow.engine.protocol import Finish, Kind, Placed, Queue, Route, Settle
from eventflow.storage.protocol import Filter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from eventflow.engine.protocol import Act, Engine, Fallback, Placing, Settled, Way
    from eventflow.engine.runs import Receipts
    from eventflow.event import Event
    from eventflow.storage.protocol import Storage

NOWHERE = ("nowhere", -1)
_QUEUED = "queued"
# Of the most frequent rows: an enum's `value` is a call each time.
_COMMON_FULL, _ROUTED, _DELIVERED = (
    row.value for row in (Row.COMMON_FULL, Row.ROUTED, Row.DELIVERED)
)
Spot = tuple[str, int]
"""State ("queued", "retrying", "parked", "dead", or "nowhere") and hop."""


class Broken(AssertionError):  # what is broken is a promise
    """A promise does not hold: EventFlow's fault, or that of a test which planted one."""


@dataclass(slots=True)
class Known:
    """What the book has of one delivery."""

    id: str
    delivery: Delivery
    state: str
    hop: int
    token: Any = None
    """What its lease is known by, or the run it is leased with; None: it is not leased."""

    @property
    def spot(self) -> Spot:
        """Where it is."""
        return self.state, self.hop


class Held(msgspec.Struct, frozen=True):
    """A leased delivery."""

    id: str
    delivery: Delivery
    token: Any
    """What its lease is known by, or the run it is leased with."""


class Found(msgspec.Struct, frozen=True):
    """What a full walk found."""

    delivery: Delivery
    state: str


@dataclass(slots=True)
class Book:
    """All deliveries, as the answers have them."""

    known: dict[str, Known] = field(default_factory=dict)
    created: Counter[str] = field(default_factory=Counter)
    ended: Counter[str] = field(default_factory=Counter)
    """By topic: delivered, routed on or discarded."""
    rows: Counter[str] = field(default_factory=Counter)
    """How often each row of DESIGN's table was taken."""
    refs: dict[str, set[str]] = field(default_factory=dict)
    """By event id, the refs it was accepted under: more than one if that was long ago."""
    accepted_at_s: dict[str, float] = field(default_factory=dict)
    """By event id, when it was accepted last."""
    duplicates: int = 0
    discarded: set[str] = field(default_factory=set)
    """Delivery ids."""
    open: dict[int, tuple[str, Sequence[Any]]] = field(default_factory=dict)
    """Calls under way that change something, by number: which, and what it was given."""
    frozen: bool = False
    """The process is dead: what its tasks still do is nobody's business."""
    early: list[tuple[Callable[[], bool], Act | str]] = field(default_factory=list)
    """What was said of deliveries before the call that brought them there was answered: of a call
    that moves many, some are moved, run and settled while it still looks for a place for others.
    Each with the act it settles, or the id of what was leased."""
    broken: Exception | None = None
    """The first promise that did not hold."""
    ends: int = 0
    """Calls that were answered, or of which nothing happened."""
    _calls: int = 0
    _queued: defaultdict[str, dict[str, Known]] = field(default_factory=partial(defaultdict, dict))
    """By topic, what is in its queue: looked at before each lease."""

    def queued(self, topic: str) -> Iterable[Known]:
        """Return what is known of the deliveries in a topic's queue, leased ones among them."""
        return self._queued[topic].values()

    # calls --------------------------------------------------------------------

    def begin(self, what: str, given: Sequence[Any]) -> int:
        """Note that a call is under way; return its number."""
        self._calls += 1
        if not self.frozen:
            self.open[self._calls] = (what, tuple(given))
        return self._calls

    def end(self, number: int) -> None:
        """Note that a call was answered, or that nothing of it happened."""
        if self.frozen:
            return
        self.open.pop(number, None)
        self.ends += 1
        tried = -1
        while self.early and tried != len(self.early):
            tried = len(self.early)
            self.early = [one for one in self.early if not one[0]()]
        if self.early and not self.open:
            what = " ".join(sorted(self._behind()))
            raise Broken(f"{what} went on from where no call had brought it")

    def _behind(self) -> set[str]:
        """Return the ids of deliveries whose latest answers can't be entered yet."""
        found: set[str] = set()
        for _, what in self.early:
            found.update((what,) if isinstance(what, str) else ids_of(what))
        return found

    @property
    def quiet(self) -> bool:
        """Whether no call that changes something is under way."""
        return not self.open

    # answers ------------------------------------------------------------------

    def accepted(
        self,
        events: Sequence[Event],
        receipts: Receipts,
        now_s: float,
        dedup_window_s: float,
    ) -> None:
        """Enter what was let in: no event twice within the window (G2)."""
        for event, receipt in zip(events, receipts, strict=True):
            if receipt.duplicate:
                if event.id not in self.refs:
                    raise Broken(f"{event.id} is answered duplicate, and was never accepted")
                self.duplicates += 1
                continue
            if receipt.ref is None:
                raise Broken(f"{event.id} was accepted without a ref")
            before_s = self.accepted_at_s.get(event.id, -inf)
            if now_s - before_s < dedup_window_s:
                raise Broken(f"{event.id} was accepted twice in {now_s - before_s:g} s")
            self.accepted_at_s[event.id] = now_s
            self.refs.setdefault(event.id, set()).add(receipt.ref)
            state = "parked" if receipt.parked else "queued"
            self._enter(Delivery(event, receipt.ref, COMMON, 0.0), state)
            self.rows[_COMMON_FULL] += receipt.parked
        for way in receipts.ways:
            for index in way.indexes:
                ref = receipts[index].ref
                self._sent(self.known[f"{ref}.{COMMON}"], way.topics)

    def _sent(self, one: Known, topics: Sequence[str]) -> None:
        """Enter what went through common in the write that accepted it."""
        event, ref = one.delivery.event, one.delivery.ref
        for topic in topics:
            self._enter(Delivery(event, ref, topic, 0.0), "queued")
            self.rows[_ROUTED] += 1
        self._forget(one)

    def _enter(self, delivery: Delivery, state: str) -> None:
        id = delivery.id
        if id in self.known:
            raise Broken(f"{id} was created twice")
        self._know(Known(id, delivery, state, delivery.hop))
        self.created[delivery.topic] += 1

    def _know(self, one: Known) -> None:
        self.known[one.id] = one
        if one.state == _QUEUED:
            self._queued[one.delivery.topic][one.id] = one

    def _move(self, one: Known, state: str) -> None:
        """Enter that it is in another place, a hop further."""
        if one.state == _QUEUED:
            del self._queued[one.delivery.topic][one.id]
        one.state, one.hop = state, one.hop + 1
        if state == _QUEUED:
            self._queued[one.delivery.topic][one.id] = one

    def _forget(self, one: Known) -> None:
        """Note that it has ended."""
        del self.known[one.id]
        if one.state == _QUEUED:
            del self._queued[one.delivery.topic][one.id]
        self.ended[one.delivery.topic] += 1

    def leased(self, queue: Queue, held: Sequence[Held]) -> None:
        """Enter what was handed out: each from where it was, at the hop it had."""
        state = "retrying" if queue.kind is Kind.LANE else "queued"
        behind = self._behind()
        for one in held:
            if one.id not in behind and self._leased(state, one):
                continue
            if not self.open:
                known = self.known.get(one.id)
                where = NOWHERE if known is None else known.spot
                hop = one.delivery.hop
                raise Broken(f"{one.id} was leased at hop {hop} from {state}: it is {where}")
            self.early.append((partial(self._leased, state, one), one.id))

    def _leased(self, state: str, held: Held) -> bool:
        one = self.known.get(held.id)
        if one is None or one.state != state or one.hop != held.delivery.hop:
            return False
        if one.token is not None and any(what == "settle" for what, _ in self.open.values()):
            return False  # it may have been given back, and that is not answered yet
        one.token, one.delivery = held.token, held.delivery
        return True

    def settled(self, acts: Sequence[Act], answers: Sequence[Settled]) -> None:
        """Enter what became of acts."""
        for act, answer in zip(acts, answers, strict=True):
            if answer.lost or self._settled(act, answer):
                continue
            if not self.open:
                raise Broken(f"{_name(act)} was settled, and is nowhere")
            self.early.append((partial(self._settled, act, answer), act))

    def _settled(self, act: Act, answer: Settled) -> bool:
        if isinstance(act, Finish):
            return self._finished(act, answer)
        one = self.known.get(act.lease.delivery.id)
        if one is None or not _holds(one.token, act.lease.token):
            return False
        if isinstance(act, Route):
            self._routed(one, act, answer)
        elif answer.taken is not None:
            if answer.taken not in act.tries:
                raise Broken(f"{one.delivery.id} went to a place nobody named: {answer.taken}")
            self.rows[answer.taken.row.value] += 1
            self._moved(one, answer.taken)
        return True

    def _finished(self, act: Finish, answer: Settled) -> bool:
        if not isinstance(answer.taken, Delivered):
            raise Broken(f"{_name(act)} ended well, and went to {answer.taken}")
        ids = ids_of(act)
        ended = [self.known[id] for id in ids if id in self.known]
        if len(ended) < len(ids) or any(one.token is not act.run for one in ended):
            return False
        for one in ended:
            self.rows[_DELIVERED] += 1
            self._moved(one, answer.taken)
        return True

    def _moved(self, one: Known, place: Place) -> None:
        one.token = None
        if isinstance(place, Released):
            return
        if isinstance(place, Delivered):
            self._forget(one)
            return
        self._move(one, state_of(place))

    def _routed(self, one: Known, act: Route, answer: Settled) -> None:
        some = False
        for target, place in zip(act.targets, answer.routed, strict=False):
            if place is None:
                continue
            some = True
            self.rows[place.row.value] += 1
            new = Delivery(one.delivery.event, one.delivery.ref, target.topic, 0.0)
            self._enter(new, state_of(place))
        if answer.owed:
            one.hop += some
        elif some:
            self._forget(one)

    def placed(self, items: Sequence[Placing], answers: Sequence[Placed]) -> None:
        """Enter what came back from storage."""
        for item, answer in zip(items, answers, strict=True):
            if answer is not Placed.PLACED:
                continue
            one = self.known.get(item.delivery.id)
            if one is None or one.spot != ("parked", item.delivery.hop):
                where = NOWHERE if one is None else one.spot
                raise Broken(f"{item.delivery.id} was placed from hop {item.delivery.hop}: {where}")
            self.rows[item.place.row.value] += 1
            self._move(one, state_of(item.place))

    def replayed(self, answers: Mapping[str, str]) -> None:
        """Enter what a person made due."""
        for id, word in answers.items():
            if word == "replayed":
                self.rows[Row.REPLAYED.value] += 1
                self._move(self.known[id], "parked")

    def discard(self, answers: Mapping[str, str]) -> None:
        """Enter what a person forgot."""
        for id, word in answers.items():
            if word == "discarded":
                self.rows[Row.DISCARDED.value] += 1
                self._forget(self.known[id])
                self.discarded.add(id)

    # held against the engine -------------------------------------------------

    def compare(self, found: Iterable[Found]) -> None:
        """Hold the book against a full walk. Only while it is quiet.

        Raises:
            Broken: a delivery is missing, is twice there, or in another place or hop.
        """
        seen = _once(found)
        for id, one in self.known.items():
            there = seen.pop(id, None)
            spot = NOWHERE if there is None else (there.state, there.delivery.hop)
            if spot != one.spot:
                raise Broken(f"{id} is {spot}, and was {one.spot} when it was last spoken of")
        if seen:
            raise Broken(f"nobody ever spoke of {sorted(seen)[:3]}")

    def reopened(self, found: Iterable[Found], now_s: float) -> None:
        """Hold the book against what a new process found, and go on with that.

        Raises:
            Broken: a delivery is in no place that it can be in.
        """
        seen = _once(found)
        can = self._can_be()
        self._check_wholes(seen)
        for id in {*self.known, *seen, *can}:
            there = seen.get(id)
            spot = NOWHERE if there is None else (there.state, there.delivery.hop)
            one = self.known.get(id)
            lawful = can.get(id, set()) | {NOWHERE if one is None else one.spot}
            if spot not in lawful:
                raise Broken(f"{id} is {spot} after a death; it can only be in {sorted(lawful)}")
            if one is not None and there is not None:
                self._check_crashes(one.delivery, there.delivery)
        self.known.clear()
        self._queued.clear()
        for id, it in seen.items():
            self._know(Known(id, it.delivery, it.state, it.delivery.hop))
        # A new process may have forgotten the ids of events that have left common (G2).
        remembered: dict[str, float] = {}
        for it in seen.values():
            delivery, id = it.delivery, it.delivery.event.id
            self.refs.setdefault(id, set()).add(delivery.ref)
            if delivery.topic == COMMON and it.state in {"queued", "parked"}:
                remembered[id] = self.accepted_at_s.get(id, now_s)
        self.accepted_at_s = remembered
        self.open.clear()
        self.early.clear()
        self.frozen = False

    def _check_crashes(self, before: Delivery, after: Delivery) -> None:
        more = after.tally.crashes - before.tally.crashes
        if after.hop == before.hop and more not in {0, 1}:
            raise Broken(f"{after.id}: one death, and {more} more crashes")
        self.rows[Row.NODE_DIED.value] += max(0, more)

    def _can_be(self) -> defaultdict[str, set[Spot]]:
        """Return where calls that were not answered may have brought deliveries."""
        can: defaultdict[str, set[Spot]] = defaultdict(set)
        for what, given in self.open.values():
            for one in given:
                match what:
                    case "settle":
                        self._can_settle(can, one)
                    case "place":
                        hop = one.delivery.hop + 1
                        can[one.delivery.id].add((state_of(one.place), hop))
                    case "replay" if one in self.known:
                        can[one].add(("parked", self.known[one].hop + 1))
                    case "discard" if one in self.known:
                        can[one].add(NOWHERE)
                        self.discarded.add(one)
                    case _:  # what `accept` lets in has no id yet: see `_check_wholes`
                        break
        for _, settled in self.early:
            if not isinstance(settled, str):
                self._can_settle(can, settled)
        return can

    def _can_settle(self, can: defaultdict[str, set[Spot]], act: Act) -> None:
        if isinstance(act, Finish):
            for one in deliveries_of(act):
                can[one.id].add(NOWHERE)
            return
        delivery = act.lease.delivery
        here = can[delivery.id]
        if isinstance(act, Settle):
            for place in act.tries:
                if isinstance(place, Delivered):
                    here.add(NOWHERE)
                elif not isinstance(place, Released):
                    here.add((state_of(place), delivery.hop + 1))
            return
        hop = self.known[delivery.id].hop if delivery.id in self.known else delivery.hop
        here |= {NOWHERE, ("queued", hop + 1)}
        for target in act.targets:
            id = f"{delivery.ref}.{target.topic}"
            can[id].update((state_of(place), 0) for place in target.tries)

    def _check_wholes(self, seen: dict[str, Found]) -> None:
        """Enter what calls of `accept` that were not answered let in: each all of it or nothing."""
        new: dict[str, dict[str, Found]] = defaultdict(dict)
        for one in seen.values():
            if one.delivery.id not in self.known and one.delivery.hop == 0:
                new[one.delivery.event.id][one.delivery.topic] = one
        for what, given in self.open.values():
            if what == "accept":
                self._check_whole(new, *given)

    def _check_whole(
        self,
        new: dict[str, dict[str, Found]],
        events: Sequence[Event],
        ways: Sequence[Way],
        fallback: Fallback | None,
    ) -> None:
        fresh = {event.id for event in events if event.id not in self.refs}
        # An id from before an earlier death may be forgotten, and its event let in anew (G2).
        fresh |= {event.id for event in events if event.id not in self.accepted_at_s} & new.keys()
        there = fresh & new.keys()
        if there and there != fresh:
            raise Broken(f"a death left {len(there)} of {len(fresh)} events accepted at once")
        topics = {events[index].id: way.topics for way in ways for index in way.indexes}
        direct = {id for id in there if COMMON not in new[id]}
        if direct and direct != fresh:
            raise Broken(f"a death left {len(direct)} of {len(fresh)} events beyond common")
        parked = {id for id in there - direct if new[id][COMMON].state == "parked"}
        if parked and (parked != fresh or fallback is None):
            raise Broken(f"a death left {len(parked)} of {len(fresh)} events parked at the door")
        for id in there:
            first = next(iter(new[id].values())).delivery
            common = Delivery(first.event, first.ref, COMMON, 0.0)
            # Two calls may have brought the same, and its first one's answer may be known.
            ids = {common.id, *(one.delivery.id for one in new[id].values())}
            if ids & self.known.keys():
                continue
            self._enter(common, "parked" if id in parked else "queued")
            self.rows[Row.COMMON_FULL.value] += id in parked
            if id in direct:
                self._sent(self.known[common.id], topics.get(id, ()))


def deliveries_of(act: Act) -> list[Delivery]:
    """Return the deliveries that an act is about."""
    if isinstance(act, Finish):
        return [act.run.delivery(index) for span in act.spans for index in range(*span)]
    return [act.lease.delivery]


def ids_of(act: Act) -> Sequence[str]:
    """Return the ids of the deliveries that an act is about."""
    if isinstance(act, Finish):
        return [act.run.delivery(index).id for span in act.spans for index in range(*span)]
    return [act.lease.delivery.id]


def _name(act: Act) -> str:
    return " ".join(ids_of(act))


def _holds(held: Any, token: Any) -> bool:
    """Return whether a delivery's lease is the one of this token, maybe taken out of its run."""
    return held is token or any(one is token for one in getattr(held, "taken", ()))


def state_of(place: Place) -> str:
    """Return the state a delivery is in at a place."""
    return str(place.__struct_config__.tag)


def _once(found: Iterable[Found]) -> dict[str, Found]:
    seen: dict[str, Found] = {}
    for one in found:
        id = one.delivery.id
        if id in seen:
            raise Broken(f"{id} is in two places")
        seen[id] = one
    return seen


async def walk(engine: Engine, storage: Storage, topics: Iterable[str]) -> list[Found]:
    """Return every delivery there is, each queue, lane and storage walked to the end."""
    # Storage first: nothing is applied between its answer and the walk of the queues.
    kept = await storage.page(Filter(), limit=1_000_000)
    found = [Found(one.delivery, one.state) for one in kept.items]
    for name in topics:
        for kind, state in ((Kind.TOPIC, "queued"), (Kind.LANE, "retrying")):
            page = await engine.walk(Queue(kind, name), limit=1_000_000)
            found += [Found(one.delivery, state) for one in page]
    return found
