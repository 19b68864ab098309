"""Rules for runs of plain deliveries (ADR 0008), beside those for single ones.

What is accepted where nothing waits in common goes straight into its topics, and is leased whole:
a run. Stories finish runs in stretches, take single ones out, lose them and come back late, and
find the others still there. The model knows deliveries only: a run must not show in it.
"""

from __future__ import annotations

import asyncio
from itertools import cycle
from typing import TYPE_CHECKING

from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule
from tests.engine.machine_model import ENDS, SEEN, TOPICS, WAYS, Held, HeldRun
from tests.engine.machine_straight import StraightRules

from eventflow.delivery import DELIVERED
from eventflow.engine.protocol import Finish, Lease, Way
from eventflow.flow.feed import spans_of
from eventflow.testing.engine_bench import LEASE_S, event, topic

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from eventflow.engine.protocol import Settled

STRAIGHT = ("straight", "not straight")
RUNS = (
    *STRAIGHT,
    *("leased as a run", "finished whole", "finished in part", "finish lost", "finished late"),
    *("taken out", "taken out too late", "run extended", "run not extended", "run over"),
)
"""What stories come by where there are runs."""

FINISHED, STILL_RUNNING = ["finished"], ["still running"]
ENDS_IN_RUNS = st.one_of(st.sampled_from([FINISHED, STILL_RUNNING]), ENDS)


