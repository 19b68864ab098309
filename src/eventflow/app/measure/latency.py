"""From publish to handler: an open loop, timed from the scheduled send.

Open: an event is due at its time, however slow the ones before it are; what waits because of that
counts. A closed loop would send less just when the node is slow, and never see it.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import msgspec

from eventflow.app.measure.rate import settled
from eventflow.errors import QueueFull
from eventflow.event import Event

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from eventflow.app.eventflow import EventFlow
    from eventflow.app.measure.lateness import Lateness

PER_S = 5_000
TICK_S = 0.001
WARM_S = 1.0
NOTE = "x" * 400
"""In each event's data: with the rest about 550 bytes."""


class Published(msgspec.Struct):
    """What became of the events of an open loop."""

    events: int = 0
    refused: int = 0
    """They found no room: waiting for it would be a closed loop."""


async def open_loop(seconds: float, send: Callable[[int, float], None], per_s: int = PER_S) -> None:
    """Call `send` for each event at its time, and tell it what that was.

    Args:
        seconds: How long.
        send: Takes the event's number, and when it is due by the machine's monotonic clock.
        per_s: Events a second.
    """
    began = time.monotonic() + 0.01
    number, total = 0, int(per_s * seconds)
    while number < total:
        due = min(total, int((time.monotonic() - began) * per_s) + 1)
        while number < due:
            send(number, began + number / per_s)
            number += 1
        await asyncio.sleep(TICK_S)


async def by_python(
    flow: EventFlow,
    late: Lateness,
    types: Sequence[str],
    seconds: float,
    per_s: int = PER_S,
) -> Published:
    """Publish each event by itself, from a task of its own, until all are settled.

    Args:
        flow: The node, started; its handlers tell `late`.
        late: Takes the times, those of the first second left out.
        types: Of events, in turns.
        seconds: How long.
        per_s: Events a second.

    Raises:
        EventFlowError: one was not accepted, for another reason than want of room.
    """
    sent = Published()
    tasks: set[asyncio.Task[None]] = set()
    failed: list[BaseException] = []

    def done(task: asyncio.Task[None]) -> None:
        tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            failed.append(error)

    async def publish(event: Event) -> None:
        try:
            await flow.publish(event)
        except QueueFull:
            sent.refused += 1

    def send(number: int, at: float) -> None:
        data = {"sent_at": at, "note": NOTE}
        event = Event(type=types[number % len(types)], source="/bench", id=f"{at}", data=data)
        sent.events += 1
        task = asyncio.create_task(publish(event))
        tasks.add(task)
        task.add_done_callback(done)

    await open_loop(WARM_S, send, per_s)
    await asyncio.gather(*tasks, return_exceptions=True)
    late.begin()
    sent.events = sent.refused = 0
    await open_loop(seconds, send, per_s)
    await asyncio.gather(*tasks, return_exceptions=True)
    if failed:
        raise failed[0]
    await settled(flow)
    return sent
