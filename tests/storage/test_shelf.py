"""What is kept, forgotten and due: hops fence every change, and time orders what comes back."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest

from eventflow.delivery import Reason
from eventflow.errors import StorageUnavailable
from eventflow.storage import bulk, schema
from eventflow.storage.protocol import Filter

if TYPE_CHECKING:
    from collections.abc import Callable

    import apsw

    from eventflow.storage.protocol import Kept
    from eventflow.storage.shelf import Shelf

    Make = Callable[..., Kept]


class TestKeep:
    def test_what_is_kept_is_read_as_it_was(self, shelf: Shelf, make: Make) -> None:
        items = [
            make("r1", since=1_760_000_000.123456),
            make("r2", state="dead", reason=Reason.PERMANENT),
            make("r3", failed=False, data=bytes(range(256))),
            make("r4", error="\0 nul, ' quote, \ue000 and \U0001f600", subject="Ünïcode"),
        ]

        shelf.keep(items)

        assert shelf.get([kept.delivery.id for kept in items]) == items

    def test_a_greater_hop_takes_the_place_of_what_was_held(self, shelf: Shelf, make: Make) -> None:
        shelf.keep([make(hop=3, state="parked")])
        newer = make(hop=4, state="dead", reason=Reason.EXPIRED, cause="other", topic="email")

        shelf.keep([newer])

        assert shelf.get(["r1.email"]) == [newer]
        assert shelf.next_due("email") is None
        assert shelf.totals() == {("email", "dead"): (1, newer.size_bytes)}
        assert shelf.count(Filter(cause="other")) == 1

    @pytest.mark.parametrize("hop", [2, 3])
    def test_the_same_or_a_smaller_hop_changes_nothing(
        self, shelf: Shelf, make: Make, hop: int
    ) -> None:
        first = make(hop=3)
        shelf.keep([first])

        shelf.keep([make(hop=hop, state="dead")])

        assert shelf.get(["r1.email"]) == [first]

    @pytest.mark.parametrize("hops", [(1, 2), (2, 1), (2, 2)])
    def test_within_a_batch_the_greatest_hop_stays(
        self, shelf: Shelf, make: Make, hops: tuple[int, int]
    ) -> None:
        shelf.keep([make(hop=hop) for hop in hops])

        assert [kept.delivery.hop for kept in shelf.get(["r1.email"])] == [2]

    def test_nothing_is_kept_of_nothing(self, shelf: Shelf) -> None:
        shelf.keep([])

        assert shelf.totals() == {}

    def test_large_bodies_take_several_statements(
        self, shelf: Shelf, make: Make, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(bulk, "PIECE_BYTES", 1_000)
        sizes = [10, 900, 5_000, 10, 10, 990, 3]
        items = [make(f"r{n}", data=bytes([n]) * size) for n, size in enumerate(sizes)]

        shelf.keep(items)

        assert shelf.get([kept.delivery.id for kept in items]) == items
        assert len(list(bulk.pieces(((), bytes(n)) for n in sizes))) == 4
        assert list(bulk.shares(enumerate(sizes), 1_000)) == [[0, 1], [2], [3, 4], [5, 6]]

    def test_it_is_part_of_the_callers_transaction(
        self, connection: apsw.Connection, shelf: Shelf, make: Make
    ) -> None:
        connection.execute("BEGIN")
        shelf.keep([make("r1"), make("r2")])
        connection.execute("ROLLBACK")

        assert shelf.totals() == {}


class TestForget:
    def test_removes_the_hop_it_was_told_and_those_before(self, shelf: Shelf, make: Make) -> None:
        shelf.keep([make("r1", hop=3), make("r2", hop=3), make("r3", hop=3), make("r4", hop=3)])

        existed = shelf.forget(
            [("r1.email", 3), ("r2.email", 9), ("r3.email", 2), ("gone.email", 1)]
        )

        assert existed == [True, True, False, False]
        assert shelf.ids_matching(Filter()) == ["r3.email", "r4.email"]

    def test_of_the_same_one_told_twice_only_the_first_was_there(
        self, shelf: Shelf, make: Make
    ) -> None:
        """Two recoveries in one commit must not both bring it back."""
        shelf.keep([make("r1", hop=3)])

        assert shelf.forget([("r1.email", 2), ("r1.email", 3), ("r1.email", 3)]) == [
            *(False, True, False)
        ]
        assert shelf.totals() == {}

    def test_nothing_and_hostile_ids(self, shelf: Shelf, make: Make) -> None:
        shelf.keep([make("r1")])

        assert shelf.forget([]) == []
        assert shelf.forget([("' OR 1=1 --", 9), ("\ud800", 9), ("%", 9)]) == [False] * 3
        assert shelf.count(Filter()) == 1


class TestDue:
    def test_the_earliest_due_first_then_the_earliest_accepted(
        self, shelf: Shelf, make: Make
    ) -> None:
        shelf.keep(
            [
                make("r5", due_at=50.0),
                make("r4", due_at=40.0),
                make("r2", due_at=30.0),
                make("r1", due_at=30.0),
                make("r9", due_at=60.000001),
            ]
        )

        def refs(now: float, limit: int = 9) -> list[str]:
            return [kept.delivery.ref for kept in shelf.due("email", now, limit)]

        assert refs(60.0) == ["r1", "r2", "r4", "r5"]
        assert refs(60.0, limit=2) == ["r1", "r2"]
        assert refs(29.999999) == []

    def test_only_what_is_parked_for_this_topic(self, shelf: Shelf, make: Make) -> None:
        shelf.keep([make("r1", state="dead"), make("r2", topic="db"), make("r3", due_at=5.0)])

        assert [kept.delivery.ref for kept in shelf.due("email", 9e9, 10)] == ["r3"]
        assert shelf.next_due("api") is None
        assert shelf.next_due("db") == 2_000.0

    def test_what_has_expired_is_due_before_its_time(self, shelf: Shelf, make: Make) -> None:
        expiring = {"expirytime": "1970-01-01T00:10:00Z"}
        shelf.keep(
            [
                make("r1", due_at=2_000.0, extensions=expiring),
                make("r2", due_at=2_000.0, extensions=expiring, expiry_lifted=True),
                make("r3", due_at=500.0, extensions=expiring),
            ]
        )

        assert shelf.next_due("email") == 500.0
        assert [kept.delivery.ref for kept in shelf.due("email", 600.0, 9)] == ["r3", "r1"]

    def test_next_due_is_a_moment_at_which_it_is_due(self, shelf: Shelf, make: Make) -> None:
        """Whoever sleeps until then must not find nothing and sleep again."""
        for n in range(50):
            shelf.keep([make(f"r{n}", topic=f"t{n}", due_at=1_760_000_000 + n / 7)])
            at = shelf.next_due(f"t{n}")

            assert at is not None
            assert len(shelf.due(f"t{n}", at, 1)) == 1

    def test_what_is_never_due_can_be_kept(self, shelf: Shelf, make: Make) -> None:
        shelf.keep([make(due_at=math.inf)])

        assert shelf.due("email", 1e11, 9) == []
        assert shelf.get(["r1.email"])[0].delivery.due_at == math.inf

    def test_parked_without_a_due_time_is_due_since_it_came(self, shelf: Shelf, make: Make) -> None:
        shelf.keep([make(due_at=None, since=70.0)])

        assert shelf.next_due("email") == 70.0


class TestLookUp:
    def test_get_keeps_the_order_asked_for_and_leaves_out_what_is_not_here(
        self, shelf: Shelf, make: Make
    ) -> None:
        shelf.keep([make("r1"), make("r2"), make("r3")])

        found = shelf.get(["r3.email", "r0.email", "r1.email", "r3.email", "\udcff"])

        assert [kept.delivery.ref for kept in found] == ["r3", "r1"]
        assert shelf.get([]) == []

    def test_find_returns_the_deliveries_of_one_event(self, shelf: Shelf, make: Make) -> None:
        shelf.keep(
            [
                make("r1", topic="email"),
                make("r1", topic="db"),
                make("r10"),
                make("r"),
                make("r1.x"),
            ]
        )

        assert [kept.delivery.id for kept in shelf.find("r1")] == ["r1.db", "r1.email"]
        assert shelf.find("") == shelf.find("r1.db") == shelf.find("r_") == []

    def test_find_event_takes_source_and_id_together(self, shelf: Shelf, make: Make) -> None:
        shelf.keep(
            [
                make("r1", source="/a", id="1"),
                make("r2", source="/a", id="1", topic="db"),
                make("r3", source="/b", id="1"),
                make("r4", source="/a", id="2"),
            ]
        )

        assert [k.delivery.ref for k in shelf.find_event("/a", "1")] == ["r1", "r2"]
        assert [k.delivery.ref for k in shelf.find_event("/b", "1")] == ["r3"]
        assert shelf.find_event("/a", "3") == shelf.find_event("\ud800", "1") == []

    def test_two_events_may_share_half_a_key(
        self, connection: apsw.Connection, shelf: Shelf, make: Make
    ) -> None:
        shelf.keep([make("r1", id="1"), make("r2", id="2")])
        connection.execute(
            "UPDATE kept SET event_key = (SELECT event_key FROM kept WHERE ref = 'r1')"
        )

        assert [k.delivery.ref for k in shelf.find_event("/shop", "1")] == ["r1"]

    def test_a_delivery_of_a_newer_release_is_named(
        self, connection: apsw.Connection, shelf: Shelf, make: Make
    ) -> None:
        shelf.keep([make("r1"), make("r2")])
        connection.execute("UPDATE kept SET body = x'9302c0c0' WHERE id = 'r2.email'")

        with pytest.raises(StorageUnavailable, match=r"delivery r2\.email is written in format 2"):
            shelf.page(Filter())
        assert len(shelf.get(["r1.email"])) == 1


def test_totals_are_counted(shelf: Shelf, make: Make) -> None:
    items = [
        *(make(f"p{n}") for n in range(3)),
        *(make(f"d{n}", state="dead", data="x" * n) for n in range(2)),
        make("p1", topic="db"),
    ]
    shelf.keep(items)

    assert shelf.totals() == {
        ("email", "parked"): (3, sum(kept.size_bytes for kept in items[:3])),
        ("email", "dead"): (2, sum(kept.size_bytes for kept in items[3:5])),
        ("db", "parked"): (1, items[5].size_bytes),
    }


def test_overrides_come_back_until_they_are_taken_away(shelf: Shelf) -> None:
    assert shelf.overrides() == {}

    shelf.set_override("email", {"rate": "5/s", "paused": True, "retry": {"factor": 1.5}})
    shelf.set_override("db", {"capacity": 1})
    shelf.set_override("db", {"capacity": 0})
    assert shelf.overrides() == {
        "db": {"capacity": 0},
        "email": {"rate": "5/s", "paused": True, "retry": {"factor": 1.5}},
    }

    shelf.set_override("email", None)
    shelf.set_override("email", None)
    assert shelf.overrides() == {"db": {"capacity": 0}}


def test_the_tables_are_made_step_by_step(connection: apsw.Connection) -> None:
    """A file that has been through all steps is left as it is."""
    schema.create(connection, held=len(schema.STEPS))

    strict = {name: is_strict for _, name, _, _, _, is_strict in connection.pragma("table_list")}
    assert {name for name, is_strict in strict.items() if is_strict} == {
        "kept",
        "audit",
        "override",
    }
