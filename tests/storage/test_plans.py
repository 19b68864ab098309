"""Every statement on the way finds its rows by an index, in order, however many there are.

What is asserted are the plans of the statements as they are sent, not of copies of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from eventflow.storage.audit import AuditLog
from eventflow.storage.protocol import Filter

if TYPE_CHECKING:
    from collections.abc import Callable

    import apsw

    from eventflow.storage.protocol import Kept
    from eventflow.storage.shelf import Shelf

    Make = Callable[..., Kept]
    Plan = Callable[[Callable[[], Any]], list[str]]


@pytest.fixture
def plan(connection: apsw.Connection) -> Plan:
    """A function that runs another and returns the plans of what it sent to SQLite."""

    def plans(act: Callable[[], Any]) -> list[str]:
        sent: list[tuple[str, Any]] = []

        def note(_: apsw.Cursor, sql: str, values: Any) -> bool:
            sent.append((sql, values))
            return True

        connection.exec_trace = note
        act()
        connection.exec_trace = None
        assert sent
        steps: list[str] = []
        for sql, values in sent:
            steps += [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {sql}", values)]
        return steps

    return plans


def walks(steps: list[str]) -> list[str]:
    """Return the steps that read a whole table, or sort."""
    return [
        step
        for step in steps
        if step.startswith(("SCAN kept", "SCAN audit", "SCAN k ", "USE TEMP B-TREE"))
    ]


def cursor(shelf: Shelf) -> str:
    found = shelf.page(Filter(state="parked"), limit=1).cursor
    assert found is not None
    return found


HOT: dict[str, tuple[Callable[[Shelf, list[Kept]], Any], str]] = {
    "keep": (lambda shelf, items: shelf.keep(items), "SCAN jsonb_each"),
    "forget": (lambda shelf, items: shelf.forget([(items[0].delivery.id, 1)]), "kept_id (id=?)"),
    "due": (
        lambda shelf, _: shelf.due("email", 1e9, 9),
        "kept_due (topic=? AND wake_at_us<?)",
    ),
    "next_due": (lambda shelf, _: shelf.next_due("email"), "COVERING INDEX kept_due (topic=?)"),
    "get": (lambda shelf, _: shelf.get(["r1.email"]), "kept_id (id=?)"),
    "find": (lambda shelf, _: shelf.find("r1"), "kept_id (id>? AND id<?)"),
    "find_event": (lambda shelf, _: shelf.find_event("/", "1"), "kept_event (event_key=?)"),
    "page": (
        lambda shelf, _: shelf.page(Filter(), cursor(shelf)),
        "kept_listed (state=? AND since_us<?)",
    ),
    "page of a topic": (
        lambda shelf, _: shelf.page(Filter(topic="email", cause="x", q="x", type="user.a")),
        "kept_listed (state=?)",
    ),
    "page of a group": (
        lambda shelf, _: shelf.page(
            Filter(state="parked", topic="email", reason="r", fingerprint="f"), cursor(shelf)
        ),
        "kept_alike (state=? AND topic=? AND reason=? AND fingerprint=? AND since_us<?)",
    ),
    "count": (
        lambda shelf, _: shelf.count(Filter(topic="email", reason="r")),
        "COVERING INDEX kept_listed",
    ),
    "ids_matching": (lambda shelf, _: shelf.ids_matching(Filter()), "kept_listed (state=?)"),
}


@pytest.mark.parametrize("name", HOT)
def test_no_table_is_read_as_a_whole_and_nothing_is_sorted(
    plan: Plan, shelf: Shelf, make: Make, name: str
) -> None:
    act, index = HOT[name]
    items = [make(f"r{n}") for n in range(3)]
    shelf.keep(items)

    steps = plan(lambda: act(shelf, items))

    assert walks(steps) == []
    assert any(index in step for step in steps), steps


def test_what_counts_everything_reads_an_index_alone(plan: Plan, shelf: Shelf, make: Make) -> None:
    shelf.keep([make()])

    assert plan(shelf.totals) == ["SCAN kept USING COVERING INDEX kept_alike"]
    assert any(
        step == "SEARCH kept USING COVERING INDEX kept_alike (state=?)"
        for step in plan(lambda: shelf.groups(Filter(state="dead")))
    )


def test_ids_are_looked_up_one_by_one_however_much_is_kept(plan: Plan, shelf: Shelf) -> None:
    steps = plan(lambda: shelf.page(Filter(state="dead", ids=("r1.email", "r2.email"))))

    assert "SEARCH kept USING INDEX kept_id (id=?)" in steps


def test_types_are_looked_up_in_an_index_alone(plan: Plan, shelf: Shelf) -> None:
    steps = plan(lambda: shelf.count(Filter(state="dead", type="user.*")))

    assert steps[1] == "SEARCH kept USING COVERING INDEX kept_listed (state=?)"


def test_the_trail_and_the_chains_go_by_index(plan: Plan, connection: apsw.Connection) -> None:
    log = AuditLog(connection, "n1")
    rows = [{"at": n, "ref": f"r{n}"} for n in range(3)]

    assert walks(plan(lambda: log.append(rows))) == []
    assert walks(plan(log.verify)) == []
    assert walks(plan(log.heads)) == []
    # A few rows of one event and moment are all that is ever sorted.
    assert walks(plan(lambda: log.trail("r1", 9))) == [
        "USE TEMP B-TREE FOR LAST 2 TERMS OF ORDER BY"
    ]
