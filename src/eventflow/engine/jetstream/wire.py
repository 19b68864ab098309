"""The connection: plain requests to JetStream, and what their answers mean.

nats-py's own JetStream client is not used. Its `publish` gives one exception for "full" and for
"down", and its `publish_async` never answers where a stream is full. Here every answer has one of
three meanings, and no other module looks at an error code:

    stored    `Stored`: it is durable, or it was there already
    refused   `Full`, `Duplicated`, `Refused`: the server says no, nothing was stored
    unknown   asked again under the same id, for `HORIZON_S`; then `EngineUnavailable`
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import nats.errors

from eventflow.config import NatsSettings
from eventflow.engine.jetstream.answers import Answers
from eventflow.engine.jetstream.client import Persistent
from eventflow.errors import EngineUnanswered, EngineUnavailable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from nats.aio.msg import Msg

ANSWER_S = 3.0
"""How long the server may take for one answer before it is asked again."""
HORIZON_S = 10.0
"""How long the same thing is asked for. A stream's leader is chosen anew within 4 to 7 s."""
FIRST_PAUSE_S = 0.02
LONGEST_PAUSE_S = 0.5

_STORE_FAILED = 10077
_NO_RESOURCES = 10023
_DUPLICATE_IN_BATCH = 10201
EXPECTED_OTHERWISE = {10070, 10071}
_NOT_FOUND = 10037
_ALL_READ = {"204", "404"}
"""That was all; there is nothing. Else nobody is there to answer, 503, and nothing is known."""
_NEVER = {10074, 10052}
"""No cluster; a configuration that no stream can be changed to: also with a status of 500."""
_BAD_REQUEST_STATUS = range(400, 500)
_IMPOSSIBLE_ALONE = {"Nats-Expected-Last-Msg-Id": "ef:none"}
_IMPOSSIBLE_AMONG_SEVERAL = {"Nats-Expected-Last-Sequence": str(2**63 - 1)}
"""What a publish may expect that is never so, and that is looked at after its own id. The order
differs: one server looks at sequences before the id; among several, expecting an id is looked at
so late that the stream answers nobody any more until it has another leader."""

_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode


class Refused(Exception):
    """The server says no: nothing was stored. `code` is JetStream's own."""

    def __init__(self, code: int, status: int, text: str) -> None:
        super().__init__(f"{code}: {text}")
        self.code = code
        self.status = status
        self.text = text


class Full(Refused):
    """The stream, or the whole server, has no room for it."""


class Duplicated(Refused):
    """A batch holds an id that the stream knows: none of it was stored."""


class Missing(Refused):
    """There is no such message."""


class Stored(NamedTuple):
    """The answer to a publish."""

    seq: int
    """Where it stands; of a duplicate, where the first one stood; of a batch, its last one."""
    duplicate: bool = False


class Item(NamedTuple):
    """One message to publish."""

    subject: str
    id: str
    body: bytes
    headers: Mapping[str, str] = {}


class Message(NamedTuple):
    """One message of a stream, as it was read there."""

    seq: int
    subject: str
    body: bytes


