"""Speaks to an ASGI application without a network: what it is sent is what it got."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from starlette.types import ASGIApp, Message

LOOPBACK = ("127.0.0.1", 50_000)


class Answer(msgspec.Struct, frozen=True):
    """What the application answered."""

    status: int
    headers: dict[str, str]
    body: bytes
    complete: bool
    """Whether the application said that this was all."""

    def json(self) -> Any:
        return json.loads(self.body)

    def lines(self) -> list[Any]:
        return [json.loads(line) for line in self.body.splitlines()]


class Client:
    """Sends requests to `app`, from this machine unless told otherwise."""

    def __init__(self, app: ASGIApp, headers: Mapping[str, str] | None = None) -> None:
        self.app = app
        self.headers = {"host": "localhost", **(headers or {})}
        self.client: tuple[str, int] | None = LOOPBACK

    async def get(self, target: str, **headers: str) -> Answer:
        return await self.send("GET", target, headers=headers)

    async def post(self, target: str, body: Any = b"", **headers: str) -> Answer:
        """Post JSON, or bytes as they are."""
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        return await self.send("POST", target, [raw], headers=headers)

    async def send(
        self,
        method: str,
        target: str,
        body: Sequence[bytes] = (),
        headers: Mapping[str, str] | Sequence[tuple[bytes, bytes]] = (),
        *,
        hang_up: bool = False,
    ) -> Answer:
        """Send a request whose body comes in these pieces; then hang up instead of ending it."""
        path, _, query = target.partition("?")
        messages: list[Message] = [
            {"type": "http.request", "body": piece, "more_body": True} for piece in body
        ]
        end: Message = {"type": "http.request", "body": b"", "more_body": False}
        messages.append({"type": "http.disconnect"} if hang_up else end)
        given = (
            list(headers)
            if not hasattr(headers, "items")
            else [
                (name.replace("_", "-").lower().encode(), value.encode())
                for name, value in headers.items()
            ]
        )
        scope = {
            "type": "http",
            "method": method,
            "path": path,
            "raw_path": path.encode(),
            "root_path": "",
            "query_string": query.encode(),
            "headers": [(k.encode(), v.encode()) for k, v in self.headers.items()] + given,
            "client": self.client,
            "server": ("127.0.0.1", 8080),
            "http_version": "1.1",
            "scheme": "http",
        }
        waiting = iter(messages)
        sent: list[Message] = []

        async def receive() -> Message:
            return next(waiting, {"type": "http.disconnect"})

        async def send(message: Message) -> None:
            sent.append(message)

        await self.app(scope, receive, send)
        return _answer(sent)


def _answer(sent: Sequence[Message]) -> Answer:
    if not sent:
        return Answer(0, {}, b"", complete=False)
    start, *bodies = sent
    assert start["type"] == "http.response.start"
    assert all(message["type"] == "http.response.body" for message in bodies)
    assert all(message.get("more_body", False) for message in bodies[:-1])
    return Answer(
        start["status"],
        {name.decode(): value.decode() for name, value in start["headers"]},
        b"".join(message.get("body", b"") for message in bodies),
        complete=bool(bodies) and not bodies[-1].get("more_body", False),
    )
