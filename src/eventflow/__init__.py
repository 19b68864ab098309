"""EventFlow: accept events, deliver them at least once, lose none, and be able to show it."""

from eventflow.app import EventFlow
from eventflow.client import AsyncClient, Client
from eventflow.delivery import Delivery
from eventflow.errors import (
    ConfigError,
    EngineUnavailable,
    EventFlowError,
    InvalidEvent,
    NodeUnavailable,
    Permanent,
    QueueFull,
    RetryLater,
    Unauthorized,
    UnexpectedAnswer,
)
from eventflow.event import Event, Priority
from eventflow.flow.handlers import Batch
from eventflow.version import VERSION

__version__ = VERSION

__all__ = [
    "AsyncClient",
    "Batch",
    "Client",
    "ConfigError",
    "Delivery",
    "EngineUnavailable",
    "Event",
    "EventFlow",
    "EventFlowError",
    "InvalidEvent",
    "NodeUnavailable",
    "Permanent",
    "Priority",
    "QueueFull",
    "RetryLater",
    "Unauthorized",
    "UnexpectedAnswer",
    "__version__",
]
