"""The kinds of text a setting can have: names, patterns, addresses, secrets."""

from __future__ import annotations

import ipaddress
import json
import re
from base64 import b64decode
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar
from urllib.parse import urlsplit

from eventflow.config.kinds import Kind, Unfit
from eventflow.config.secret import Secret
from eventflow.delivery import COMMON
from eventflow.errors import did_you_mean


@dataclass(frozen=True)
class Text(Kind):
    """A text of a certain form."""

    what: str
    """What is expected, for messages: 'a name such as "shop"'."""
    pattern: str
    """The whole text matches it."""

    type_name: ClassVar[str] = "text"

    @property
    def expected(self) -> str:
        """The form."""
        return self.what

    def read(self, raw: object) -> str:
        """Take texts of the form."""
        if not isinstance(raw, str) or not re.fullmatch(self.pattern, raw, re.ASCII):
            raise Unfit(self.what)
        return raw

    def write(self, value: str) -> str:
        """Quote it."""
        return json.dumps(value, ensure_ascii=False)


@dataclass(frozen=True)
class SecretText(Text):
    """A text that no message shows."""

    secret: ClassVar[bool] = True
    type_name: ClassVar[str] = "secret"

    def read(self, raw: object) -> Secret:  # type: ignore[override]  # a secret is no text
        """Take texts of the form."""
        return Secret(super().read(raw))

    def write(self, value: Secret) -> str:  # type: ignore[override]  # as above
        """Write the mask."""
        return f'"{value}"'


@dataclass(frozen=True)
class WebhookSecret(SecretText):
    """A secret of Standard Webhooks."""

    def read(self, raw: object) -> Secret:  # type: ignore[override]  # as above
        """Take base64 of as many bytes as the standard has."""
        secret = super().read(raw)
        text = secret.reveal().partition("_")[2].rstrip("=")
        try:
            key = b64decode(text + "=" * (-len(text) % 4), validate=True)
        except ValueError as error:
            raise Unfit(self.what, hide=True) from error
        if not 24 <= len(key) <= 64:
            raise Unfit(self.what, hide=True)
        return secret


@dataclass(frozen=True)
class FilePath(Text):
    """The path of a file."""

    type_name: ClassVar[str] = "path"

    def read(self, raw: object) -> Path:  # type: ignore[override]  # a path is no text
        """Take any path; whether the file is there is for its reader to say."""
        return Path(super().read(raw))

    def write(self, value: Path) -> str:  # type: ignore[override]  # as above
        """Quote it."""
        return super().write(str(value))


@dataclass(frozen=True)
class FileUrl(Text):
    """Where an engine or storage keeps its data: `memory:` or `sqlite:PATH`."""

    type_name: ClassVar[str] = "URL"

    def read(self, raw: object) -> str:
        """Take `memory:` and `sqlite:PATH`. The forms of other tools get a hint."""
        if _holds_user(raw):
            raise Unfit(self.what, hide=True)
        path = raw.removeprefix("sqlite:") if isinstance(raw, str) else ""
        if path == ":memory:":
            raise Unfit(self.what, '; write "memory:"?')
        if path.startswith("//"):
            short = path.removeprefix("//").removeprefix("/")
            raise Unfit(self.what, f'; write "sqlite:{short}"?' if short.isprintable() else "")
        return super().read(raw)


@dataclass(frozen=True)
class EngineUrl(FileUrl):
    """Where an engine keeps its queues: as `FileUrl`, or on servers, with a user or without."""

    def read(self, raw: object) -> str:
        """Take what `FileUrl` takes, and URLs of servers, all with TLS or all without."""
        if isinstance(raw, str) and raw.startswith(("nats://", "tls://")):
            if not re.fullmatch(self.pattern, raw, re.ASCII):
                several = "," in raw and "nats://" in raw and "tls://" in raw
                what = "all servers with nats://, or all with tls://" if several else self.what
                raise Unfit(what, hide=_holds_user(raw))
            return raw
        return super().read(raw)


