"""A mail server as bad as they come: nothing dead, every mail there, a repeat is the same mail."""

from __future__ import annotations

import asyncio
import random
import ssl
from collections import Counter
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
import trustme
from tests.sinks.mail_server import MailServer

from eventflow import Event, EventFlow
from eventflow.config import parse
from eventflow.testing.harness import census, settle

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from email.message import EmailMessage
    from pathlib import Path

COUNT = 300


def flow_to(port: int, ca_file: Path) -> EventFlow:
    """Return a node whose one topic mails over STARTTLS, logged in."""
    text = f"""
        [engine]
        url = "memory:"
        [topics.email]
        match = "user.*"
        concurrency = 8
        timeout = "2s"
        retry = {{ base = "20ms", max = "200ms" }}
        recovery = {{ after = "1s", rate = "1000/s" }}
        [topics.email.sink]
        type = "smtp"
        host = "127.0.0.1"
        port = {port}
        starttls = true
        ca_file = "{ca_file}"
        username = "shop"
        password = "sesame"
        from = "shop@example.com"
        to = "{{{{ event.data.email }}}}"
        text = "Hello {{{{ event.data.name }}}}"
        html = "<p>Hello {{{{ event.data.name }}}}</p>"
    """
    return EventFlow(parse(text, name="", environ={}))


def users(numbers: range) -> list[Event]:
    return [
        Event(type="user.new", source="/", id=f"{n}", data={"name": "Zoë", "email": f"u{n}@x.org"})
        for n in numbers
    ]


class Bad(MailServer):
    """Greylists every first try, says 421 and 452, and hangs up on everybody now and then.

    Before a mail, and after one that it has taken without a word.
    """

    def __init__(self, seed: int, tls: ssl.SSLContext) -> None:
        super().__init__(options={"tls_context": tls, "require_starttls": True})
        self.chance = random.Random(seed)
        self.seen: set[str] = set()
        self.troubles: Counter[str] = Counter()
        self.on_mail = self.mail
        self.on_data = self.data

    def mail(self, _address: str) -> str | None:
        draw = self.chance.random()
        if draw < 0.02:
            self.troubles["farewell"] += 1
            return "421 4.3.2 enough for today"
        if draw < 0.04:
            self.troubles["hung up before"] += 1
            self.hang_up()
        return None

    def data(self, mail: EmailMessage) -> str | None:
        if mail["message-id"] not in self.seen:
            self.seen.add(mail["message-id"])
            self.troubles["greylisted"] += 1
            return "451 4.7.1 greylisted"
        draw = self.chance.random()
        if draw < 0.03:
            self.troubles["taken without a word"] += 1
            self.taken.append(mail)
            self.hang_up()
            return "451 never heard"
        if draw < 0.06:
            self.troubles["full"] += 1
            return "452 4.2.2 full"
        return None


@asynccontextmanager
async def running(flow: EventFlow) -> AsyncIterator[EventFlow]:
    await flow.start()
    try:
        yield flow
    finally:
        await flow.stop(drain_s=1.0)


@pytest.mark.slow
@pytest.mark.timeout(120)
async def test_a_bad_server_gets_every_mail(
    seed: int, tmp_path: Path, proof: Callable[..., dict[str, Any]]
) -> None:
    authority, served = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(served)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    server = Bad(seed, served)
    async with server.serving(), running(flow_to(server.port, tmp_path / "ca.pem")) as flow:
        for start in range(0, COUNT, 50):
            await flow.publish_many(users(range(start, start + 50)))
            await flow.publish_many(users(range(start, start + 25)))  # again, the same
        ledger = await settle(flow, within_s=60)
        # Somebody changes the password, and nobody tells us.
        server.password = b"other"
        server.hang_up()
        await flow.publish_many(users(range(COUNT, COUNT + 20)))
        await asyncio.sleep(0.5)
        locked_out = await census(flow)
        server.password = b"sesame"
        after = await settle(flow, within_s=60)

    email = ledger.topics["email"]
    assert (email.created, email.delivered, email.dead, ledger.unaccounted) == (COUNT, COUNT, 0, 0)
    assert locked_out.topics["email"].dead == 0, "a wrong password kills no mail"
    email = after.topics["email"]
    assert (email.delivered, email.dead, after.unaccounted) == (COUNT + 20, 0, 0)
    keys = {f"<{event.key}.email@example.com>" for event in users(range(COUNT + 20))}
    assert set(server.ids) == keys
    assert server.troubles["greylisted"] == COUNT + 20
    assert server.troubles.keys() >= {"farewell", "hung up before", "taken without a word", "full"}
    by_id: dict[str, set[bytes]] = {}
    for mail in server.taken:
        by_id.setdefault(mail["message-id"], set()).add(mail.as_bytes())
    assert all(len(mails) == 1 for mails in by_id.values()), "a repeat is the same mail"
    repeats = len(server.taken) - len(keys)
    # All who were talking are hung up on; a mail whose 250 was on its way then comes again too.
    assert repeats >= server.troubles["taken without a word"]
    proof(
        "smtp-bad-server",
        mails=len(keys),
        repeats=repeats,
        connections=len(server.sessions),
        logins=len(server.logins),
        troubles=dict(server.troubles),
    )
