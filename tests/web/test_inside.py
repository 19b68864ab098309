"""Requests from within the process: read to the end, broken off, and failing."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from eventflow.web import inside

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

MANY = 100


async def long(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with many pieces."""
    assert (await receive())["body"] == b"hello"
    await send({"type": "http.response.start", "status": 200, "headers": []})
    for n in range(MANY):
        body = f"{scope['path']}{n};".encode()
        await send({"type": "http.response.body", "body": body, "more_body": True})
    await send({"type": "http.response.body", "body": b"", "more_body": False})


async def failing(scope: Scope, receive: Receive, send: Send) -> None:
    """Begin an answer, and fail."""
    del scope, receive
    await send({"type": "http.response.start", "status": 200, "headers": []})
    raise RuntimeError("on the way")


async def test_an_answer_is_read_as_it_comes() -> None:
    async with inside.request(long, "POST", "/x", body=b"hello") as answer:
        assert await answer.status() == 200
        pieces = [piece async for piece in answer.pieces()]
    assert pieces == [f"/x{n};".encode() for n in range(MANY)]


async def test_an_answer_may_be_broken_off() -> None:
    async with inside.request(long, "POST", "/x", body=b"hello") as answer:
        assert await answer.status() == 200
    assert len(asyncio.all_tasks()) == 1


async def test_who_is_cancelled_while_nobody_reads_ends() -> None:
    """As `asyncio.run` does it with whatever an error has left behind."""
    task = asyncio.create_task(_left_behind())
    await asyncio.sleep(0)
    for _ in range(MANY):
        await asyncio.sleep(0)
    before = [one for one in asyncio.all_tasks() if one not in {task, asyncio.current_task()}]
    for one in before:
        one.cancel()
    await asyncio.wait_for(asyncio.gather(*before, return_exceptions=True), 5)
    task.cancel()
    assert before


async def _left_behind() -> None:
    async with inside.request(long, "POST", "/x", body=b"hello") as answer:
        await answer.status()
        await asyncio.Event().wait()


async def test_what_the_application_raises_is_raised() -> None:
    async with inside.request(failing, "GET", "/x") as answer:
        assert await answer.status() == 200
        with pytest.raises(RuntimeError, match="on the way"):
            [piece async for piece in answer.pieces()]
