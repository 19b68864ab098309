"""Who may do what: every route against every role, and this machine against the rest."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.web.samples import STRUCTURED, event

from eventflow.config.secret import Secret
from eventflow.config.settings import Token
from eventflow.web.auth import GRANTS, Role, is_loopback
from eventflow.web.routes import ROUTES

if TYPE_CHECKING:
    from tests.web.client import Answer, Client
    from tests.web.fake import FakeNode

    from eventflow.web.routes import Route

TOKENS = (
    Token(name="shop", role="publish", secret=Secret("publish-secret")),
    Token(name="watcher", role="read", secret=Secret("read-secret")),
    Token(name="ops", role="operate", secret=Secret("operate-secret")),
    Token(name="boss", role="admin", secret=Secret("admin-secret")),
)


def name(route: Route) -> str:
    return f"{route.method} {route.path}"


async def ask(client: Client, route: Route, **headers: str) -> Answer:
    path = route.path.replace("{", "").replace("}", "")
    return await client.send(route.method, path, headers=headers)


def test_the_matrix() -> None:
    """Admin may do all, operate also reads; who publishes sees nothing."""
    assert {role: sorted(grants) for role, grants in GRANTS.items()} == {
        "publish": ["publish"],
        "read": ["read"],
        "operate": ["operate", "read"],
        "admin": ["admin", "operate", "publish", "read"],
    }


@pytest.mark.parametrize("route", ROUTES, ids=name)
class TestEveryRoute:
    @pytest.mark.parametrize("token", TOKENS, ids=lambda token: token.role)
    async def test_asks_for_its_role(
        self, client: Client, node: FakeNode, route: Route, token: Token
    ) -> None:
        node.tokens = TOKENS
        answer = await ask(client, route, authorization=f"Bearer {token.secret.reveal()}")
        allowed = route.role is Role.ANYONE or route.role in GRANTS[token.role]

        assert (answer.status != 403) == allowed
        assert answer.status != 401
        if not allowed:
            assert answer.json()["role"] == route.role
            assert f"'{token.name}'" in answer.json()["detail"]
            assert f'scope="{route.role}"' in answer.headers["www-authenticate"]

    async def test_asks_for_a_token(self, client: Client, node: FakeNode, route: Route) -> None:
        node.tokens = TOKENS
        answer = await ask(client, route)

        assert (answer.status == 401) == (route.role is not Role.ANYONE)
        if answer.status == 401:
            assert answer.headers["www-authenticate"] == 'Bearer realm="eventflow"'

    async def test_without_tokens_serves_only_this_machine(
        self, client: Client, route: Route
    ) -> None:
        client.client = ("192.0.2.7", 50_000)

        answer = await ask(client, route)

        assert (answer.status == 403) == (route.role is not Role.ANYONE)


def test_most_routes_need_a_role() -> None:
    assert {route.path for route in ROUTES if route.role is Role.ANYONE} == {
        "/livez",
        "/readyz",
        "/v1/webhooks/{name}",  # the signature says who it is
    }


@pytest.mark.parametrize(
    "authorization",
    ["Bearer wrong", "Bearer publish-secret2", "Bearer ", "Basic publish-secret", "publish-secret"],
)
async def test_not_a_known_token(client: Client, node: FakeNode, authorization: str) -> None:
    node.tokens = TOKENS
    answer = await client.post("/v1/events", event(), **STRUCTURED, authorization=authorization)

    assert answer.status == 401
    assert answer.headers["www-authenticate"].startswith('Bearer realm="eventflow"')
    assert (node.accepted, node.counted) == ([], {"unauthorized": 1})


async def test_the_scheme_is_written_as_one_likes(client: Client, node: FakeNode) -> None:
    node.tokens = TOKENS
    answer = await client.post(
        "/v1/events", event(), **STRUCTURED, authorization="bearer admin-secret"
    )

    assert (answer.status, node.principals) == (202, ["boss"])


async def test_two_tokens_are_none(client: Client, node: FakeNode) -> None:
    node.tokens = TOKENS
    twice = [(b"authorization", b"Bearer read-secret"), (b"authorization", b"Bearer admin-secret")]

    assert (await client.send("GET", "/v1/stats", headers=twice)).status == 401


async def test_tokens_that_change_while_it_runs(client: Client, node: FakeNode) -> None:
    node.tokens = TOKENS
    assert (await client.get("/v1/stats", authorization="Bearer read-secret")).status == 200

    node.tokens = (Token(name="new", role="read", secret=Secret("other")),)
    assert (await client.get("/v1/stats", authorization="Bearer read-secret")).status == 401
    assert (await client.get("/v1/stats", authorization="Bearer other")).status == 200


async def test_a_request_that_is_not_let_in_is_not_counted_as_events(
    client: Client, node: FakeNode
) -> None:
    node.tokens = TOKENS
    await client.get("/v1/stats")

    assert not node.counted


async def test_a_secret_is_in_no_answer(client: Client, node: FakeNode) -> None:
    node.tokens = TOKENS
    answer = await client.get("/v1/stats", authorization="Bearer some-wrong-secret")

    assert b"secret" not in answer.body


# ------------------------------------------------------------------ without tokens


@pytest.mark.parametrize(
    ("host", "ours"),
    [
        ("localhost", True),
        ("shop.localhost", True),
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("0.0.0.0", False),  # noqa: S104  # as what a request came from
        ("192.168.1.1", False),
        ("::ffff:192.168.1.1", False),
        ("fe80::1%eth0", False),
        ("localhost.evil.example", False),
        ("notlocalhost", False),
        ("", False),
    ],
)
def test_what_means_this_machine(host: str, *, ours: bool) -> None:
    assert is_loopback(host) == ours


@pytest.mark.parametrize(
    ("header", "value", "status"),
    [
        ("host", "localhost:8080", 200),
        ("host", "[::1]:8080", 200),
        ("host", "LOCALHOST", 200),
        ("host", "events.example", 403),
        ("host", "evil.example:8080", 403),
        ("host", "[", 403),
        ("origin", "http://localhost:5173", 200),
        ("origin", "https://evil.example", 403),
        ("origin", "null", 403),
    ],
)
async def test_a_page_or_proxy_does_not_speak_for_this_machine(
    client: Client, header: str, value: str, status: int
) -> None:
    """A proxy names another host, a page of another site names its origin."""
    client.headers = {"host": "localhost", header: value}

    answer = await client.post("/v1/topics/email/pause")

    assert answer.status == status


async def test_over_a_unix_socket(client: Client) -> None:
    client.client = None

    assert (await client.get("/v1/stats")).status == 200
