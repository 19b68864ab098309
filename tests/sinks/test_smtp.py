"""The smtp sink against a real server on a loopback port: what it sends, what answers mean."""

from __future__ import annotations

import asyncio
import ssl
import sys
from contextlib import asynccontextmanager
from email import message_from_bytes, policy
from email.header import decode_header, make_header
from email.message import EmailMessage
from typing import TYPE_CHECKING, Any

import pytest
import trustme
from tests.sinks.mail_server import MailServer

from eventflow.config import SmtpSinkSettings
from eventflow.config.secret import Secret
from eventflow.delivery import Delivery, Tally
from eventflow.errors import ConfigError
from eventflow.event import Event
from eventflow.flow.failures import outcome_of
from eventflow.flow.handlers import Handler
from eventflow.flow.slots import Runner
from eventflow.policy.outcome import Failed
from eventflow.sinks import make_sink
from eventflow.sinks.base import SinkError
from eventflow.sinks.smtp import SmtpSink, connections
from eventflow.sinks.smtp.mail import Composer
from eventflow.telemetry.metrics import Metrics
from eventflow.testing import ManualClock

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

EVENT = Event(
    type="user.registered", source="/shop", id="7", data={"name": "Zoë", "email": "zoe@example.org"}
)
DELIVERY = Delivery(EVENT, "0193", "email", 1_800_000_000.5, tally=Tally(attempts=2))
PASSWORD = "open sesame"


def settings(port: int, **keys: Any) -> SmtpSinkSettings:
    given: dict[str, Any] = {
        "host": "127.0.0.1",
        "from_": "Shop <shop@example.com>",
        "to": ("{{ event.data.email }}",),
    }
    return SmtpSinkSettings(type="smtp", port=port, **(given | keys))


@asynccontextmanager
async def opened(port: int, *, concurrency: int = 2, **keys: Any) -> AsyncIterator[SmtpSink]:
    sink = SmtpSink(settings(port, **keys), concurrency=concurrency)
    await sink.start()
    try:
        yield sink
    finally:
        await sink.close()


@asynccontextmanager
async def sending(
    server: MailServer, *, tls: Any = None, **keys: Any
) -> AsyncIterator[tuple[MailServer, SmtpSink]]:
    async with server.serving(tls=tls), opened(server.port, **keys) as sink:
        yield server, sink


def other(number: int) -> Delivery:
    event = Event(type="user.registered", source="/shop", id=f"n{number}", data=EVENT.data)
    return Delivery(event, f"0200-{number}", "email", 1_800_000_000.0)


async def deliver(sink: SmtpSink, delivery: Delivery = DELIVERY) -> None:
    await sink.deliver(delivery.event, delivery)


async def failure(sink: SmtpSink, delivery: Delivery = DELIVERY) -> Failed:
    """Return what it means that one delivery failed."""
    with pytest.raises(SinkError) as caught:
        await deliver(sink, delivery)
    outcome = outcome_of(caught.value, 1_000.0)
    assert isinstance(outcome, Failed)
    return outcome


