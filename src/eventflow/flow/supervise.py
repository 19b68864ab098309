"""Keeps a stage's task going, and ends tasks."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from eventflow.telemetry import names
from eventflow.telemetry.logging import log

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable

RESTART_S = 1.0
"""How long after a stage failed it is started again."""
CANCEL_AGAIN_S = 1.0
"""How long a task may go on after it was cancelled, before it is cancelled again."""


def supervise(
    stage: str, topic: str, run: Callable[[], Coroutine[Any, Any, None]]
) -> asyncio.Task[None]:
    """Run a stage until it returns: should it fail, that is EventFlow's fault, and it goes on."""

    async def go() -> None:
        while True:
            try:
                return await run()
            except Exception as error:  # noqa: BLE001  # logged with its traceback
                log(names.STAGE_FAILED, stage=stage, topic=topic, error=error)
                await asyncio.sleep(RESTART_S)

    return asyncio.create_task(go(), name=f"{stage}:{topic}")


async def cancel(
    tasks: Iterable[asyncio.Task[None]], again_s: float | None = CANCEL_AGAIN_S
) -> None:
    """Cancel tasks, and wait until they have ended.

    Args:
        tasks: Which.
        again_s: Those that go on are cancelled again after so many seconds: `asyncio.wait_for` of
            Python 3.11, which client libraries use, swallows a cancellation that comes together
            with what it waits for. None: never, for tasks whose own ending must not be disturbed.
    """
    ending = list(tasks)
    going = set(ending)
    while going:
        for task in going:
            task.cancel()
        _, going = await asyncio.wait(going, timeout=again_s)
    await asyncio.gather(*ending, return_exceptions=True)  # what they failed of is nobody's now
