"""How a node logs in on NATS servers: each way, with real servers, and each way it goes wrong."""

from __future__ import annotations

import asyncio
import time
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import trustme
from tests.engine.jetstream_server import Server
from tests.engine.nats_users import Operator, user_key
from tests.ports import free_port

from eventflow.config import EngineSettings, NatsSettings, Secret
from eventflow.engine.jetstream import client
from eventflow.engine.jetstream.wire import Wire
from eventflow.errors import ConfigError, EngineUnavailable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.slow  # real servers

HIDDEN = "ten-small-boats"
OTHER = "nine-small-boats"
SOON_S = 15.0
LOGIN = NatsSettings(user="shop", password=Secret(HIDDEN))


@contextmanager
def running(folder: Path, more: str) -> Iterator[Server]:
    server = Server(folder, more=more)
    server.start()
    try:
        yield server
    finally:
        server.kill()


async def reach(server: Server, said: NatsSettings, scheme: str = "nats") -> str:
    """Log in, ask JetStream something, and return what it says; or why that was not possible."""
    port = server.url.rpartition(":")[2]
    settings = EngineSettings(url=f"{scheme}://127.0.0.1:{port}", nats=said)
    try:
        wire = await Wire.connect(settings.url, 1, settings.nats, encrypted=settings.encrypted)
    except (EngineUnavailable, ConfigError) as error:
        answer, shown = str(error), f"{error!r} {error}"
    else:
        told = await wire.ask("INFO")
        await wire.close()
        answer = shown = f"streams {told['streams']}"
    assert HIDDEN not in shown
    assert OTHER not in shown
    return answer


IN = "streams 0"


def users(password: str) -> str:
    return f"authorization {{ users: [{{ user: shop, password: {password} }}] }}"


# a password, a token ------------------------------------------------------------------


async def test_a_user_and_password(tmp_path: Path) -> None:
    with running(tmp_path, users(HIDDEN)) as server:
        assert await reach(server, LOGIN) == IN
        wrong = await reach(server, NatsSettings(user="shop", password=Secret(OTHER)))
        nobody = await reach(server, NatsSettings())

    assert "refuse user 'shop' with a password: they say 'authorization violation'" in wrong
    assert wrong.endswith(
        "Nothing was sent. Correct [engine.nats], or let the servers know this user"
    )
    assert "refuse a node without credentials" in nobody
    assert "Give [engine.nats] what they know: user and password, token, creds or nkey" in nobody


async def test_a_user_and_password_in_the_url(tmp_path: Path) -> None:
    with running(tmp_path, users(HIDDEN)) as server:
        host = server.url.rpartition("/")[2]
        engine = EngineSettings(url=f"nats://shop:{HIDDEN}@{host}")
        wire = await Wire.connect(engine.url, 1, engine.nats)
        await wire.close()

    assert HIDDEN not in engine.url


async def test_a_token(tmp_path: Path) -> None:
    with running(tmp_path, f"authorization {{ token: {HIDDEN} }}") as server:
        assert await reach(server, NatsSettings(token=Secret(HIDDEN))) == IN
        wrong = await reach(server, NatsSettings(token=Secret(OTHER)))

    assert "refuse a token: they say 'authorization violation'" in wrong


# keys ----------------------------------------------------------------------------------


async def test_an_nkey(tmp_path: Path) -> None:
    public = user_key(tmp_path / "node.nk")
    stranger = user_key(tmp_path / "other.nk")
    with running(tmp_path, f"authorization {{ users: [{{ nkey: {public} }}] }}") as server:
        assert await reach(server, NatsSettings(nkey=tmp_path / "node.nk")) == IN
        wrong = await reach(server, NatsSettings(nkey=tmp_path / "other.nk"))

    assert f"refuse the NKey of {tmp_path / 'other.nk'} (user {stranger})" in wrong


async def test_a_credentials_file(tmp_path: Path) -> None:
    operator, other = Operator(), Operator()
    operator.user(tmp_path / "node.creds")
    stranger = other.user(tmp_path / "other.creds")
    operator.user(tmp_path / "old.creds", exp=int(time.time()) - 60)
    with running(tmp_path, operator.configuration) as server:
        assert await reach(server, NatsSettings(creds=tmp_path / "node.creds")) == IN
        wrong = await reach(server, NatsSettings(creds=tmp_path / "other.creds"))
        old = await reach(server, NatsSettings(creds=tmp_path / "old.creds"))

    assert f"refuse the credentials of {tmp_path / 'other.creds'} (user {stranger})" in wrong
    assert "they say 'user authentication expired'" in old or "authorization violation" in old


