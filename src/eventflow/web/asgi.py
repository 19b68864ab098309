"""The door as an ASGI application: finds the route, lets pass or not, answers what went wrong."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from starlette.routing import Route as StarletteRoute
from starlette.routing import Router

from eventflow.web import problem, quick
from eventflow.web.auth import Gate
from eventflow.web.call import Call, ClientGone
from eventflow.web.events import post_events
from eventflow.web.routes import ROUTES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from starlette.responses import Response
    from starlette.types import ASGIApp, Receive, Scope, Send

    from eventflow.web.node import Node
    from eventflow.web.routes import Route


def make_app(node: Node, routes: Sequence[Route] = ROUTES) -> ASGIApp:
    """Return the ASGI application that is the door of `node`."""
    return Door(node, routes)


class Door:
    """The application. Events go past Starlette's router, which costs them a quarter."""

    def __init__(self, node: Node, routes: Sequence[Route] = ROUTES) -> None:
        self.node = node
        self.gate = Gate(node)
        paths: dict[str, dict[str, Route]] = {}
        for route in routes:
            paths.setdefault(route.path, {})[route.method] = route
        self._events = next((route for route in routes if route.handler is post_events), None)
        self._rest = Router(
            [StarletteRoute(path, _Path(self, methods)) for path, methods in paths.items()],
            redirect_slashes=False,
            default=self._not_found,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        hot = self._events
        if scope["type"] != "http":  # lifespan, and websockets: which we have none of
            await self._rest(scope, receive, send)
        elif hot is not None and scope["path"] == hot.path and scope["method"] == hot.method:
            await self.serve(hot, scope, receive, send, events=1)
        else:
            await self._rest(scope, receive, send)

    def quick(self, scope: Scope, body: bytes, reply: quick.Reply) -> quick.Quick | None:
        """Take a request that is all there, without a task; None: have it served. See `quick`."""
        hot = self._events
        if hot is None or scope["path"] != hot.path or scope["method"] != hot.method:
            return None
        return quick.take(self, hot, scope, body, reply)

    async def serve(  # a request as ASGI has it, and whose it is
        self, route: Route, scope: Scope, receive: Receive, send: Send, *, events: int = 0
    ) -> None:
        """Have a request answered by its route, whatever happens.

        Args:
            route: Whose it is.
            scope: Of the request.
            receive: Its body, in pieces.
            send: Its answer, in pieces.
            events: How many are refused if it is, as long as nobody knows better.
        """
        call = Call(self.node, self.gate, scope, receive, send)
        call.events = events
        answer: Response | None
        try:
            call.principal = self.gate.admit(scope, route.role)
            answer = await route.handler(call)
        except ClientGone:
            return
        except asyncio.CancelledError:
            # The server's stop has run out of time. This frame is the task's outermost.
            what = problem.unavailable("this node has stopped.", "stopping", problem.UNKNOWN)
            answer = what.response()
        except Exception as error:  # noqa: BLE001  # logged, and the sender gets an answer
            answer = call.failed(error).response()
        if answer is not None and not call.started:
            await answer(scope, receive, send)

    async def _not_found(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await problem.not_found(scope["path"]).response()(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1000})


class _Path:
    """The methods of one path."""

    def __init__(self, door: Door, methods: dict[str, Route]) -> None:
        self._door = door
        self._methods = methods
        if "GET" in methods:
            self._methods = {"GET": methods["GET"], "HEAD": methods["GET"], **methods}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        route = self._methods.get(scope["method"])
        if route is None:
            refusal = problem.method_not_allowed(scope["method"], self._methods)
            await refusal.response()(scope, receive, send)
        else:
            await self._door.serve(route, scope, receive, send)
