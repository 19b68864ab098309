"""The sql sink on a real PostgreSQL: types as its columns say, errors as its SQLSTATEs say."""

from __future__ import annotations

import asyncio
import threading
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from tests.postgres_server import PASSWORD, Database, Server, running

from eventflow import EventFlow
from eventflow.config import Column, SqlSinkSettings, parse
from eventflow.config.secret import Secret
from eventflow.delivery import Delivery
from eventflow.event import Event
from eventflow.sinks.sql import SqlSink
from eventflow.testing.harness import settle

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from eventflow.sinks.base import SinkError

pytestmark = pytest.mark.slow

OUTAGE_S = 10.0


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running() as one:
        yield one


_made: list[SqlSink] = []


@pytest.fixture(autouse=True)
def all_closed() -> Iterator[None]:
    yield
    while _made:
        asyncio.run(_made.pop().close())


@pytest.fixture
def database(server: Server) -> Iterator[Database]:
    with server.database() as one:
        yield one


@pytest.fixture
def users(database: Database) -> Database:
    database.execute(
        "CREATE TABLE users (event_key text PRIMARY KEY, email varchar(20) NOT NULL UNIQUE)"
    )
    return database


def sink_on(
    url: str, columns: dict[str, str] | None = None, *, concurrency: int = 2, **keys: Any
) -> SqlSink:
    settings = SqlSinkSettings(
        type="sql",
        url=Secret(url),
        table=keys.pop("table", "users"),
        columns=tuple(
            Column(name=name, value=value)
            for name, value in (columns or {"email": "event.data.email"}).items()
        ),
        timeout_s=keys.pop("timeout_s", 5.0),
        **keys,
    )
    _made.append(SqlSink(settings, concurrency=concurrency))
    return _made[-1]


def event(number: int = 1, /, **data: Any) -> Event:
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


