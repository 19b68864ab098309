"""Who may do what: bearer tokens with a role, and a role for each route.

    token's role   may use routes of role
    publish        publish
    read           read
    operate        read, operate
    admin          publish, read, operate, admin

Anyone may use routes of role "anyone". Without tokens everybody on this machine may do
everything, and nobody else anything: the request has to come from a loopback address, to a
loopback name, and not from a page of another site. So neither a reverse proxy on this machine
nor a page in somebody's browser opens the node to others.
"""

from __future__ import annotations

import hmac
from enum import StrEnum
from functools import lru_cache
from hashlib import sha256
from ipaddress import IPv6Address, ip_address
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

from eventflow.web.problem import Problem, Refusal

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from eventflow.config.settings import Token
    from eventflow.web.node import Node


class Role(StrEnum):
    """What a route asks for."""

    ANYONE = "anyone"
    PUBLISH = "publish"
    READ = "read"
    OPERATE = "operate"
    ADMIN = "admin"


GRANTS: dict[str, frozenset[Role]] = {
    "publish": frozenset({Role.PUBLISH}),
    "read": frozenset({Role.READ}),
    "operate": frozenset({Role.READ, Role.OPERATE}),
    "admin": frozenset({Role.PUBLISH, Role.READ, Role.OPERATE, Role.ADMIN}),
}
"""What a token's role may use."""


class Principal(NamedTuple):
    """Who sent a request."""

    name: str
    """The token's; "local" where there are none."""
    grants: frozenset[Role]


LOCAL = Principal("local", GRANTS["admin"])
NOBODY = Principal("anyone", frozenset())


class Gate:
    """Lets requests of one node pass, or says why not."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._tokens: Sequence[Token] = ()
        self._known: list[tuple[bytes, Principal]] = []

    def admit(self, scope: Mapping[str, Any], role: Role) -> Principal:
        """Return who sent the request, if they may use a route of `role`.

        Raises:
            Refusal: 401 without a token that is known, 403 with one of another role.
        """
        if role is Role.ANYONE:
            return NOBODY
        principal = self._principal(scope)
        if role not in principal.grants:
            raise Refusal(_forbidden(principal, role))
        return principal

    def may_read(self, scope: Mapping[str, Any]) -> bool:
        """Return whether the sender may see what routes of role "read" show."""
        try:
            return Role.READ in self._principal(scope).grants
        except Refusal:
            return False

    def _principal(self, scope: Mapping[str, Any]) -> Principal:
        tokens = self._node.tokens
        if not tokens:
            _check_local(scope)
            return LOCAL
        if tokens is not self._tokens:
            self._known = [
                (_digest(token.secret.reveal().encode()), Principal(token.name, GRANTS[token.role]))
                for token in tokens
            ]
            self._tokens = tokens
        given = _digest(_bearer(scope))
        found = None
        for digest, principal in self._known:  # all of them: how long it takes says nothing
            if hmac.compare_digest(digest, given):
                found = principal
        if found is None:
            raise Refusal(_unauthorized("the token is not known", 'error="invalid_token"'))
        return found


def _digest(secret: bytes) -> bytes:
    """Return what secrets are compared by: of one length, and not theirs to choose."""
    return sha256(secret).digest()


def _bearer(scope: Mapping[str, Any]) -> bytes:
    given = [value for name, value in scope["headers"] if name == b"authorization"]
    if not given:
        raise Refusal(_unauthorized("no Authorization header came"))
    scheme, _, token = given[0].partition(b" ")
    if len(given) > 1 or scheme.lower() != b"bearer":
        raise Refusal(_unauthorized("the Authorization header is not `Bearer TOKEN`"))
    return bytes(token.strip())


def _unauthorized(got: str, parameter: str = "") -> Problem:
    challenge = 'Bearer realm="eventflow"' + (f", {parameter}" if parameter else "")
    return Problem(
        status=401,
        code="unauthorized",
        title="A token is needed",
        detail=(
            f"expected `Authorization: Bearer TOKEN` with a token of [server] tokens, but {got}. "
            "Nothing was done."
        ),
        reason="unauthorized",
        headers={"www-authenticate": challenge},
    )


def _forbidden(principal: Principal, role: Role) -> Problem:
    wanted = " or ".join(name for name, grants in GRANTS.items() if role in grants)
    return Problem(
        status=403,
        code="forbidden",
        title="Not with this role",
        detail=(
            f"expected a token of role {wanted}; that of {principal.name!r} has another. "
            "Nothing was done."
        ),
        reason="unauthorized",
        more={"role": role},
        headers={
            "www-authenticate": (
                f'Bearer realm="eventflow", error="insufficient_scope", scope="{role}"'
            )
        },
    )


# ------------------------------------------------------------------ without tokens


def _check_local(scope: Mapping[str, Any]) -> None:
    client = scope.get("client")
    if client is not None and not is_loopback(client[0]):
        raise Refusal(_not_local(f"it came from {client[0]}"))
    for name, value in scope["headers"]:
        if name == b"host":
            text = value.decode("latin-1")
            if not is_loopback(_host_of(f"//{text}")):
                raise Refusal(_not_local(f"it was sent to {text[:80]!r}"))
        elif name == b"origin":
            text = value.decode("latin-1")
            if not is_loopback(_host_of(text)):
                raise Refusal(_not_local(f"a page of {text[:80]!r} sent it"))


def _not_local(got: str) -> Problem:
    return Problem(
        status=403,
        code="not-local",
        title="Only from this machine",
        detail=(
            f"this node has no tokens and serves only this machine, under a loopback address, "
            f"but {got}. Nothing was done. Set [server] tokens to let others in."
        ),
        reason="unauthorized",
    )


@lru_cache(maxsize=256)
def is_loopback(host: str) -> bool:
    """Return whether a host name or address always means this machine."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        address = ip_address(host)
    except ValueError:
        return False
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped.is_loopback
    return address.is_loopback


@lru_cache(maxsize=256)
def _host_of(url: str) -> str:
    """Return the host of a URL in lower case, "" where it has none."""
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""
