"""EventFlow: accept events, deliver them at least once, lose none, and be able to show it."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

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
from eventflow.version import VERSION

if TYPE_CHECKING:
    from eventflow.app import EventFlow
    from eventflow.client.awaiting import AsyncClient
    from eventflow.client.blocking import Client
    from eventflow.delivery import Delivery
    from eventflow.flow.handlers import Batch

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

_LATER = {
    "AsyncClient": "eventflow.client.awaiting",
    "Batch": "eventflow.flow.handlers",
    "Client": "eventflow.client.blocking",
    "Delivery": "eventflow.delivery",
    "EventFlow": "eventflow.app",
}
"""Names that are imported once they are used: a publisher loads no node, a node no HTTP client."""

if not TYPE_CHECKING:  # else a checker would take any name for one that is there

    def __getattr__(name: str) -> Any:
        """Import what is asked for first."""
        if name not in _LATER:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        globals()[name] = found = getattr(import_module(_LATER[name]), name)
        return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
