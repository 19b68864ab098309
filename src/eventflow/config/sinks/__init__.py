"""The settings of the sinks, a module a sink; `type` says which.

A new one is an arm of `SinkSettings`, with `type: Literal["its name"]` as its first field. Settings
of the same name in two sinks are written in the same way: a variable of the environment is read
before it is known which sink it is for.
"""

from typing import TypeAlias

from eventflow.config.sinks.file import FileSinkSettings
from eventflow.config.sinks.http import Header, HttpSinkSettings
from eventflow.config.sinks.smtp import SmtpSinkSettings
from eventflow.config.sinks.sql import Column, SqlSinkSettings

SinkSettings: TypeAlias = HttpSinkSettings | SmtpSinkSettings | SqlSinkSettings | FileSinkSettings
"""The sinks there are."""

__all__ = [
    "Column",
    "FileSinkSettings",
    "Header",
    "HttpSinkSettings",
    "SinkSettings",
    "SmtpSinkSettings",
    "SqlSinkSettings",
]
