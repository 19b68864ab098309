"""Filters, pages and groups, held against a plain list that does the same in Python."""

from __future__ import annotations

from typing import TYPE_CHECKING

import apsw
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eventflow.delivery import Reason
from eventflow.errors import UnknownName
from eventflow.policy.glob import Glob
from eventflow.storage import schema
from eventflow.storage.protocol import Filter
from eventflow.storage.shelf import Shelf

if TYPE_CHECKING:
    from collections.abc import Callable

    from eventflow.storage.protocol import Kept

    Make = Callable[..., Kept]


def all_refs(shelf: Shelf, which: Filter, limit: int) -> list[str]:
    """Return the refs of every page, one after the other."""
    found: list[str] = []
    after = None
    while True:
        page = shelf.page(which, after, limit)
        assert len(page.items) == limit or page.cursor is None
        found += [kept.delivery.ref for kept in page.items]
        if page.cursor is None:
            return found
        after = page.cursor


class TestFilter:
    @pytest.fixture
    def full(self, shelf: Shelf, make: Make) -> Shelf:
        shelf.keep(
            [
                make("a", since=1.0, topic="email", reason=Reason.RETRY_FULL),
                make(
                    "b", since=2.0, topic="db", state="dead", type="user.deleted", cause="KeyError"
                ),
                make("c", since=3.0, topic="db", type="shop.order.created", fingerprint="f2"),
                make(
                    "d", since=4.0, topic="email", state="dead", source="/Straße", subject="50% off"
                ),
                make("e", since=5.0, failed=False, id="under_score", type="user"),
                make("f", since=6.0, topic="api", reason=Reason.POISON, type="[a?]", error="!"),
            ]
        )
        return shelf

    @pytest.mark.parametrize(
        ("which", "refs"),
        [
            (Filter(), "fedcba"),
            (
                Filter(state="", topic="", reason="", cause="", fingerprint="", type="", q=""),
                "fedcba",
            ),
            (Filter(state="parked"), "feca"),
            (Filter(state="dead"), "db"),
            (Filter(state="queued"), ""),
            (Filter(topic="db"), "cb"),
            (Filter(topic="db", state="parked"), "c"),
            (Filter(reason="retry_full"), "a"),
            (Filter(cause="KeyError"), "b"),
            (Filter(fingerprint="f2"), "c"),
            (Filter(topic="db", reason="retries_exhausted", fingerprint="f2"), "c"),
            (Filter(type="user.registered"), "da"),
            (Filter(type="user.*"), "dba"),
            (Filter(type="*"), "fe"),
            (Filter(type="**"), "fedcba"),
            (Filter(type="**.created"), "c"),
            (Filter(type="*.created"), ""),
            (Filter(type="user.d*"), "b"),
            (Filter(type="User.*"), ""),
            (Filter(type="user.[rd]*"), ""),
            (Filter(type="user?*"), ""),
            (Filter(type="[*]"), "f"),
            (Filter(type="**?]"), "f"),
            (Filter(q="TARGET SAID"), "dcba"),
            (Filter(q="strasse"), "d"),
            (Filter(q="50%"), "d"),
            (Filter(q="%"), "d"),
            (Filter(q="_"), "e"),
            (Filter(q="\\"), ""),
            (Filter(q="id-c"), "c"),
            (Filter(q="\ud800"), ""),
            (Filter(ids=("c.db", "a.email", "zz")), "ca"),
            (Filter(ids=("c.db", "a.email"), state="dead"), ""),
            (Filter(topic="' OR '1'='1"), ""),
        ],
        ids=repr,
    )
    def test_means_these(self, full: Shelf, which: Filter, refs: str) -> None:
        assert all_refs(full, which, 2) == list(refs)
        assert full.count(which) == len(refs)
        assert [id.split(".")[0] for id in full.ids_matching(which)] == list(reversed(refs))
        assert sum(group.count for group in full.groups(which)) == len(refs)

    def test_ids_can_be_limited_to_those_kept_longest(self, full: Shelf) -> None:
        assert full.ids_matching(Filter(), limit=2) == ["a.email", "b.db"]


