"""The trail in its table: one writer a chain, in the caller's transaction."""

from __future__ import annotations

import hashlib
from time import perf_counter
from typing import Any

import apsw
import pytest

from eventflow.storage import bulk, schema
from eventflow.storage.audit import AuditLog, Check

SHA256 = hashlib.sha256


@pytest.fixture
def log(connection: apsw.Connection) -> AuditLog:
    return AuditLog(connection, "n1")


def rows(*refs: str, at: float = 1.0) -> list[dict[str, Any]]:
    return [{"at": at + n, "what": "delivery.retry", "ref": ref} for n, ref in enumerate(refs)]


def test_rows_are_chained_numbered_and_say_so(log: AuditLog) -> None:
    log.append(rows("a", "b"))
    log.append(rows("a", at=3.0))

    first, second = log.trail("a", 9)

    assert first.row == (
        b'{"at":"1970-01-01T00:00:01.000000Z","chain":"n1","format":1,"ref":"a","seq":1,'
        b'"what":"delivery.retry"}'
    )
    assert first.hash == SHA256(bytes(32) + first.row).digest()
    (between,) = log.trail("b", 9)
    assert second.hash == SHA256(between.hash + second.row).digest()
    assert (first.seq, between.seq, second.seq) == (1, 2, 3)


def test_a_chain_goes_on_where_it_was_left(connection: apsw.Connection, log: AuditLog) -> None:
    log.append(rows("a"))
    AuditLog(connection, "n1").append(rows("b"))

    assert log.verify().rows == 2
    assert log.verify().ok


def test_an_undone_transaction_leaves_no_gap(connection: apsw.Connection, log: AuditLog) -> None:
    log.append(rows("a"))
    connection.execute("BEGIN")
    log.append(rows("b", "c"))
    connection.execute("ROLLBACK")
    log.append(rows("d"))

    assert log.verify().ok
    assert log.heads()[0].seq == 2


def test_no_rows_write_nothing(log: AuditLog) -> None:
    log.append([])

    assert log.heads() == []
    assert log.verify().ok


@pytest.mark.parametrize("bad", [{"what": "x"}, {"at": 1, "x": b""}, {"at": "noon"}])
def test_a_row_that_cannot_be_written_writes_none_of_its_batch(
    log: AuditLog, bad: dict[str, Any]
) -> None:
    with pytest.raises((KeyError, TypeError, ValueError)):
        log.append([*rows("a"), bad])

    assert log.heads() == []


def test_a_rows_own_chain_seq_and_format_do_not_count(log: AuditLog) -> None:
    log.append([{"at": 1, "chain": "n2", "seq": 9, "format": 2}])

    assert log.verify().ok
    assert [(head.chain, head.seq) for head in log.heads()] == [("n1", 1)]


def test_large_rows_take_several_statements(log: AuditLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk, "PIECE_BYTES", 500)

    log.append([{"at": 1, "ref": "a", "why": "x" * n} for n in (1, 400, 900, 3)])

    assert log.verify().ok
    assert [row.seq for row in log.trail("a", 9)] == [1, 2, 3, 4]


def test_the_trail_of_an_event_crosses_chains_in_order_of_time(
    connection: apsw.Connection, log: AuditLog
) -> None:
    log.append([*rows("a", at=5.0), *rows("b", at=6.0), *rows("a", at=7.0)])
    AuditLog(connection, "n0").append([*rows("a", at=6.0), {"at": "1970-01-01T01:00:05+01:00"}])
    AuditLog(connection, "n2").append(rows("a", at=5.0))

    assert [(row.chain, row.seq) for row in log.trail("a", 9)] == [
        *(("n1", 1), ("n2", 1), ("n0", 1), ("n1", 3)),
    ]
    assert [(row.chain, row.seq) for row in log.trail("a", 2)] == [("n1", 1), ("n2", 1)]
    assert log.trail("", 9) == log.trail("' OR 1=1", 9) == log.trail("\ud800", 9) == []


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE audit SET row = CAST(replace(CAST(row AS TEXT), 'retry', 'RETRY') AS BLOB)",
        "UPDATE audit SET row = x'00' WHERE seq = 1",
        "UPDATE audit SET hash = x'0102' WHERE seq = 3",
        "UPDATE audit SET hash = x'' WHERE seq = 3",
        "DELETE FROM audit WHERE seq = 2",
        "UPDATE audit SET chain = 'n9' WHERE seq > 1",
        "UPDATE audit SET seq = 17 - seq",
        "UPDATE audit SET ref = 'another' WHERE seq = 2",
        "UPDATE audit SET ref = NULL WHERE seq = 2",
    ],
)
def test_a_hand_in_the_table_is_found(
    connection: apsw.Connection, log: AuditLog, damage: str
) -> None:
    """The ref a row is filed under too: a trail must not lack rows that are there."""
    log.append(rows("a", "b", "c", "d"))

    connection.execute(damage)

    assert not log.verify().ok


def test_a_cut_tail_is_found_against_what_was_sealed(
    connection: apsw.Connection, log: AuditLog
) -> None:
    log.append(rows("a", "b", "c"))
    sealed = log.seal(60.0)

    connection.execute("DELETE FROM audit WHERE seq = 3")

    assert log.verify().ok
    assert not log.verify(sealed).ok
    assert log.verify(sealed).against == "an exported head"


def test_each_growth_is_sealed_once(connection: apsw.Connection, log: AuditLog) -> None:
    assert log.seal(1.0) == []
    log.append(rows("a", "b"))
    AuditLog(connection, "n0").append(rows("a"))

    sealed = log.seal(60.0)
    assert [(head.chain, head.seq, head.at) for head in sealed] == [
        *(("n0", 1, 60.0), ("n1", 2, 60.0)),
    ]
    assert log.seal(120.0) == []

    log.append(rows("c"))
    assert [(head.chain, head.seq) for head in log.seal(180.0)] == [("n1", 3)]
    assert [head.seq for head in log.heads()] == [1, 3]


def test_under_a_key_another_key_finds_fault(connection: apsw.Connection) -> None:
    AuditLog(connection, "n1", b"k").append(rows("a", "b"))

    assert AuditLog(connection, "n1", b"k").verify().ok
    assert AuditLog(connection, "n1", b"k").verify().against == "the key"
    assert not AuditLog(connection, "n1", b"j").verify().ok
    assert not AuditLog(connection, "n1").verify().ok


def test_a_check_goes_on_while_rows_are_added(connection: apsw.Connection) -> None:
    """A long trail is checked between commits, not instead of them."""
    log = AuditLog(connection, "n1", b"k")
    log.append(rows(*"a" * 3_000))
    check = Check(b"k")

    assert log.advance(check)
    assert check.position == ("n1", 2_000)
    log.append(rows("b"))
    assert log.advance(check)
    assert not log.advance(check)

    assert check.verdict().ok
    assert check.verdict().rows == 3_001


@pytest.mark.slow
def test_twenty_thousand_rows_take_less_than_a_second_or_so() -> None:
    """Measured 0.6 s for rows of 35 values; five times that is a change to look into."""
    connection = apsw.Connection(":memory:")
    schema.create(connection)
    log = AuditLog(connection, "n1")
    many = [
        {"at": 1.7e9 + n, "ref": f"r{n}", "what": "delivery.retry", "because": {"draw": 0.5}}
        for n in range(20_000)
    ]

    began = perf_counter()
    log.append(many)
    taken_s = perf_counter() - began

    assert taken_s < 3
