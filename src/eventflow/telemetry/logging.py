"""The log: one event a line, with its numbers as fields.

    log(names.DELIVERY_DEAD, topic="email", reason="permanent", deliveries=3)

    2026-11-24T12:10:04.113Z info    delivery.dead topic=email reason=permanent deliveries=3
    {"at":"2026-11-24T12:10:04.113Z","level":"info","event":"delivery.dead","topic":"email",…}

Events go through Python's own `logging`, as logger "eventflow". So a program that EventFlow is a
part of gets them where it sends its own, as readable text; `configure` is for `eventflow serve`,
which owns its process: it also takes in what libraries log. Nothing is configured by an import.
"""

from __future__ import annotations

import json
import logging
import re
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal, TextIO

import msgspec
import structlog

if TYPE_CHECKING:
    from collections.abc import Callable

    from eventflow.telemetry.names import LogEvent

Format = Literal["text", "json"]

_LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}
_COLORS = {"debug": "\x1b[2m", "warning": "\x1b[33m", "error": "\x1b[31m", "critical": "\x1b[31m"}
_PLAIN = "\x1b[0m"
_LONG = ("advice", "stack", "traceback")
"""Fields of several lines: as text they follow the line they belong to."""
_ROUTED = ("uvicorn", "uvicorn.error", "uvicorn.access")
"""Loggers that bring handlers of their own: those go, so that each line appears once."""
_LOUD = ("cel",)
"""Loggers that warn each time a function of an expression fails on an event: whoever evaluates it
says so, and counts it. Only their errors are written, or a sender could flood the log."""
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
"""What could end a line, or steer a terminal, if a sender put it into an event."""

_logger = logging.getLogger("eventflow")
_logfmt = structlog.processors.LogfmtRenderer(bool_as_flag=False)


def log(event: LogEvent, **fields: Any) -> None:
    """Write one of the events of `names`.

    Args:
        event: What happened.
        **fields: Its values. An exception as `error` is shown with its traceback.
    """
    level = _LEVELS[event.level]
    if not _logger.isEnabledFor(level):
        return
    error = fields.get("error")
    exc_info = None
    if isinstance(error, BaseException):
        exc_info = (type(error), error, error.__traceback__)
        fields["error"] = f"{type(error).__name__}: {error}"
    line = Line(event.name, fields)
    _logger.log(level, "%s", line, exc_info=exc_info, extra={"eventflow": line})


def configure(
    form: Format = "text", *, level: str = "info", stream: TextIO | None = None
) -> logging.Handler:
    """Send everything this process logs to one stream, one event a line.

    Args:
        form: "text" for people, in colour on a terminal; "json" for machines.
        level: The least level that is written: debug, info, warning or error.
        stream: Where to; stderr if left out.

    Returns:
        The handler, which the root logger now has as its only one.

    Raises:
        ValueError: there is no such form or level.
    """
    if form not in {"text", "json"} or level not in _LEVELS:
        raise ValueError(
            f"expected form 'text' or 'json' and level {', '.join(_LEVELS)}; "
            f"got {form!r} and {level!r}"
        )
    handler = logging.StreamHandler(sys.stderr if stream is None else stream)
    if form == "json":
        handler.setFormatter(_Formatter(_json))
    else:
        handler.setFormatter(_Formatter(_colored if handler.stream.isatty() else _text))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(_LEVELS[level])
    for name in _ROUTED:
        routed = logging.getLogger(name)
        routed.handlers.clear()
        routed.propagate = True
    for name in _LOUD:
        logging.getLogger(name).setLevel(logging.ERROR)
    return handler


class Line:
    """An event with its fields; a record of `logging` carries it as attribute `eventflow`."""

    __slots__ = ("fields", "name")

    def __init__(self, name: str, fields: dict[str, Any]) -> None:
        self.name = name
        self.fields = fields

    def __str__(self) -> str:
        short = {key: value for key, value in self.fields.items() if key not in _LONG}
        text = _clean(f"{self.name} {_logfmt(None, '', short)}".rstrip().replace("\n", "\\n"))
        long = [_clean(str(self.fields[key])) for key in _LONG if self.fields.get(key)]
        return "\n".join([text, *(_indented(block) for block in long)])


class _Formatter(logging.Formatter):
    """Makes a line of an event of EventFlow's, and of a record of any library's."""

    def __init__(self, render: Callable[[str, str, Line], str]) -> None:
        super().__init__()
        self._render = render

    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line = getattr(record, "eventflow", None)
        if not isinstance(line, Line):
            line = Line(record.getMessage(), {"logger": record.name})
        if record.exc_info:
            traceback = self.formatException(record.exc_info)
            line = Line(line.name, {**line.fields, "traceback": traceback})
        return self._render(at.replace("+00:00", "Z"), record.levelname.lower(), line)


def _text(at: str, level: str, line: Line) -> str:
    return f"{at} {level:<7} {line}"


def _colored(at: str, level: str, line: Line) -> str:
    color = _COLORS.get(level)
    return _text(at, level, line) if color is None else f"{at} {color}{level:<7}{_PLAIN} {line}"


def _json(at: str, level: str, line: Line) -> str:
    values = {"at": at, "level": level, "event": line.name, **line.fields}
    try:
        text = msgspec.json.encode(values, enc_hook=str).decode()
        return _CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
    except (TypeError, ValueError):  # half a surrogate: still a line
        return json.dumps(values, default=str, skipkeys=True)


def _clean(text: str) -> str:
    """Return `text` with characters that end lines or steer terminals written out."""
    return _CONTROL.sub(lambda found: ascii(found[0])[1:-1], text)


def _indented(block: str) -> str:
    return "\n".join(f"    {row}" for row in block.rstrip().splitlines())
