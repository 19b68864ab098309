"""The smtp sink before servers that hang, hang up, say too much or say it oddly."""

from __future__ import annotations

import asyncio
import re
import ssl
from base64 import b64encode
from contextlib import asynccontextmanager
from email import message_from_bytes, policy
from email.message import EmailMessage
from typing import TYPE_CHECKING, Any

import pytest
import trustme

from eventflow.config import SmtpSinkSettings
from eventflow.config.secret import Secret
from eventflow.delivery import Delivery
from eventflow.event import Event
from eventflow.flow.failures import outcome_of
from eventflow.flow.handlers import Handler
from eventflow.flow.slots import Runner
from eventflow.policy.outcome import SUCCEEDED, Failed, Outcome
from eventflow.sinks.base import SinkError
from eventflow.sinks.smtp import SmtpSink, connections
from eventflow.telemetry.metrics import Metrics
from eventflow.testing import ManualClock

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from pathlib import Path

EVENT = Event(type="a", source="/", id="7", data={"email": "zoe@example.org"})
DELIVERY = Delivery(EVENT, "0193", "email", 0.0)

EVENT_WITH_BODY = Event(type="a", source="/", data={"email": "zoe@example.org", "body": "next"})
NOT_IN_BODY = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")

STAGES = ("greeting", "ehlo", "auth", "mail", "rcpt", "data", "body")
ANSWERS = {
    "greeting": "220 mail.test",
    "ehlo": "250-mail.test\r\n250-STARTTLS\r\n250-AUTH PLAIN\r\n250 SIZE 1000000",
    "starttls": "220 go",
    "auth": "235 in",
    "mail": "250 OK",
    "rcpt": "250 OK",
    "data": "354 go on",
    "body": "250 taken",
    "rset": "250 OK",
    "quit": "221 bye",
}
HANG, GONE = "hang", "gone"