FILES: dict[str, tuple[str, str | None, str]] = {
    "no creds": ("creds", None, "can't be read: No such file or directory"),
    "no creds at all": ("creds", "hello", "without one. `nsc generate creds` writes such a file"),
    "no nkey": ("nkey", None, "can't be read: No such file or directory"),
    "a public key": ("nkey", "UDXU4RCSJNZOIQHZNWXHXORDPRTGNJAHAHFRGZNEEJCPQTT2M7NLCNF4", "with SU"),
    "a damaged seed": ("nkey", "SU" + "A" * 56, "the seed in"),
    "no ca": ("ca", None, "can't be read: No such file or directory"),
    "a ca of nothing": ("ca", "hello", "can't be used"),
}


@pytest.mark.parametrize("case", FILES)
async def test_a_file_that_can_t_be_used_is_named(case: str, tmp_path: Path) -> None:
    name, text, why = FILES[case]
    path = tmp_path / "file"
    if text is not None:
        path.write_text(text)
    said: dict[str, Any] = {name: path}

    with pytest.raises(ConfigError) as caught:
        await Wire.connect("nats://127.0.0.1:1", 1, NatsSettings(**said))
    (problem,) = caught.value.problems
    assert problem.startswith(f"[engine.nats] {name}: ")
    assert str(path) in problem
    assert why in problem
    assert problem.endswith("Nothing was started")


# TLS -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def tls(folder: Path, authority: trustme.CA, *, more: str = "", host: str = "127.0.0.1") -> str:
    issued = authority.issue_cert(host)
    issued.cert_chain_pems[0].write_to_path(folder / "server.pem")
    issued.private_key_pem.write_to_path(folder / "server.key")
    authority.cert_pem.write_to_path(folder / "ca.pem")
    return (
        f'tls {{ cert_file: "{folder}/server.pem", key_file: "{folder}/server.key", '
        f'ca_file: "{folder}/ca.pem", {more} }}\n'
    )


def node_cert(folder: Path, authority: trustme.CA, name: str = "node") -> dict[str, Any]:
    issued = authority.issue_cert("node.example.com")
    cert, key = folder / f"{name}.pem", folder / f"{name}.key"
    issued.cert_chain_pems[0].write_to_path(cert)
    issued.private_key_pem.write_to_path(key)
    return {"cert": cert, "key": key}


async def test_an_encrypted_connection(tmp_path: Path, authority: trustme.CA) -> None:
    config = tls(tmp_path, authority) + users(HIDDEN)
    trusting = replace(LOGIN, ca=tmp_path / "ca.pem")
    with running(tmp_path, config) as server:
        assert await reach(server, trusting, "tls") == IN
        assert await reach(server, trusting, "nats") == IN
        unknown = await reach(server, LOGIN, "tls")

    assert "the certificate of the NATS server at tls://127.0.0.1:" in unknown
    assert "is not trusted: self" in unknown or "is not trusted: unable to get" in unknown
    assert "Set [engine.nats] ca to the certificate of its authority" in unknown


async def test_a_certificate_for_another_host(tmp_path: Path, authority: trustme.CA) -> None:
    config = tls(tmp_path, authority, host="nats.example.com")
    with running(tmp_path, config) as server:
        other = await reach(server, NatsSettings(ca=tmp_path / "ca.pem"), "tls")

    assert "is not trusted: IP address mismatch" in other


async def test_tls_first(tmp_path: Path, authority: trustme.CA) -> None:
    config = tls(tmp_path, authority, more="handshake_first: true")
    first = NatsSettings(ca=tmp_path / "ca.pem", tls_first=True)
    with running(tmp_path, config) as server:
        assert await reach(server, first, "tls") == IN


