"""Signed webhooks: who may come in, what the events look like, what each fault is answered."""

from __future__ import annotations

import hmac
import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks import Webhook as Library
from tests.web.fake import NOW

from eventflow.config import parse
from eventflow.errors import ConfigError, QueueFull
from eventflow.web.problem import Refusal
from eventflow.web.signatures import keys_of, verify
from eventflow.web.webhooks import compile_webhooks

if TYPE_CHECKING:
    from tests.web.client import Answer, Client
    from tests.web.fake import FakeNode

SECRET = "It's a Secret to Everybody"  # of GitHub's documentation
WHSEC = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
OTHER = "whsec_" + "QUJD" * 8
TOML = f"""
[webhooks.github]
scheme = "github"
secret = ["a newer one", "{SECRET}"]
[webhooks.shop]
scheme = "standard"
secret = ["{WHSEC}", "{OTHER}"]
[webhooks.stripe]
scheme = "stripe"
secret = "whsec_test"
"""
BODY = b'{"id": "evt_1", "type": "invoice.paid", "data": {"n": 1}}'


@pytest.fixture(autouse=True)
def _webhooks(node: FakeNode) -> None:
    settings = parse(TOML, name="eventflow.toml", environ={})
    node.webhooks = compile_webhooks(settings.webhooks)


def github(body: bytes, secret: str = SECRET, **more: str) -> dict[str, str]:
    signature = "sha256=" + hmac.digest(secret.encode(), body, "sha256").hex()
    headers = {
        "x-github-event": "issues",
        "x-github-delivery": "d1",
        "x-hub-signature-256": signature,
    }
    return {"content-type": "application/json", **headers, **more}


def standard(body: bytes, at: float = NOW, secret: str = WHSEC) -> dict[str, str]:
    """Return what the reference library signs."""
    signature = Library(secret).sign("msg_1", datetime.fromtimestamp(at, UTC), body.decode())
    return {
        "webhook-id": "msg_1",
        "webhook-timestamp": str(int(at)),
        "webhook-signature": signature,
    }


def stripe(body: bytes, at: float = NOW, secret: str = "whsec_test") -> dict[str, str]:  # noqa: S107
    digest = hmac.digest(secret.encode(), f"{int(at)}.".encode() + body, "sha256").hex()
    return {"stripe-signature": f"t={int(at)},v1={digest},v0={'0' * 64}"}


SIGN: dict[str, Any] = {"github": github, "shop": standard, "stripe": stripe}


async def send(client: Client, name: str, body: bytes, headers: dict[str, str]) -> Answer:
    return await client.send("POST", f"/v1/webhooks/{name}", [body], headers)


def refused(answer: Answer, node: FakeNode, status: int, code: str) -> str:
    """Check a refusal; return its detail."""
    assert (answer.status, answer.json()["type"]) == (status, f"urn:eventflow:problem:{code}")
    assert not node.accepted
    return str(answer.json()["detail"])


class TestPublishedVectors:
    def test_github(self) -> None:
        """https://docs.github.com/webhooks/using-webhooks/validating-webhook-deliveries."""
        digest = "757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"
        keys = keys_of("github", [SECRET])
        verify("github", keys, {"x-hub-signature-256": f"sha256={digest}"}, b"Hello, World!", 0)

    def test_standard(self) -> None:
        """The example that the standard's own libraries are tested with."""
        headers = {
            "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
            "webhook-timestamp": "1614265330",
            "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
        }
        body = b'{"test": 2432232314}'
        verify("standard", keys_of("standard", [WHSEC]), headers, body, 1614265330)


@pytest.mark.parametrize(
    ("name", "id", "type_"),
    [
        ("github", "d1", "github.issues"),
        ("shop", "msg_1", "invoice.paid"),
        ("stripe", "evt_1", "stripe.invoice.paid"),
    ],
)
async def test_what_is_signed_becomes_an_event_once(
    client: Client, node: FakeNode, name: str, id: str, type_: str
) -> None:
    headers = SIGN[name](BODY)
    first, again = [await send(client, name, BODY, headers) for _ in range(2)]

    (event,) = node.accepted
    assert (event.id, event.source, event.type) == (id, f"/webhooks/{name}", type_)
    assert (event.body, event.data) == (BODY, json.loads(BODY))
    taken = {"id": id, "ref": "ref-0", "duplicate": False}
    assert first.json() == {"accepted": 1, "duplicates": 0, "events": [taken]}
    assert (again.status, again.json()["duplicates"]) == (202, 1)
    assert node.called == {(name, "accepted"): 1, (name, "duplicate"): 1}
    assert node.parks == [name == "github"] * 2


async def test_no_token_is_asked_for_and_no_loopback(client: Client) -> None:
    client.client, client.headers = ("203.0.113.9", 1), {"host": "hooks.example.com"}
    answer = await send(client, "github", BODY, github(BODY))
    assert answer.status == 202


@pytest.mark.parametrize("name", SIGN)
async def test_a_forged_one_is_refused(client: Client, node: FakeNode, name: str) -> None:
    headers = SIGN[name](BODY)
    detail = refused(await send(client, name, BODY + b" ", headers), node, 401, "wrong-signature")
    assert "Nothing was stored" in detail
    assert node.called == {(name, "wrong-signature"): 1}
    assert node.counted == {"unauthorized": 1}


@pytest.mark.parametrize("name", SIGN)
async def test_without_a_signature_it_is_refused(client: Client, node: FakeNode, name: str) -> None:
    detail = refused(await send(client, name, BODY, {}), node, 401, "wrong-signature")
    assert "got none" in detail


