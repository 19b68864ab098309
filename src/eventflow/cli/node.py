"""Requests to a node: where it is, who asks, and what to say when there is no answer."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Annotated, Final
from urllib.parse import urlsplit

import aiohttp
from cyclopts import Parameter

from eventflow.cli.stop import Stop, wrong

DEFAULT_URL: Final = "http://127.0.0.1:8080"

Url = Annotated[str, Parameter(env_var="EVENTFLOW_URL", metavar="URL", help="the node to speak to")]
Token = Annotated[
    str,
    Parameter(
        env_var="EVENTFLOW_TOKEN",
        metavar="TOKEN",
        help="a secret of its [server] tokens; others on this machine don't see the variable",
    ),
]

CONNECT_S: Final = 10.0
ANSWER_S: Final = 60.0
"""A node that says nothing for so long, in the midst of an answer, is taken for gone."""

UNREACHABLE: Final = (aiohttp.ClientConnectorError, aiohttp.ServerTimeoutError)
LOST: Final = (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, TimeoutError)
"""What a connection may end with. Sending the same events again is safe."""


@dataclass(frozen=True)
class Node:
    """A node, and as whom to speak to it."""

    url: str
    token: str = ""

    def session(self) -> aiohttp.ClientSession:
        """Return a session for requests to it."""
        headers = {"authorization": f"Bearer {self.token}"} if self.token else {}
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S, sock_read=ANSWER_S)
        return aiohttp.ClientSession(self.url, headers=headers, timeout=timeout)

    def strange(self, not_done: str) -> Stop:
        """Return the end of a command that was answered by something else than a node."""
        return Stop(
            f"{self.url} answered what no EventFlow node does; {not_done}. "
            "Name a node with --url or EVENTFLOW_URL."
        )

    def absent(self, error: BaseException, not_done: str) -> Stop:
        """Return the end of a command that found no node.

        Args:
            error: What the connection failed with.
            not_done: What was not done: "nothing was sent".
        """
        return Stop(
            f"no node answers at {self.url} ({reason(error)}); {not_done}. "
            "Start one with `eventflow serve`, or name another with --url or EVENTFLOW_URL."
        )


def node_of(url: str, token: str) -> Node:
    """Return the node that the options name.

    Raises:
        Stop: they can't name one.
    """
    try:
        parts = urlsplit(url)
        fits = bool(parts.hostname) and parts.port != 0 and parts.scheme in {"http", "https"}
    except ValueError:  # a port that is none
        fits = False
        parts = urlsplit("")
    if not fits or parts.path.strip("/") or parts.query or parts.fragment or parts.username:
        raise wrong(f"--url: expected http://HOST:PORT, got {url!r}. Nothing was sent.")
    if any(not "!" <= char <= "~" for char in token):
        raise wrong("--token: expected printable ASCII without blanks. Nothing was sent.")
    return Node(url.rstrip("/"), token)


def reason(error: BaseException) -> str:
    """Return in a few words why a connection failed."""
    inner = getattr(error, "os_error", error)
    if isinstance(inner, aiohttp.ClientPayloadError):
        return "it broke off"  # aiohttp's words are about chunks and lengths
    if isinstance(inner, TimeoutError):
        return "it took too long"
    number = getattr(inner, "errno", None)
    if isinstance(number, int) and number > 0:
        return os.strerror(number)  # asyncio's words name the address once more
    return str(getattr(inner, "strerror", None) or inner) or type(inner).__name__