async def test_a_client_s_certificate(tmp_path: Path, authority: trustme.CA) -> None:
    config = tls(tmp_path, authority, more="verify: true")
    trusting = NatsSettings(ca=tmp_path / "ca.pem")
    known = replace(trusting, **node_cert(tmp_path, authority))
    strange = replace(trusting, **node_cert(tmp_path, trustme.CA(), "strange"))
    with running(tmp_path, config) as server:
        assert await reach(server, known, "tls") == IN
        nothing = await reach(server, trusting, "tls")
        wrong = await reach(server, strange, "tls")

    assert "asks for a certificate of this node, and it shows none" in nothing
    assert "Set [engine.nats] cert and key" in nothing
    assert "no encrypted connection" in wrong or "no NATS server answers" in wrong


async def test_nothing_goes_in_the_clear_where_tls_is_wanted(tmp_path: Path) -> None:
    """A proxy sees what is sent: neither a password nor anything else."""
    seen = bytearray()
    over = asyncio.Event()
    with running(tmp_path, users(HIDDEN)) as server:
        port = int(server.url.rpartition(":")[2])

        async def between(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            back, on = await asyncio.open_connection("127.0.0.1", port)
            writer.write(await back.readline())  # the greeting, which offers no TLS
            while data := await reader.read(4096):
                seen.extend(data)
            for one in (on, writer):
                one.close()
                await one.wait_closed()
            over.set()

        proxy = await asyncio.start_server(between, "127.0.0.1", 0)
        url = f"tls://127.0.0.1:{proxy.sockets[0].getsockname()[1]}"
        with pytest.raises(EngineUnavailable, match="expected NATS servers that offer TLS"):
            await Wire.connect(url, 1, LOGIN, encrypted=True)
        await over.wait()
        proxy.close()

    assert bytes(seen) == b""


# while it runs --------------------------------------------------------------------------


async def until(wire: Wire, *, faulty: bool) -> str | None:
    give_up_at = time.monotonic() + SOON_S
    while (wire.fault is not None) is not faulty or wire.client.is_connected is faulty:
        assert time.monotonic() < give_up_at, wire.fault
        await asyncio.sleep(0.02)
    return wire.fault


@pytest.mark.timeout(60)
async def test_a_revoked_user_is_said_and_taken_again(tmp_path: Path) -> None:
    """The connection goes on trying, and what had been subscribed to still comes."""
    with running(tmp_path, users(HIDDEN)) as server:
        wire = await Wire.connect(server.url, 1, LOGIN)
        coming = await wire.client.subscribe("x")
        assert wire.fault is None
        server.reload(users(OTHER))
        fault = await until(wire, faulty=True)
        server.reload(users(HIDDEN))
        await until(wire, faulty=False)
        await wire.tell("x", b"hello")
        came = await coming.next_msg(timeout=SOON_S)
        await wire.close()

    assert came.data == b"hello"
    assert fault is not None
    assert "refuse user 'shop' with a password" in fault
    assert "It goes on trying" in fault
    assert HIDDEN not in fault


@pytest.mark.timeout(60)
async def test_a_revoked_credentials_file_is_replaced_without_a_restart(tmp_path: Path) -> None:
    operator, creds = Operator(), tmp_path / "node.creds"
    first = operator.user(creds)
    with running(tmp_path, operator.configuration) as server:
        wire = await Wire.connect(server.url, 1, NatsSettings(creds=creds))
        operator.revoke(first)
        server.reload(operator.configuration)
        fault = await until(wire, faulty=True)
        creds.write_text("half a file")
        await asyncio.sleep(0.1)
        operator.user(creds)
        await until(wire, faulty=False)
        await wire.close()

    assert fault is not None
    assert f"(user {first})" in fault


@pytest.mark.timeout(60)
async def test_a_server_that_is_away_is_said_and_found_again(tmp_path: Path) -> None:
    server = Server(tmp_path, port=free_port())
    server.start()
    try:
        wire = await Wire.connect(server.url)
        server.kill()
        fault = await until(wire, faulty=True)
        server.start()
        await until(wire, faulty=False)
        await wire.close()
    finally:
        server.kill()

    assert fault is not None
    assert "no NATS server answers" in fault


async def test_no_server_is_said_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "START_S", 1.0)

    with pytest.raises(EngineUnavailable) as caught:
        await Wire.connect(f"nats://127.0.0.1:{free_port()}", 1, LOGIN)
    assert "(Connection refused). Nothing was sent. Start one" in str(caught.value)