class TestPages:
    def test_each_names_where_the_next_begins(self, shelf: Shelf, make: Make) -> None:
        shelf.keep([make(f"r{n}", since=float(n)) for n in range(4)])

        first = shelf.page(Filter(), limit=2)
        last = shelf.page(Filter(), first.cursor, limit=2)

        assert [kept.delivery.ref for kept in (*first.items, *last.items)] == [
            *("r3", "r2", "r1", "r0")
        ]
        assert first.cursor is not None
        assert last.cursor is None

    def test_of_one_moment_the_last_written_is_the_newest(self, shelf: Shelf, make: Make) -> None:
        shelf.keep([make(f"r{n}", state=("parked", "dead")[n % 2], since=7.0) for n in range(7)])

        assert all_refs(shelf, Filter(), 2) == [f"r{n}" for n in reversed(range(7))]

    def test_what_comes_and_goes_in_between_hides_and_repeats_nothing(
        self, shelf: Shelf, make: Make
    ) -> None:
        shelf.keep([make(f"r{n}", since=float(n)) for n in range(6)])
        first = shelf.page(Filter(), limit=3)

        shelf.keep([make("new", since=9.0), make("late", since=0.5)])
        shelf.forget([(first.items[-1].delivery.id, 9), ("r0.email", 9)])
        rest = shelf.page(Filter(), first.cursor, limit=9)

        assert [kept.delivery.ref for kept in first.items] == ["r5", "r4", "r3"]
        assert [kept.delivery.ref for kept in rest.items] == ["r2", "r1", "late"]

    @pytest.mark.parametrize("cursor", ["", "x", "1-2-3", "-1-2", "1" * 16 + "-1", "1-2\n", "é-1"])
    def test_a_cursor_that_no_page_gave_is_refused(self, shelf: Shelf, cursor: str) -> None:
        with pytest.raises(UnknownName, match="there is no cursor"):
            shelf.page(Filter(), cursor)


class TestGroups:
    def test_the_largest_first_each_shown_by_its_newest(self, shelf: Shelf, make: Make) -> None:
        shelf.keep(
            [
                *(make(f"a{n}", since=10.0 + n, error=f"error {n}") for n in range(3)),
                make("b1", fingerprint="f2", since=50.0, state="dead", cause="KeyError"),
                make("b2", fingerprint="f2", since=40.0, state="dead", cause="KeyError"),
                make("c1", fingerprint="f1", topic="db"),
                make("d1", fingerprint="f1", reason=Reason.LONG_DELAY, failed=False, since=2e9),
            ]
        )

        groups = shelf.groups(Filter())

        assert [(g.topic, g.state, g.fingerprint, g.count) for g in groups] == [
            ("email", "parked", "f1", 3),
            ("email", "dead", "f2", 2),
            ("email", "parked", "", 1),
            ("db", "parked", "f1", 1),
        ]
        assert (groups[0].error, groups[0].example) == ("error 2", "a2.email")
        assert (groups[0].first_at, groups[0].last_at) == (10.0, 12.0)
        assert (groups[1].cause, groups[1].example) == ("KeyError", "b1.email")
        assert groups[2].reason == "long_delay"

    def test_only_what_the_filter_means_is_grouped(self, shelf: Shelf, make: Make) -> None:
        """The example has to match too, though a newer one of its group does not."""
        shelf.keep(
            [
                make("a", since=1.0, error="disk full"),
                make("b", since=1.0, error="no route"),
                make("c", since=9.0, error="no route"),
            ]
        )

        (group,) = shelf.groups(Filter(q="disk"))

        assert (group.count, group.example, group.last_at) == (1, "a.email", 1.0)

    def test_no_more_than_asked_for(self, shelf: Shelf, make: Make) -> None:
        shelf.keep(
            [
                make(f"r{n}", fingerprint=f"f{n % 5}", state=("parked", "dead")[n % 5 > 2])
                for n in range(11)
            ]
        )

        assert [g.count for g in shelf.groups(Filter(), limit=2)] == [3, 2]