@dataclass(frozen=True)
class StorageUrl(FileUrl):
    """Where secondary storage is. It may hold a password, so it is read as a secret."""

    def read(self, raw: object) -> Secret:  # type: ignore[override]  # a secret is no text
        """Take what `FileUrl` takes, and databases of PostgreSQL; of these no message shows any."""
        text = raw if isinstance(raw, str) else ""
        scheme, _, rest = text.partition(":")
        dialect, _, driver = scheme.partition("+")
        if dialect not in ("postgresql", "postgres"):
            return Secret(super().read(raw))
        text = f"postgresql:{rest}"
        if driver not in ("", "psycopg") or not re.fullmatch(self.pattern, text):
            raise Unfit("postgresql://USER:PASSWORD@HOST:PORT/DATABASE", hide=True)
        authority, _, path = text.removeprefix("postgresql://").partition("/")
        if "@" in path or authority.count("@") > 1:
            # libpq would take a piece of the password for a host or database, and name it.
            raise Unfit(
                "postgresql://USER:PASSWORD@HOST:PORT/DATABASE with what is no letter or digit in "
                "user and password as %XX: @ is %40, / is %2F, : is %3A",
                hide=True,
            )
        return Secret(text)

    def write(self, value: Secret) -> str:  # type: ignore[override]  # as above
        """Write the name of a file, and the mask for all else."""
        said = value.reveal()
        return super().write(said if said.startswith(("sqlite:", "memory:")) else str(value))


@dataclass(frozen=True)
class ServersUrl(Text):
    """Addresses of servers without a user or password; empty for none."""

    type_name: ClassVar[str] = "URL"

    def read(self, raw: object) -> str:
        """Take one URL, or several separated by commas."""
        if _holds_user(raw):
            raise Unfit(self.what, hide=True)
        return super().read(raw)


@dataclass(frozen=True)
class HttpUrl(Text):
    """An address that a sink sends to. Its path may hold `{{ }}`."""

    type_name: ClassVar[str] = "URL"

    def read(self, raw: object) -> str:
        """Take http and https URLs with a host and without a password."""
        if _holds_user(raw):
            belongs = "a URL without a user or password: they belong into `headers`"
            raise Unfit(belongs, hide=True)
        text = super().read(raw)
        try:
            parts = urlsplit(re.sub(r"\{\{.*?\}\}", "x", text))
            usable = bool(parts.hostname) and parts.port != 0
        except ValueError:
            raise Unfit(self.what) from None
        if not usable or re.search(r"\s", parts.geturl()):
            raise Unfit(self.what)
        return text


@dataclass(frozen=True)
class Host(Text):
    """A host's name or address."""

    def read(self, raw: object) -> str:
        """Take names, IPv4 and IPv6 addresses; no port, no brackets."""
        try:
            ipaddress.ip_address(str(raw) if isinstance(raw, str) else "")
        except ValueError:
            return super().read(raw)
        return str(raw)


@dataclass(frozen=True)
class TopicName(Text):
    """The name of a topic."""

    def read(self, raw: object) -> str:
        """Take names that are short, plain, and not reserved."""
        if raw == COMMON:
            raise Unfit(f'{self.what} ("{COMMON}" is the queue before all topics)')
        if isinstance(raw, str) and not re.fullmatch(self.pattern, raw, re.ASCII):
            plain = re.sub(r"[^a-z0-9_-]", "-", raw.lower())
            fits = re.fullmatch(self.pattern, plain, re.ASCII)
            raise Unfit(self.what, f".{did_you_mean(raw.lower(), [plain])}" if fits else "")
        return super().read(raw)


@dataclass(frozen=True)
class SqlName(Text):
    """A name in a database: in any language's letters, unlike other names."""

    def read(self, raw: object) -> str:
        """Take texts of the form."""
        if not isinstance(raw, str) or not re.fullmatch(self.pattern, raw):
            raise Unfit(self.what)
        return raw


