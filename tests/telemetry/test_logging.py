"""One event a line, whatever is in it and wherever it goes."""

from __future__ import annotations

import io
import json
import logging
from typing import TYPE_CHECKING, Any

import pytest

from eventflow.telemetry import names
from eventflow.telemetry.logging import configure, log

if TYPE_CHECKING:
    from collections.abc import Iterator


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    """Give the process its logging back."""
    loggers = [logging.getLogger(name) for name in (None, "uvicorn", "uvicorn.access", "cel")]
    before = [(one.handlers[:], one.level, one.propagate) for one in loggers]
    yield
    for one, (handlers, level, propagate) in zip(loggers, before, strict=True):
        one.handlers[:] = handlers
        one.setLevel(level)
        one.propagate = propagate


def text_of(**settings: Any) -> io.StringIO:
    stream = io.StringIO()
    configure("text", stream=stream, **settings)
    return stream


def json_of() -> io.StringIO:
    stream = io.StringIO()
    configure("json", stream=stream)
    return stream


def test_text_is_time_level_event_and_fields() -> None:
    stream = text_of()
    log(names.DELIVERY_DEAD, topic="email", reason="permanent", error='no "such" user', attempts=5)
    at, rest = stream.getvalue().split(" ", 1)

    assert len(at) == len("2026-11-24T12:10:04.113Z")
    assert at.endswith("Z")
    assert rest == (
        'info    delivery.dead topic=email reason=permanent error="no \\"such\\" user" attempts=5\n'
    )


def test_json_is_an_object_a_line() -> None:
    stream = json_of()
    log(names.DELIVERY_DEAD, topic="email", attempts=5, tried=("a", "b"), since=None)
    line = json.loads(stream.getvalue())

    assert line.pop("at").endswith("Z")
    assert line == {
        "level": "info",
        "event": "delivery.dead",
        "topic": "email",
        "attempts": 5,
        "tried": ["a", "b"],
        "since": None,
    }


def test_an_exception_comes_with_its_traceback() -> None:
    text, as_json = io.StringIO(), io.StringIO()
    for form, stream in (("text", text), ("json", as_json)):
        configure(form, stream=stream)  # type: ignore[arg-type]  # both are forms
        with pytest.raises(KeyError) as caught:
            raise KeyError("id")
        log(names.STAGE_FAILED, stage="worker", topic="email", error=caught.value)
    line = json.loads(as_json.getvalue())

    assert "stage.failed stage=worker topic=email error=\"KeyError: 'id'\"\n" in text.getvalue()
    assert "\n    Traceback (most recent call last):\n" in text.getvalue()
    assert line["error"] == "KeyError: 'id'"
    assert line["traceback"].startswith("Traceback (most recent call last):\n")


def test_a_stack_follows_its_line() -> None:
    stream = text_of()
    log(names.HANDLER_BLOCKED, topic="email", stack="File a\nFile b\n", advice="don't")

    assert stream.getvalue().split(" ", 2)[2] == (
        "  handler.blocked topic=email\n    don't\n    File a\n    File b\n"
    )


@pytest.mark.parametrize("hidden", ["\x1b[2J", "a\rb", "\x9b1m", "\u2028x", "a\ud800"])
def test_what_a_sender_wrote_can_not_steer_a_terminal(hidden: str) -> None:
    for make in (text_of, json_of):
        stream = make()
        log(names.STAGE_FAILED, topic="email", error=hidden)
        logging.getLogger("library").warning("%s", hidden)
        lines = stream.getvalue()

        assert len(lines.splitlines()) == 2
        assert not set(lines) & set("\x1b\r\x9b\u2028\ud800")
        if make is json_of:
            assert json.loads(lines.splitlines()[0])["error"] == hidden, "and it is not changed"


def test_a_line_break_in_a_value_is_no_line() -> None:
    stream = text_of()
    log(names.STAGE_FAILED, error="two\nlines")
    logging.getLogger("library").warning("two\nlines")

    assert stream.getvalue().count("\n") == 2
    assert stream.getvalue().count("two\\nlines") == 2


def test_what_json_can_not_hold_is_written_all_the_same() -> None:
    stream = json_of()
    log(names.STAGE_FAILED, error="half \ud800", topic=object, delay=float("inf"))

    assert json.loads(stream.getvalue())["topic"] == "<class 'object'>"


def test_colours_are_for_terminals() -> None:
    terminal = Terminal()
    configure("text", stream=terminal)
    log(names.STAGE_FAILED)
    log(names.NODE_STOPPED)

    assert "\x1b[31merror  \x1b[0m stage.failed" in terminal.getvalue()
    assert "info    node.stopped" in terminal.getvalue()
    plain = text_of()
    log(names.DELIVERY_DEAD)
    assert "\x1b" not in plain.getvalue()


def test_what_libraries_log_comes_too_and_once() -> None:
    of_its_own = io.StringIO()
    logging.getLogger("uvicorn.access").addHandler(logging.StreamHandler(of_its_own))
    logging.getLogger("uvicorn.access").propagate = False
    # A server that ran in this process before has set it to what it was told.
    logging.getLogger("uvicorn.access").setLevel(logging.NOTSET)
    text = text_of()
    logging.getLogger("uvicorn.access").info("%s 200", "GET /livez")
    as_json = json_of()
    logging.getLogger("uvicorn.error").warning("slow")

    assert text.getvalue().endswith("info    GET /livez 200 logger=uvicorn.access\n")
    assert of_its_own.getvalue() == ""
    line = json.loads(as_json.getvalue())
    assert (line["event"], line["logger"], line["level"]) == ("slow", "uvicorn.error", "warning")


def test_expressions_that_fail_on_events_do_not_flood_the_log() -> None:
    text = text_of(level="debug")
    logging.getLogger("cel").warning("Python function 'substring' failed: IndexError")
    logging.getLogger("cel").error("broken")

    assert text.getvalue().endswith("error   broken logger=cel\n")
    assert text.getvalue().count("\n") == 1


def test_a_level_leaves_out_what_is_below() -> None:
    stream = text_of(level="warning")
    log(names.NODE_STOPPED)
    log(names.THREAD_STUCK)

    assert "thread.stuck" in stream.getvalue()
    assert "node.stopped" not in stream.getvalue()


def test_a_program_with_its_own_logging_gets_readable_lines(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Without `configure`, as in a program that EventFlow is a part of."""
    caplog.set_level("INFO")
    log(names.DELIVERY_DEAD, topic="email", reason="permanent")

    assert caplog.messages == ["delivery.dead topic=email reason=permanent"]
    assert caplog.records[0].name == "eventflow"
    assert vars(caplog.records[0])["eventflow"].fields == {"topic": "email", "reason": "permanent"}


def test_a_form_or_level_that_does_not_exist_is_refused() -> None:
    for form, level in (("xml", "info"), ("text", "verbose")):
        with pytest.raises(ValueError, match=f"got '{form}' and '{level}'"):
            configure(form, level=level)  # type: ignore[arg-type]  # that is the test
