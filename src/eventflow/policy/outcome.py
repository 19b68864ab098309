"""What can have happened to a delivery: the values that `decide` looks at."""

from __future__ import annotations

import msgspec


class Succeeded(msgspec.Struct, frozen=True, gc=False):
    """The handler returned."""


class Failed(msgspec.Struct, frozen=True, gc=False):
    """The handler raised, answered with an error, or ran past its timeout."""

    cause: str
    """What kind of failure, in a few words: "TimeoutError", "http 503"."""
    error: str
    """The message."""
    permanent: bool = False
    """No further attempt can help."""
    fingerprint: str = ""
    """The same for failures that look alike."""
    retry_at: float | None = None
    """When the target asked to be tried again (`Retry-After`), seconds since 1970."""
    traceback: str | None = None
    timed_out: bool = False


class Postponed(msgspec.Struct, frozen=True, gc=False):
    """The handler raised `RetryLater`."""

    until: float
    """Seconds since 1970."""
    counted: bool
    why: str = ""


class CommonFull(msgspec.Struct, frozen=True, gc=False):
    """It came to a door that parks where common is full, and common is full."""


class Routed(msgspec.Struct, frozen=True, gc=False):
    """A route of common leads to this topic."""


class NoRoute(msgspec.Struct, frozen=True, gc=False):
    """No route matches, or the filter failed in all that could."""

    filter_errors: int = 0


class CameDue(msgspec.Struct, frozen=True, gc=False):
    """Its time in the retry queue is over."""


class Started(msgspec.Struct, frozen=True, gc=False):
    """A worker is about to run it."""


class ReadyAgain(msgspec.Struct, frozen=True, gc=False):
    """It is parked, due, and its topic has room for it."""


Outcome = (
    Succeeded | Failed | Postponed | CommonFull | Routed | NoRoute | CameDue | Started | ReadyAgain
)

SUCCEEDED = Succeeded()
COMMON_FULL = CommonFull()