@dataclass(frozen=True)
class SqlUrl(Text):
    """Where the database of a sink is. It may hold a password, so it is read as a secret."""

    type_name: ClassVar[str] = "URL"

    def read(self, raw: object) -> Secret:  # type: ignore[override]  # a secret is no text
        """Take files of SQLite and databases of PostgreSQL; other drivers get a hint."""
        hide = _holds_user(raw)
        text = raw if isinstance(raw, str) else ""
        scheme, _, rest = text.partition(":")
        dialect, _, driver = scheme.partition("+")
        if dialect == "sqlite" and not driver and rest and not rest.startswith("//"):
            raise Unfit(self.what, f'; write "sqlite:///{rest}"?' if rest.isprintable() else "")
        if scheme == "sqlite" and rest.strip("/") in ("", ":memory:"):
            raise Unfit("the URL of a file, for what memory holds is seen by nobody")
        if dialect in ("postgresql", "postgres") and (dialect == "postgres" or driver):
            if driver not in ("", "psycopg"):
                raise Unfit(
                    "a URL that begins with postgresql:// (the driver is psycopg)", hide=hide
                )
            text = f"postgresql:{rest}"
        if not re.fullmatch(self.pattern, text):
            raise Unfit(self.what, hide=hide)
        return Secret(text)

    def write(self, value: Secret) -> str:  # type: ignore[override]  # as above
        """Write the mask."""
        return f'"{value}"'


def _holds_user(raw: object) -> bool:
    """Return whether a URL names a user before its host, and so maybe a password."""
    return isinstance(raw, str) and re.match(r"[^/?#]*//[^/?#]*@", raw) is not None


NO_CONTROL = r"[^\x00-\x1f\x7f-\x9f]"