PIECES = st.sampled_from(["a", "b", ".", "*", "**", "?", "[", "]", "%", "_", "\\", "'", "É", "\0"])
TYPES = st.lists(PIECES.filter(lambda p: "*" not in p), min_size=1, max_size=5).map("".join)
PATTERNS = st.lists(PIECES, min_size=1, max_size=5).map("".join)
TEXTS = st.lists(PIECES, max_size=5).map("".join) | st.text(max_size=5)


@pytest.fixture(scope="module")
def empty_shelf() -> Shelf:
    connection = apsw.Connection(":memory:")
    schema.create(connection)
    return Shelf(connection)


def put(shelf: Shelf, items: list[Kept]) -> None:
    """Let these be all that the shelf holds."""
    shelf.forget([(id, 2**62) for id in shelf.ids_matching(Filter())])
    shelf.keep(items)


@given(types=st.lists(TYPES, max_size=8), pattern=PATTERNS, limit=st.integers(1, 3))
@settings(max_examples=60)
def test_hostile_types_match_as_routes_do(
    empty_shelf: Shelf, make: Make, types: list[str], pattern: str, limit: int
) -> None:
    put(
        empty_shelf,
        [make(f"{n}", type=t.replace("\0", "") or "x", since=n) for n, t in enumerate(types)],
    )

    found = all_refs(empty_shelf, Filter(type=pattern), limit)

    means = Glob(pattern)
    matching = [n for n, t in enumerate(types) if means.matches(t.replace("\0", "") or "x")]
    assert found == [str(n) for n in reversed(matching)]


@given(
    errors=st.lists(TEXTS, max_size=8),
    q=st.lists(PIECES, min_size=1, max_size=2).map("".join) | st.text(min_size=1, max_size=2),
)
@settings(max_examples=60)
def test_any_text_is_found_as_it_stands(
    empty_shelf: Shelf, make: Make, errors: list[str], q: str
) -> None:
    """No wildcard, no end at a NUL, no case."""
    items = [make(f"{n}", error=error, id="i", source="/") for n, error in enumerate(errors)]
    put(empty_shelf, items)

    found = {int(id.split(".")[0]) for id in empty_shelf.ids_matching(Filter(q=q))}

    elsewhere = "i\x1f/\x1f\x1f"
    assert found == {n for n, e in enumerate(errors) if q.casefold() in (elsewhere + e).casefold()}


class TestAlong:
    def test_goes_on_by_acceptance_whatever_matches(self, shelf: Shelf, make: Make) -> None:
        """Few are looked at a call, so that none is long; those of an event are together."""
        for number in range(9, -1, -1):
            for topic in ("db", "email"):
                state = "dead" if number % 2 else "parked"
                shelf.keep([make(f"r{number}", topic=topic, state=state, since=float(-number))])

        which, after, found, calls = Filter(topic="email", state="dead"), None, [], 0
        while True:
            items, after = shelf.along(which, after, 3)
            found += [kept.delivery.id for kept in items]
            calls += 1
            if after is None:
                break

        assert found == [f"r{number}.email" for number in (1, 3, 5, 7, 9)]
        assert calls == 8

    def test_what_comes_and_goes_moves_no_other(self, shelf: Shelf, make: Make) -> None:
        shelf.keep([make(ref) for ref in "abd"])
        first, after = shelf.along(Filter(), None, 2)
        shelf.forget([("b.email", 3)])
        shelf.keep([make("c")])
        rest, _ = shelf.along(Filter(), after, 2)

        assert [kept.delivery.ref for kept in (*first, *rest)] == ["a", "b", "c", "d"]