class Scripted:
    """A server that says at each stage what it is told to: a reply, nothing, or it is gone."""

    def __init__(self, **answers: str) -> None:
        self.answers: Mapping[str, str] = ANSWERS | answers
        self.tls: ssl.SSLContext | None = None
        self.bodies: list[bytes] = []
        self.asked = 0
        """How often it was asked whether it is still there."""
        self.names: list[str] = []
        """What clients called themselves."""
        self.open = 0
        """Connections that the client has not left."""
        self.left = asyncio.Event()
        self.port = 0

    async def _session(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open += 1
        try:
            await self._said("greeting", writer)
            while line := await reader.readline():
                stage = line.split(maxsplit=1)[0].decode().lower()
                self.asked += stage == "rset"
                self.names += [line.split()[1].decode()] if stage == "ehlo" else []
                await self._said(stage, writer)
                if stage == "starttls":
                    if self.tls is None:
                        await reader.read()  # and nothing more, whatever comes
                    else:
                        await writer.start_tls(self.tls)
                if stage == "data" and self.answers["data"].startswith("354"):
                    self.bodies.append(await reader.readuntil(b"\r\n.\r\n"))
                    await self._said("body", writer)
        except (ConnectionError, asyncio.IncompleteReadError, ssl.SSLError):
            pass  # the client has left: that is what tests look at
        finally:
            writer.close()
            self.open -= 1
            self.left.set()

    async def _said(self, stage: str, writer: asyncio.StreamWriter) -> None:
        answer = self.answers["ehlo" if stage == "helo" else stage]
        if answer == GONE:
            raise ConnectionResetError
        if answer != HANG:
            writer.write(answer.encode() + b"\r\n")
            await writer.drain()

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[Scripted]:
        server = await asyncio.start_server(self._session, "127.0.0.1", 0)
        async with server:
            self.port = server.sockets[0].getsockname()[1]
            yield self


@asynccontextmanager
async def opened(port: int, *, concurrency: int = 1, **keys: Any) -> AsyncIterator[SmtpSink]:
    given: dict[str, Any] = {
        "host": "127.0.0.1",
        "to": ("{{ event.data.email }}",),
        "username": "shop",
        "password": Secret("sesame"),
    }
    settings = SmtpSinkSettings(type="smtp", port=port, **(given | keys))
    sink = SmtpSink(settings, concurrency=concurrency)
    await sink.start()
    try:
        yield sink
    finally:
        await sink.close()


async def failure(sink: SmtpSink) -> Failed:
    with pytest.raises(SinkError) as caught:
        await sink.deliver(EVENT, DELIVERY)
    outcome = outcome_of(caught.value, 1_000.0)
    assert isinstance(outcome, Failed)
    return outcome


async def run(sink: SmtpSink, timeout_s: float) -> Outcome:
    """Deliver as a topic with this timeout does."""
    handler = Handler.of_sink(sink, name="smtp", timeout_s=timeout_s)
    runner = Runner(handler, "email", 1, ManualClock(), Metrics())
    try:
        return await runner.run(0, DELIVERY)
    finally:
        await runner.close()


async def out_of_time(server: Scripted, sink: SmtpSink, tls: ssl.SSLContext | None = None) -> None:
    """Deliver to a server that hangs, and see that nothing of it is left; then it is well again."""
    outcome = await run(sink, 0.05)
    async with asyncio.timeout(5):
        await server.left.wait()
    assert server.open == 0
    server.answers, server.tls = ANSWERS, tls
    assert await run(sink, 5.0) is SUCCEEDED

    assert isinstance(outcome, Failed)
    assert (outcome.cause, outcome.timed_out, outcome.permanent) == ("timeout", True, False)


@pytest.mark.parametrize("stage", STAGES)
async def test_a_server_that_hangs_is_left(stage: str) -> None:
    async with Scripted(**{stage: HANG}).serving() as server, opened(server.port) as sink:
        await out_of_time(server, sink)


@pytest.mark.parametrize("said", [HANG, "220 go"])
async def test_a_server_that_hangs_at_starttls_is_left(said: str, tmp_path: Path) -> None:
    """Before the handshake, and in it."""
    authority, served = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(served)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    keys: dict[str, Any] = {"starttls": True, "ca_file": tmp_path / "ca.pem"}
    async with (
        Scripted(starttls=said).serving() as server,
        opened(server.port, **keys) as sink,
    ):
        await out_of_time(server, sink, served)

    assert len(server.bodies) == 1


async def test_kept_connections_that_lead_nowhere_cost_one_wait(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As when something in between has forgotten all of them."""
    monkeypatch.setattr(connections, "UNASKED_S", -1.0)
    monkeypatch.setattr(connections, "ANSWER_S", 0.05)
    async with Scripted().serving() as server, opened(server.port, concurrency=4) as sink:
        for _ in range(2):
            await asyncio.gather(*(sink.deliver(EVENT, DELIVERY) for _ in range(4)))
            server.answers = ANSWERS | {"rset": HANG}
        await sink.deliver(EVENT, DELIVERY)

    assert server.asked == 4 + 1, "all four at once, then one that was made since"
    assert len(server.bodies) == 9


@pytest.mark.parametrize("stage", STAGES)
async def test_a_server_that_hangs_up_is_tried_again(stage: str) -> None:
    async with Scripted(**{stage: GONE}).serving() as server, opened(server.port) as sink:
        failed = await failure(sink)
        server.answers = ANSWERS
        await sink.deliver(EVENT, DELIVERY)

    assert not failed.permanent
    assert failed.error.startswith(f"127.0.0.1:{server.port}: ")


@pytest.mark.parametrize(
    ("called", "said"),
    [("shop.example.com", "shop.example.com"), ("box", "[127.0.0.1]"), ("böx.x", "[127.0.0.1]")],
)
async def test_a_dns_that_hangs_keeps_no_mail_back(
    called: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What this machine is called is asked of nobody else."""

    def hang(*_: object) -> str:
        raise AssertionError("it asks DNS")

    monkeypatch.setattr("socket.getfqdn", hang)
    monkeypatch.setattr("socket.gethostname", lambda: called)
    async with Scripted().serving() as server, opened(server.port) as sink:
        await sink.deliver(EVENT, DELIVERY)

    assert set(server.names) == {said}


@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN"])
async def test_a_command_that_is_repeated_says_no_password(mechanism: str) -> None:
    """What is said of a failed attempt is shown to whoever may read deliveries."""
    password = "ses  ame"
    spelt = [b64encode(text.encode()).decode() for text in (password, f"\0shop\0{password}")]
    said = f"500 what is {spelt[0]}, {spelt[1]}, {password}?"
    ehlo = f"250-mail.test\r\n250 AUTH {mechanism}"
    async with (
        Scripted(auth=said, ehlo=ehlo).serving() as server,
        opened(server.port, password=Secret(password)) as sink,
    ):
        failed = await failure(sink)

    assert failed.error.endswith("before a mail began: what is ***, ***, ***?")


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("code", [421, 451, 550])
async def test_replies_of_many_lines_are_read_to_their_end(stage: str, code: int) -> None:
    said = f"{code}-first\r\n{code}-second\r\n{code} third"
    async with Scripted(**{stage: said}).serving() as server, opened(server.port) as sink:
        failed = await failure(sink)
        server.answers = ANSWERS
        await sink.deliver(EVENT, DELIVERY)

    assert failed.cause == f"smtp {code}"
    assert failed.permanent is (code == 550 and stage in ("mail", "rcpt", "data", "body"))
    assert "first second third" in failed.error


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize(
    "said",
    ["hello", "999 what", "25", "", "\x00\xff", "250 \N{SNOWMAN}" * 3],
)
async def test_replies_that_are_none_are_no_verdict(stage: str, said: str) -> None:
    """Whatever it is, it does not make a mail dead, and is not taken for more than it says."""
    async with Scripted(**{stage: said}).serving() as server, opened(server.port) as sink:
        outcome = await run(sink, 0.1)

    assert outcome is SUCCEEDED or (isinstance(outcome, Failed) and not outcome.permanent)


@pytest.mark.parametrize("stage", STAGES)
async def test_a_reply_that_never_ends_is_given_up(stage: str) -> None:
    """A line of megabytes, or lines without end, fill no memory."""
    for said in ("250 " + "x" * 1_000_000, "250-x\r\n" * 200_000 + "250-x"):
        async with Scripted(**{stage: said}).serving() as server, opened(server.port) as sink:
            outcome = await run(sink, 1)

        assert isinstance(outcome, Failed)
        assert not outcome.permanent
        assert len(outcome.error) <= 2_000


@pytest.mark.parametrize(
    "body",
    [
        *[f"a{end}.{end}MAIL FROM:<eve@x.org>{end}" for end in ("\r\n", "\n", "\r")],
        *["a\n.\r\nb", "a\r\n.\nb", "a\r.\r\nb", "a\r\n.\rb", "é\r\n.\r\né"],
        *[".", "..", ".\r\n", "\r\n.", "a\u2028.\u2028b\x85.\x85c", "x" * 5_000, "é" * 5_000],
        *["a\x0b.\x0cb", "a\x1c.\x1db", "From me\nFrom you\n", ""],
    ],
)
@pytest.mark.parametrize("key", ["text", "html"])
async def test_no_body_ends_its_mail(body: str, key: str) -> None:
    """Data of an event can't end the mail and begin another (SMTP smuggling)."""
    event = Event(type="a", source="/", data={"email": "zoe@example.org", "body": body})
    keys: dict[str, Any] = {"username": None, "password": None, key: "{{ event.data.body | safe }}"}
    async with Scripted().serving() as server, opened(server.port, **keys) as sink:
        await sink.deliver(event, Delivery(event, "1", "email", 0.0))
        await sink.deliver(EVENT_WITH_BODY, Delivery(EVENT_WITH_BODY, "2", "email", 0.0))

    assert len(server.bodies) == 2, "one mail, and the next one"
    content = server.bodies[0].removesuffix(b".\r\n")
    assert not re.search(rb"\r(?!\n)|(?<!\r)\n", content), "no line end but CR LF"
    lines = content.split(b"\r\n")
    assert b"." not in lines
    assert all(len(line) <= 998 for line in lines)
    read = message_from_bytes(
        b"\r\n".join(line.removeprefix(b".") for line in lines), EmailMessage, policy=policy.SMTP
    )
    assert folded(read.get_content()) == folded(NOT_IN_BODY.sub("\ufffd", body))


def folded(text: str) -> str:
    """Return a text with line ends as mails have them, and without those at its end."""
    return re.sub(r"\r\n|\r|\n", "\n", text).rstrip("\n")
