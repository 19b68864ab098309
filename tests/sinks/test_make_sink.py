"""Sinks whose packages are extras: what is missing is said before anything starts."""

from __future__ import annotations

import sys

import pytest

from eventflow.app.build import handlers_of
from eventflow.config import parse
from eventflow.errors import ConfigError

SQL = """
    [topics.db]
    match = "**"
    sink = { type = "sql", url = "%s", table = "users", columns = { email = "%s" } }
"""


def problems(url: str, value: str = "event.data.email") -> tuple[str, ...]:
    settings = parse(SQL % (url, value), name="eventflow.toml", environ={})
    with pytest.raises(ConfigError) as caught:
        handlers_of(settings, {})
    return caught.value.problems


@pytest.mark.parametrize(
    ("package", "url", "extra"),
    [
        ("sqlalchemy", "sqlite:///shop.db", "sql"),
        ("psycopg", "postgresql://localhost/shop", "postgres"),
    ],
)
def test_a_package_that_is_not_installed(
    package: str, url: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in [name for name in sys.modules if name.startswith("eventflow.sinks.sql")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.delattr("eventflow.sinks.sql", raising=False)
    monkeypatch.setitem(sys.modules, package, None)

    (problem,) = problems(url)

    assert problem == (
        f'[topics.db.sink] type: "sql" needs the package {package}, which is not installed. '
        f"Install it: pip install 'eventflow[{extra}]'"
    )


def test_an_expression_that_is_no_cel_is_told_with_its_place() -> None:
    (problem,) = problems("sqlite:///shop.db", "evnt.data.email")

    assert problem == (
        "[topics.db.sink] columns.email: 'evnt.data.email' speaks of 'evnt' (line 1, column 1); "
        "there are event, delivery, header. Did you mean 'event'?"
    )


def test_options_that_would_be_passed_over_are_refused() -> None:
    assert problems("sqlite:///shop.db?timeout=5") == (
        "[topics.db.sink] url: expected a path without options, got some behind a ?",
    )


def test_a_url_that_cannot_be_read_is_not_repeated() -> None:
    assert problems("postgresql://me:secret@host:port/shop") == (
        "[topics.db.sink] url: expected a URL as SQLAlchemy writes it, got one that can't be read",
    )
