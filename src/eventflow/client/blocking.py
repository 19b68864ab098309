"""The client for programs that don't await."""

from __future__ import annotations

import os
import time
from collections import deque
from http.client import (
    HTTPConnection,
    HTTPException,
    HTTPSConnection,
    IncompleteRead,
)
from typing import TYPE_CHECKING, Any, Final, Self
from urllib.parse import urlsplit

from eventflow.client.publishing import Publisher, event_path, shown_of, windows_of
from eventflow.client.sending import Wait
from eventflow.errors import EventFlowError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from eventflow.client.exchange import Exchange
    from eventflow.client.sending import Step
    from eventflow.engine.protocol import Receipt
    from eventflow.event import Event

_PART_BYTES: Final = 65_536


class Client(Publisher):
    """Publishes to a node from another process, waiting for each answer.

    Use one for the whole program: it keeps its connections, any thread may use it, and it may be
    made before a fork. Every event is sent again under its own id, so one that was stored without
    an answer is stored once.

        client = Client("http://127.0.0.1:8080", token="…")
        receipt = client.publish(Event(type="user.registered", source="/shop", data={"id": 7}))

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

    _sleep = staticmethod(time.sleep)

    def __init__(
        self,
        url: str | None = None,
        token: str | None = None,
        *,
        wait_s: float = 30.0,
        timeout_s: float = 10.0,
    ) -> None:
        super().__init__(url, token, wait_s=wait_s, timeout_s=timeout_s)
        self._idle: deque[HTTPConnection] = deque()
        self._process = os.getpid()

    def publish(self, event: Event, *, wait_s: float | None = None) -> Receipt:
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
        return self.publish_many([event], wait_s=wait_s)[0]

    def publish_many(
        self, events: Iterable[Event], *, wait_s: float | None = None
    ) -> list[Receipt]:
        """Have events stored, 500 at a time; return their receipts in order.

        Args:
            events: The events; they are made as they are sent.
            wait_s: As the client's, for this call: each 500 that are accepted begin it anew.

        Raises:
            EventFlowError: as `publish`. Each 500 are stored all or none; a note on the error says
                how many events were accepted, `index` which one is wrong.
        """
        return list(self.publish_stream(events, wait_s=wait_s))

    def publish_stream(
        self, events: Iterable[Event], *, wait_s: float | None = None
    ) -> Iterator[Receipt]:
        """Yield the receipts of events, as they are accepted: for more than fit into memory.

        Nothing is sent before the first receipt is asked for.

        Args:
            events: The events, 500 of which are made and sent at a time.
            wait_s: As the client's, for this call: each 500 that are accepted begin it anew.

        Raises:
            EventFlowError: as `publish`, after the receipts of what was accepted before.
        """
        publishing = self._publishing(wait_s)
        for window in windows_of(events):
            try:
                self._carry_out(publishing.steps(window))
            except EventFlowError:
                yield from publishing.receipts()
                raise
            yield from publishing.receipts()

    def stats(self, *, wait_s: float | None = None) -> dict[str, Any]:
        """Return the ledger of the node: `GET /v1/stats` in docs/reference/http.md.

        Raises:
            Unauthorized: the token may not read.
            NodeUnavailable: no answer, also after `wait_s`.
            UnexpectedAnswer: what answers is no EventFlow node.
        """
        question = self._asking("/v1/stats", wait_s)
        self._carry_out(question.steps())
        return shown_of(question, "stats")

    def event(self, ref: str, *, wait_s: float | None = None) -> dict[str, Any]:
        """Return where an event is and what happened to it: `GET /v1/events/{ref}`.

        Raises:
            UnknownName: never accepted there, or delivered without trouble some time ago.
            Unauthorized: the token may not read.
            NodeUnavailable: no answer, also after `wait_s`.
            UnexpectedAnswer: what answers is no EventFlow node.
        """
        question = self._asking(event_path(ref), wait_s)
        self._carry_out(question.steps())
        return shown_of(question, ref)

    def close(self) -> None:
        """Close the connections. Used again, it opens new ones."""
        while self._idle:
            self._idle.pop().close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _carry_out(self, steps: Iterator[Step]) -> None:
        for step in steps:
            if isinstance(step, Wait):
                self._sleep(step.delay_s)
            else:
                self._exchange(step)

    def _exchange(self, exchange: Exchange) -> None:
        """Have one request answered, over a connection that is idle or a new one."""
        connection, exchange.reused = self._connection()
        try:
            if self._ask(connection, exchange):
                self._idle.append(connection)
                return
        except (OSError, IncompleteRead) as error:  # a timeout is one, RemoteDisconnected too
            exchange.lost = error
        except HTTPException:
            exchange.strange = True
        except BaseException:
            connection.close()
            raise
        connection.close()

    def _ask(self, connection: HTTPConnection, exchange: Exchange) -> bool:
        """Send and read; return whether the connection can be used again."""
        assert exchange.within_s is not None  # noqa: S101  # `Publisher` gives every request its time
        until = time.monotonic() + exchange.within_s
        _limit(connection, until)
        headers = self._target.headers | exchange.headers
        connection.request(exchange.method, exchange.path, exchange.body or None, headers)
        _limit(connection, until)
        answer = connection.getresponse()
        exchange.head(
            answer.status, answer.getheader("content-type", ""), answer.getheader("retry-after")
        )
        while data := answer.read1(_PART_BYTES):
            if not exchange.feed(data):
                exchange.end()
                return False
            _limit(connection, until)
        exchange.end()
        answer.read()  # nothing is left: only this tells a body of known length that it is over
        return answer.isclosed() and not answer.will_close and exchange.lost is None

    def _connection(self) -> tuple[HTTPConnection, bool]:
        if self._process != os.getpid():
            # Those are the parent's: two processes on one connection read each other's answers.
            self._idle, self._process = deque(), os.getpid()
        try:
            return self._idle.pop(), True
        except IndexError:
            pass
        parts = urlsplit(self._target.url)
        assert parts.hostname is not None  # noqa: S101  # `target_of` has looked
        kind = HTTPSConnection if parts.scheme == "https" else HTTPConnection
        return kind(parts.hostname, parts.port), False


def _limit(connection: HTTPConnection, until: float) -> None:
    """Give what comes next the time that is left."""
    left_s = until - time.monotonic()
    if left_s <= 0:
        raise TimeoutError
    connection.timeout = left_s
    if connection.sock is not None:
        connection.sock.settimeout(left_s)