TOPIC_NAME = TopicName(
    'a name such as "email": a-z first, then at most 62 of a-z, 0-9, "_" and "-"',
    r"[a-z][a-z0-9_-]{0,62}",
)
WEBHOOK_NAME = Text(
    'a name such as "github": a-z first, then at most 62 of a-z, 0-9, "_" and "-"',
    r"[a-z][a-z0-9_-]{0,62}",
)
SHARED_SECRET = SecretText("a text on one line", rf"{NO_CONTROL}{{1,1000}}")
TOKEN_NAME = Text('a name such as "shop", of A-Z, a-z, 0-9, ".", "_" and "-"', r"[\w.-]{1,64}")
TOKEN_SECRET = SecretText("visible ASCII characters, without blanks", r"[!-~]{1,1024}")
STORAGE_URL = StorageUrl(
    '"sqlite:PATH", "memory:" or "postgresql://USER:PASSWORD@HOST:PORT/DATABASE"',
    rf"memory:|sqlite:{NO_CONTROL}{{1,4000}}|postgresql://[^\s\x00-\x1f\x7f-\x9f]{{1,8000}}",
)
_SERVER = r"[A-Za-z0-9.:\[\]_-]{1,255}"
_USER = r"(?:[^\s,@/?#\x00-\x1f\x7f-\x9f]{1,1000}@)?"
_NATS, _TLS = f"nats://{_USER}{_SERVER}", f"tls://{_USER}{_SERVER}"
ENGINE_URL = EngineUrl(
    '"memory:", "sqlite:PATH" or "nats://HOST:PORT"',
    rf"memory:|sqlite:{NO_CONTROL}{{1,4000}}|{_NATS}(?:,{_NATS})*|{_TLS}(?:,{_TLS})*",
)
MONITOR_URLS = ServersUrl(
    'URLs such as "http://127.0.0.1:8222", separated by commas',
    rf"(?:https?://{_SERVER}(?:,https?://{_SERVER})*)?",
)
NODE_NAME = Text('a name such as "node-1", of A-Z, a-z, 0-9, "_" and "-"', r"[\w-]{0,64}")
HTTP_URL = HttpUrl(
    'a URL such as "https://example.com/hook"', rf"(?i:https?)://{NO_CONTROL}{{1,8000}}"
)
SQL_URL = SqlUrl(
    'a URL such as "sqlite:///shop.db" or "postgresql://user:${PASSWORD}@host/shop"',
    rf"sqlite:///{NO_CONTROL}{{1,4000}}|postgresql://{NO_CONTROL}{{1,8000}}",
)
_SQL_NAME = r"[^\x00-\x1f\x7f-\x9f.\"]{1,63}"
TABLE = SqlName('a table such as "users" or "shop.users"', rf"{_SQL_NAME}(?:\.{_SQL_NAME})?")
COLUMN = SqlName('a column such as "email"', _SQL_NAME)
HOST = Host('a host name or address such as "127.0.0.1", without a port', r"[\w.-]{1,253}")
EVENT_TYPES = Text('a pattern such as "user.*"', r"[^\s\x00-\x1f\x7f-\x9f]{1,255}")
EVENT_TYPE = Text('an event type such as "user.registered"', r"[^\s\x00-\x1f\x7f-\x9f]{1,255}")
CEL = Text(
    "a CEL expression such as \"event.data.country == 'FR'\"",
    r"\s*[^\s\x00-\x08\x0e-\x1f\x7f](?:[^\x00-\x08\x0e-\x1f\x7f]){0,8000}",
)
HANDLER = Text(
    'a function such as "shop.handlers:send_welcome"',
    r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*",
)
NDJSON = FilePath('the path of a file such as "events.ndjson"', rf"{NO_CONTROL}{{1,4000}}")
FOLDER = FilePath('the path of a folder such as "backups"', rf"{NO_CONTROL}{{1,4000}}")
JSON_SCHEMA = FilePath(
    'the path of a JSON Schema file such as "schemas/user.json"', rf"{NO_CONTROL}{{1,4000}}"
)
CREDS_FILE = FilePath(
    'the path of a credentials file such as "node.creds"', rf"{NO_CONTROL}{{1,4000}}"
)
SEED_FILE = FilePath(
    'the path of a file with an NKey seed, such as "node.nk"', rf"{NO_CONTROL}{{1,4000}}"
)
CERT_FILE = FilePath("the path of a certificate, in PEM form", rf"{NO_CONTROL}{{1,4000}}")
KEY_FILE = FilePath("the path of a private key, in PEM form", rf"{NO_CONTROL}{{1,4000}}")
CA_FILE = FilePath("the path of a file of certificates, in PEM form", rf"{NO_CONTROL}{{1,4000}}")
USERNAME = Text("a name on one line", rf"{NO_CONTROL}{{1,500}}")
PASSWORD = SecretText("a text on one line", rf"{NO_CONTROL}{{1,1000}}")
WEBHOOK_SECRET = WebhookSecret(
    'a secret such as "whsec_…": whsec_ and 24 to 64 bytes in base64',
    r"whsec_[A-Za-z0-9+/]+={0,2}",
)
LINE_TEMPLATE = Text("a text on one line, which may hold {{ }}", rf"{NO_CONTROL}{{1,2000}}")
BODY = Text("a text", r"[^\x00-\x08\x0b\x0c\x0e-\x1f\x7f]{1,100000}")
HEADER_NAME = Text(
    'a header such as "x-api-key", other than host, connection, transfer-encoding, content-type, '
    "content-length, ce-* and those of a webhook's signature, which the sink sets itself",
    r"(?i:(?!(?:host|connection|transfer-encoding|content-type|content-length"
    r"|webhook-(?:id|timestamp|signature))\Z|ce-))"
    r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,100}",
)
HEADER_VALUE = SecretText("a text of ASCII characters on one line", r"[\t -~]{0,8000}")
