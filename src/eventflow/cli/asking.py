"""Questions and acts: put to a running node, or to the file of one that is stopped.

    Reaches  where a command reads: --url, --token, --db
    Reads    the same, and --json
    Acts     where a command acts: --url, --token, --json
    Copies   where it copies from: as Acts, or --db
    reading  opens the one or the other for questions
    acting   opens a running node; a file is only ever read

A file answers through the very routes a node has, so both give the same JSON.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Protocol
from urllib.parse import urlencode

import aiohttp
import msgspec
from cyclopts import Parameter

from eventflow.cli.node import ANSWER_S, CONNECT_S, DEFAULT_URL, LOST, Node, Token, Url, node_of
from eventflow.cli.problems import problem_of
from eventflow.cli.stop import Stop, wrong
from eventflow.errors import JournalInUse

PROBLEM: Final = "application/problem+json"
OUR_OWN: Final = frozenset({404, 409})
"""Statuses that a node explains in words which need nothing added."""
Body = Mapping[str, Any] | None
Query = Mapping[str, str | None]
"""Parameters behind the `?`; one that is None is left out."""
NOTHING: Final[Query] = {}
LONG_S: Final = 24 * 3600.0
"""For an answer that comes when all is done: a backup, a check of every audit row."""

Db = Annotated[
    str, Parameter(metavar="FILE", help="read the file of a node that is stopped; nothing changes")
]
NoDb = Annotated[str, Parameter(metavar="FILE", show=False)]
AsJson = Annotated[bool, Parameter(negative=(), help="print the answer as JSON, for programs")]


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Reaches:
    """Where a command that only reads gets its answer."""

    url: Url = DEFAULT_URL
    token: Token = ""
    db: Db = ""


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Reads(Reaches):
    """The same, and how the answer is printed."""

    json: AsJson = False


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Acts:
    """Where a command that changes something does so."""

    url: Url = DEFAULT_URL
    token: Token = ""
    db: NoDb = ""
    json: AsJson = False


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Copies(Acts):
    """Where a command copies from: a node that runs, or the file of one that is stopped."""

    db: Annotated[
        str, Parameter(metavar="FILE", help="copy the file of a node that is stopped")
    ] = ""


class Asked(Protocol):
    """Who answers."""

    @property
    def name(self) -> str:
        """What messages call it: a URL, or a file."""
        ...

    async def ask(
        self, method: str, path: str, body: Body = None, query: Query = NOTHING
    ) -> dict[str, Any]:
        """Return an answer in JSON.

        Raises:
            Stop: there is none, or it says no.
        """
        ...

    def lines(self, path: str, query: Query) -> AsyncGenerator[bytes]:
        """Yield an answer as it comes, in pieces. To be closed: with `aclosing`.

        Raises:
            Stop: as `ask`; also where it breaks off.
        """
        ...


@asynccontextmanager
async def reading(where: Reaches, not_done: str = "nothing was shown") -> AsyncIterator[Asked]:
    """Open what the options name.

    Args:
        where: The options.
        not_done: What is said not to have happened where it fails.

    Raises:
        Stop: there is no such node, or its file is in use.
        JournalUnreadable: the file is damaged, or none of a node.
    """
    if not where.db:
        async with _node(node_of(where.url, where.token), not_done) as node:
            yield node
        return
    from eventflow.app.stopped import stopped  # noqa: PLC0415  # a node: slow to load
    from eventflow.web.asgi import make_app  # noqa: PLC0415  # a node: slow to load

    path = file_of(where.db, not_done)
    try:
        async with stopped(path) as door:
            yield _File(where.db, make_app(door), not_done)
    except JournalInUse as error:
        raise Stop(
            f"{where.db} is in use by {error.holder}; {not_done}. --db is for a node that is "
            "stopped: ask one that runs with --url."
        ) from error


def file_of(db: str, not_done: str) -> Path:
    """Return the file that --db names.

    Raises:
        Stop: it names a database or servers: other nodes may be working there.
    """
    scheme = db.partition("://")[0].partition("+")[0]
    if "://" in db and scheme in {"nats", "postgres", "postgresql"}:
        # What stands behind the scheme may hold a password.
        raise wrong(
            f"--db: expected the file of a stopped node, got {scheme}://…; {not_done}. What is on "
            "servers other nodes may be working on: ask one that runs with --url, or start one."
        )
    return Path(db)


@asynccontextmanager
async def acting(
    where: Acts, act: str, not_done: str = "nothing was changed"
) -> AsyncIterator[Asked]:
    """Open a running node.

    Args:
        where: The options.
        act: The command, for messages.
        not_done: What is said not to have happened where it fails.

    Raises:
        Stop: there is no such node, or a file was given.
    """
    if where.db:
        raise wrong(
            f"--db: the file of a stopped node is only read, so {act} needs one that runs; "
            f"{not_done}. Start it with `eventflow serve`, or name one with --url."
        )
    async with _node(node_of(where.url, where.token), not_done) as node:
        yield node


def decoded(body: bytes) -> dict[str, Any] | None:
    """Return an answer's JSON object, None where it is none."""
    try:
        return msgspec.json.decode(body, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


@asynccontextmanager
async def _node(node: Node, not_done: str) -> AsyncIterator[_Node]:
    async with node.session() as session:
        yield _Node(node, session, not_done)


class _Node:
    """A node that runs."""

    def __init__(self, node: Node, session: aiohttp.ClientSession, not_done: str) -> None:
        self.name = node.url
        self._node = node
        self._session = session
        self._not_done = not_done

    async def ask(
        self, method: str, path: str, body: Body = None, query: Query = NOTHING
    ) -> dict[str, Any]:
        pieces = [piece async for piece in self._pieces(method, path, body, query)]
        found = decoded(b"".join(pieces))
        if found is None:
            raise self._node.strange(self._not_done)
        return found

    def lines(self, path: str, query: Query) -> AsyncGenerator[bytes]:
        return self._pieces("GET", path, None, query)

    async def _pieces(
        self, method: str, path: str, body: Body, query: Query
    ) -> AsyncGenerator[bytes]:
        read_s = LONG_S if method == "POST" else ANSWER_S
        try:
            async with self._session.request(
                method,
                path,
                params=_given(query),
                json=body,
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(sock_connect=CONNECT_S, sock_read=read_s),
            ) as answer:
                if answer.status != 200:
                    raise await self._refused(answer)
                async for piece in answer.content.iter_any():
                    yield piece
        except LOST as error:
            raise self._node.absent(error, self._not_done) from error
        except aiohttp.ClientError as error:
            raise self._node.strange(self._not_done) from error

    async def _refused(self, answer: aiohttp.ClientResponse) -> Stop:
        if answer.status in OUR_OWN and answer.content_type == PROBLEM:
            detail = (decoded(await answer.read()) or {}).get("detail")
            return Stop(f"{self.name}: {detail}")
        return (await problem_of(answer)).end(self._node, self._not_done)


class _File:
    """The file of a node that is stopped."""

    def __init__(self, name: str, app: Any, not_done: str) -> None:
        self.name = name
        self._app = app
        self._not_done = not_done

    async def ask(
        self, method: str, path: str, body: Body = None, query: Query = NOTHING
    ) -> dict[str, Any]:
        sent = msgspec.json.encode(body) if body else b""
        pieces = [piece async for piece in self._pieces(method, path, sent, query)]
        found = decoded(b"".join(pieces))
        assert found is not None  # noqa: S101  # it is our own answer
        return found

    def lines(self, path: str, query: Query) -> AsyncGenerator[bytes]:
        return self._pieces("GET", path, b"", query)

    async def _pieces(
        self, method: str, path: str, body: bytes, query: Query
    ) -> AsyncGenerator[bytes]:
        from eventflow.web import inside  # noqa: PLC0415  # a node: slow to load

        async with inside.request(
            self._app, method, path, urlencode(_given(query)), body
        ) as answer:
            status = await answer.status()
            if status == 200:
                async for piece in answer.pieces():
                    yield piece
                return
            said = b"".join([piece async for piece in answer.pieces()])
        detail = (decoded(said) or {}).get("detail") or f"it answered {status}"
        raise Stop(f"{self.name}: {detail}")


def _given(query: Query) -> dict[str, str]:
    return {name: value for name, value in query.items() if value is not None}
