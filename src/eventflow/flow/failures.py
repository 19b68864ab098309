"""From an exception to an outcome: what a handler meant by not returning.

`describe` reads an exception where it was raised, in this process or a worker process; `judge`
says what that means for the delivery. Between the two it is a plain value that can be sent.
"""

from __future__ import annotations

import traceback
from typing import TYPE_CHECKING, Any

import msgspec

from eventflow.errors import RetryLater
from eventflow.policy import causes
from eventflow.policy.outcome import Failed, Postponed
from eventflow.sinks.base import SinkError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import TracebackType

    from eventflow.policy.causes import Verdict

ERROR_MAX = 2_000
"""Characters of an error's message that are kept."""
TRACEBACK_MAX = 8_000
"""Characters of a traceback that are kept: its beginning and its end."""
_HEAD = 2_000
_CUT = "\n  [...]\n"
_FRAMES_MAX = 30
_PLACES_MAX = 8
_OURS = "eventflow.flow."


class Raised(msgspec.Struct, frozen=True):
    """What is to be known of an exception."""

    names: tuple[str, ...]
    """The classes of its MRO, each dotted and plain, the most derived first."""
    message: str
    traceback: str
    places: tuple[str, ...]
    """The functions it came through, innermost last."""
    postponed: tuple[float, bool] | None = None
    """`RetryLater`: seconds to wait, and whether it uses up an attempt."""
    status: int | None = None
    """Of the HTTP answer it is about."""
    retry_after: str | None = None
    """`Retry-After` of that answer."""


def describe(error: BaseException) -> Raised:
    """Return what is to be known of an exception. It never fails, whatever the exception does."""
    error = _alone(error)
    postponed = (error.delay_s, error.count) if isinstance(error, RetryLater) else None
    status, retry_after = _answer(error)
    return Raised(
        names=_names(type(error)),
        message=_message(error),
        traceback=_traceback(error),
        places=_places(error.__traceback__),
        postponed=postponed,
        status=status,
        retry_after=retry_after,
    )


def judge(
    raised: Raised, now: float, overrides: Mapping[str, Verdict] | None = None
) -> Failed | Postponed:
    """Return what an exception means for the delivery.

    Args:
        raised: The exception.
        now: Seconds since 1970, for waits that begin now.
        overrides: The topic's own word on names of exceptions.
    """
    if raised.postponed is not None:
        delay_s, counted = raised.postponed
        return Postponed(now + delay_s, counted, raised.message)
    cause = causes.of_exception(raised.names, overrides)
    overridden = overrides and any(name in overrides for name in raised.names)
    if raised.status is not None and not overridden:
        cause = causes.of_status(raised.status, raised.retry_after)
    return Failed(
        cause.name,
        raised.message,
        permanent=cause.permanent,
        fingerprint=causes.fingerprint(cause.name, raised.message, raised.places),
        retry_at=causes.retry_after_at(cause.retry_after, now),
        traceback=raised.traceback,
    )


def outcome_of(
    error: BaseException, now: float, overrides: Mapping[str, Verdict] | None = None
) -> Failed | Postponed:
    """Return what an exception means: a sink's is its own word, all others are judged."""
    if isinstance(error, SinkError):
        retry_at = causes.retry_after_at(error.retry_after, now)
        return msgspec.structs.replace(error.failed, retry_at=retry_at or error.failed.retry_at)
    return judge(describe(error), now, overrides)


def timed_out(error: BaseException, timeout_s: float, note: str = "") -> Failed:
    """Return the outcome of a run past its timeout; `error` shows where it was waiting."""
    message = f"ran longer than its timeout of {timeout_s:g} s{note}"
    return Failed(
        "timeout",
        message,
        fingerprint=causes.fingerprint("timeout", message, _places(error.__traceback__)),
        traceback=_traceback(error),
        timed_out=True,
    )


