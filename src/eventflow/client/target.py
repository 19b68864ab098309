"""Where a node is, and as whom to speak to it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from eventflow.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

DEFAULT_URL: Final = "http://127.0.0.1:8080"
URL_VARIABLE: Final = "EVENTFLOW_URL"
TOKEN_VARIABLE: Final = "EVENTFLOW_TOKEN"  # noqa: S105  # the name of a variable


@dataclass(frozen=True)
class Target:
    """A node, and as whom to speak to it."""

    url: str
    token: str = field(default="", repr=False)

    @property
    def headers(self) -> dict[str, str]:
        """What every request says."""
        return {"authorization": f"Bearer {self.token}"} if self.token else {}


def is_node_url(url: str) -> bool:
    """Return whether a text can be where a node is: http://HOST:PORT."""
    try:
        parts = urlsplit(url)
        fits = bool(parts.hostname) and parts.port != 0 and parts.scheme in {"http", "https"}
    except ValueError:  # a port that is none
        return False
    return fits and not (parts.path.strip("/") or parts.query or parts.fragment or parts.username)


def is_token(token: str) -> bool:
    """Return whether a text can stand in a header."""
    return all("!" <= char <= "~" for char in token)


def target_of(url: str | None, token: str | None, environ: Mapping[str, str]) -> Target:
    """Return the node that is meant: what is given, else the environment's, else the default.

    Raises:
        ConfigError: there can be no such node.
    """
    given = url if url is not None else environ.get(URL_VARIABLE) or DEFAULT_URL
    name = "url" if url is not None else URL_VARIABLE
    if not is_node_url(given):
        raise ConfigError([f"{name}: expected http://HOST:PORT, got {given!r}"])
    secret = token if token is not None else environ.get(TOKEN_VARIABLE, "")
    if not is_token(secret):
        name = "token" if token is not None else TOKEN_VARIABLE
        raise ConfigError([f"{name}: expected printable ASCII without blanks"])
    return Target(given.rstrip("/"), secret)
