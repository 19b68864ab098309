"""EventFlow: accept events, deliver them at least once, lose none, and be able to show it."""

from eventflow.app import EventFlow
from eventflow.delivery import Delivery
from eventflow.errors import (
    ConfigError,
    EngineUnavailable,
    EventFlowError,
    InvalidEvent,
    Permanent,
    QueueFull,
    RetryLater,
)
from eventflow.event import Event, Priority
from eventflow.flow.handlers import Batch
from eventflow.version import VERSION

__version__ = VERSION

__all__ = [
    "Batch",
    "ConfigError",
    "Delivery",
    "EngineUnavailable",
    "Event",
    "EventFlow",
    "EventFlowError",
    "InvalidEvent",
    "Permanent",
    "Priority",
    "QueueFull",
    "RetryLater",
    "__version__",
]