@pytest.mark.parametrize("name", ["shop", "stripe"])
@pytest.mark.parametrize("off_s", [-301, 301])
async def test_a_stale_one_is_refused(
    client: Client, node: FakeNode, name: str, off_s: int
) -> None:
    headers = SIGN[name](BODY, NOW + off_s)
    detail = refused(await send(client, name, BODY, headers), node, 401, "stale-signature")
    assert "301 s " + ("ago" if off_s < 0 else "ahead") in detail
    node.now_s += off_s / 301
    assert (await send(client, name, BODY, headers)).status == 202


async def test_each_of_several_secrets_is_enough(client: Client, node: FakeNode) -> None:
    for secret in (SECRET, "a newer one"):
        assert (await send(client, "github", BODY, github(BODY, secret))).status == 202
    for secret in (WHSEC, OTHER):
        assert (await send(client, "shop", BODY, standard(BODY, secret=secret))).status == 202
    both = standard(BODY, secret="whsec_" + "REVG" * 8)
    both["webhook-signature"] += " v2,xx " + standard(BODY)["webhook-signature"]
    assert (await send(client, "shop", BODY, both)).status == 202
    assert len(node.accepted) == 2


@pytest.mark.parametrize(
    ("more", "body", "status", "code", "says"),
    [
        (
            {"content-type": "application/x-www-form-urlencoded"},
            BODY,
            415,
            "unsupported-media-type",
            "set the webhook's",
        ),
        ({"content-encoding": "gzip"}, BODY, 415, "unsupported-encoding", "not compressed"),
        ({}, b"{", 400, "invalid-event", "data:"),
        ({}, b"", 400, "invalid-event", "data:"),
        ({"x-github-delivery": ""}, BODY, 400, "invalid-event", "x-github-delivery"),
        ({"x-github-event": "a\tb"}, BODY, 400, "invalid-event", "type"),
        ({"x-hub-signature-256": "sha1=00"}, BODY, 401, "wrong-signature", "sha1=00"),
        (
            {"x-hub-signature-256": "sha256=" + "é" * 9_000},
            BODY,
            401,
            "wrong-signature",
            "expected a sig",
        ),
        ({}, b'"' + b"x" * 2**20 + b'"', 413, "too-large", "max_event"),
    ],
)
async def test_each_fault_has_one_answer(  # noqa: PLR0913, PLR0917
    client: Client,
    node: FakeNode,
    more: dict[str, str],
    body: bytes,
    status: int,
    code: str,
    says: str,
) -> None:
    answer = await send(client, "github", body, github(body, **more))
    assert says in refused(answer, node, status, code)


async def test_a_body_without_a_type_or_id_is_refused(client: Client, node: FakeNode) -> None:
    body = b'{"data": 1}'
    detail = refused(await send(client, "shop", body, standard(body)), node, 400, "invalid-event")
    assert "event.data.type" in detail
    body = b'{"type": "x"}'
    refused(await send(client, "stripe", body, stripe(body)), node, 400, "invalid-event")


async def test_an_unknown_webhook_is_named(client: Client, node: FakeNode) -> None:
    detail = refused(await send(client, "gihub", BODY, {}), node, 404, "unknown-name")
    assert "github" in detail


async def test_where_there_is_no_room_it_says_when_to_come_again(
    client: Client, node: FakeNode
) -> None:
    node.fails = QueueFull("common", 10, 3.0)
    answer = await send(client, "shop", BODY, standard(BODY))
    refused(answer, node, 429, "queue-full")
    assert answer.headers["retry-after"] == "3"
    assert node.called == {("shop", "queue-full"): 1}


NAMES = [
    "x-hub-signature-256",
    "webhook-signature",
    "webhook-id",
    "webhook-timestamp",
    "stripe-signature",
]


@given(
    st.sampled_from(["github", "standard", "stripe"]),
    st.dictionaries(
        st.sampled_from(NAMES),
        st.text(st.characters(max_codepoint=255))
        | st.sampled_from(["t=1,v1=00", "v1,AAAA", "sha256=00", "²"]),
    ),
    st.binary(),
)
def test_whatever_comes_is_refused_and_never_a_fault(
    scheme: str, headers: dict[str, str], body: bytes
) -> None:
    with pytest.raises(Refusal):
        verify(scheme, keys_of(scheme, [WHSEC]), headers, body, NOW)


@given(st.text(max_size=200), st.floats(-300, 300))
def test_what_the_library_signs_passes(text: str, off_s: float) -> None:
    body = text.encode()
    at = int(NOW + off_s)
    verify("standard", keys_of("standard", [WHSEC]), standard(body, at), body, at + int(off_s))


@pytest.mark.parametrize(
    ("toml", "says"),
    [
        ('[webhooks.a]\nscheme = "gitlab"\nsecret = "x"', "[webhooks.a] scheme: expected"),
        ('[webhooks.a]\nscheme = "github"', "[webhooks.a] secret: expected"),
        ('[webhooks.a]\nscheme = "github"\nsecret = []', "[webhooks.a] secret: expected"),
        ('[webhooks.A]\nscheme = "github"\nsecret = "x"', "[webhooks.A]: expected a name"),
        ('[webhooks.a]\nscheme = "standard"\nsecret = "whsec_!"', "[webhooks.a] secret: expected"),
        ('[webhooks.a]\nscheme = "github"\nsecret = "x"\nwhenfull = "park"', "Did you mean"),
    ],
)
def test_a_faulty_configuration_says_where(toml: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(toml, name="eventflow.toml", environ={})
    assert len(caught.value.problems) == 1
    assert says in caught.value.problems[0]