class TestAMail:
    async def test_goes_from_whom_to_whom_the_settings_say(self) -> None:
        async with sending(MailServer(), subject="Welcome, {{ event.data.name }}!") as (
            server,
            sink,
        ):
            await deliver(sink)

        (mail,) = server.taken
        assert mail["from"] == "Shop <shop@example.com>"
        assert mail["to"] == "zoe@example.org"
        assert mail["subject"] == "Welcome, Zoë!"
        assert server.envelopes == [("shop@example.com", ["zoe@example.org"])]

    async def test_is_the_same_at_every_attempt(self) -> None:
        """Byte for byte: a server that takes it twice can tell."""
        later = Delivery(EVENT, "0193", "email", 1_800_000_000.5, tally=Tally(attempts=4))
        keys = {"text": "Hello {{ event.data.name }}", "html": "<p>Hello {{ event.data.name }}</p>"}
        async with sending(MailServer(), **keys) as (server, sink):
            await deliver(sink)
            await deliver(sink, later)

        assert server.ids == [f"<{EVENT.key}.email@example.com>"] * 2
        assert server.raw[0] == server.raw[1]
        assert server.taken[0]["date"] == "Fri, 15 Jan 2027 08:00:00 +0000"
        assert server.taken[0]["auto-submitted"] == "auto-generated"

    async def test_without_a_body_shows_the_event(self) -> None:
        async with sending(MailServer()) as (server, sink):
            await deliver(sink)

        body = server.taken[0].get_content()
        assert server.taken[0]["subject"] == "user.registered"
        assert body.replace("\r\n", "\n") == (
            "user.registered\n\nspecversion      1.0\nid               7\nsource           /shop\n"
            'datacontenttype  application/json\n\n{\n  "name": "Zoë",\n'
            '  "email": "zoe@example.org"\n}\n\n-- \nDelivery 0193.email, by EventFlow\n'
        )

    async def test_may_have_text_and_html(self) -> None:
        risky = Event(type="a", source="/", data={"email": "a@b.c", "name": "<b>&"})
        keys = {"text": "Hello {{ event.data.name }}", "html": "<p>{{ event.data.name }}</p>"}
        async with sending(MailServer(), **keys) as (server, sink):
            await deliver(sink, Delivery(risky, "1", "email", 0.0))

        (mail,) = server.taken
        assert mail.get_content_type() == "multipart/alternative"
        text, html = [part.get_content().strip() for part in mail.iter_parts()]
        assert (text, html) == ("Hello <b>&", "<p>&lt;b&gt;&amp;</p>")

    async def test_may_go_to_several(self) -> None:
        team = Event(type="a", source="/", data={"team": ["a@x.org", "b@x.org", "a@x.org"]})
        keys = {"to": ("{{ event.data.team }}", "Boss <boss@x.org>")}
        async with sending(MailServer(), **keys) as (server, sink):
            await deliver(sink, Delivery(team, "1", "email", 0.0))

        assert server.envelopes[0][1] == ["a@x.org", "b@x.org", "boss@x.org"]

    async def test_reaches_addresses_beyond_ascii(self) -> None:
        addresses = ["zoë@bücher.example", "a@bücher.example"]
        async with sending(MailServer()) as (server, sink):
            for email in addresses:
                event = Event(type="a", source="/", data={"email": email})
                await deliver(sink, Delivery(event, "1", "email", 0.0))

        assert server.envelopes[0][1] == ["zoë@bücher.example"]
        assert server.envelopes[1][1] == ["a@xn--bcher-kva.example"]


class TestNoMail:
    """What no attempt can mend is dead at once, and says which setting is in the way."""

    @pytest.mark.parametrize(
        ("email", "said"),
        [
            ("a@x.org, b@x.org", "Write several as a list"),
            ("a@x.org\r\nBcc: b@x.org", "without line breaks"),
            ("a@x.org\nBcc: b@x.org", "without line breaks"),
            ("<b@x.org>é <a@x.org>", "Write several as a list"),
            ("b@x.org, B <a@x.org>", "Write several as a list"),
            ("A <a@x\uff1e.org>", "expected one address"),
            ("A <a@x.org", "expected one address"),
            ("x" * 65 + "@x.org", "expected one address"),
            ("team: a@x.org, b@x.org;", "Write several as a list"),
            ("", "expected one address"),
            ("nobody", "expected one address"),
            ("a b@x.org", "expected one address"),
            ("a@x.org> SIZE=1", "expected one address"),
            (["a@x.org", 7], "expected a list of addresses, got 7"),
            ([], "expected 1 to 100 addresses, got 0"),
            ([f"a{n}@x.org" for n in range(101)], "expected 1 to 100 addresses, got 101"),
            ("x" * 3_000 + "@x.org", "at most 2000 characters"),
        ],
    )
    async def test_comes_of_what_is_no_address(self, email: Any, said: str) -> None:
        event = Event(type="a", source="/", data={"email": email})
        async with sending(MailServer()) as (server, sink):
            failed = await failure(sink, Delivery(event, "1", "email", 0.0))

        assert (failed.cause, failed.permanent) == ("InvalidMail", True)
        assert failed.error.startswith("sink.to: ")
        assert said in failed.error
        assert failed.error.endswith("nothing was sent")
        assert (server.raw, server.sessions) == ([], [])

    @pytest.mark.parametrize("name", ["a\nBcc: b@x.org", "a\r\n\r\nbody", "a\x00", "a\u2028b"])
    async def test_comes_of_a_subject_of_two_lines(self, name: str) -> None:
        event = Event(type="a", source="/", data={"email": "a@x.org", "name": name})
        async with sending(MailServer(), subject="Hello {{ event.data.name }}") as (server, sink):
            failed = await failure(sink, Delivery(event, "1", "email", 0.0))

        assert failed.permanent
        assert "sink.subject: expected text without line breaks" in failed.error
        assert server.raw == []

    @pytest.mark.parametrize(
        ("keys", "said"),
        [
            ({"to": ("{{ event.data.mail }}",)}, "sink.to: event.data.mail: there is no 'mail'"),
            ({"from_": "{{ event.subject }}"}, "sink.from: event.subject: there is no 'subject'"),
            ({"subject": "{{ event.data.no }}"}, "sink.subject: event.data.no: there is no 'no'"),
            ({"text": "{{ event.data.no }}"}, "sink.text: UndefinedError: "),
            ({"html": "{{ event.subject }}"}, "sink.html: UndefinedError: "),
            ({"text": "{{ 1 / 0 }}"}, "sink.text: ZeroDivisionError: "),
        ],
    )
    async def test_comes_of_a_template_that_fails(self, keys: dict[str, Any], said: str) -> None:
        async with sending(MailServer(), **keys) as (_, sink):
            failed = await failure(sink)

        assert (failed.cause, failed.permanent) == ("InvalidMail", True)
        assert said in failed.error

    async def test_can_go_where_the_server_takes_only_ascii(self) -> None:
        event = Event(type="a", source="/", data={"email": "zoë@x.org"})
        async with sending(MailServer(international=False)) as (_, sink):
            failed = await failure(sink, Delivery(event, "1", "email", 0.0))

        assert (failed.cause, failed.permanent) == ("smtp 553", True)
        assert "SMTPUTF8" in failed.error


