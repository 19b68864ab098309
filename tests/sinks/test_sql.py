"""The sql sink on SQLite files: what it writes, what faults mean, how far they reach."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import Connection, Engine
from sqlalchemy.event import listen, remove

from eventflow.app.build import handlers_of, topics_of
from eventflow.config import Column, SqlSinkSettings, parse
from eventflow.config.secret import Secret
from eventflow.delivery import Delivery
from eventflow.errors import ConfigError
from eventflow.event import Event, from_parts
from eventflow.sinks.sql import SqlSink

if TYPE_CHECKING:
    from pathlib import Path

    from eventflow.sinks.base import SinkError

COLUMNS = {"email": "event.data.email"}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A database with a table of users."""
    path = tmp_path / "shop.db"
    execute(
        path,
        "CREATE TABLE users (event_key TEXT PRIMARY KEY, email TEXT NOT NULL CHECK (email != ''))",
    )
    return path


def execute(path: Path, statement: str, *values: Any) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(path)) as database, database:
        return database.execute(statement, values).fetchall()


def sink_on(path: Path, *, columns: dict[str, str] = COLUMNS, **keys: Any) -> SqlSink:
    settings = SqlSinkSettings(
        type="sql",
        url=Secret(f"sqlite:///{path}"),
        table=keys.pop("table", "users"),
        columns=tuple(Column(name=name, value=value) for name, value in columns.items()),
        timeout_s=keys.pop("timeout_s", 0.01),
        **keys,
    )
    return SqlSink(settings, concurrency=2)


def event(number: int = 1, **data: Any) -> Event:
    return Event(
        type="user.registered",
        source="/shop",
        id=str(number),
        data=data or {"email": f"{number}@example.org"},
        time="2026-11-25T08:00:00Z",
    )


def deliver(sink: SqlSink, *events: Event) -> list[SinkError | None]:
    deliveries = [Delivery(one, f"019{n}", "db", 0.0) for n, one in enumerate(events)]
    return sink.deliver_batch(events, deliveries)


def failures(sink: SqlSink, *events: Event) -> list[tuple[str, bool] | None]:
    """Return cause and permanence of each."""
    said = deliver(sink, *events)
    return [None if one is None else (one.failed.cause, one.failed.permanent) for one in said]


def error(sink: SqlSink, *events: Event) -> str:
    """Return the one message that all of them got."""
    (message,) = {str(one) for one in deliver(sink, *events)}
    return message


