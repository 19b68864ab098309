"""Requests that bring one event, whole at once and in order: what a door is asked most.

Such a request needs no task of its own. It is read where its last bytes came in, handed to the
node, and answered from the call by which the node says that the event is durable. A task, and
what it waits with, would cost a third of all that the door does for it.

Whatever is unusual about a request (its body comes in pieces, it is to be refused, the answer can't
be written in one piece, the server stops meanwhile) is left to the ordinary way, which looks at it
from the beginning: so there is one place that refuses, and one that finds the words.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

from eventflow.web.auth import Role
from eventflow.web.events import answer_of, head_of, one_event, send_answer

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.types import Receive, Scope, Send

    from eventflow.engine.protocol import Receipt
    from eventflow.event import Event
    from eventflow.web.asgi import Door
    from eventflow.web.call import Call
    from eventflow.web.routes import Route

    Reply = Callable[["Quick"], None]


class Quick:
    """A request that the node has, and that waits for its answer.

    It is an ASGI application, too: called as one, it answers in the ordinary way what it has been
    told, or waits for it.
    """

    __slots__ = ("_door", "_event", "_found", "_reply", "_route", "_waiting")

    def __init__(self, door: Door, route: Route, event: Event, reply: Reply) -> None:
        self._door = door
        self._route = route
        self._event = event
        self._reply: Reply | None = reply
        self._found: Receipt | Exception | None = None
        self._waiting: asyncio.Future[None] | None = None

    def told(self, found: Receipt | Exception) -> None:
        """Take what became of the event, and have it answered."""
        self._found = found
        if self._reply is not None:
            self._reply(self)
        elif self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    def leave(self) -> None:
        """Reply no more: it is about to be called as an application."""
        self._reply = None

    def whole(self) -> tuple[int, bytes, bytes] | None:
        """Return status, lines of headers and body of the answer; None: ask the application."""
        found = self._found
        if found is None or isinstance(found, Exception):
            return None
        body = answer_of([self._event], [found])
        return 202, head_of(body), body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer as the route would."""
        # Who sent it was let in before: by now other tokens may hold, and the event be durable.
        answers = replace(self._route, handler=self._answer, role=Role.ANYONE)
        await self._door.serve(answers, scope, receive, send, events=1)

    async def _answer(self, call: Call) -> None:
        if self._found is None:
            self._waiting = asyncio.get_running_loop().create_future()
            await self._waiting
        found, self._found = self._found, None
        assert found is not None  # noqa: S101  # it has been told
        if isinstance(found, Exception):
            try:
                raise found
            finally:
                del found  # it holds this frame: together they would be left to the collector
        await send_answer(call, answer_of([self._event], [found]))


def take(door: Door, route: Route, scope: Scope, body: bytes, reply: Reply) -> Quick | None:
    """Hand a request's event to the node; None: it has to be served in the ordinary way.

    Args:
        door: Whose request it is.
        route: How events come in.
        scope: Of the request, which is on that route.
        body: All of it.
        reply: Called with what is returned here when the answer is known: later, never from here.
    """
    node = door.node
    if node.stopping:
        return None
    try:
        principal = door.gate.admit(scope, route.role)
        event = one_event(node, scope["headers"], body)
        if event is None:
            return None
        quick = Quick(door, route, event, reply)
        return quick if node.offer(event, quick.told, principal=principal.name) else None
    except Exception:  # noqa: BLE001  # it comes again in the ordinary way, and is told and logged
        return None  # (nothing was done: handing it over is the last that a node does)