class TestARow:
    def test_is_written_once_however_often_it_comes(self, users: Database) -> None:
        sink = sink_on(users.url)

        assert deliver(sink, event(1), event(1), event(2)) == [None] * 3
        assert deliver(sink, event(1), event(3)) == [None] * 2
        assert users.execute("SELECT email FROM users ORDER BY 1") == [
            ("1@example.org",),
            ("2@example.org",),
            ("3@example.org",),
        ]

    def test_of_one_key_that_comes_twice_in_a_batch_is_the_last_one(self, users: Database) -> None:
        sink = sink_on(
            users.url,
            {"event_key": "event.data.k", "email": "event.data.email"},
            on_conflict="update",
        )

        deliver(sink, *(event(n, k="a", email=f"mail {n}") for n in range(20)))

        assert users.execute("SELECT * FROM users") == [("a", "mail 19")]

    @pytest.mark.parametrize(
        ("kind", "value", "stored"),
        [
            ("text", "Zoë ☕ \U0001f600", "Zoë ☕ \U0001f600"),
            ("text", 12, "12"),
            ("text", 12.5, "12.5"),
            ("text", True, "true"),
            ("text", None, None),
            ("text", {"a": [1]}, '{"a":[1]}'),
            ("integer", 12, "12"),
            ("integer", "12", "12"),
            ("bigint", 2**62, str(2**62)),
            ("numeric(10,2)", "12.345", "12.35"),
            ("numeric", 12.5, "12.5"),
            ("double precision", 1e300, "1e+300"),
            ("boolean", True, "true"),
            ("boolean", "no", "false"),
            ("timestamptz", "2026-11-26T08:00:00+02:00", "2026-11-26 06:00:00+00"),
            ("date", "2026-11-26", "2026-11-26"),
            ("interval", "PT90S", "00:01:30"),
            (
                "uuid",
                "0193F7A0-0000-7000-8000-000000000000",
                "0193f7a0-0000-7000-8000-000000000000",
            ),
            ("inet", "10.0.0.1", "10.0.0.1/32"),
            ("jsonb", {"a": [1, None, "b"]}, '{"a": [1, null, "b"]}'),
            ("jsonb", "a text", '"a text"'),
            ("jsonb", 12, "12"),
            ("jsonb", None, None),
            ("json", [1], "[1]"),
            ("text[]", "{a,b}", "{a,b}"),
            ("mood", "sad", "sad"),
        ],
    )
    def test_holds_what_its_column_reads(
        self, kind: str, value: Any, stored: str | None, database: Database
    ) -> None:
        database.execute(f"ALTER DATABASE {database.name} SET timezone = 'UTC'")
        database.execute("CREATE TYPE mood AS ENUM ('sad', 'glad')")
        database.execute(f"CREATE TABLE users (event_key text PRIMARY KEY, value {kind})")
        sink = sink_on(database.url, {"value": "event.data.v"})

        assert deliver(sink, event(v=value)) == [None]
        assert database.execute("SELECT value::text FROM users") == [(stored,)]

    @pytest.mark.parametrize(
        ("kind", "value"),
        [
            ("text[]", ["a", None, 'b "c"', "\\", "", "NULL", "{}", 7]),
            ("int[]", [1, 2]),
            ("int[]", []),
            ("int[]", [[1, 2], [3, 4]]),
            ("jsonb[]", [{"a": 1}, {}]),
            ("timestamptz[]", ["2026-11-26T08:00:00Z"]),
        ],
    )
    def test_holds_lists_in_arrays(self, kind: str, value: list[Any], database: Database) -> None:
        database.execute(f"CREATE TABLE users (event_key text PRIMARY KEY, value {kind})")

        assert deliver(sink_on(database.url, {"value": "event.data.v"}), event(v=value)) == [None]
        ((found,),) = database.execute("SELECT to_jsonb(value) FROM users")
        if kind.startswith("time"):
            assert [datetime.fromisoformat(one) for one in found] == [
                datetime(2026, 11, 26, 8, tzinfo=UTC)
            ]
        else:
            assert found == [str(one) if one == 7 else one for one in value]

    def test_holds_bytes(self, database: Database) -> None:
        database.execute("CREATE TABLE users (event_key text PRIMARY KEY, value bytea)")
        one = Event(type="a", source="/", data=b"\xff\x00")

        assert deliver(sink_on(database.url, {"value": "event.data"}), one) == [None]
        assert database.execute("SELECT value FROM users") == [(b"\xff\x00",)]

    def test_goes_to_the_schema_and_names_as_written(self, database: Database) -> None:
        database.execute("CREATE SCHEMA shop")
        columns = {"Order": "event.id", "größe in %(s)s": "event.type"}
        sink = sink_on(database.url, columns, table="shop.Group", create=True)

        assert deliver(sink, event()) == [None]
        assert database.execute('SELECT "Order", "größe in %(s)s" FROM shop."Group"') == [
            ("1", "user.registered")
        ]