class Wire:
    """One connection to the servers."""

    def __init__(self, client: Persistent, replicas: int = 1) -> None:
        self.client = client
        self.closed = False
        self.answers = Answers(self)
        self._several = replicas > 1
        self._impossible = _IMPOSSIBLE_ALONE if replicas == 1 else _IMPOSSIBLE_AMONG_SEVERAL

    @property
    def info(self) -> Mapping[str, Any]:
        """How the server that it is connected to has introduced itself."""
        return self.client._server_info  # noqa: SLF001  # it has no public name

    @property
    def fault(self) -> str | None:
        """What keeps the node from the servers, None while nothing does."""
        return None if self.closed else self.client.fault

    @staticmethod
    async def connect(
        url: str,
        replicas: int = 1,
        access: NatsSettings | None = None,
        *,
        encrypted: bool = False,
    ) -> Wire:
        """Connect; later losses are mended by themselves.

        Args:
            url: Of one or more servers, separated by commas.
            replicas: How many servers hold each stream.
            access: How the node logs in.
            encrypted: Whether nothing may go in the clear.

        Raises:
            ConfigError: a file that the node logs in with can't be used.
            EngineUnavailable: no server answers there, or takes this node.
        """
        client = Persistent(url, access or NatsSettings(), encrypted=encrypted)
        await client.begin()
        return Wire(client, replicas)

    async def close(self) -> None:
        """End the connection."""
        self.closed = True
        await self.client.end()

    # asking ----------------------------------------------------------------------

    async def ask(self, what: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Ask JetStream's API.

        Raises:
            Refused: it said no.
            EngineUnavailable: no answer in `HORIZON_S`.
        """
        payload = b"" if body is None else _encode(body)
        answer = await self._insist(f"$JS.API.{what}", payload, None)
        found: dict[str, Any] = answer
        return found

    async def get(self, stream: str, **which: Any) -> Message | None:
        """Return one message from the stream's leader, None where there is none."""
        try:
            told = await self.ask(f"STREAM.MSG.GET.{stream}", which)
        except Missing:
            return None
        message = told["message"]
        body = msgspec.convert(message.get("data", ""), bytes, strict=True)
        return Message(message["seq"], message["subject"], body)

    async def read(self, stream: str, subjects: str, after: int, limit: int) -> list[Message]:
        """Return up to `limit` messages behind the sequence `after`, in their order.

        Among several servers any of them may answer, and a follower is a little behind: it would
        leave out what was stored just before. So the leader is asked for what comes next, until it
        has nothing.

        Raises:
            Refused: there is no such stream, perhaps.
            EngineUnavailable: no answer.
        """
        found: list[Message] = []
        while True:
            some, over = await self._read_anywhere(stream, subjects, after, limit - len(found))
            found += some
            if over or len(found) >= limit:
                return found
            after = found[-1].seq if found else after
            newer = await self.get(stream, seq=after + 1, next_by_subj=subjects)
            if newer is None:
                return found
            found.append(newer)
            after = newer.seq
            if len(found) >= limit:
                return found

    async def _read_anywhere(
        self, stream: str, subjects: str, after: int, limit: int
    ) -> tuple[list[Message], bool]:
        """Return what some server has, and whether that is sure to be all there is."""
        inbox = self.client.new_inbox()
        waiting = await self.client.subscribe(inbox)
        try:
            wish = {"seq": after + 1, "batch": limit, "next_by_subj": subjects}
            await self._publish(f"$JS.API.DIRECT.GET.{stream}", _encode(wish), None, inbox)
            found: list[Message] = []
            while True:
                answer = await waiting.next_msg(timeout=ANSWER_S)
                headers = answer.headers or {}
                if "Nats-Sequence" not in headers:
                    return found, headers.get("Status") in _ALL_READ and not self._several
                found.append(
                    Message(int(headers["Nats-Sequence"]), headers["Nats-Subject"], answer.data)
                )
        except (nats.errors.Error, TimeoutError) as error:
            raise EngineUnavailable(f"no answer from {stream} ({error!r})") from error
        finally:
            with suppress(nats.errors.Error):
                await waiting.unsubscribe()

    async def put(self, item: Item) -> Stored:
        """Publish one message and wait until it is durable.

        Raises:
            Full, Refused: nothing was stored.
            EngineUnanswered: unknown, for all of `HORIZON_S`.
        """
        headers = {"Nats-Msg-Id": item.id, **item.headers} if item.id else dict(item.headers)
        told = await self._insist(item.subject, item.body, headers)
        return Stored(told["seq"], told.get("duplicate", False))

    async def put_all(self, items: Sequence[Item]) -> Stored:
        """Publish messages of one stream, all or none of them (an atomic batch).

        Raises:
            Full, Duplicated, Refused: none was stored.
            EngineUnanswered: unknown. Asked again, what was stored is `Duplicated`.
        """
        if len(items) == 1:
            return await self.put(items[0])
        batch = self.unique()
        last = len(items)
        for number, item in enumerate(items[:-1], start=1):
            headers = {
                "Nats-Msg-Id": item.id,
                "Nats-Batch-Id": batch,
                "Nats-Batch-Sequence": str(number),
                **item.headers,
            }
            await self._publish(item.subject, item.body, headers)
        item = items[-1]
        headers = {
            "Nats-Msg-Id": item.id,
            "Nats-Batch-Id": batch,
            "Nats-Batch-Sequence": str(last),
            "Nats-Batch-Commit": "1",
            **item.headers,
        }
        # Only once: asked again under this name it would be another, broken batch.
        try:
            told = _checked(await self._once(item.subject, item.body, headers))
        except _Unknown as unknown:
            raise EngineUnanswered(f"no answer to a batch ({unknown})") from unknown
        return Stored(told["seq"], told.get("duplicate", False))

    def unique(self) -> str:
        """Return a name that nothing had before."""
        return self.client._nuid.next().decode()  # noqa: SLF001  # as its inboxes have

    async def known(self, subject: str, id: str) -> int | None:
        """Return where the message with this id stood, None where the stream knows no such id.

        Asked by a publish that can't be stored: its own id is looked at before what it expects.
        """
        headers = {"Nats-Msg-Id": id, **self._impossible}
        try:
            told = await self._insist(subject, b"", headers)
        except Refused as refused:
            if refused.code in EXPECTED_OTHERWISE:
                return None
            raise
        return int(told["seq"])

    async def tell(self, subject: str, body: bytes, reply: str = "") -> None:
        """Publish without an answer."""
        await self._publish(subject, body, None, reply)

    # inside ----------------------------------------------------------------------

    async def _insist(self, subject: str, body: bytes, headers: dict[str, str] | None) -> Any:
        async def once() -> Any:
            return _checked(await self._once(subject, body, headers))

        return await self._until_answered(once, subject)

    async def _until_answered(self, once: Callable[[], Awaitable[Any]], what: str) -> Any:
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + HORIZON_S
        pause_s = FIRST_PAUSE_S
        while True:
            try:
                return await once()
            except _Unknown as unknown:
                if self.closed:
                    raise EngineUnanswered("it is closed") from unknown
                if loop.time() + pause_s > give_up_at:
                    raise EngineUnanswered(
                        f"no answer to {what} in {HORIZON_S:g} s ({unknown})"
                    ) from unknown
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    async def _once(self, subject: str, body: bytes, headers: dict[str, str] | None) -> Msg:
        if self.closed:
            raise EngineUnavailable("it is closed")
        try:
            return await self.client.request(subject, body, timeout=ANSWER_S, headers=headers)
        except (nats.errors.Error, OSError, TimeoutError) as error:
            if isinstance(error, nats.errors.MaxPayloadError):
                raise Refused(0, 400, f"larger than the server's max_payload: {error}") from error
            raise _Unknown(repr(error)) from error

    async def _publish(
        self, subject: str, body: bytes, headers: dict[str, str] | None, reply: str = ""
    ) -> None:
        if self.closed:
            raise EngineUnavailable("it is closed")
        try:
            await self.client.publish(subject, body, reply=reply, headers=headers)
        except nats.errors.MaxPayloadError as error:
            raise Refused(0, 400, f"larger than the server's max_payload: {error}") from error
        except (nats.errors.Error, OSError) as error:
            raise EngineUnavailable(f"the NATS connection is down ({error!r})") from error


class _Unknown(Exception):
    """No answer, or one that says nothing about whether it was stored."""


def _checked(answer: Msg) -> dict[str, Any]:
    told: dict[str, Any] = _decode(answer.data)
    if "error" not in told:
        return told
    error = told["error"]
    code = error.get("err_code", 0)
    status = error.get("code", 0)
    text = error.get("description", "")
    # 10077 is any write that the store refused: only its text says which are for want of room.
    if (code == _STORE_FAILED and text.startswith("maximum")) or code == _NO_RESOURCES:
        raise Full(code, status, text)
    if code == _DUPLICATE_IN_BATCH:
        raise Duplicated(code, status, text)
    if code == _NOT_FOUND:
        raise Missing(code, status, text)
    if code in _NEVER or (status in _BAD_REQUEST_STATUS and code not in _MAY_PASS):
        raise Refused(code, status, text)
    raise _Unknown(f"{code}: {text}")


_MAY_PASS = {10158, 10008}
"""An id that is being stored just now; no leader yet: asked again."""