class TestAnAnswer:
    @pytest.mark.parametrize(
        ("said", "permanent"),
        [
            ("421 4.3.2 going down", False),
            ("450 4.2.0 mailbox busy", False),
            ("451 4.7.1 greylisted", False),
            ("452 4.2.2 mailbox full", False),
            ("500 5.5.2 what", True),
            ("530 5.7.0 authentication required", False),
            ("535 5.7.8 authentication failed", False),
            ("538 5.7.11 encryption required", False),
            ("550 5.1.1 no such user", True),
            ("554 5.7.1 spam", True),
        ],
    )
    @pytest.mark.parametrize("when", ["on_mail", "on_rcpt", "on_data"])
    async def test_about_a_mail_is_judged_by_its_code(
        self, said: str, when: str, *, permanent: bool
    ) -> None:
        server = MailServer()
        setattr(server, when, lambda _: said)
        async with sending(server) as (_, sink):
            failed = await failure(sink)

        assert (failed.cause, failed.permanent) == (f"smtp {said[:3]}", permanent)
        assert said[4:] in failed.error
        assert failed.error.startswith(f"127.0.0.1:{server.port}: answered {said[:3]} to ")
        assert failed.fingerprint
        assert not failed.timed_out

    async def test_that_is_none_known_is_worth_another_try(self) -> None:
        async with sending(MailServer(on_data=lambda _: "299 hm")) as (_, sink):
            failed = await failure(sink)

        assert (failed.cause, failed.permanent) == ("SMTPResponseException", False)
        assert "answered 299 out of turn: hm" in failed.error

    async def test_is_never_a_password(self) -> None:
        server = MailServer(
            on_mail=lambda _: f"550 not with {PASSWORD}", password=PASSWORD.encode()
        )
        server.options = {"auth_require_tls": False}
        keys = {"username": "shop", "password": Secret(PASSWORD)}
        async with sending(server, **keys) as (_, sink):
            failed = await failure(sink)

        assert "answered 550 to the mail: not with ***" in failed.error
        assert PASSWORD not in repr(failed)
        assert PASSWORD not in repr(settings(1, **keys))

    @pytest.mark.parametrize("code", ["450", "550"])
    async def test_that_refuses_one_recipient_refuses_the_mail(self, code: str) -> None:
        """To all or to none: an attempt that is repeated reaches nobody twice."""
        keys = {"to": ("a@x.org", "b@x.org", "c@x.org")}
        answers = {"b@x.org": f"{code} not b"}
        server = MailServer(on_rcpt=answers.get)
        async with sending(server, **keys) as (_, sink):
            failed = await failure(sink)
            assert server.raw == []
            answers.clear()
            await deliver(sink)

        assert failed.permanent is (code == "550")
        assert "to the recipient b@x.org, and the mail was sent to nobody: not b" in failed.error
        assert server.envelopes == [("shop@example.com", ["a@x.org", "b@x.org", "c@x.org"])]

    async def test_for_good_counts_more_than_one_for_now(self) -> None:
        answers = {"a@x.org": "450 not now", "b@x.org": "550 never", "c@x.org": "451 later"}
        server = MailServer(on_rcpt=answers.get)
        async with sending(server, to=tuple(answers)) as (_, sink):
            failed = await failure(sink)

        assert (failed.cause, failed.permanent) == ("smtp 550", True)


