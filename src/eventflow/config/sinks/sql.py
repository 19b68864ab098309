"""The settings of the `sql` sink."""

from dataclasses import dataclass
from typing import Annotated, Literal

from eventflow.config import texts
from eventflow.config.quantities import Duration
from eventflow.config.schema import Follows, Many, Shape
from eventflow.config.secret import Secret
from eventflow.config.units import DAY_S

EVENT_KEY = "event_key"
"""The column that holds `event.key` without being told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A column of the table of an `sql` sink."""

    name: Annotated[str, texts.COLUMN]
    """Its name, as the database writes it.

    Only the database knows its columns.
    """

    value: Annotated[str, texts.CEL]
    """What goes into it.

    CEL over `event` and `delivery`.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class SqlSinkSettings:
    """`sink = { type = "sql", … }`: each event is a row of a table."""

    type: Literal["sql"]
    """Which sink.

    It decides what else may be said here.
    """

    url: Annotated[Secret, texts.SQL_URL]
    """The database, as SQLAlchemy writes it. SQLite needs `eventflow[sql]` installed, PostgreSQL
    `eventflow[postgres]`.

    There is no default for where events go. Never shown: it may hold a password.
    """

    table: Annotated[str, texts.TABLE]
    """The table, with its schema before a dot where it has one.

    Only the database knows what it is called.
    """

    columns: Annotated[tuple[Column, ...], Shape.PAIRS]
    """What goes into which column: CEL, such as `{ email = "event.data.email" }`.

    Only what is named is written. A column `event_key` need not be: where it is part of `key`,
    `event.key` goes there.
    """

    key: Annotated[tuple[str, ...], Many(texts.COLUMN, least=1)] = ("event_key",)
    """The columns that say whether a row is there already: they need a primary key or a unique
    index.

    An event that is delivered again has the same `event_key`, for ever: so it makes one row.
    """

    on_conflict: Literal["ignore", "update"] = "ignore"
    """What becomes of a row that is there already.

    `ignore` keeps it as it is: right for `event_key`, under which nothing else can come. `update`
    writes the other columns anew: for keys of your own, where the last one counts.
    """

    create: bool = False
    """Make the table if it is not there, with `key` as its primary key.

    Most tables are made by those who look after the database. What types its columns get stands
    in the how-to page.
    """

    timeout_s: Annotated[float, Duration(0.001, DAY_S), Follows("the topic's `timeout`")] = 10.0
    """How long a batch may take: connecting, waiting for locks, writing. Waits in the database end
    after four fifths of it.

    More than the topic's `timeout` has no effect: that one ends the attempt.
    """