class TestARow:
    def test_holds_what_the_columns_say(self, file: Path) -> None:
        assert deliver(sink_on(file), event(1), event(2)) == [None, None]

        rows = execute(file, "SELECT * FROM users ORDER BY email")
        assert rows == [(event(1).key, "1@example.org"), (event(2).key, "2@example.org")]

    def test_is_written_once_however_often_it_comes(self, file: Path) -> None:
        sink = sink_on(file)

        assert deliver(sink, event(1), event(1)) == [None, None]
        assert deliver(sink, event(1), event(2)) == [None, None]
        assert execute(file, "SELECT count(*) FROM users") == [(2,)]

    def test_that_is_there_stays_as_it_is(self, file: Path) -> None:
        deliver(sink_on(file), event(1, email="old"))
        deliver(sink_on(file), event(1, email="new"))

        assert execute(file, "SELECT email FROM users") == [("old",)]

    def test_that_is_there_is_updated_if_asked(self, file: Path) -> None:
        deliver(sink_on(file, on_conflict="update"), event(1, email="old"))
        deliver(sink_on(file, on_conflict="update"), event(1, email="new"))

        assert execute(file, "SELECT email FROM users") == [("new",)]

    def test_of_one_key_that_comes_twice_in_a_batch_is_the_last_one(self, tmp_path: Path) -> None:
        path = tmp_path / "a.db"
        sink = sink_on(
            path,
            columns={"email": "event.data.email", "name": "event.data.name"},
            key=("email",),
            on_conflict="update",
            create=True,
        )

        deliver(sink, *(event(n, email="a@b", name=f"name {n}") for n in range(20)))

        assert execute(path, "SELECT * FROM users") == [("a@b", "name 19")]

    def test_needs_no_other_column_than_its_key(self, tmp_path: Path) -> None:
        path = tmp_path / "a.db"

        assert deliver(sink_on(path, columns={}, create=True, on_conflict="update"), event()) == [
            None
        ]
        assert execute(path, "SELECT * FROM users") == [(event().key,)]

    def test_may_know_of_its_delivery(self, tmp_path: Path) -> None:
        path = tmp_path / "a.db"
        deliver(sink_on(path, columns={"id": "delivery.id"}, create=True), event())

        assert execute(path, "SELECT id FROM users") == [("0190.db",)]

    @pytest.mark.parametrize(
        ("value", "stored"),
        [
            ("Zoë ☕ \U0001f600", "Zoë ☕ \U0001f600"),
            ("'); DROP TABLE users; --", "'); DROP TABLE users; --"),
            (12, 12),
            (12.5, 12.5),
            (True, 1),
            (None, None),
            ([1, "b"], '[1,"b"]'),
            ({"a": {"b": None}}, '{"a":{"b":null}}'),
        ],
    )
    def test_holds_values_of_any_kind(self, value: Any, stored: Any, tmp_path: Path) -> None:
        path = tmp_path / "a.db"
        execute(path, "CREATE TABLE users (event_key PRIMARY KEY, value)")

        assert deliver(sink_on(path, columns={"value": "event.data.v"}), event(v=value)) == [None]
        assert execute(path, "SELECT value FROM users") == [(stored,)]

    def test_holds_json_where_the_column_does(self, tmp_path: Path) -> None:
        """A text too: '"a"' is JSON, 'a' is none."""
        path = tmp_path / "a.db"
        execute(path, "CREATE TABLE users (event_key PRIMARY KEY, value JSON)")
        sink = sink_on(path, columns={"value": "event.data.v"})

        deliver(sink, event(1, v="a"), event(2, v={"b": [1]}), event(3, v=7))

        rows = execute(path, "SELECT value FROM users")
        assert sorted(str(json.loads(str(row[0]))) for row in rows) == ["7", "a", "{'b': [1]}"]

    def test_holds_bytes(self, tmp_path: Path) -> None:
        path = tmp_path / "a.db"
        one = Event(type="a", source="/", data=b"\xff\x00")

        execute(path, "CREATE TABLE users (event_key PRIMARY KEY, body BLOB)")
        deliver(sink_on(path, columns={"body": "event.data"}), one)

        assert execute(path, "SELECT body FROM users") == [(b"\xff\x00",)]

    def test_goes_to_names_that_need_quotes(self, tmp_path: Path) -> None:
        path = tmp_path / "a.db"
        columns = {"order": "event.data.email", "größe in %(s)s": "event.id", "a:b": "event.type"}
        sink = sink_on(path, table="group", columns=columns, create=True)

        assert deliver(sink, event()) == [None]
        assert execute(path, 'SELECT * FROM "group"') == [
            (event().key, "1@example.org", "1", "user.registered")
        ]

    def test_goes_to_columns_written_in_another_case(self, file: Path) -> None:
        """To SQLite Email and email are one column."""
        assert deliver(sink_on(file, columns={"Email": "event.data.email"}), event()) == [None]


