"""Which error an answer is: the same ones that publishing within the process raises."""

from __future__ import annotations

import os
from http.client import IncompleteRead
from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec

from eventflow.errors import (
    EventFlowError,
    InvalidEvent,
    NodeUnavailable,
    QueueFull,
    TooLarge,
    Unauthorized,
    UnexpectedAnswer,
    Unroutable,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from eventflow.client.answers import Problem
    from eventflow.client.lines import Line
    from eventflow.client.target import Target

T = TypeVar("T", int, str)


class _Typed(msgspec.Struct):
    type: str


_TYPE: Final = msgspec.json.Decoder(_Typed)


def error_of(problem: Problem | None, target: Target) -> EventFlowError:
    """Return the error that an answer is which is not about single events.

    Args:
        problem: The answer; None: no node answers so.
        target: Who answered.
    """
    if problem is None:
        return UnexpectedAnswer(target.url, "answered")
    match problem.status:
        case 429:
            return QueueFull(
                _said(problem, "queue", "common"),
                _said(problem, "capacity", 0),
                problem.retry_after_s or 0.0,
                _said(problem, "why", ""),
            )
        case 401:
            known = "does not know this token" if target.token else "asks for a token"
            return Unauthorized(target.url, known)
        case 403:
            return Unauthorized(
                target.url, f"does not allow this with this token: {problem.detail}"
            )
        case _ if problem.passing:
            return NodeUnavailable(target.url, problem.detail, problem.retry_after_s)
        case _:
            return UnexpectedAnswer(target.url, f"answered {problem.status}")


def error_of_line(line: Line, problem: Problem, details: Sequence[str]) -> EventFlowError:
    """Return the error of a line that a node will never take.

    Args:
        line: The line.
        problem: What the node answered.
        details: What it said of this line.
    """
    match problem.status:
        case 413:
            size = _said(problem, "size", len(line.text))
            setting = _said(problem, "setting", "[common] max_event")
            limit = _said(problem, "limit", 0)
            what = f"event {line.place}, in bytes"
            return TooLarge(what, size, limit, setting, index=line.place)
        case 422:
            return Unroutable(_TYPE.decode(line.text).type, index=line.place)
        case _:
            return InvalidEvent(details, index=line.place)


def lost_of(error: BaseException, target: Target) -> NodeUnavailable:
    """Return the error of a connection that failed."""
    return NodeUnavailable(target.url, f"no node answers ({reason(error)})")


def reason(error: BaseException) -> str:
    """Return in a few words why a connection failed."""
    inner = getattr(error, "os_error", error)
    if type(inner).__name__ == "ClientPayloadError" or isinstance(inner, IncompleteRead):
        return "it broke off"  # aiohttp's words are about chunks and lengths
    if isinstance(inner, TimeoutError):
        return "it took too long"
    number = getattr(inner, "errno", None)
    if isinstance(number, int) and number > 0:
        return os.strerror(number)  # asyncio's words name the address once more
    return str(getattr(inner, "strerror", None) or inner) or type(inner).__name__


def _said(problem: Problem, name: str, otherwise: T) -> T:
    value: Any = problem.members.get(name)
    return value if isinstance(value, type(otherwise)) else otherwise
