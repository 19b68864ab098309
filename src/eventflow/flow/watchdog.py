"""Names the handler that blocks the event loop.

    the loop    notes the time 40 times a second: a beat
    a thread    wakes up when a beat is overdue by 250 ms, and looks at the loop's stack

The thread looks four times a second while all is well, and takes nothing from the loop. What is
on the stack is held against the code of all handlers, so topic and function are named while the
handler is still at it; when the loop goes on, the same incident ends with how long it stood.

Real time on purpose: virtual time stands still while a handler blocks. On a virtual loop there is
nothing to find, and no thread is started.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import traceback
from time import monotonic
from typing import TYPE_CHECKING

from eventflow.flow.slots import is_virtual
from eventflow.telemetry import names
from eventflow.telemetry.logging import log

if TYPE_CHECKING:
    from types import CodeType, FrameType

    from eventflow.flow.handlers import Handler
    from eventflow.telemetry.metrics import Metrics

LIMIT_S = 0.25
"""What blocks the loop for longer is named."""
BEAT_S = 0.025
"""How often the loop notes the time. A block begins at most this much after a beat."""
UNKNOWN = "unknown"
"""The topic of a block that no handler was found in."""
_STACK_FRAMES = 20

ADVICE = """\
handler for topic {topic!r} blocks the event loop: {blocked_s:.1f} s so far, and everything waits.
    async def handler(event): requests.get(...)         # blocks
    async def handler(event): await client.get(...)     # does not
    def handler(event): requests.get(...)               # does not: it runs in a thread"""


class BlockDetector:
    """Watches one event loop.

    Args:
        metrics: Where the blocked time is counted.
        limit_s: What counts as a block, in seconds.
    """

    def __init__(self, metrics: Metrics, *, limit_s: float = LIMIT_S) -> None:
        self._metrics = metrics
        self._limit_s = limit_s
        self._handlers: dict[CodeType, dict[str, str]] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._loop_thread = 0
        self._beat = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None
        self._found: tuple[float, str, str] | None = None
        """The incident that goes on: the beat before it, topic, handler."""

    def watch(self, topic: str, handler: Handler) -> None:
        """Know a topic's handler when it is on the stack."""
        for code in handler.codes:
            self._handlers.setdefault(code, {})[topic] = handler.name

    def start(self) -> None:
        """Watch the running loop, from its own thread."""
        loop = asyncio.get_running_loop()
        if is_virtual(loop) or self._thread is not None:
            return
        self._loop = loop
        self._loop_thread = threading.get_ident()
        self._beat = monotonic()
        self._timer = loop.call_later(BEAT_S, self._note)
        self._stopped.clear()
        self._thread = threading.Thread(target=self._look, name="eventflow-watchdog", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Watch no more."""
        if self._timer is not None:
            self._timer.cancel()
        self._stopped.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    # in the loop -------------------------------------------------------------

    def _note(self) -> None:
        now = monotonic()
        stood = now - self._beat
        if stood > self._limit_s + BEAT_S:
            self._resumed(stood)
        self._beat = now
        if self._loop is not None:
            self._timer = self._loop.call_later(BEAT_S, self._note)

    def _resumed(self, stood: float) -> None:
        """End the incident; the thread may have had no chance to look."""
        found, self._found = self._found, None
        known = found is not None and found[0] == self._beat
        _, topic, handler = found if found is not None and known else (0.0, UNKNOWN, "")
        self._metrics.count(names.LOOP_BLOCKED, stood, topic)
        log(names.LOOP_RESUMED, topic=topic, handler=handler, blocked_s=round(stood, 3))

    # in the thread -----------------------------------------------------------

    def _look(self) -> None:
        reported = 0.0
        while True:
            beat = self._beat
            due = beat + self._limit_s + BEAT_S
            wait = self._limit_s if beat == reported else due - monotonic()
            if self._stopped.wait(max(wait, 0.0)):
                return
            if self._beat == beat != reported and monotonic() >= due:
                reported = beat
                self._report(beat)

    def _report(self, beat: float) -> None:
        frame = sys._current_frames().get(self._loop_thread)  # noqa: SLF001  # the documented way
        if frame is None:
            return
        stack = "".join(traceback.format_stack(frame, limit=_STACK_FRAMES))
        topic, handler = self._of(frame)
        self._found = (beat, topic, handler)
        blocked_s = round(monotonic() - beat, 3)
        if topic == UNKNOWN:
            log(names.LOOP_BLOCKED_LOG, blocked_s=blocked_s, stack=stack)
            return
        log(
            names.HANDLER_BLOCKED,
            topic=topic,
            handler=handler,
            blocked_s=blocked_s,
            advice=ADVICE.format(topic=topic, blocked_s=blocked_s),
            stack=stack,
        )

    def _of(self, frame: FrameType | None) -> tuple[str, str]:
        """Return topic and name of the innermost handler on a stack.

        A function that is the handler of several topics, or a decorator that several handlers
        share, can't be told apart by its code: then all of them are named.
        """
        while frame is not None:
            owners = self._handlers.get(frame.f_code)
            if owners:
                return ", ".join(owners), ", ".join(dict.fromkeys(owners.values()))
            frame = frame.f_back
        return UNKNOWN, ""
