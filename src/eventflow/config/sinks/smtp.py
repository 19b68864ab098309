"""The settings of the `smtp` sink."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from eventflow.config import texts
from eventflow.config.kinds import Integer
from eventflow.config.schema import Many
from eventflow.config.secret import Secret


@dataclass(frozen=True, slots=True, kw_only=True)
class SmtpSinkSettings:
    """`sink = { type = "smtp", … }`: each event is a mail."""

    type: Literal["smtp"]
    """Which sink.

    It decides what else may be said here.
    """

    host: Annotated[str, texts.HOST]
    """The mail server: one that takes mails for everybody they are for. Needs `eventflow[smtp]`
    installed.

    There is no default for where events are sent. It may be one of a private network.
    """

    port: Annotated[int, Integer(1, 65_535)] = 587
    """Its port.

    587 is where servers take mails from programs (RFC 6409); 465 is the same with `tls`, 25 is for
    servers among themselves.
    """

    starttls: bool = False
    """Whether the connection is encrypted after the greeting. There is no way back: a server that
    does not offer it gets no mail.

    Off, for a relay on the same machine has none. Say true for every other, on port 587.
    """

    tls: bool = False
    """Whether the connection is encrypted from its first byte. This or `starttls`.

    For port 465.
    """

    ca_file: Annotated[Path, texts.CA_FILE] | None = None
    """Certificates to trust instead of the system's, as a PEM file. Left out: the system's.

    For a server whose certificate you or your company made.
    """

    verify: bool = True
    """Whether the server's certificate has to be right: trusted, not expired, of this host.

    Without it whoever stands in between can read mails and password. Prefer `ca_file`.
    """

    username: Annotated[str, texts.USERNAME] | None = None
    """The name to log in with. Left out: no login.

    Relays that know you by your address need none.
    """

    password: Annotated[Secret, texts.PASSWORD] | None = None
    """The password that goes with `username`, such as `"${SMTP_PASSWORD}"`.

    It is never shown, and never sent in the clear but to this machine itself.
    """

    from_: Annotated[str, texts.LINE_TEMPLATE] = "eventflow@localhost"
    """The sender, such as `"Shop <shop@example.com>"`. May hold `{{ }}`.

    Good for a try on one machine. Servers take mails from addresses they know: say yours. Its
    domain is also that of the Message-ID.
    """

    to: Annotated[tuple[str, ...], Many(texts.LINE_TEMPLATE, least=1)]
    """The recipient, such as `"{{ event.data.email }}"`, or a list of them.

    Each is one address: a comma in an event's data makes no second recipient. An expression that
    stands alone may say a list of addresses. A mail goes to all of its recipients or to none.
    """

    subject: Annotated[str, texts.LINE_TEMPLATE] = "{{ event.type }}"
    """The subject. May hold `{{ }}`.

    The type says what happened.
    """

    text: Annotated[str, texts.BODY] | None = None
    """The body as plain text, a Jinja2 template. Left out, and no `html`: the event, readable.

    A sandbox: it can read `event` and `delivery`, and nothing else.
    """

    html: Annotated[str, texts.BODY] | None = None
    """The body as HTML, a Jinja2 template; what is put in is escaped. With `text`: both are sent.

    Plain text is read everywhere.
    """