class Greeting(asyncio.Protocol):
    """A server that says one thing, whatever comes."""

    def __init__(self, said: bytes) -> None:
        self.said = said

    def connection_made(self, transport: Any) -> None:
        transport.write(self.said)


@asynccontextmanager
async def greeting(said: bytes) -> AsyncIterator[int]:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Greeting(said), "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


class TestNoSession:
    """What is wrong before a mail begins would be wrong for all: it must not empty the queue."""

    @pytest.mark.parametrize("code", [421, 520, 554])
    async def test_since_the_server_turns_us_away(self, code: int) -> None:
        async with greeting(f"{code} not you\r\n".encode()) as port, opened(port) as sink:
            failed = await failure(sink)

        assert (failed.cause, failed.permanent) == (f"smtp {code}", False)
        assert failed.error.endswith(f"answered {code} before a mail began: not you")

    async def test_since_it_speaks_something_else(self) -> None:
        async with greeting(b"HTTP/1.1 400 Bad Request\r\n\r\n") as port, opened(port) as sink:
            failed = await failure(sink)

        assert not failed.permanent

    async def test_since_nobody_listens(self) -> None:
        server = MailServer()
        async with server.serving():
            pass
        async with opened(server.port) as sink:
            failed = await failure(sink)

        assert (failed.cause, failed.permanent) == ("SMTPConnectError", False)
        assert failed.error.startswith(f"127.0.0.1:{server.port}: Error connecting to 127.0.0.1")

    async def test_since_the_name_leads_nowhere(self) -> None:
        async with opened(25, host="nowhere.invalid") as sink:
            failed = await failure(sink)

        assert (failed.cause, failed.permanent) == ("SMTPConnectError", False)

    async def test_since_the_password_is_wrong(self) -> None:
        server = MailServer(options={"auth_require_tls": False})
        keys = {"username": "shop", "password": Secret("wrong")}
        async with sending(server, **keys) as (_, sink):
            failed = await failure(sink)
            server.password = b"wrong"  # somebody mends it
            await deliver(sink)

        assert (failed.cause, failed.permanent) == ("smtp 535", False)
        assert "before a mail began" in failed.error
        assert "wrong" not in failed.error
        assert len(server.taken) == 1

    async def test_since_there_is_no_login(self) -> None:
        keys = {"username": "shop", "password": Secret(PASSWORD)}
        async with sending(MailServer(), **keys) as (_, sink):  # it wants TLS first
            failed = await failure(sink)

        assert not failed.permanent
        assert "AUTH extension is not supported" in failed.error