class TestAFaultyRow:
    def test_costs_no_other(self, file: Path) -> None:
        """The 7th of 200 breaks a constraint, the 100th lacks a field, the 150th is no JSON."""
        broken = from_parts("no json", "/shop", "a", b"{", None, None, "application/json", None)
        events = [event(n) for n in range(200)]
        events[7], events[100] = event(7, email=""), event(100, name="Ada")
        events[150] = broken

        said = failures(sink_on(file), *events)

        assert {place: one for place, one in enumerate(said) if one} == {
            7: ("IntegrityError", True),
            100: ("ExpressionError", True),
            150: ("ExpressionError", True),
        }
        assert execute(file, "SELECT count(*) FROM users") == [(197,)]

    def test_among_many_that_are_all_faulty(self, file: Path) -> None:
        said = failures(sink_on(file), *(event(n, email="") for n in range(20)), event(20))

        assert said == [("IntegrityError", True)] * 20 + [None]

    def test_among_thousands_costs_one_commit(self, file: Path) -> None:
        """A commit a half took 40 s with a tenth of 10,000 rows faulty: longer than any timeout."""
        commits: list[str] = []
        sink = sink_on(file)

        def noted(connection: Connection) -> None:
            del connection
            commits.append("commit")

        listen(Engine, "commit", noted)
        try:
            said = failures(sink, *(event(n, email="" if n % 10 else "a") for n in range(200)))
        finally:
            remove(Engine, "commit", noted)

        assert said.count(None) == 20
        assert len(commits) == 2  # one to look at the table

    def test_says_what_is_wrong_with_it(self, file: Path) -> None:
        sink = sink_on(file)

        assert error(sink, event(email="")) == "CHECK constraint failed: email != ''"
        assert error(sink, event(email=None)) == "NOT NULL constraint failed: users.email"
        assert error(sink, event(x=1)) == "event.data.email: there is no 'email'"

    def test_with_a_number_that_is_too_large(self, file: Path) -> None:
        """Its JSON is right, and no integer of a database holds it."""
        sink = sink_on(file)

        assert failures(sink, event(1), event(2, email=2**63)) == [None, ("DataError", True)]

    def test_without_what_tells_it_apart(self, tmp_path: Path) -> None:
        """NULL is like nothing else, also not like itself: each delivery would make a row."""
        sink = sink_on(tmp_path / "a.db", key=("email",), create=True)

        assert failures(sink, event(email=None)) == [("ExpressionError", True)]
        assert "email: expected a value, for it tells rows apart" in error(sink, event(email=None))

    def test_of_another_unique_column(self, tmp_path: Path) -> None:
        """Another event with the same mail address is no repetition of this one."""
        path = tmp_path / "a.db"
        execute(path, "CREATE TABLE users (event_key PRIMARY KEY, email UNIQUE)")

        said = failures(sink_on(path), event(1, email="a"), event(2, email="a"), event(3))

        assert said.count(("IntegrityError", True)) == 1
        assert execute(path, "SELECT count(*) FROM users") == [(2,)]


class TestADatabaseInTrouble:
    def test_that_is_locked(self, file: Path) -> None:
        sink = sink_on(file)
        with closing(sqlite3.connect(file)) as other:
            other.execute("BEGIN EXCLUSIVE")
            assert failures(sink, event(1), event(2)) == [("OperationalError", False)] * 2
            assert error(sink, event()) == "database is locked"

        assert failures(sink, event(1), event(2)) == [None, None]

    def test_that_is_locked_when_it_is_known_already(self, file: Path) -> None:
        sink = sink_on(file)
        deliver(sink, event(0))
        with closing(sqlite3.connect(file)) as other:
            other.execute("BEGIN IMMEDIATE")
            assert failures(sink, event(1), event(2)) == [("OperationalError", False)] * 2

        assert failures(sink, event(1), event(2)) == [None, None]
        assert execute(file, "SELECT count(*) FROM users") == [(3,)]

    def test_that_goes_away_and_comes_back(self, file: Path) -> None:
        sink = sink_on(file)
        deliver(sink, event(1))
        away = file.rename(file.with_suffix(".away"))

        assert failures(sink, event(2)) == [("OperationalError", False)]
        assert not file.exists()

        away.rename(file)
        assert failures(sink, event(2)) == [None]
        assert execute(file, "SELECT count(*) FROM users") == [(2,)]

    def test_whose_file_is_no_database(self, tmp_path: Path) -> None:
        path = tmp_path / "a.db"
        path.write_text("This is a text, and not a database." * 100)

        assert failures(sink_on(path), event(1), event(2)) == [("DatabaseError", False)] * 2

    def test_that_can_only_be_read(self, file: Path) -> None:
        sink = sink_on(file.parent / "nowhere" / "a.db", create=True)

        assert failures(sink, event()) == [("OperationalError", False)]

    def test_does_not_keep_the_node_from_starting(self, tmp_path: Path) -> None:
        sink_on(tmp_path / "nowhere.db")

        assert not (tmp_path / "nowhere.db").exists()


