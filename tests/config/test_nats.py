"""Who a node is to NATS servers: read from one place, contradicted nowhere, shown never."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from eventflow.config import EngineSettings, NatsSettings, Secret, Settings, parse
from eventflow.config.difference import difference
from eventflow.config.nats import split_user
from eventflow.errors import ConfigError

HIDDEN = "hunter2-hunter2"


def read(text: str, **environ: str) -> Settings:
    return parse(text, name="e.toml", environ=environ)


def problem(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        read(text)
    (one,) = caught.value.problems
    return one


def test_all_of_it_can_be_given() -> None:
    found = read(
        """
        [engine]
        url = "tls://nats-1:4222,tls://nats-2:4222"
        [engine.nats]
        user = "shop"
        password = "${P}"
        ca = "ca.pem"
        cert = "node.pem"
        key = "node.key"
        tls_first = true
        """,
        P=HIDDEN,
    )

    assert found.engine.nats == NatsSettings(
        user="shop",
        password=Secret(HIDDEN),
        ca=Path("ca.pem"),
        cert=Path("node.pem"),
        key=Path("node.key"),
        tls_first=True,
    )
    assert found.engine.on_servers
    assert found.engine.encrypted
    assert found.storage.path == Path("eventflow-storage.db")
    assert HIDDEN not in repr(found)


@pytest.mark.parametrize(
    ("url", "user", "password", "token"),
    [
        ("nats://shop:%40secret@a:4222", "shop", "@secret", None),
        ("nats://shop:@a:4222", "shop", "", None),
        ("nats://t0ken@a:4222", None, None, "t0ken"),
    ],
)
def test_a_user_in_the_url_is_taken_out_of_it(
    url: str, user: str | None, password: str | None, token: str | None
) -> None:
    nats = read(f'engine.url = "{url}"').engine

    assert nats.url == "nats://a:4222"
    assert nats.nats.user == user
    assert nats.nats.password == (None if password is None else Secret(password))
    assert nats.nats.token == (None if token is None else Secret(token))


def test_so_it_is_in_a_value_made_by_hand() -> None:
    engine = EngineSettings(url=f"nats://a:{HIDDEN}@x,nats://y")

    assert engine.url == "nats://x,nats://y"
    assert engine.nats.password == Secret(HIDDEN)
    assert HIDDEN not in repr(dataclasses.asdict(engine))


def test_each_user_is_told_once() -> None:
    assert split_user("nats://a:b@x,nats://y,nats://a:b@z") == (
        "nats://x,nats://y,nats://z",
        (("a", "b"),),
    )


@pytest.mark.parametrize(
    ("settings", "encrypted"),
    [
        ("url = 'nats://a'", False),
        ("url = 'tls://a'", True),
        ("url = 'nats://a'\nnats.ca = 'x'", True),
        ("url = 'nats://a'\nnats = { cert = 'x', key = 'y' }", True),
        ("url = 'nats://a'\nnats.tls_first = true", True),
    ],
)
def test_what_makes_sense_only_encrypted_asks_for_it(settings: str, *, encrypted: bool) -> None:
    assert read(f"[engine]\n{settings}").engine.encrypted is encrypted


PROBLEMS = {
    "nats = { user = 'a' }": "user: expected a password as well, got none",
    "nats = { password = 'a' }": "password: expected a user as well, got none",
    "nats = { cert = 'a' }": "cert: expected a key as well, got none",
    "nats = { key = 'a' }": "key: expected a cert as well, got none",
    "nats = { token = 'a', creds = 'b' }": "creds: expected this or token, got both",
    "nats = { creds = 'a', nkey = 'b' }": "nkey: expected this or creds, got both",
}


@pytest.mark.parametrize("text", PROBLEMS)
def test_one_login_and_a_whole_one(text: str) -> None:
    found = problem(f"[engine]\nurl = 'nats://a'\n{text}")

    assert found == f"e.toml: [engine.nats] {PROBLEMS[text]}"


def test_a_user_stands_in_one_place() -> None:
    text = f"[engine]\nurl = 'nats://a:{HIDDEN}@x'\nnats.token = 'b'"

    assert problem(text) == (
        "e.toml: [engine] url: expected a user there or in [engine.nats], got both"
    )


def test_servers_have_one_user_and_one_way_to_be_reached() -> None:
    assert problem("engine.url = 'nats://a:b@x,nats://c:d@y'").endswith(
        "expected one user for all servers, got several"
    )
    assert "all with tls://" in problem("engine.url = 'nats://x,tls://y'")


@pytest.mark.parametrize(
    ("text", "warned"),
    [
        ("url = 'nats://u:p@nats.example.com'", True),
        ("url = 'nats://nats.example.com'\nnats.token = 't'", True),
        ("url = 'nats://u:p@127.0.0.1,nats://u:p@x'", True),
        ("url = 'nats://u:p@127.0.0.1'", False),
        ("url = 'tls://u:p@nats.example.com'", False),
        ("url = 'nats://u:p@nats.example.com'\nnats.ca = 'ca.pem'", False),
        ("url = 'nats://nats.example.com'\nnats.creds = 'a'", False),
    ],
)
def test_a_password_that_may_go_in_the_clear_is_warned_of(text: str, *, warned: bool) -> None:
    found = read(f"[engine]\n{text}").warnings

    assert bool(found) is warned
    assert not warned or "may go in the clear" in found[0]


def test_what_is_given_for_no_server_is_warned_of() -> None:
    (found,) = read("engine.nats.ca = 'ca.pem'").warnings

    assert found == "[engine.nats] has no effect: e.toml: [engine] url names no NATS server"


def test_credentials_are_read_at_start() -> None:
    old, new = (read(f"engine.url = 'nats://a:{password}@x'") for password in ("b", "c"))

    assert difference(old, new).restart == ("engine.nats.password",)
