"""The checker itself, on histories that were made for it: each rule is seen broken once."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import pytest
from tests.cluster.checker import judge
from tests.cluster.history import Fact, History, What, read

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


def history(*lines: str) -> list[Fact]:
    """Return facts a second apart: "accepted e1", "done e1 mail n1", "depth mail 5/10 70"."""
    return [_fact(float(at), line) for at, line in enumerate(lines, start=1)]


def _fact(at: float, line: str) -> Fact:
    what, *words = cast("tuple[What, ...]", tuple(line.split()))
    if what == "offered":
        return Fact(what, at, words[0], topics=tuple(words[1:]))
    if what == "depth":
        held, _, capacity = words[1].partition("/")
        given = int(words[2]) if len(words) > 2 else 0
        return Fact(what, at, topic=words[0], held=int(held), capacity=int(capacity), given=given)
    names = ("id", "topic", "node")
    return Fact(what, at, **dict(zip(names, words, strict=False)))  # type: ignore[arg-type]  # ours


WELL = (
    "offered e1 mail shop",
    "accepted e1",
    "started e1 mail n1",
    "done e1 mail n1",
    "depth mail 10/10",
    "calm",
    "started e1 shop n2",
    "done e1 shop n2",
    "still",
)


def without(lines: Sequence[str], *left_out: str) -> list[Fact]:
    return history(*(line for line in lines if line not in left_out))


def test_a_history_that_keeps_every_promise() -> None:
    verdict = judge(history(*WELL))

    assert verdict.faults == []
    assert (verdict.offered, verdict.accepted, verdict.done, verdict.samples) == (1, 1, 2, 1)


class TestLost:
    def test_what_is_accepted_and_done_nowhere(self) -> None:
        found = judge(without(WELL, "done e1 mail n1", "done e1 shop n2"))
        assert found.lost == ["e1 in mail", "e1 in shop"]

    def test_what_is_done_in_one_topic_only(self) -> None:
        assert judge(without(WELL, "done e1 shop n2")).lost == ["e1 in shop"]

    def test_a_run_that_only_began_is_no_end(self) -> None:
        assert judge(history("offered e1 a", "accepted e1", "started e1 a n1", "still")).lost

    def test_what_is_dead_is_not(self) -> None:
        found = judge(history("offered e1 a", "accepted e1", "dead e1 a n1", "still"))
        assert found.faults == []
        assert found.dead == 1

    def test_what_nobody_promised_is_not(self) -> None:
        found = judge(history("offered e1 a", "unknown e1", "offered e2 a", "still"))
        assert found.faults == []
        assert (found.unknown, found.offered) == (2, 2)


class TestMadeUp:
    def test_what_was_never_offered(self) -> None:
        assert judge(history(*WELL, "done e2 mail n1", "still")).made_up == ["e2 in mail"]

    def test_what_was_meant_for_another_topic(self) -> None:
        assert judge(history(*WELL, "dead e1 api n1", "still")).made_up == ["e1 in api"]


class TestLetIn:
    def test_what_was_refused_and_yet_done(self) -> None:
        found = judge(history("offered e1 a", "refused e1", "done e1 a n1", "still"))
        assert found.let_in == ["e1 in a"]

    def test_what_got_no_answer_may_be_done(self) -> None:
        found = judge(history("offered e1 a", "unknown e1", "done e1 a n1", "still"))
        assert found.faults == []


class TestCapacity:
    def test_one_too_many(self) -> None:
        (told,) = judge(history(*WELL, "depth mail 11/10 1")).too_full
        assert told.startswith("mail 11 of 10"), told

    def test_what_was_let_in(self) -> None:
        found = judge(history(*WELL, "depth mail 9/10 50", "depth mail 12/10 53"))
        assert len(found.too_full) == 1
        assert found.shown_again == []

    def test_what_had_gone_and_is_shown_again(self) -> None:
        """A server that was killed is asked before it has let go of what was acked."""
        lines = ("depth mail 9/10 50", "depth mail 14/10 51", "depth mail 13/10 51")
        found = judge(history(*WELL, *lines, "still"))
        assert (len(found.shown_again), found.faults) == (2, [])

    def test_what_is_let_in_beside_what_is_shown_again(self) -> None:
        lines = ("depth mail 9/10 50", "depth mail 14/10 51", "depth mail 16/10 53")
        found = judge(history(*WELL, *lines))
        assert (len(found.shown_again), len(found.too_full)) == (1, 1)


class TestTooEarly:
    def test_nobody_waited(self) -> None:
        assert judge(without(WELL, "still")).too_early

    @pytest.mark.parametrize("more", [("calm",), ("offered e2 a", "accepted e2", "done e2 a n1")])
    def test_something_came_after(self, more: tuple[str, ...]) -> None:
        found = judge(history(*WELL, *more))
        assert found.too_early
        assert found.faults == ["nobody waited until the queues were empty: nothing is proven"]


class TestRepeats:
    def test_are_told_and_no_fault(self) -> None:
        found = judge(history(*WELL[:-1], "started e1 mail n2", "done e1 mail n2", "still"))
        assert found.faults == []
        assert (found.repeats, found.repeats_by_node, found.overlaps) == (1, {"n2": 1}, 0)
        assert found.figures()["repeats_per_1000"] == 333.33

    def test_two_at_a_time(self) -> None:
        lines = ("offered e1 a", "accepted e1", "started e1 a n1", "started e1 a n2")
        found = judge(history(*lines, "done e1 a n1", "done e1 a n2", "still"))
        assert (found.overlaps, found.repeats) == (1, 1)

    def test_one_that_was_killed_is_not_beside_the_next(self) -> None:
        lines = ("offered e1 a", "accepted e1", "started e1 a n1", "started e1 a n2")
        found = judge(history(*lines, "done e1 a n2", "still"))
        assert (found.overlaps, found.repeats) == (0, 0)


def test_the_longest_time_without_an_accepted_event() -> None:
    found = judge(history("accepted e1", "still", "still", "accepted e2", "accepted e3"))
    assert found.longest_gap_s == 3.0


class TestFile:
    def test_two_writers_and_what_they_wrote(self, tmp_path: Path) -> None:
        path = tmp_path / "history"
        with History(path) as one, History(path) as other:
            one.note("offered", "e1", topics=("a",))
            other.note("done", "e1", topic="a", node="n1", attempt=2)

        assert [(fact.what, fact.id, fact.attempt) for fact in read(path)] == [
            ("offered", "e1", 0),
            ("done", "e1", 2),
        ]

    def test_a_damaged_line_is_told(self, tmp_path: Path) -> None:
        path = tmp_path / "history"
        path.write_text('{"what": "done", "at": 1.0}\n{"what": "do')

        with pytest.raises(ValueError, match="line 2, is no fact"):
            list(read(path))