class TestAFaultyRow:
    @pytest.mark.parametrize(
        ("kind", "value", "cause"),
        [
            ("varchar(3)", "long", "StringDataRightTruncation"),
            ("text NOT NULL", None, "NotNullViolation"),
            ("integer", "many", "InvalidTextRepresentation"),
            ("integer", 2**40, "NumericValueOutOfRange"),
            ("integer CHECK (value > 0)", -1, "CheckViolation"),
            ("text UNIQUE", "good", "UniqueViolation"),
            ("integer REFERENCES other", 7, "ForeignKeyViolation"),
            (
                "integer REFERENCES other DEFERRABLE INITIALLY DEFERRED",
                7,
                "ForeignKeyViolation",
            ),
            ("timestamptz", "not a time", "InvalidDatetimeFormat"),
            ("text", "a\x00b", "DataError"),
            ("text UNIQUE", "x" * 1_000_000, "ProgramLimitExceeded"),
        ],
    )
    def test_costs_no_other(self, kind: str, value: Any, cause: str, database: Database) -> None:
        database.execute("CREATE TABLE other (id integer PRIMARY KEY)")
        database.execute("INSERT INTO other SELECT generate_series(100, 200)")
        database.execute(f"CREATE TABLE users (event_key text PRIMARY KEY, value {kind})")
        good: Any = {"t": "2026-11-26", "v": "abc"}.get(kind[0], 100)
        if "UNIQUE" in kind:
            good = None
            database.execute("INSERT INTO users VALUES ('there', 'good')")
        sink = sink_on(database.url, {"value": "event.data.v"})
        if isinstance(value, str) and len(value) > 1_000:
            value = "".join(
                chr(0x4E00 + n % 20_000) for n in range(0, 400_000, 7)
            )  # no compressing

        said = failures(sink, *(event(n, v=value if n == 30 else good) for n in range(50)))

        assert said == [(cause, True) if n == 30 else None for n in range(50)]

    def test_says_what_is_wrong_with_it(self, users: Database) -> None:
        sink = sink_on(users.url)
        deliver(sink, event(1))
        (error,) = deliver(sink, event(2, email="1@example.org"))

        assert str(error) == (
            'duplicate key value violates unique constraint "users_email_key". '
            "Key (email)=(1@example.org) already exists."
        )


class TestATable:
    def test_is_made_if_asked(self, database: Database) -> None:
        columns = {
            "at": "event.time",
            "data": "event.data",
            "total": "double(event.data.total)",
            "count": "int(event.data.count)",
            "paid": "bool(event.data.paid)",
            "body": "bytes(event.id)",
            "who": "event.data.who",
        }
        one = event(total="12.50", count="3", paid=True, who="Ada")

        for _ in range(2):
            assert deliver(sink_on(database.url, columns, create=True), one) == [None]

        found = database.execute(
            "SELECT column_name, data_type FROM information_schema.columns "
            "WHERE table_name = 'users' ORDER BY ordinal_position"
        )
        assert [kind for _, kind in found] == [
            "text",
            "timestamp with time zone",
            "jsonb",
            "double precision",
            "bigint",
            "boolean",
            "bytea",
            "text",
        ]
        assert database.execute("SELECT total, count, paid, body, who FROM users") == [
            (12.5, 3, True, b"1", "Ada")
        ]

    def test_is_made_by_one_of_several_nodes(self, database: Database) -> None:
        sinks = [sink_on(database.url, create=True) for _ in range(16)]
        said = at_once(
            *(lambda n=n, sink=sink: deliver(sink, event(n)) for n, sink in enumerate(sinks))
        )

        assert said == [[None]] * 16
        assert database.execute("SELECT count(*) FROM users") == [(16,)]

    def test_that_is_missing_is_waited_for(self, database: Database) -> None:
        sink = sink_on(database.url)
        assert failures(sink, event(1), event(2)) == [("TableMismatch", False)] * 2

        database.execute("CREATE TABLE users (event_key text, email text)")
        assert failures(sink, event(1)) == [("TableMismatch", False)]

        database.execute("CREATE UNIQUE INDEX ON users (event_key)")
        assert failures(sink, event(1), event(2)) == [None] * 2

    @pytest.mark.filterwarnings(
        "ignore:Did not recognize type"
    )  # as the sink does; pytest undoes it
    def test_may_hold_what_is_not_written_to(self, database: Database) -> None:
        """A type of the user's own, an index of an expression."""
        database.execute("CREATE TYPE point3 AS (x int, y int, z int)")
        database.execute(
            "CREATE TABLE users (event_key text PRIMARY KEY, email text, place point3)"
        )
        database.execute("CREATE UNIQUE INDEX ON users (lower(email))")

        assert failures(sink_on(database.url), event(1)) == [None]

    def test_whose_index_is_not_of_all_rows(self, database: Database) -> None:
        database.execute("CREATE TABLE users (event_key text, email text)")
        database.execute("CREATE UNIQUE INDEX ON users (event_key) WHERE email != ''")

        assert failures(sink_on(database.url), event(1)) == [("TableMismatch", False)]

    def test_with_a_column_that_nobody_may_write_to(self, database: Database) -> None:
        """The same for every row, so no row is looked for."""
        database.execute(
            "CREATE TABLE users (event_key text PRIMARY KEY,"
            " email text GENERATED ALWAYS AS (upper(event_key)) STORED)"
        )
        sink = sink_on(database.url)

        assert failures(sink, event(1), event(2)) == [("GeneratedAlways", False)] * 2

    def test_that_loses_a_column_meanwhile(self, users: Database) -> None:
        sink = sink_on(users.url)
        deliver(sink, event(1))
        users.execute("ALTER TABLE users RENAME COLUMN email TO mail")

        assert failures(sink, event(2), event(3)) == [("UndefinedColumn", False)] * 2
        assert failures(sink, event(2), event(3)) == [("TableMismatch", False)] * 2

        users.execute("ALTER TABLE users RENAME COLUMN mail TO email")
        assert failures(sink, event(2), event(3)) == [None] * 2

    def test_without_the_right_to(self, users: Database) -> None:
        users.execute("CREATE ROLE reader LOGIN PASSWORD 'ten-small-boats'")
        users.execute("GRANT SELECT ON users TO reader")
        try:
            sink = sink_on(users.url.replace("eventflow:", "reader:"))
            assert failures(sink, event(1), event(2)) == [("InsufficientPrivilege", False)] * 2
        finally:
            users.execute("DROP OWNED BY reader; DROP ROLE reader")

    def test_of_a_schema_or_database_that_is_not_there(self, database: Database) -> None:
        sink = sink_on(database.url, table="nowhere.users", create=True)
        assert failures(sink, event()) == [("InvalidSchemaName", False)]

        sink = sink_on(database.url + "_nowhere")
        assert failures(sink, event()) == [("OperationalError", False)]


