"""Built-in handlers: what delivers events to the outside world."""

from __future__ import annotations

from typing import TYPE_CHECKING

from eventflow.config import (
    FileSinkSettings,
    HttpSinkSettings,
    SmtpSinkSettings,
    SqlSinkSettings,
)
from eventflow.errors import ConfigError

if TYPE_CHECKING:
    from eventflow.config import SinkSettings
    from eventflow.sinks.base import AnySink

_EXTRAS = {"aiosmtplib": "smtp", "jinja2": "smtp", "sqlalchemy": "sql", "psycopg": "postgres"}
"""Packages that only some sinks need, and the extra that brings them."""


def make_sink(settings: SinkSettings, *, concurrency: int) -> AnySink:
    """Return the sink that the settings describe, not opened yet.

    Args:
        settings: The topic's `sink` table.
        concurrency: Deliveries at the same time: connections at most.

    Raises:
        ConfigError: a setting can't be used, or a package is not installed.
    """
    # Each import in its place, not above: a node without such a sink needs no such client.
    try:
        match settings:
            case HttpSinkSettings():
                from eventflow.sinks import http  # noqa: PLC0415

                return http.HttpSink(settings, concurrency=concurrency)
            case FileSinkSettings():
                from eventflow.sinks import file  # noqa: PLC0415

                return file.FileSink(settings)
            case SmtpSinkSettings():
                from eventflow.sinks import smtp  # noqa: PLC0415

                return smtp.SmtpSink(settings, concurrency=concurrency)
            case SqlSinkSettings():
                from eventflow.sinks import sql  # noqa: PLC0415

                return sql.SqlSink(settings, concurrency=concurrency)
    except ModuleNotFoundError as error:
        extra = _EXTRAS.get((error.name or "").partition(".")[0])
        if extra is None:
            raise
        problem = (
            f'sink.type: "{settings.type}" needs the package {error.name}, which is not installed. '
            f"Install it: pip install 'eventflow[{extra}]'"
        )
        raise ConfigError([problem]) from error