class TestALogin:
    @pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN"])
    async def test_may_be_of_either_kind(self, mechanism: str) -> None:
        excluded = {"PLAIN", "LOGIN"} - {mechanism}
        server = MailServer(options={"auth_require_tls": False, "auth_exclude_mechanism": excluded})
        keys = {"username": "shop", "password": Secret("sesame")}
        async with sending(server, **keys) as (_, sink):
            await deliver(sink)
            await deliver(sink)

        assert server.logins == [f"{mechanism} shop"]
        assert len(server.taken) == 2


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def served(authority: trustme.CA) -> ssl.SSLContext:
    """Return what a server on 127.0.0.1 shows who it is with."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    return context


@pytest.fixture(scope="module")
def ca_file(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ca") / "ca.pem"
    authority.cert_pem.write_to_path(str(path))
    return path


class TestEncryption:
    async def test_begins_where_starttls_is_asked_for(
        self, served: ssl.SSLContext, ca_file: Path
    ) -> None:
        server = MailServer(options={"tls_context": served, "require_starttls": True})
        keys = {"username": "shop", "password": Secret("sesame")}
        async with sending(server, starttls=True, ca_file=ca_file, **keys) as (_, sink):
            await deliver(sink)

        assert server.logins in (["LOGIN shop"], ["PLAIN shop"])
        assert len(server.taken) == 1

    async def test_begins_with_the_first_byte_where_tls_is_asked_for(
        self, served: ssl.SSLContext, ca_file: Path
    ) -> None:
        server = MailServer()
        async with (
            server.serving(tls=served),
            opened(server.port, tls=True, ca_file=ca_file) as sink,
        ):
            await deliver(sink)

        assert len(server.taken) == 1

    async def test_is_never_done_without(self) -> None:
        """A server that does not offer it, or somebody in between who hides it, gets no mail."""
        async with sending(MailServer(), starttls=True) as (server, sink):
            failed = await failure(sink)

        assert not failed.permanent
        assert "STARTTLS extension not supported" in failed.error
        assert server.raw == []

    async def test_needs_a_certificate_that_is_trusted(self, served: ssl.SSLContext) -> None:
        server = MailServer(options={"tls_context": served})
        async with sending(server, starttls=True) as (_, sink):
            failed = await failure(sink)

        assert not failed.permanent
        assert "CERTIFICATE_VERIFY_FAILED" in failed.error
        assert server.raw == []

    async def test_needs_a_certificate_of_this_host(
        self, authority: trustme.CA, ca_file: Path
    ) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("mail.example.com").configure_cert(context)
        server = MailServer(options={"tls_context": context})
        async with sending(server, starttls=True, ca_file=ca_file) as (_, sink):
            failed = await failure(sink)

        assert "CERTIFICATE_VERIFY_FAILED" in failed.error

    async def test_may_go_unverified_if_that_is_said(self, served: ssl.SSLContext) -> None:
        server = MailServer(options={"tls_context": served, "require_starttls": True})
        async with sending(server, starttls=True, verify=False) as (_, sink):
            await deliver(sink)

        assert len(server.taken) == 1

    def test_says_at_start_that_a_file_is_none(self, tmp_path: Path) -> None:
        missing, empty = tmp_path / "no.pem", tmp_path / "empty.pem"
        empty.write_text("")
        for path in (missing, empty):
            with pytest.raises(ConfigError, match=r"^sink.ca_file: expected a file of certif"):
                SmtpSink(settings(25, starttls=True, ca_file=path), concurrency=1)


class TestAConnection:
    async def test_is_kept_for_the_next_mail(self) -> None:
        async with sending(MailServer()) as (server, sink):
            for number in range(5):
                await deliver(sink, other(number))

        assert len(server.taken) == 5
        assert len(server.sessions) == 1
        assert server.resets == 0

    async def test_is_one_of_as_many_as_the_topic_may(self) -> None:
        """Three mails, two connections: the third begins when one of the others ends."""
        waiting: list[int] = []
        go_on = asyncio.Event()

        async def wait() -> None:
            waiting.append(1)
            if len(waiting) == 2:
                go_on.set()
            await go_on.wait()

        async with sending(MailServer(before_data=wait), concurrency=2) as (server, sink):
            await asyncio.gather(*(deliver(sink, other(n)) for n in range(3)))

        assert len(server.taken) == 3
        assert len(server.sessions) == 2

    async def test_is_made_ready_after_a_refusal(self) -> None:
        answers = ["451 greylisted"]
        server = MailServer(on_data=lambda _: answers.pop() if answers else None)
        async with sending(server) as (_, sink):
            await failure(sink)
            await deliver(sink)

        assert (len(server.sessions), server.resets, len(server.taken)) == (1, 1, 1)

    async def test_that_was_hung_up_is_replaced(self) -> None:
        """The server may leave at any time between two mails: that is no failed attempt."""
        async with sending(MailServer()) as (server, sink):
            await deliver(sink)
            server.hang_up()
            await deliver(sink)

        assert (len(server.sessions), len(server.taken)) == (2, 2)

    async def test_that_says_farewell_is_replaced(self) -> None:
        """A server that limits the mails of a connection says 421 to the next one."""
        server = MailServer()
        server.on_mail = lambda _: (
            "421 enough" if server.taken and len(server.sessions) == 1 else None
        )
        async with sending(server) as (_, sink):
            await deliver(sink)
            await deliver(sink, other(1))

        assert (len(server.sessions), len(server.taken)) == (2, 2)

    async def test_that_was_idle_is_asked_first(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(connections, "UNASKED_S", -1.0)
        async with sending(MailServer()) as (server, sink):
            await deliver(sink)
            await deliver(sink)

        assert (len(server.sessions), server.resets) == (1, 1)

    async def test_that_was_idle_for_long_is_closed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(connections, "IDLE_S", 0.01)
        async with sending(MailServer()) as (server, sink):
            await deliver(sink)
            await server.left.wait()
            await deliver(sink)

        assert (len(server.sessions), len(server.taken)) == (2, 2)

    async def test_sends_so_many_mails_and_no_more(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(connections, "MAILS_MAX", 2)
        async with sending(MailServer()) as (server, sink):
            for number in range(5):
                await deliver(sink, other(number))

        assert (len(server.sessions), len(server.taken)) == (3, 5)

    async def test_past_its_time_is_closed(self) -> None:
        """What the server makes of the mail is not known: no other may follow on it."""
        hanging = asyncio.Event()
        server = MailServer(before_data=hanging.wait)
        async with sending(server, concurrency=1) as (_, sink):
            handler = Handler.of_sink(sink, name="smtp", timeout_s=0.05)
            runner = Runner(handler, "email", 1, ManualClock(), Metrics())
            outcome = await runner.run(0, DELIVERY)
            hanging.set()
            await runner.close()
            await deliver(sink)

        assert isinstance(outcome, Failed)
        assert (outcome.cause, outcome.timed_out, outcome.permanent) == ("timeout", True, False)
        assert len(server.sessions) == 2
        assert set(server.ids) == {f"<{EVENT.key}.email@example.com>"}


class TestSettings:
    def test_say_all_that_is_wrong_with_templates(self) -> None:
        with pytest.raises(ConfigError) as caught:
            SmtpSink(
                settings(
                    25,
                    from_="nobody",
                    to=("{{ event.data. }}", "a@x.org, b@x.org", "{{ header['x'] }}"),
                    subject="{{ evnt.type }}",
                    text="{{ event.type",
                    html="{{ evnt.type }}{% include 'x' %}",
                ),
                concurrency=1,
            )

        keys = [problem.partition(":")[0] for problem in caught.value.problems]
        assert keys == [
            *("sink.from", "sink.subject", "sink.to", "sink.to", "sink.to"),
            *("sink.text", "sink.html", "sink.html"),
        ]
        said = "\n".join(caught.value.problems)
        assert "expected one address such as ada@example.org, got 'nobody'" in said
        assert "Write several as a list" in said
        assert "Did you mean 'event'?" in said
        assert "'header', which is not kept" in said
        assert "expected a Jinja2 template: line 1:" in said
        assert "another template; a body stands alone" in said

    async def test_a_sink_that_was_not_started_says_so(self) -> None:
        sink = SmtpSink(settings(25), concurrency=1)
        with pytest.raises(RuntimeError, match="has not been started"):
            await deliver(sink)
        await sink.close()

    def test_a_missing_package_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in [name for name in sys.modules if name.startswith("eventflow.sinks.smtp")]:
            monkeypatch.delitem(sys.modules, name)
        monkeypatch.delattr("eventflow.sinks.smtp")
        monkeypatch.setitem(sys.modules, "aiosmtplib", None)
        with pytest.raises(ConfigError) as caught:
            make_sink(settings(25), concurrency=1)

        assert str(caught.value) == (
            'sink.type: "smtp" needs the package aiosmtplib, which is not installed. '
            "Install it: pip install 'eventflow[smtp]'"
        )


@pytest.mark.parametrize(
    "subject",
    [
        "Ünïcödé 😀 " * 30,
        "word " * 300,
        "w" * 1_500,
        "=?utf-8?q?as_it_stands?=",
        'Smith, Ann <a@b.c>; "x"',
    ],
)
def test_headers_are_folded_and_read_back(subject: str) -> None:
    """What a client shows is what was meant, however long and in whatever script."""
    name = "Zoë, the “first”; of <many>"
    event = Event(type="a", source="/", data={"s": subject, "email": "a@x.org"})
    one = settings(25, subject="{{ event.data.s }}", from_=f'"{name}" <shop@example.com>')
    mail = Composer(one).compose(event, Delivery(event, "1", "t" * 63, 0.0))
    lines = mail.content.split(b"\r\n")
    parsed = message_from_bytes(mail.content, EmailMessage, policy=policy.SMTP)

    assert all(len(line) <= 998 and line.isascii() for line in lines)
    assert b"\n" not in mail.content.replace(b"\r\n", b"")
    raw = message_from_bytes(mail.content)["subject"]
    assert str(make_header(decode_header(raw))).replace("\n", "") == subject
    assert parsed["from"].addresses[0].display_name == name
    assert parsed["message-id"] == f"<{event.key}.{'t' * 63}@example.com>"
