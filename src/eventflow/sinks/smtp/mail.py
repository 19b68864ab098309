"""From an event to a mail: the same one at every attempt, so that a repeat can be told.

    Message-ID   <event.key.topic@domain of `from`>: the event's for ever, one for each topic
    Date         when the event was accepted
    boundary     of a mail with text and HTML: computed from both, so no text can hold it

Every address is one setting, or one item of a list: a comma in a value makes no second recipient,
and a line break no second header. What can't be a mail is `InvalidMail`, which no attempt mends.
"""

from __future__ import annotations

import hashlib
import re
from contextlib import suppress
from datetime import UTC, datetime
from email.header import Header
from email.message import EmailMessage
from email.policy import SMTP, SMTPUTF8
from typing import TYPE_CHECKING, Any

import msgspec

from eventflow.errors import ConfigError, EventFlowError
from eventflow.policy.expression import Expression, Names, delivery_values, event_values
from eventflow.policy.template import Template, compile_template
from eventflow.sinks.smtp import address
from eventflow.sinks.smtp.address import CRLF
from eventflow.sinks.smtp.body import compile_body
from eventflow.sinks.smtp.sandbox import BodyError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from eventflow.config import SmtpSinkSettings
    from eventflow.delivery import Delivery
    from eventflow.event import Event
    from eventflow.sinks.smtp.address import Mailbox
    from eventflow.sinks.smtp.body import Body

LINE_MAX = 2_000
"""Characters of a subject or an address; a subject is folded at 78, but a line is no letter."""
RECIPIENTS_MAX = 100
"""What every server has to take in one mail (RFC 5321, 4.5.3.1.8)."""

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_NOT_IN_BODY = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")
_LINE_LIMIT = 900
"""What is surely below the 998 characters of a line, with the header's name before it."""
# All lines short and ASCII, whatever the server offers: the bytes are the same to every server.
_PLAIN = SMTP.clone(cte_type="7bit")
_INTERNATIONAL = SMTPUTF8.clone(cte_type="7bit")


class InvalidMail(EventFlowError):
    """An event that these settings can make no mail of. Never leaves the sink.

    Args:
        key: The setting.
        why: What was expected, and what came.
    """

    def __init__(self, key: str, why: str) -> None:
        super().__init__(f"sink.{key}: {why}; nothing was sent")
        self.key = key


class Mail(msgspec.Struct, frozen=True, gc=False):
    """What is handed to a server."""

    sender: str
    recipients: tuple[str, ...]
    content: bytes
    international: bool = False
    """An address is not ASCII: only a server with SMTPUTF8 can take it."""


class Composer:
    """Makes mails of events.

    Args:
        settings: The topic's `sink` table.

    Raises:
        ConfigError: a template in it can't be used; all of them at once.
    """

    def __init__(self, settings: SmtpSinkSettings) -> None:
        problems: list[str] = []
        self._sender = _template("from", settings.from_, problems)
        self._subject = _template("subject", settings.subject, problems)
        self._to = [_template("to", text, problems) for text in settings.to]
        self._text = _body("text", settings.text, problems)
        self._html = _body("html", settings.html, problems)
        if problems:
            raise ConfigError(problems)

    def compose(self, event: Event, delivery: Delivery) -> Mail:
        """Return the mail for one event.

        Raises:
            InvalidMail: it can't be made; it says which setting is in the way.
        """
        names = Names(event, delivery)
        (sender,) = _mailboxes("from", self._sender, names)
        recipients = [box for one in self._to for box in _mailboxes("to", one, names)]
        if not 1 <= len(recipients) <= RECIPIENTS_MAX:
            raise InvalidMail(
                "to", f"expected 1 to {RECIPIENTS_MAX} addresses, got {len(recipients)}"
            )
        addresses = tuple(dict.fromkeys(box.address for box in recipients))
        international = not (sender.address + "".join(addresses)).isascii()
        message = EmailMessage(policy=_INTERNATIONAL if international else _PLAIN)
        head = address.write("From", [sender]) + address.write("To", recipients)
        head += _subject(_one_line("subject", self._subject, names))
        message["Date"] = datetime.fromtimestamp(int(delivery.accepted_at), UTC)
        message["Message-ID"] = f"<{event.key}.{delivery.topic}@{_ascii_domain(sender)}>"
        message["Auto-Submitted"] = "auto-generated"  # no holiday notice in return (RFC 3834)
        self._add_bodies(message, event, delivery)
        return Mail(sender.address, addresses, head + message.as_bytes(), international)

    def _add_bodies(self, message: EmailMessage, event: Event, delivery: Delivery) -> None:
        if self._text is None and self._html is None:
            message.set_content(_readable(event, delivery), charset="utf-8")
            return
        try:
            values = {"event": event_values(event), "delivery": delivery_values(delivery)}
        except EventFlowError as error:  # the data is not what its media type says
            raise InvalidMail("text" if self._text else "html", str(error)) from error
        text, html = _rendered("text", self._text, values), _rendered("html", self._html, values)
        if text is not None:
            message.set_content(text, charset="utf-8")
        if html is not None and text is None:
            message.set_content(html, subtype="html", charset="utf-8")
        elif html is not None and text is not None:
            message.add_alternative(html, subtype="html", charset="utf-8")
            digest = hashlib.sha256(f"{event.key}\0{text}\0{html}".encode()).hexdigest()
            message.set_boundary(f"=_{digest[:40]}")


