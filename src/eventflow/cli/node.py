"""Requests to a node: where it is, who asks, and what to say when there is no answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Final

import aiohttp
from cyclopts import Parameter

from eventflow.cli.stop import Stop, wrong
from eventflow.client.awaiting import LOST
from eventflow.client.failures import reason
from eventflow.client.target import DEFAULT_URL, is_node_url, is_token

__all__ = ["DEFAULT_URL", "LOST", "Node", "Token", "Url", "node_of", "reason"]

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
    if not is_node_url(url):
        raise wrong(f"--url: expected http://HOST:PORT, got {url!r}. Nothing was sent.")
    if not is_token(token):
        raise wrong("--token: expected printable ASCII without blanks. Nothing was sent.")
    return Node(url.rstrip("/"), token)
