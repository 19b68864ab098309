"""Stages end when they are told to, whatever their libraries make of it."""

from __future__ import annotations

import asyncio

from eventflow.flow.supervise import cancel


async def test_a_task_that_swallowed_its_cancellation_is_cancelled_again() -> None:
    asked = 0

    async def stage() -> None:
        nonlocal asked
        while True:
            try:
                await asyncio.get_running_loop().create_future()
            except asyncio.CancelledError:
                asked += 1
                if asked == 2:
                    raise

    task = asyncio.create_task(stage())
    await asyncio.sleep(0)
    await cancel([task], again_s=0.001)
    assert (task.cancelled(), asked) == (True, 2)


async def test_what_ends_slowly_is_left_to_end() -> None:
    asked: list[str] = []

    async def handler() -> None:
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            asked.append("cancelled")
            for _ in range(5):
                await asyncio.sleep(0)
            asked.append("cleaned up")
            raise

    task = asyncio.create_task(handler())
    await asyncio.sleep(0)
    await cancel([task], again_s=None)
    assert asked == ["cancelled", "cleaned up"]


async def test_a_task_that_failed_meanwhile_bothers_nobody() -> None:
    async def stage() -> None:
        raise ValueError("a bug")

    task = asyncio.create_task(stage())
    await asyncio.sleep(0)
    await cancel([task])
    assert task.done()