def _template(key: str, text: str, problems: list[str]) -> Template:
    try:
        template = compile_template(text)
    except ConfigError as error:
        problems += [f"sink.{key}: {problem}" for problem in error.problems]
        return Template(text, ())
    if any(isinstance(part, Expression) and "header" in part.variables for part in template.parts):
        problems.append(
            f"sink.{key}: {text!r} speaks of 'header', which is not kept; there are event, delivery"
        )
    elif key != "subject" and template.is_constant:
        try:
            _mailbox(key, text)
        except InvalidMail as error:
            problems.append(str(error).removesuffix("; nothing was sent"))
    return template


def _body(key: str, text: str | None, problems: list[str]) -> Body | None:
    if text is None:
        return None
    try:
        return compile_body(text, html=key == "html")
    except ConfigError as error:
        problems += [f"sink.{key}: {problem}" for problem in error.problems]
        return None


def _rendered(key: str, body: Body | None, values: dict[str, Any]) -> str | None:
    if body is None:
        return None
    try:
        return _clean(body.render(values))
    except BodyError as error:
        raise InvalidMail(key, str(error)) from error


def _one_line(key: str, template: Template, names: Names) -> str:
    try:
        text = template.render(names)
    except EventFlowError as error:
        raise InvalidMail(key, str(error)) from error
    return _checked(key, text)


def _checked(key: str, text: str) -> str:
    """Return the text, if it is one line: a line break would begin a header of its own."""
    if _CONTROL.search(text):
        raise InvalidMail(key, f"expected text without line breaks, got {text[:80]!r}")
    if len(text) > LINE_MAX:
        raise InvalidMail(key, f"expected at most {LINE_MAX} characters, got {len(text)}")
    return text


def _mailboxes(key: str, template: Template, names: Names) -> Iterator[Mailbox]:
    """Yield the address that a template says; of one that says a list, each of its items."""
    (part,) = template.parts if len(template.parts) == 1 else (None,)
    if key == "to" and isinstance(part, Expression):
        try:
            value = part.value(names)
        except EventFlowError as error:
            raise InvalidMail(key, str(error)) from error
        if isinstance(value, list):
            for item in value:
                if not isinstance(item, str):
                    raise InvalidMail(key, f"expected a list of addresses, got {item!r:.80} in it")
                yield _mailbox(key, item)
            return
    yield _mailbox(key, _one_line(key, template, names))


def _mailbox(key: str, text: str) -> Mailbox:
    """Return the one address that `text` is, with a name before it or without."""
    try:
        return address.read(_checked(key, text))
    except ValueError as error:
        raise InvalidMail(key, str(error)) from error


def _subject(text: str) -> bytes:
    """Return the header; `EmailMessage` of some Pythons loses blanks where it folds a long one."""
    plain = text.isascii() and len(text) < _LINE_LIMIT and "=?" not in text
    header = Header(text, "us-ascii" if plain else "utf-8", header_name="Subject")
    return f"Subject: {header.encode(linesep=CRLF)}{CRLF}".encode("ascii")


def _ascii_domain(sender: Mailbox) -> str:
    """Return the domain for a Message-ID. It has been encoded once, so it can be."""
    return sender.domain if sender.domain.isascii() else sender.domain.encode("idna").decode()


def _readable(event: Event, delivery: Delivery) -> str:
    """Return the body of a mail for which none was written: the event, for a person."""
    lines = [event.type, ""]
    attributes = {name: value for name, value in event.attributes().items() if name != "type"}
    width = max(map(len, attributes))
    lines += [f"{name:<{width}}  {value}" for name, value in attributes.items()]
    if event.body is not None:
        lines += ["", _shown(event, event.body)]
    lines += ["", "-- ", f"Delivery {delivery.id}, by EventFlow"]
    return _clean("\n".join(lines) + "\n")


def _shown(event: Event, body: bytes) -> str:
    """Return the data as text."""
    kind = (event.datacontenttype or "").lower()
    if event.is_json:
        with suppress(msgspec.DecodeError, RecursionError):  # then it is shown as it came
            body = msgspec.json.format(body, indent=2)
    elif not kind.startswith("text/"):
        return f"({len(body)} bytes of {event.datacontenttype})"
    return body.decode("utf-8", "replace")


def _clean(text: str) -> str:
    """Return a body without characters that no mail may hold."""
    return _NOT_IN_BODY.sub("\ufffd", text)