class RunRules(StraightRules):
    def __init__(self) -> None:
        super().__init__()
        self.runs: list[HeldRun] = []
        self.late_runs: list[HeldRun] = []
        """Of which nothing is left to decide about."""
        self.fresh = 0

    # accept ------------------------------------------------------------------

    @initialize(count=st.integers(0, 12), in_runs=st.integers(0, 6))
    def open(self, count: int, in_runs: int) -> None:
        super().open(count)
        if in_runs:
            self.arrive(in_runs, [("a",), ("a", "b")], urgent=False, again=None, clear=True)
            self.lease_runs("a", in_runs)

    @rule(
        count=st.integers(1, 6),
        topics=st.lists(st.sampled_from([("a",), ("b",), ("a", "b")]), min_size=1, max_size=4),
        urgent=st.booleans(),
        again=st.sampled_from([None, None, None, 0, 7]),
        clear=st.sampled_from([True, True, True, False]),
    )
    def arrive(
        self,
        count: int,
        topics: list[tuple[str, ...]],
        *,
        urgent: bool,
        again: int | None,
        clear: bool,
    ) -> None:
        """Accept events that go into their topics at once, if nothing waits in common."""
        if clear:
            self._make_room()
        self.fresh += count
        names = [f"f{n}" for n in range(self.fresh - count, self.fresh)]
        if again is not None:
            names[-1] = f"e{again}"
        given = [
            event(name, "critical" if urgent and not at % 3 else None)
            for at, name in enumerate(names)
        ]
        indexes: dict[tuple[tuple[str, ...], int], list[int]] = {}
        for at, (one, to) in enumerate(zip(given, cycle(topics), strict=False)):
            indexes.setdefault((to, one.rank), []).append(at)
        ways = [Way(to, of, rank) for (to, rank), of in indexes.items()]
        self._arrive(given, ways)

    # lease -------------------------------------------------------------------

    @rule(name=st.sampled_from(TOPICS), limit=st.integers(1, 9))
    def lease_runs(self, name: str, limit: int) -> None:
        self._lease_runs(name, limit)

    def _lease_runs(self, name: str, limit: int) -> list[HeldRun]:
        until = self.now() + LEASE_S
        found = self.run(self.engine.lease(topic(name), limit=limit, wait_s=0))
        assert len(found) <= limit
        runs = []
        for part in found.parts:
            if isinstance(part, Lease):
                one = Held(part, until)
                self._take(one, "queued")
                self.model[one.id].started = not part.delivery.tally.crashes
                continue
            held = HeldRun(part, [f"{ref}.{name}" for ref in part.refs(0, len(part))], until)
            for at, id in enumerate(held.ids):
                self._taken(id, "queued")
                self.model[id].started = True
                assert part.delivery(at).id == id
                assert (self.model[id].hop, self.model[id].crashes) == (0, 0)
            runs.append(held)
        SEEN["leased as a run"] += len(runs)
        self.runs += runs
        return runs

    def _taken(self, id: str, state: str) -> None:
        super()._taken(id, state)
        for held in self.runs:
            if id in held.ids and (at := held.ids.index(id)) in held.out:
                assert self._over(held.until), "leased twice"
                SEEN["run over"] += 1
                self._left_run(held, at)

    def _left_run(self, held: HeldRun, at: int) -> None:
        held.out.discard(at)
        if not held.out:
            self.runs.remove(held)
            self.late_runs = [*self.late_runs[-9:], held]

    @rule(count=st.integers(2, 6), limit=st.sampled_from([9, 9, 2, 1]))
    def bring_a_run(self, count: int, limit: int) -> None:
        self.arrive(count, [("a",)], urgent=False, again=None, clear=True)
        self.lease_runs("a", limit)

    # finish ------------------------------------------------------------------

    @precondition(lambda self: self.runs)
    @rule(
        data=st.data(),
        whole=st.sampled_from([False, False, False, True]),
        ends=st.lists(ENDS, max_size=3),
    )
    def finish(self, data: st.DataObject, *, whole: bool, ends: list[list[str]]) -> None:
        """Finish some of runs, and settle single ones beside them."""
        chosen = data.draw(st.lists(st.sampled_from(self.runs), min_size=1, unique_by=id))
        parts = [(held, self._some(data, held, whole=whole)) for held in chosen]
        singles = self.leases[: len(ends)]
        now_over = [self._over(held.until) for held, _ in parts]
        singles_over = [self._over(one.until) for one in singles]
        finishing = [Finish(held.run, spans_of(indexes)) for held, indexes in parts]
        settling = [self._ending(one, end) for one, end in zip(singles, ends, strict=False)]
        answers = self.run(self._beside_a_commit([*finishing, *settling]))
        for (held, indexes), over, answer in zip(parts, now_over, answers, strict=False):
            self._finished(held, indexes, answer, lost=over or not held.out.issuperset(indexes))
        rest = answers[len(finishing) :]
        for one, act, over, answer in zip(singles, settling, singles_over, rest, strict=True):
            assert answer.lost is over
            self._settled(one, act.tries, answer)

    def _some(self, data: st.DataObject, held: HeldRun, *, whole: bool) -> list[int]:
        """Draw indexes, now and then one too many: then all of them count as lost."""
        out = sorted(held.out)
        chosen = data.draw(st.lists(st.sampled_from(out), min_size=1, unique=True))
        if data.draw(st.integers(0, 9)) == 9:
            chosen.append(data.draw(st.integers(0, len(held.ids) - 1)))
        return out if whole else sorted(set(chosen))

    def _finished(
        self, held: HeldRun, indexes: Iterable[int], answer: Settled, *, lost: bool
    ) -> None:
        assert answer.lost is lost
        if lost:
            SEEN["finish lost"] += 1
            return
        assert answer.taken == DELIVERED
        for at in indexes:
            self._ended(held.ids[at])
            self._left_run(held, at)
        SEEN["finished in part" if held.out else "finished whole"] += 1

    @precondition(lambda self: self.runs)
    @rule(data=st.data(), power=st.booleans())
    def finish_and_crash(self, data: st.DataObject, *, power: bool) -> None:
        """What was not finished is there, and nothing of what was."""
        self.finish(data, whole=False, ends=[])
        self.crash(power=power)

    @precondition(lambda self: self.late_runs)
    @rule(data=st.data())
    def finish_late(self, data: st.DataObject) -> None:
        held = data.draw(st.sampled_from(self.late_runs))
        stop = data.draw(st.integers(1, len(held.ids)))
        (answer,) = self.run(self.engine.settle([Finish(held.run, [(0, stop)])]))
        assert answer.lost
        SEEN["finished late"] += 1

    @precondition(lambda self: self.runs)
    @rule(data=st.data())
    def finish_twice_at_once(self, data: st.DataObject) -> None:
        held = data.draw(st.sampled_from(self.runs))
        indexes = self._some(data, held, whole=False)
        over = self._over(held.until) or not held.out.issuperset(indexes)
        act = Finish(held.run, spans_of(indexes))

        async def both() -> tuple[Sequence[Settled], Sequence[Settled]]:
            return await asyncio.gather(self.engine.settle([act]), self.engine.settle([act]))

        (first,), (second,) = self.run(both())
        assert first.lost or second.lost
        self._finished(held, indexes, second if first.lost else first, lost=over)

    @precondition(lambda self: self.runs)
    @rule(data=st.data())
    def extend_runs(self, data: st.DataObject) -> None:
        chosen = data.draw(st.lists(st.sampled_from(self.runs + self.late_runs)))
        lost = [not held.out or self._over(held.until) for held in chosen]
        answers = self.run(self.engine.extend([held.run for held in chosen]))
        for held, was_lost, extended in zip(chosen, lost, answers, strict=True):
            assert extended is not was_lost
            SEEN["run extended" if extended else "run not extended"] += 1
            if extended:
                held.until = self.now() + LEASE_S

    # taking out --------------------------------------------------------------

    @precondition(lambda self: self.runs + self.late_runs)
    @rule(data=st.data())
    def take_out(self, data: st.DataObject) -> None:
        held = data.draw(st.sampled_from(self.runs + self.late_runs))
        self._take_out(held, data.draw(st.integers(0, len(held.ids) - 1)))

    def _take_out(self, held: HeldRun, at: int) -> Held:
        one = Held(held.run.lease(at), held.until)
        assert one.id == held.ids[at]
        if at in held.out:
            SEEN["taken out"] += 1
            self.leases.append(one)
            self._left_run(held, at)
        else:
            SEEN["taken out too late"] += 1
            self.late.append(one)
        return one

    @precondition(lambda self: self.runs)
    @rule(data=st.data())
    def take_out_what_is_being_finished(self, data: st.DataObject) -> None:
        """It is nobody's to decide about any more, unless the commit fails."""
        held = data.draw(st.sampled_from(self.runs))
        indexes = sorted(held.out)
        lost = bool(self._over(held.until))

        async def story() -> tuple[Settled, Lease]:
            finishing = asyncio.ensure_future(
                self.engine.settle([Finish(held.run, spans_of(indexes))])
            )
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            lease = held.run.lease(indexes[-1])
            return (await finishing)[0], lease

        answer, lease = self.run(story())
        one = Held(lease, held.until)
        assert answer.lost or not lost
        self._finished(held, indexes, answer, lost=answer.lost)
        if answer.lost:  # it had run out, or was taken out before
            self.leases.append(one)
            self._left_run(held, indexes[-1])
        else:
            self.late.append(one)

    # whole ways at once ------------------------------------------------------

    @rule(name=st.sampled_from(TOPICS), ends=st.lists(ENDS_IN_RUNS, min_size=1, max_size=5))
    def work_on_runs(self, name: str, ends: list[list[str]]) -> None:
        """As a topic's slots do: what ends well is finished, what does not is taken out."""
        for held in self._lease_runs(name, limit=9):
            given = dict(zip(range(len(held.ids)), cycle(ends), strict=False))
            for at, end in given.items():
                if end not in (FINISHED, STILL_RUNNING):
                    self._settle([self._take_out(held, at)], [end])
            well = [at for at, end in given.items() if end == FINISHED]
            if well:
                (answer,) = self.run(self.engine.settle([Finish(held.run, spans_of(well))]))
                self._finished(held, well, answer, lost=False)

    @rule(name=st.sampled_from(TOPICS), ways=WAYS)
    def runs_run_out(self, name: str, ways: list[str]) -> None:
        """What is left of them is leased one by one, and a crash is counted for each."""
        self.clock(LEASE_S + 1)
        self.work(name, [ways])

    def _opened_anew(self) -> None:
        super()._opened_anew()
        self.runs.clear()
        self.late_runs.clear()