class TestAServerInTrouble:
    def test_that_is_restarted_costs_no_attempt(self) -> None:
        with running() as server, server.database() as database:
            sink = sink_on(database.url, create=True)
            assert failures(sink, event(1)) == [None]
            server.stop()
            assert failures(sink, event(2)) == [("OperationalError", False)]
            server.start()
            assert failures(sink, event(2)) == [None]
            server.stop()
            server.start()
            assert failures(sink, event(3)) == [None]
            assert database.execute("SELECT count(*) FROM users") == [(3,)]

    def test_that_ends_a_connection(self, users: Database) -> None:
        sink = sink_on(users.url)
        deliver(sink, event(1))
        users.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE application_name = 'eventflow'"
        )

        assert failures(sink, event(2)) == [None]

    def test_that_has_the_table_locked(self, users: Database) -> None:
        sink = sink_on(users.url, timeout_s=0.2)
        deliver(sink, event(1))
        with psycopg.connect(users.url) as other:
            other.execute("LOCK TABLE users")
            assert failures(sink, event(2), event(3)) == [("QueryCanceled", False)] * 2

        assert failures(sink, event(2), event(3)) == [None] * 2

    def test_that_only_reads(self, users: Database) -> None:
        users.execute(f"ALTER DATABASE {users.name} SET default_transaction_read_only = on")

        assert failures(sink_on(users.url), event()) == [("ReadOnlySqlTransaction", False)]

    def test_shows_no_password(self, database: Database, server: Server) -> None:
        wrong = server.url_of(database.name, password="wrong-pass-word")
        (error,) = deliver(sink_on(wrong), event())

        assert error is not None
        assert "password authentication failed" in error.failed.error
        assert not {"wrong-pass-word", PASSWORD} & set(str(error).split())
        assert "wrong-pass-word" not in repr(error.failed)


