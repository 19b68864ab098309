"""Configuration: TOML and environment to frozen values.

`load` and `parse` return `Settings`, or raise `ConfigError` with everything that is wrong. The
environment is passed in: `load(path, environ=os.environ)`.
"""

from eventflow.config.load import load, parse
from eventflow.config.nats import NatsSettings
from eventflow.config.secret import Secret
from eventflow.config.settings import (
    CommonSettings,
    EngineSettings,
    LogSettings,
    RouteSettings,
    SchemaSettings,
    ServerSettings,
    Settings,
    StorageSettings,
    Token,
    WeightsSettings,
)
from eventflow.config.sinks import (
    Column,
    FileSinkSettings,
    Header,
    HttpSinkSettings,
    SinkSettings,
    SmtpSinkSettings,
    SqlSinkSettings,
)
from eventflow.config.topic import (
    BatchSettings,
    RecoverySettings,
    RetrySettings,
    TopicSettings,
)
from eventflow.config.units import Share
from eventflow.config.webhook import WebhookSettings

__all__ = [
    "BatchSettings",
    "Column",
    "CommonSettings",
    "EngineSettings",
    "FileSinkSettings",
    "Header",
    "HttpSinkSettings",
    "LogSettings",
    "NatsSettings",
    "RecoverySettings",
    "RetrySettings",
    "RouteSettings",
    "SchemaSettings",
    "Secret",
    "ServerSettings",
    "Settings",
    "Share",
    "SinkSettings",
    "SmtpSinkSettings",
    "SqlSinkSettings",
    "StorageSettings",
    "Token",
    "TopicSettings",
    "WebhookSettings",
    "WeightsSettings",
    "load",
    "parse",
]