class TestATable:
    def test_that_is_missing(self, tmp_path: Path) -> None:
        path = tmp_path / "a.db"
        execute(path, "CREATE TABLE other (a)")
        sink = sink_on(path)

        assert failures(sink, event()) == [("TableMismatch", False)]
        assert error(sink, event()) == ("there is no table 'users'. Make it, or set create = true")
        execute(path, "CREATE TABLE users (event_key PRIMARY KEY, email)")
        assert deliver(sink, event()) == [None]

    def test_that_lacks_a_column(self, file: Path) -> None:
        sink = sink_on(file, columns={"emial": "event.data.email"})

        assert error(sink, event()) == (
            "table 'users' has no column 'emial'; it has 'event_key', 'email'. "
            "Did you mean 'email'?"
        )
        assert failures(sink, event()) == [("TableMismatch", False)]

    def test_that_loses_a_column_meanwhile(self, file: Path) -> None:
        sink = sink_on(file)
        deliver(sink, event(1))
        execute(file, "ALTER TABLE users RENAME COLUMN email TO mail")

        assert failures(sink, event(2), event(3)) == [("OperationalError", False)] * 2
        assert failures(sink, event(2), event(3)) == [("TableMismatch", False)] * 2

        execute(file, "ALTER TABLE users RENAME COLUMN mail TO email")
        assert deliver(sink, event(2), event(3)) == [None, None]

    def test_that_cannot_tell_rows_apart(self, tmp_path: Path) -> None:
        path = tmp_path / "a.db"
        execute(path, "CREATE TABLE users (event_key, email)")
        sink = sink_on(path)

        assert failures(sink, event()) == [("TableMismatch", False)]
        assert "has no primary key or unique index of (event_key)" in error(sink, event())

        execute(path, "CREATE UNIQUE INDEX by_key ON users (event_key)")
        assert deliver(sink, event()) == [None]

    def test_is_made_if_asked(self, tmp_path: Path) -> None:
        path = tmp_path / "new.db"
        columns = {
            "at": "event.time",
            "data": "event.data",
            "total": "double(event.data.total)",
            "count": "int(event.data.count)",
            "paid": "bool(event.data.paid)",
            "who": "event.data.who",
        }
        sink = sink_on(path, columns=columns, create=True)
        one = event(total="12.50", count="3", paid=True, who="Ada")

        assert deliver(sink, one) == [None]
        types = {name: kind for _, name, kind, *_ in execute(path, "PRAGMA table_info(users)")}
        assert types == {
            "event_key": "TEXT",
            "at": "TIMESTAMP",
            "data": "JSON",
            "total": "DOUBLE",
            "count": "BIGINT",
            "paid": "BOOLEAN",
            "who": "TEXT",
        }
        assert execute(path, "SELECT total, count, paid, who, at FROM users") == [
            (12.5, 3, 1, "Ada", "2026-11-25T08:00:00Z")
        ]
        assert deliver(sink_on(path, columns=columns, create=True), one) == [None]


class TestTheSettings:
    def test_that_are_no_cel_are_told_all_at_once(self, tmp_path: Path) -> None:
        columns = {"a": "event.", "b": "evnt.id", "c": "header['x']", "d": "event.id"}
        with pytest.raises(ConfigError) as caught:
            sink_on(tmp_path / "a.db", columns=columns)

        told = caught.value.problems
        assert [problem.partition(":")[0] for problem in told] == [
            "sink.columns.a",
            "sink.columns.b",
            "sink.columns.c",
        ]


def test_batches_do_not_wait_for_each_other(file: Path) -> None:
    """SQLite lets one write: sixteen that do would each time out behind the others' work."""
    settings = parse(
        f"""
        [topics.db]
        match = "**"
        concurrency = 16
        sink = {{ type = "sql", url = "sqlite:///{file}", table = "users", columns = {{}} }}
        """,
        name="",
        environ={},
    )
    (topic,) = topics_of(handlers_of(settings, {}))

    assert topic.concurrency == 1
