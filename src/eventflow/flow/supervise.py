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


async def cancel(tasks: Iterable[asyncio.Task[None]]) -> None:
    """Cancel tasks, and wait until they have ended."""
    ending = list(tasks)
    for task in ending:
        task.cancel()
    await asyncio.gather(*ending, return_exceptions=True)
