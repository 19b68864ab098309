"""What the door says when it says no: problem details as RFC 9457 has them.

Each error of EventFlow has one status here, so a handler just lets it pass. The detail says what
was expected, what came, what was not done and what to do. Any other exception is a fault of ours:
500, without a word about the inside.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import msgspec
from starlette.responses import Response

from eventflow import errors

if TYPE_CHECKING:
    from collections.abc import Mapping

MEDIA_TYPE = "application/problem+json"
URN = "urn:eventflow:problem:"
UNAVAILABLE_RETRY_S = 5
"""Whole seconds until a sender should try a node again that is stopping or has lost its engine.

About what a restart takes.
"""


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """Problem details, and how they travel."""

    status: int
    code: str
    """The last part of `type`: documented in docs/reference/http.md."""
    title: str
    detail: str
    reason: str = ""
    """Why events were not let in, as `eventflow_events_refused_total` counts it."""
    retry_after_s: int | None = None
    more: dict[str, Any] = {}
    """Further members."""
    headers: dict[str, str] = {}

    def members(self) -> dict[str, Any]:
        """Return what is sent: RFC 9457's members first."""
        shown: dict[str, Any] = {
            "type": URN + self.code,
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
        }
        if self.retry_after_s is not None:
            shown["retry_after_s"] = self.retry_after_s
        return shown | self.more

    def response(self) -> Response:
        """Return the answer to the request."""
        headers = dict(self.headers)
        if self.retry_after_s is not None:
            headers["retry-after"] = str(self.retry_after_s)
        body = msgspec.json.encode(self.members())
        return Response(body, self.status, {**COMMON_HEADERS, **headers}, MEDIA_TYPE)


COMMON_HEADERS = {"cache-control": "no-store", "x-content-type-options": "nosniff"}
"""Of every answer: it is true now, and it is what its type says."""


class Refusal(Exception):
    """A request that HTTP itself has a word for: wrong method, no token, a body nobody can read."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.detail)
        self.problem = problem


def bad_request(detail: str) -> Refusal:
    """Return the refusal of a request that can't be understood. Nothing was changed by it."""
    return Refusal(
        Problem(status=400, code="bad-request", title="The request is not right", detail=detail)
    )


def problem_of(error: Exception) -> Problem:
    """Return what to answer to a request that ended with `error`."""
    match error:
        case Refusal():
            return error.problem
        case errors.InvalidEvent():
            return _invalid(error)
        case errors.TooLarge():
            return _too_large(error)
        case errors.Unroutable():
            return _unroutable(error)
        case errors.QueueFull():
            return _full(error)
        case errors.EngineUnanswered() | errors.StorageUnanswered():
            return unavailable(f"{error}.", done=UNKNOWN)
        case errors.EngineUnavailable() | errors.StorageUnavailable():
            return unavailable(f"{error}.")
        case errors.UnknownName():
            return _stored_nothing(404, "unknown-name", "There is no such thing", error)
        case (
            errors.Orphaned()
            | errors.WrongState()
            | errors.BackupRefused()
            | errors.ChangedMeanwhile()
        ):
            return _conflict(error)
        case _:
            return FAULT


def _conflict(
    error: errors.Orphaned | errors.WrongState | errors.BackupRefused | errors.ChangedMeanwhile,
) -> Problem:
    match error:
        case errors.ChangedMeanwhile():
            return _stored_nothing(409, "changed-meanwhile", "Changed at the same moment", error)
        case errors.Orphaned():
            return _stored_nothing(409, "orphan", "Gone from the configuration", error)
        case errors.WrongState():
            return _stored_nothing(409, "wrong-state", "Not in its present state", error)
        case errors.BackupRefused():
            return _stored_nothing(409, "backup-refused", "No backup was written", error)


NOTHING = "Nothing was stored or changed."
UNKNOWN = (
    "What was asked for may have been done all the same: events that are sent again with their "
    "ids are not stored twice."
)


def unavailable(detail: str, reason: str = "unavailable", done: str = NOTHING) -> Problem:
    """Return the problem of a node that can do nothing now, but soon again."""
    return Problem(
        status=503,
        code=reason,
        title="The node is stopping" if reason == "stopping" else "Not available now",
        detail=f"{detail} {done} Try again in {UNAVAILABLE_RETRY_S} s.",
        reason=reason,
        retry_after_s=UNAVAILABLE_RETRY_S,
    )


FAULT = Problem(
    status=500,
    code="fault",
    title="A fault of EventFlow",
    detail=(
        "The request could not be answered because of a fault of EventFlow; its log has the "
        "details. Sending the same events again is safe: those stored already are duplicates."
    ),
    reason="unavailable",
)


def not_found(path: str) -> Problem:
    """Return the problem of a path that has no route."""
    return Problem(
        status=404,
        code="no-route",
        title="There is nothing here",
        detail=f"{path!r} is no route of EventFlow. The routes are in docs/reference/http.md.",
    )


def method_not_allowed(method: str, allowed: Mapping[str, object]) -> Problem:
    """Return the problem of a method that a path does not know."""
    names = ", ".join(allowed)
    return Problem(
        status=405,
        code="method-not-allowed",
        title="Not with this method",
        detail=f"expected {names}, got {method}. Nothing was done.",
        headers={"allow": names},
    )


def _stored_nothing(
    status: int, code: str, title: str, error: Exception, reason: str = ""
) -> Problem:
    return Problem(status=status, code=code, title=title, detail=str(error), reason=reason)


def _too_large(error: errors.TooLarge) -> Problem:
    named: dict[str, Any] = {}
    if error.index is not None:
        detail = f"{error.size} bytes, over the limit of {error.limit} ({error.setting})"
        named = {"errors": [{"event": error.index, "detail": detail}]}
    return Problem(
        status=413,
        code="too-large",
        title="Too large",
        detail=str(error),
        reason="too_large",
        more={"size": error.size, "limit": error.limit}
        | ({"setting": error.setting} if error.setting else {})
        | named,
    )


def _invalid(error: errors.InvalidEvent) -> Problem:
    event = 0 if error.index is None else error.index
    return Problem(
        status=400,
        code="invalid-event",
        title="An event is not valid",
        detail=f"{error}. Nothing was stored; correct the event and send the request again.",
        reason="invalid",
        more={"errors": [{"event": event, "detail": problem} for problem in error.problems]},
    )


def _unroutable(error: errors.Unroutable) -> Problem:
    event = 0 if error.index is None else error.index
    return Problem(
        status=422,
        code="unroutable",
        title="No route takes the event",
        detail=str(error),
        reason="unroutable",
        more={"errors": [{"event": event, "detail": f"no route takes type {error.type!r}"}]},
    )


def _full(error: errors.QueueFull) -> Problem:
    retry_after_s = max(1, math.ceil(error.retry_after_s))
    return Problem(
        status=429,
        code="queue-full",
        title="No room now",
        detail=str(error),
        reason="full",
        retry_after_s=retry_after_s,
        more={"queue": error.queue, "capacity": error.capacity}
        | ({"why": error.why} if error.why else {}),
    )
