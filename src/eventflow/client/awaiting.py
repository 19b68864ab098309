"""The client for programs that await, and how exchanges are carried out with aiohttp."""

from __future__ import annotations

import asyncio
import io
from typing import TYPE_CHECKING, Any, Final, Self

import aiohttp

from eventflow.client.lines import CHUNK
from eventflow.client.publishing import Publisher, event_path, shown_of, windows_of
from eventflow.client.sending import Wait
from eventflow.errors import EventFlowError

if TYPE_CHECKING:
    from collections.abc import (
        AsyncIterable,
        AsyncIterator,
        Awaitable,
        Callable,
        Iterable,
        Iterator,
    )
    from types import SimpleNamespace

    from eventflow.client.exchange import Exchange
    from eventflow.client.lines import Line
    from eventflow.client.sending import Step
    from eventflow.engine.protocol import Receipt
    from eventflow.event import Event

UNREACHABLE: Final = (aiohttp.ClientConnectorError, aiohttp.ServerTimeoutError)
LOST: Final = (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, TimeoutError)
"""What a connection may end with. Sending the same events again is safe."""


class AsyncClient(Publisher):
    """Publishes to a node from another process, in an event loop.

    Use one for the whole program: it keeps its connections, and any number of tasks may use it.
    Every event is sent again under its own id, so one that was stored without an answer is stored
    once.

        async with AsyncClient("http://127.0.0.1:8080", token="…") as client:
            await client.publish(Event(type="user.registered", source="/shop", data={"id": 7}))

    Args:
        url: Where it is: "http://HOST:PORT". Left out: EVENTFLOW_URL, else http://127.0.0.1:8080.
        token: The secret of one of its `[server] tokens`. Left out: EVENTFLOW_TOKEN, else none.
        wait_s: Seconds to keep trying while the node has no room, is stopping or does not answer;
            0 tries once. Accepted events begin them anew. At most a day.
        timeout_s: Seconds that one request may take. Above 0.

    Raises:
        ConfigError: url or token can't be used.
        ValueError: a number is out of its range.
    """

    _sleep: Callable[[float], Awaitable[object]] = staticmethod(asyncio.sleep)

    def __init__(
        self,
        url: str | None = None,
        token: str | None = None,
        *,
        wait_s: float = 30.0,
        timeout_s: float = 10.0,
    ) -> None:
        super().__init__(url, token, wait_s=wait_s, timeout_s=timeout_s)
        self._session: aiohttp.ClientSession | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def publish(self, event: Event, *, wait_s: float | None = None) -> Receipt:
        """Have one event stored; when this returns it survives a crash of the node.

        Args:
            event: The event. Its id was made with it: publishing it twice stores it once.
            wait_s: As the client's, for this call.

        Raises:
            QueueFull: the node has no room, also after `wait_s`. Nothing was stored.
            InvalidEvent: the event breaks CloudEvents or its schema. Nothing was stored.
            Unroutable, TooLarge: the node's settings refuse it. Nothing was stored.
            Unauthorized: the token is not one of the node's, or of another role.
            NodeUnavailable: no answer, also after `wait_s`. It may be stored: publish it again.
            UnexpectedAnswer: what answers is no EventFlow node.
        """
        return (await self.publish_many([event], wait_s=wait_s))[0]

    async def publish_many(
        self, events: Iterable[Event] | AsyncIterable[Event], *, wait_s: float | None = None
    ) -> list[Receipt]:
        """Have events stored, 500 at a time; return their receipts in order.

        Args:
            events: The events; they are made as they are sent.
            wait_s: As the client's, for this call: each 500 that are accepted begin it anew.

        Raises:
            EventFlowError: as `publish`. Each 500 are stored all or none; a note on the error says
                how many events were accepted, `index` which one is wrong.
        """
        return [receipt async for receipt in self.publish_stream(events, wait_s=wait_s)]

    async def publish_stream(
        self, events: Iterable[Event] | AsyncIterable[Event], *, wait_s: float | None = None
    ) -> AsyncIterator[Receipt]:
        """Yield the receipts of events, as they are accepted: for more than fit into memory.

        Nothing is sent before the first receipt is asked for.

        Args:
            events: The events, 500 of which are made and sent at a time.
            wait_s: As the client's, for this call: each 500 that are accepted begin it anew.

        Raises:
            EventFlowError: as `publish`, after the receipts of what was accepted before.
        """
        publishing = self._publishing(wait_s)
        async for window in _windows_of(events):
            failed: EventFlowError | None = None
            try:
                await self._carry_out(publishing.steps(window))
            except EventFlowError as error:
                failed = error
            for receipt in publishing.receipts():
                yield receipt
            if failed is not None:
                raise failed

    async def stats(self, *, wait_s: float | None = None) -> dict[str, Any]:
        """Return the ledger of the node: `GET /v1/stats` in docs/reference/http.md.

        Raises:
            Unauthorized: the token may not read.
            NodeUnavailable: no answer, also after `wait_s`.
            UnexpectedAnswer: what answers is no EventFlow node.
        """
        question = self._asking("/v1/stats", wait_s)
        await self._carry_out(question.steps())
        return shown_of(question, "stats")

    async def event(self, ref: str, *, wait_s: float | None = None) -> dict[str, Any]:
        """Return where an event is and what happened to it: `GET /v1/events/{ref}`.

        Raises:
            UnknownName: never accepted there, or delivered without trouble some time ago.
            Unauthorized: the token may not read.
            NodeUnavailable: no answer, also after `wait_s`.
            UnexpectedAnswer: what answers is no EventFlow node.
        """
        question = self._asking(event_path(ref), wait_s)
        await self._carry_out(question.steps())
        return shown_of(question, ref)

    async def close(self) -> None:
        """Close the connections. Used again, it opens new ones."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _carry_out(self, steps: Iterator[Step]) -> None:
        loop = asyncio.get_running_loop()
        if self._session is None or self._loop is not loop:
            self._session, self._loop = session_of(self.url, self._target.headers), loop
        await carry_out(steps, self._session, self._sleep)


def session_of(url: str, headers: dict[str, str]) -> aiohttp.ClientSession:
    """Return a session that tells each exchange whether its connection was open already."""
    trace = aiohttp.TraceConfig()

    async def reused(_: aiohttp.ClientSession, context: SimpleNamespace, __: object) -> None:
        context.trace_request_ctx.reused = True

    trace.on_connection_reuseconn.append(reused)
    return aiohttp.ClientSession(
        url,
        headers=headers,
        timeout=aiohttp.ClientTimeout(total=None),
        trace_configs=[trace],
    )


async def carry_out(
    steps: Iterator[Step],
    session: aiohttp.ClientSession,
    sleep: Callable[[float], Awaitable[object]],
) -> None:
    """Carry out exchanges and waits, one after the other."""
    for step in steps:
        if isinstance(step, Wait):
            await sleep(step.delay_s)
        else:
            await exchange(session, step)


async def exchange(session: aiohttp.ClientSession, one: Exchange) -> None:
    """Have one request answered."""
    body = io.BytesIO(one.body) if one.body else None  # a file: aiohttp warns of large bytes
    try:
        async with (
            asyncio.timeout(one.within_s),
            session.request(
                one.method,
                one.path,
                data=body,
                headers=one.headers,
                allow_redirects=False,
                trace_request_ctx=one,
            ) as answer,
        ):
            one.head(answer.status, answer.content_type, answer.headers.get("retry-after"))
            async for data in answer.content.iter_any():
                if not one.feed(data):
                    break
            one.end()
    except LOST as error:
        one.lost = error
    except aiohttp.ClientError:
        one.strange = True


async def _windows_of(
    events: Iterable[Event] | AsyncIterable[Event],
) -> AsyncIterator[list[Line]]:
    if not hasattr(events, "__aiter__"):
        for window in windows_of(events):
            yield window
        return
    first = 0
    some: list[Event] = []
    async for event in events:
        some.append(event)
        if len(some) == CHUNK:
            for window in windows_of(some, first):
                yield window
            first, some = first + len(some), []
    for window in windows_of(some, first):
        yield window