def test_nodes_that_write_the_same_rows_do_not_lock_each_other_out(users: Database) -> None:
    """In opposite orders, which is a deadlock as soon as rows are written as they come."""
    sinks = [sink_on(users.url, on_conflict="update", timeout_s=20.0) for _ in range(4)]
    events = [event(n) for n in range(500)]

    def write(sink: SqlSink, order: int) -> list[Any]:
        return [one for _ in range(5) for one in failures(sink, *events[::order])]

    said = at_once(*(lambda s=s, n=n: write(s, (1, -1)[n % 2]) for n, s in enumerate(sinks)))

    assert {one for some in said for one in some} == {None}
    assert users.execute("SELECT count(*) FROM users") == [(500,)]


def test_a_batch_of_ten_thousand_with_some_faulty_ones(users: Database) -> None:
    events = [event(n, email="" if n % 2_500 == 7 else f"{n}") for n in range(10_000)]
    users.execute("ALTER TABLE users ADD CHECK (email != '')")

    said = failures(sink_on(users.url, timeout_s=30.0), *events)

    assert [n for n, one in enumerate(said) if one] == [7, 2_507, 5_007, 7_507]
    assert users.execute("SELECT count(*) FROM users") == [(9_996,)]


@contextmanager
def stopped(server: Server, _: Database) -> Iterator[None]:
    server.stop()
    yield
    server.start()


@contextmanager
def killed(server: Server, _: Database) -> Iterator[None]:
    server.kill()
    yield
    server.start()


@contextmanager
def locked(_: Server, database: Database) -> Iterator[None]:
    with psycopg.connect(database.url) as other:
        other.execute("LOCK TABLE users")
        yield


@contextmanager
def frozen(server: Server, _: Database) -> Iterator[None]:
    with server.frozen():
        yield


@pytest.mark.timeout(120)
@pytest.mark.parametrize("trouble", [stopped, killed, locked, frozen])
async def test_an_outage_of_ten_seconds_kills_nothing(
    trouble: Callable[[Server, Database], Any],
) -> None:
    """Events go on coming; some are sent twice. One row an event afterwards.

    All as by default, but that a round begins after the outage, and not a quarter of an hour later.
    """
    with running() as server, server.database() as database:
        database.execute("CREATE TABLE users (event_key text PRIMARY KEY, number int)")
        flow = flow_on(database.url)
        await flow.start()
        try:
            await flow.publish_many(events(range(100)))
            await flow.drain()
            with trouble(server, database):
                for start in range(100, 600, 50):
                    await flow.publish_many(events(range(start, start + 50)))
                    await flow.publish_many(events(range(start, start + 25)))
                    await asyncio.sleep(OUTAGE_S / 10)
            ledger = await settle(flow, within_s=60)
        finally:
            await flow.stop(drain_s=1.0)
        rows = database.execute("SELECT number FROM users ORDER BY number")

    db = ledger.topics["db"]
    assert (db.created, db.delivered, db.dead, ledger.unaccounted) == (600, 600, 0, 0)
    assert rows == [(number,) for number in range(600)]


def flow_on(url: str) -> EventFlow:
    text = f"""
        [engine]
        url = "memory:"
        [topics.db]
        match = "**"
        timeout = "2s"
        recovery = {{ after = "{OUTAGE_S:g}s" }}
        [topics.db.sink]
        type = "sql"
        url = "{url}"
        table = "users"
        columns = {{ number = "event.data.number" }}
    """
    return EventFlow(parse(text, name="", environ={}))


def events(numbers: range) -> list[Event]:
    return [event(number, number=number) for number in numbers]


def at_once(*calls: Callable[[], list[Any]]) -> list[list[Any]]:
    """Run functions in threads that begin together; return what each returned."""
    found: list[list[Any]] = [[] for _ in calls]
    begin = threading.Barrier(len(calls))

    def one(place: int, call: Callable[[], list[Any]]) -> None:
        begin.wait()
        found[place] = call()

    threads = [threading.Thread(target=one, args=pair) for pair in enumerate(calls)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found
