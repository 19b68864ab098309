"""One request on its way through the door: what handlers are given."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import parse_qsl

import msgspec
from starlette.responses import Response

from eventflow.cloudevents.payload import reason
from eventflow.errors import did_you_mean
from eventflow.storage.protocol import Actor
from eventflow.telemetry.logging import log
from eventflow.telemetry.names import REQUEST_FAILED
from eventflow.web.problem import COMMON_HEADERS, FAULT, Problem, Refusal, bad_request, problem_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Collection

    from starlette.types import Receive, Scope, Send

    from eventflow.web.auth import Gate, Principal
    from eventflow.web.node import Node

    T = TypeVar("T")

MAX_COMMAND_BYTES = 2**20
"""Size of the body of any request but those that bring events: a thousand ids fit many times."""


WHOLE = "eventflow.whole"
"""The ASGI extension by which our server takes an answer in one piece: its `answer` is a
function of status, head and body."""


class ClientGone(Exception):
    """The sender has hung up: there is nobody to answer."""


class Call:
    """A request that has been let in."""

    __slots__ = ("events", "gate", "node", "principal", "receive", "scope", "send", "started")

    def __init__(self, node: Node, gate: Gate, scope: Scope, receive: Receive, send: Send) -> None:
        self.node = node
        self.gate = gate
        self.scope = scope
        self.receive = receive
        self.send = send
        self.principal: Principal
        """Who sent it."""
        self.started = False
        """Set by a handler that answers by itself: the status is on its way."""
        self.events = 0
        """How many events are refused if this is; 1 if that is not known, 0 if it brings none."""

    def header(self, name: bytes) -> bytes | None:
        """Return the first header of that name (in lower case)."""
        for given, value in self.scope["headers"]:
            if given == name:
                found: bytes = value
                return found
        return None

    def param(self, name: str) -> str:
        """Return a part of the path."""
        value: str = self.scope["path_params"][name]
        return value

    def query(self, *known: str) -> dict[str, str]:
        """Return the parameters behind the `?`: each of a known name, and once. Empty is absent.

        Raises:
            Refusal: 400 for any other.
        """
        try:
            pairs = parse_qsl(self.scope["query_string"].decode(), errors="strict")
        except ValueError as error:
            raise bad_request("expected a query in UTF-8, got something else.") from error
        found: dict[str, str] = {}
        for name, value in pairs:
            if name not in known:
                raise bad_request(
                    f"there is no parameter {name[:80]!r}.{did_you_mean(name, known)} "
                    f"Expected one of {', '.join(known) or 'none'}."
                )
            if name in found:
                raise bad_request(f"expected parameter {name!r} once, got it twice.")
            found[name] = value
        return found

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield the body as it comes.

        Raises:
            ClientGone: the sender hung up before its end.
        """
        more = True
        while more:
            body, more = await self._piece()
            if body:
                yield body

    async def _piece(self) -> tuple[bytes, bool]:
        """Return what has come of the body, and whether more of it follows."""
        message = await self.receive()
        if message["type"] != "http.request":
            raise ClientGone
        return message.get("body", b""), message.get("more_body", False)

    async def body(self, limit: int, too_large: Callable[[int], Exception]) -> bytes:
        """Return the whole body.

        Args:
            limit: Bytes it may have at most, with a Content-Length or without.
            too_large: Makes the exception for one of so many bytes, or of so many already.

        Raises:
            ClientGone: the sender hung up before its end.
        """
        declared = self.header(b"content-length")
        if declared is not None and declared.isdigit() and int(declared) > limit:
            raise too_large(int(declared))
        body, more = await self._piece()
        size = len(body)
        if more and size <= limit:
            parts = [body]
            async for part in self.chunks():
                parts.append(part)
                size += len(part)
                if size > limit:
                    break
            body = b"".join(parts)
        if size > limit:
            raise too_large(size)
        return body

    async def command(self, into: type[T]) -> T:
        """Return the body of a request that asks for an act. None is `{}`.

        Raises:
            Refusal: 400, it is not that; 413, it is larger than any such thing.
        """
        body = await self.body(MAX_COMMAND_BYTES, _too_long)
        try:
            return msgspec.json.decode(body or b"{}", type=into)
        except msgspec.ValidationError as error:
            raise bad_request(f"{_in_words(error, into)}. Nothing was changed.") from error
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            problem = f"expected a JSON object, got {reason(error)}. Nothing was changed."
            raise bad_request(problem) from error

    def failed(self, error: Exception) -> Problem:
        """Return what to answer where `error` ended the request: counted, and logged if ours."""
        problem = problem_of(error)
        if problem is FAULT:
            method, path = self.scope["method"], self.scope["path"]
            log(REQUEST_FAILED, method=method, path=path, error=error)
        if problem.reason and self.events:
            self.node.refused(problem.reason, self.events)
        return problem

    def by(self, why: str) -> Actor:
        """Return who acts, for the audit trail."""
        return Actor(self.principal.name, why)


def _too_long(size: int) -> Refusal:
    return Refusal(
        Problem(
            status=413,
            code="too-large",
            title="Too large",
            detail=f"expected a body of at most {MAX_COMMAND_BYTES} bytes, got {size} or more. "
            "Nothing was changed; name fewer ids at once, or use a filter.",
        )
    )


def _in_words(error: msgspec.ValidationError, into: Any) -> str:
    """Return msgspec's sentence, with the member's name first and a hint where one is misspelt."""
    text, _, path = str(error).partition(" - at `$.")
    unknown = text.partition("unknown field `")[2].rstrip("`")
    if unknown:
        known = msgspec.structs.fields(into)
        hint = did_you_mean(unknown, [field.encode_name for field in known])
        return f"there is no member {unknown[:80]!r}.{hint}".rstrip(".")
    return f"{path.rstrip('`')}: {text}" if path else text


class Json(Response):
    """An answer in JSON."""

    media_type = "application/json"

    def __init__(self, value: Any, status: int = 200) -> None:
        super().__init__(value, status, COMMON_HEADERS)

    def render(self, content: Any) -> bytes:
        """Return the bytes."""
        return msgspec.json.encode(content)


def whole(text: str, name: str, allowed: Collection[int]) -> int:
    """Return a parameter that is a whole number.

    Raises:
        Refusal: 400, it is none or out of range.
    """
    if text.isascii() and text.isdigit() and len(text) < 10 and int(text) in allowed:
        return int(text)
    least, most = min(allowed), max(allowed)
    raise bad_request(f"{name}: expected a whole number from {least} to {most}, got {text[:80]!r}.")