def answers_of(returned: Any, count: int) -> Sequence[BaseException | None]:
    """Return what a batch handler said of each of its `count` events: None, or an exception.

    Raises:
        TypeError: it returned something else, which says nothing sure about any of them.
    """
    if returned is None:
        return [None] * count
    if isinstance(returned, list | tuple):
        strange = [a for a in returned if a is not None and not isinstance(a, BaseException)]
        if len(returned) == count and not strange:
            return returned
        got = f"{len(returned)} outcomes for {count} events"
        if strange:
            got = f"a value of type {type(strange[0]).__name__} among the outcomes"
    else:
        got = f"a value of type {type(returned).__name__}"
    raise TypeError(
        f"the batch handler returned {got}. Nothing sure is known of any event of the batch.\n"
        "    return [send(event) for event in events]    # wrong: what send returned\n"
        "    return None                                 # right: all went well\n"
        "    return [None, error, None]                  # right: the second of three failed"
    )


def cut(text: str, limit: int = ERROR_MAX) -> str:
    """Return `text`, or its first `limit` characters with a mark at the end."""
    return text if len(text) <= limit else text[: limit - 1] + "…"


def storable(text: str) -> str:
    """Return `text` with lone surrogates written out.

    They are no UTF-8: one in an exception's message would fail the commit that keeps it, and with
    it everybody else's.
    """
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()


def _alone(error: BaseException) -> BaseException:
    """Return the one exception in a group of one, or in a group in one: what a task group adds."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


def _names(kind: type[BaseException]) -> tuple[str, ...]:
    names: list[str] = []
    for base in kind.__mro__[:-1]:  # all but `object`
        names += (f"{base.__module__}.{base.__qualname__}", base.__name__)
    return tuple(names)


def _message(error: BaseException) -> str:
    try:
        return cut(str(error) or type(error).__name__)
    except Exception as fault:  # noqa: BLE001  # a user's __str__ can raise anything
        return f"(its message can't be shown: __str__ raised {type(fault).__name__})"


def _answer(error: BaseException) -> tuple[int | None, str | None]:
    """Return status and `Retry-After` of the HTTP answer that a client's exception is about.

    aiohttp's has `status` and `headers`; httpx's and requests' have them in `response`. aiohttp
    also says 400 of an answer that is no HTTP: then something else caused it.
    """
    response = getattr(error, "response", None)
    status = getattr(response, "status_code", None)
    headers = getattr(response, "headers", None)
    if status is None and error.__cause__ is None:
        status, headers = getattr(error, "status", None), getattr(error, "headers", None)
    if not isinstance(status, int) or not 300 <= status < 600:
        return None, None
    try:
        retry_after = None if headers is None else headers.get("Retry-After")
    except Exception:  # noqa: BLE001  # not what it looked like
        retry_after = None
    return int(status), retry_after if isinstance(retry_after, str) else None


def _traceback(error: BaseException) -> str:
    try:
        theirs = _theirs(error.__traceback__)
        lines = traceback.format_exception(type(error), error, theirs, limit=-_FRAMES_MAX)
    except Exception as fault:  # noqa: BLE001  # a user's __str__ or __repr__ can raise anything
        return f"(its traceback can't be shown: {type(fault).__name__})"
    text = "".join(lines)
    if len(text) <= TRACEBACK_MAX:
        return text
    return text[:_HEAD] + _CUT + text[-(TRACEBACK_MAX - _HEAD - len(_CUT)) :]


def _theirs(trace: TracebackType | None) -> TracebackType | None:
    """Return the part of a traceback that begins where the handler was called."""
    inner = trace
    while inner is not None and _module(inner).startswith(_OURS):
        inner = inner.tb_next
    return inner or trace


def _places(trace: TracebackType | None) -> tuple[str, ...]:
    places: list[str] = []
    trace = _theirs(trace)
    while trace is not None:
        places.append(f"{_module(trace)}.{trace.tb_frame.f_code.co_qualname}")
        trace = trace.tb_next
    return tuple(places[-_PLACES_MAX:])


def _module(trace: TracebackType) -> str:
    return str(trace.tb_frame.f_globals.get("__name__", ""))
