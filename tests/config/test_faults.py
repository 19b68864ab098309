"""What a person reads who has made a mistake: the whole text, for each kind of mistake."""

from __future__ import annotations

from textwrap import dedent
from typing import NamedTuple

import pytest

from eventflow.config import parse
from eventflow.errors import ConfigError

FILE = "eventflow.toml"


class Fault(NamedTuple):
    """A faulty file, and the one thing that is said about it."""

    text: str
    says: str


WHSEC = 'a secret such as "whsec_…": whsec_ and 24 to 64 bytes in base64'

HIDDEN = "a value that is not shown"


def problems(text: str, **environ: str) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        parse(dedent(text), name=FILE, environ=environ)
    return caught.value.problems


def mail(more: str) -> str:
    """Return a topic with an smtp sink that has `more` in its table."""
    keys = f'type = "smtp"\nto = "{{{{ event.data.email }}}}"\n{more}'
    return f"[topics.email]\nmatch = '**'\n[topics.email.sink]\n{keys}\n"


def topic(more: str) -> str:
    """Return a good topic with `more` in its table."""
    return f'[topics.email]\nmatch = "**"\nhandler = "shop:send"\n{more}\n'


def sink(more: str) -> str:
    """Return a topic with an http sink that has `more` in its table."""
    return f'[topics.api]\nmatch = "**"\n[topics.api.sink]\ntype = "http"\n{more}\n'


def sql(more: str) -> str:
    """Return a topic with an sql sink that has `more` in its table; a URL where that has none."""
    url = "" if "url" in more else 'url = "sqlite:///shop.db"'
    table = "" if "table" in more else 'table = "users"'
    columns = "" if "columns" in more else "columns = {}"
    keys = f"type = 'sql'\n{url}\n{table}\n{columns}\n{more}"
    return f"[topics.db]\nmatch = '**'\n[topics.db.sink]\n{keys}\n"


def server(more: str) -> str:
    return f"[server]\n{more}\n"


def route(more: str) -> str:
    return topic("") + f"[[routes]]\n{more}\n"


TOKEN = '{{ name = "{}", role = "publish", secret = "{}-0123456789abcdef" }}'

FAULTS = {
    "a role of nobody": Fault(
        '[engine]\nroles = ["accept", "deliver"]\n' + topic(""),
        f'{FILE}: [engine] roles leaves out "route", "recover": expected all four with queues that '
        "no other node shares. Leave it out, or set [engine] url to nats://",
    ),
    "a role that there is not": Fault(
        '[engine]\nurl = "nats://a"\nroles = ["delivers"]\n' + topic(""),
        f'{FILE}: [engine] roles #1: expected "accept", "route", "deliver" or "recover", '
        "got \"delivers\". Did you mean 'deliver'?",
    ),
    # numbers and their ranges
    "below": Fault(
        topic("capacity = 0"),
        f"{FILE}: [topics.email] capacity: expected 1 to 10000000 deliveries, got 0",
    ),
    "above": Fault(
        server("port = 65536"), f"{FILE}: [server] port: expected 0 to 65535, got 65536"
    ),
    "a number as text": Fault(
        topic('capacity = "many"'),
        f'{FILE}: [topics.email] capacity: expected 1 to 10000000 deliveries, got "many"',
    ),
    "a fraction of a delivery": Fault(
        topic("concurrency = 1.5"),
        f"{FILE}: [topics.email] concurrency: expected 1 to 10000 deliveries, got 1.5",
    ),
    "true is no number": Fault(
        topic("retry.max_attempts = true"),
        f"{FILE}: [topics.email.retry] max_attempts: expected 1 to 1000 attempts, got true",
    ),
    "a date": Fault(
        "[common]\ncapacity = 2026-11-24",
        f"{FILE}: [common] capacity: expected 1 to 10000000 events, got a date",
    ),
    "not a number": Fault(
        "[common]\nlow_water = nan", f"{FILE}: [common] low_water: expected 0.01 to 1, got nan"
    ),
    "low water of nothing": Fault(
        topic("recovery.low_water = 0"),
        f"{FILE}: [topics.email.recovery] low_water: expected 0.01 to 1, got 0",
    ),
    "more than everything": Fault(
        topic("recovery.low_water = 1.5"),
        f"{FILE}: [topics.email.recovery] low_water: expected 0.01 to 1, got 1.5",
    ),
    "a huge number": Fault(
        f"[common]\ncapacity = 0x{'f' * 6_000}",
        (
            f"{FILE}: [common] capacity: expected 1 to 10000000 events, "
            "got a number of more than 30 digits"
        ),
    ),
    # units
    "a bare number of time": Fault(
        topic("timeout = 5"),
        (
            f'{FILE}: [topics.email] timeout: expected a duration such as "250ms" or "5m", got 5; '
            'write "5s" or "5m"?'
        ),
    ),
    "a bare number of time as text": Fault(
        server('drain = "20"'),
        (
            f'{FILE}: [server] drain: expected a duration such as "250ms" or "5m", got "20"; '
            'write "20s" or "20m"?'
        ),
    ),
    "a bare fraction of time": Fault(
        server("drain = 0.5"),
        (
            f'{FILE}: [server] drain: expected a duration such as "250ms" or "5m", got 0.5; '
            'write "0.5s" or "0.5m"?'
        ),
    ),
    "a bare number of bytes": Fault(
        "[engine]\nmemory_limit = 512",
        (
            f'{FILE}: [engine] memory_limit: expected a size such as "512KiB" or "1MiB", got 512; '
            'write "512KiB" or "512MiB"?'
        ),
    ),
    "a bare share": Fault(
        topic("recovery.rate = 10"),
        (
            f'{FILE}: [topics.email.recovery] rate: expected a share such as "10%" or a rate such '
            'as "100/s", got 10; write "10%" or "10/s"?'
        ),
    ),
    "a bare share as a fraction": Fault(
        topic("recovery.rate = 0.1"),
        (
            f'{FILE}: [topics.email.recovery] rate: expected a share such as "10%" or a rate such '
            'as "100/s", got 0.1; write "10%" or "0.1/s"?'
        ),
    ),
    "a unit of another language": Fault(
        topic('timeout = "10 Sekunden"'),
        (
            f'{FILE}: [topics.email] timeout: expected a duration such as "250ms" or "5m", '
            'got "10 Sekunden"'
        ),
    ),
    "no number at all, where a unit is due": Fault(
        topic("timeout = inf"),
        f'{FILE}: [topics.email] timeout: expected a duration such as "250ms" or "5m", got inf',
    ),
    "too short": Fault(
        "[common]\ndedup_window = '1ms'",
        f'{FILE}: [common] dedup_window: expected 1s to 7d, got "1ms"',
    ),
    "too large": Fault(
        "[common]\nmax_event = '65MiB'",
        f'{FILE}: [common] max_event: expected 1KiB to 64MiB, got "65MiB"',
    ),
    "a share of nothing": Fault(
        topic('recovery.rate = "0%"'),
        (
            f'{FILE}: [topics.email.recovery] rate: expected above "0%" to "100%", '
            'or above "0/s" to "1000000/s", got "0%"'
        ),
    ),
    # words
    "an unknown word": Fault(
        '[engine]\ndurability = "fsnyc"',
        (
            f'{FILE}: [engine] durability: expected "fsync" or "os", got "fsnyc". '
            "Did you mean 'fsync'?"
        ),
    ),
    "a word like no other": Fault(
        '[log]\nlevel = "loud"',
        f'{FILE}: [log] level: expected "debug", "info", "warning" or "error", got "loud"',
    ),
    "a switch in words": Fault(
        sink('url = "https://example.com"\nallow_private = "yes"'),
        f'{FILE}: [topics.api.sink] allow_private: expected true or false, got "yes"',
    ),
    "an unknown role": Fault(
        server('tokens = [{ name = "shop", role = "publisher", secret = "0123456789abcdef" }]'),
        (
            f'{FILE}: [server.tokens #1] role: expected "publish", "read", "operate" or "admin", '
            "got \"publisher\". Did you mean 'publish'?"
        ),
    ),
    # names
    "an unknown setting": Fault(
        topic("capcity = 5"),
        f"{FILE}: [topics.email] has no setting \"capcity\". Did you mean 'capacity'?",
    ),
    "a setting with its unit in the name": Fault(
        topic("timeout_s = 5"),
        f"{FILE}: [topics.email] has no setting \"timeout_s\". Did you mean 'timeout'?",
    ),
    "an unknown setting within": Fault(
        topic("retry = { max_atempts = 3 }"),
        (
            f'{FILE}: [topics.email.retry] has no setting "max_atempts". '
            "Did you mean 'max_attempts'?"
        ),
    ),
    "an unknown table": Fault(
        "[topcs.email]\ncapacity = 5",
        f"{FILE}: there is no table [topcs]. Did you mean 'topics'?",
    ),
    "a setting outside its table": Fault(
        "port = 80", f"{FILE}: there is no table [port]. Did you mean [server] port?"
    ),
    "a topic in capitals": Fault(
        '[topics.Email]\nmatch = "**"\nhandler = "shop:send"',
        (
            f'{FILE}: [topics.Email]: expected a name such as "email": a-z first, then at most 62 '
            'of a-z, 0-9, "_" and "-", got "Email". Did you mean \'email\'?'
        ),
    ),
    "a topic too long": Fault(
        f'[topics.{"a" * 64}]\nmatch = "**"\nhandler = "shop:send"',
        (
            f'{FILE}: [topics.{"a" * 64}]: expected a name such as "email": a-z first, then at '
            f'most 62 of a-z, 0-9, "_" and "-", got "{"a" * 64}"'
        ),
    ),
    "the reserved topic": Fault(
        '[topics.common]\nmatch = "**"\nhandler = "shop:send"',
        (
            f'{FILE}: [topics.common]: expected a name such as "email": a-z first, then at most '
            '62 of a-z, 0-9, "_" and "-" ("common" is the queue before all topics), got "common"'
        ),
    ),
    "a name to hide behind": Fault(
        '[topics.email]\nmatch = "**"\nhandler = "shop:send"\n"a\\n\\u001b[2J" = 1',
        f'{FILE}: [topics.email] has no setting "a\\u000a\\u001b[2J".',
    ),
    # what stands where
    "a value for a table": Fault("server = 5", f"{FILE}: [server]: expected a table, got 5"),
    "a table for a value": Fault(
        "[server.port]\nhttp = 80",
        f"{FILE}: [server] port: expected 0 to 65535, got a table",
    ),
    "a table for a list": Fault(
        "[routes]\nmatch = 'a'",
        f"{FILE}: [routes]: expected a list of tables, got a table",
    ),
    "an item that is no table": Fault(
        server("tokens = [5]"), f"{FILE}: [server.tokens #1]: expected a table, got 5"
    ),
    "a topic that is no table": Fault(
        "topics.email = true", f"{FILE}: [topics.email]: expected a table, got true"
    ),
    "a number among texts": Fault(
        topic("").replace('"**"', '["a", 5]'),
        f'{FILE}: [topics.email] match #2: expected a pattern such as "user.*", got 5',
    ),
    "a pattern of nothing": Fault(
        topic("").replace('"**"', '""'),
        f'{FILE}: [topics.email] match: expected a pattern such as "user.*", got ""',
    ),
    # what has to be there
    "a route to nowhere": Fault(
        route('match = "a"\ntopics = []'),
        (
            f'{FILE}: [routes #1] topics: expected a name such as "email": a-z first, then at '
            'most 62 of a-z, 0-9, "_" and "-", got an empty list'
        ),
    ),
    "a route without a pattern": Fault(
        route('topics = ["email"]'),
        (
            f'{FILE}: [routes #1] match: expected a pattern such as "user.*", or a list of such, '
            "got nothing"
        ),
    ),
    "a token without a role": Fault(
        server('tokens = [{ name = "shop", secret = "0123456789abcdef" }]'),
        (
            f'{FILE}: [server.tokens #1] role: expected "publish", "read", "operate" or "admin", '
            "got nothing"
        ),
    ),
    "neither handler nor sink": Fault(
        '[topics.email]\nmatch = "**"',
        f"{FILE}: [topics.email]: expected a handler or a sink, got neither",
    ),
    # what has to fit together
    "handler and sink": Fault(
        topic('sink = { type = "http", url = "https://example.com" }'),
        f"{FILE}: [topics.email]: expected a handler or a sink, got both",
    ),
    "a batch for a sink": Fault(
        sink('url = "https://example.com"\n[topics.api.batch]\nmax = 5'),
        (
            f"{FILE}: [topics.api] batch: expected only where there is a handler, "
            "got it beside a sink"
        ),
    ),
    "a database that is none": Fault(
        sql('url = "mysql://localhost/shop"'),
        (
            f'{FILE}: [topics.db.sink] url: expected a URL such as "sqlite:///shop.db" or '
            '"postgresql://user:${PASSWORD}@host/shop", got "mysql://localhost/shop"'
        ),
    ),
    "a database as an engine is written": Fault(
        sql('url = "sqlite:shop.db"'),
        (
            f'{FILE}: [topics.db.sink] url: expected a URL such as "sqlite:///shop.db" or '
            '"postgresql://user:${PASSWORD}@host/shop", got "sqlite:shop.db"; '
            'write "sqlite:///shop.db"?'
        ),
    ),
    "a database in memory": Fault(
        sql('url = "sqlite:///:memory:"'),
        (
            f"{FILE}: [topics.db.sink] url: expected the URL of a file, for what memory holds is "
            'seen by nobody, got "sqlite:///:memory:"'
        ),
    ),
    "a database with a password, wrong": Fault(
        sql('url = "mysql://me:secret@localhost/shop"'),
        (
            f'{FILE}: [topics.db.sink] url: expected a URL such as "sqlite:///shop.db" or '
            '"postgresql://user:${PASSWORD}@host/shop", got a value that is not shown'
        ),
    ),
    "a driver that is not used": Fault(
        sql('url = "postgresql+asyncpg://localhost/shop"'),
        (
            f"{FILE}: [topics.db.sink] url: expected a URL that begins with postgresql:// (the "
            'driver is psycopg), got "postgresql+asyncpg://localhost/shop"'
        ),
    ),
    "the engine's own file": Fault(
        sql('url = "sqlite:///./eventflow.db"'),
        f"{FILE}: [topics.db.sink] url: expected a file of its own, got that of [engine] url",
    ),
    "the engine's own file, for lines": Fault(
        """
        [topics.log]
        match = "**"
        sink = { type = "file", path = "./eventflow.db" }
        """,
        f"{FILE}: [topics.log.sink] path: expected a file of its own, got that of [engine] url",
    ),
    "a key that is not written": Fault(
        sql('columns = { email = "event.data.email" }\nkey = ["emial"]'),
        (
            f"{FILE}: [topics.db.sink] key: expected columns that `columns` maps, got "
            "\"emial\". Did you mean 'email'?"
        ),
    ),
    "no key": Fault(
        sql("key = []"),
        f'{FILE}: [topics.db.sink] key: expected a column such as "email", got an empty list',
    ),
    "no columns": Fault(
        """
        [topics.db]
        match = "**"
        sink = { type = "sql", url = "sqlite:///shop.db", table = "users" }
        """,
        f"{FILE}: [topics.db.sink] columns: expected a table, got nothing",
    ),
    "a column without a name": Fault(
        sql('columns = { "" = "event.id" }'),
        f'{FILE}: [topics.db.sink.columns.""]: expected a column such as "email", got ""',
    ),
    "a table with a quote": Fault(
        sql("table = 'us\"ers'"),
        (
            f"{FILE}: [topics.db.sink] table: expected a table such as "
            '"users" or "shop.users", got "us\\"ers"'
        ),
    ),
    "a signing secret of another kind": Fault(
        sink('url = "https://example.com"\nsecret = "sesame"'),
        f"{FILE}: [topics.api.sink] secret: expected {WHSEC}, got {HIDDEN}",
    ),
    "a signing secret that is too short": Fault(
        sink('url = "https://example.com"\nsecret = ["whsec_c2VzYW1l"]'),
        f"{FILE}: [topics.api.sink] secret #1: expected {WHSEC}, got {HIDDEN}",
    ),
    "a signing secret that is no base64": Fault(
        sink(f'url = "https://example.com"\nsecret = "whsec_{"A" * 33}"'),
        f"{FILE}: [topics.api.sink] secret: expected {WHSEC}, got {HIDDEN}",
    ),
    "a header of the signature": Fault(
        sink('url = "https://example.com"\nheaders = { Webhook-Id = "1" }'),
        (
            f"{FILE}: [topics.api.sink.headers.Webhook-Id]: expected a header such as "
            '"x-api-key", other than host, connection, transfer-encoding, content-type, '
            "content-length, ce-* and those of a webhook's signature, which the sink sets itself, "
            'got "Webhook-Id"'
        ),
    ),
    "both kinds of encryption": Fault(
        mail('host = "mail.example.com"\nstarttls = true\ntls = true'),
        f"{FILE}: [topics.email.sink] tls: expected this or starttls, got both",
    ),
    "a user without a password": Fault(
        mail('host = "mail.example.com"\nstarttls = true\nusername = "shop"'),
        f"{FILE}: [topics.email.sink] username: expected a password as well, got none",
    ),
    "a password without a user": Fault(
        mail('host = "mail.example.com"\nstarttls = true\npassword = "sesame"'),
        f"{FILE}: [topics.email.sink] password: expected a username as well, got none",
    ),
    "a password in the clear": Fault(
        mail('host = "mail.example.com"\nusername = "shop"\npassword = "sesame"'),
        (
            f"{FILE}: [topics.email.sink] username: expected starttls = true or tls = true as "
            'well, got neither: the password would go in the clear to "mail.example.com"'
        ),
    ),
    "certificates for nothing": Fault(
        mail('host = "127.0.0.1"\nca_file = "ca.pem"'),
        (
            f"{FILE}: [topics.email.sink] ca_file: expected only with starttls or tls, got it "
            "without: nothing is encrypted"
        ),
    ),
    "a header in a subject": Fault(
        mail('host = "127.0.0.1"\nsubject = "a\\nBcc: eve@example.com"'),
        (
            f"{FILE}: [topics.email.sink] subject: expected a text on one line, which may hold "
            '{{ }}, got "a\\u000aBcc: eve@example.com"'
        ),
    ),
    "nobody to write to": Fault(
        """
        [topics.email]
        match = "**"
        sink = { type = "smtp", host = "127.0.0.1" }
        """,
        (
            f"{FILE}: [topics.email.sink] to: expected a text on one line, which may hold "
            "{{ }}, or a list of such, got nothing"
        ),
    ),
    "an executor for a sink": Fault(
        sql("[topics.db.batch]\nmax = 5").replace("match", "executor = 'thread'\nmatch", 1),
        (
            f"{FILE}: [topics.db] executor: expected only where there is a handler, "
            "got it beside a sink"
        ),
    ),
    "a topic that is not there": Fault(
        route('match = "a"\ntopics = ["emial", "email"]'),
        f"{FILE}: [routes #1] topics #1: there is no topic \"emial\". Did you mean 'email'?",
    ),
    "a single topic that is not there": Fault(
        route('match = "a"\ntopics = "zzz"'),
        f'{FILE}: [routes #1] topics: there is no topic "zzz".',
    ),
    "a topic twice": Fault(
        route('match = "a"\ntopics = ["email", "email"]'),
        f'{FILE}: [routes #1] topics #2: expected each topic once, got "email" again',
    ),
    "an open door": Fault(
        server('host = "0.0.0.0"'),
        (
            f'{FILE}: [server] host: expected a loopback address such as "127.0.0.1", '
            'or tokens as well, got "0.0.0.0" without tokens'
        ),
    ),
    "an open door of IPv6": Fault(
        server('host = "::"'),
        (
            f'{FILE}: [server] host: expected a loopback address such as "127.0.0.1", '
            'or tokens as well, got "::" without tokens'
        ),
    ),
    "a name of two": Fault(
        server(f"tokens = [{TOKEN.format('a', 'x')}, {TOKEN.format('a', 'y')}]"),
        (
            f"{FILE}: [server.tokens #2] name: expected a name of its own, "
            "got that of [server.tokens #1]"
        ),
    ),
    "a secret of two": Fault(
        server(f"tokens = [{TOKEN.format('a', 'x')}, {TOKEN.format('b', 'x')}]"),
        (
            f"{FILE}: [server.tokens #2] secret: expected a secret of its own, "
            "got that of [server.tokens #1]"
        ),
    ),
    "an event larger than a request": Fault(
        '[common]\nmax_event = "16MiB"',
        (
            f'{FILE}: [common] max_event: expected at most [server] max_request ("8MiB"), '
            'got "16MiB"'
        ),
    ),
    "a request smaller than an event": Fault(
        server('max_request = "64KiB"'),
        (
            f'{FILE}: [server] max_request: expected at least [common] max_event ("1MiB"), '
            'got "64KiB"'
        ),
    ),
    "a request larger than memory": Fault(
        '[engine]\nmemory_limit = "4MiB"',
        (
            f'{FILE}: [engine] memory_limit: expected at least [server] max_request ("8MiB"), '
            'got "4MiB"'
        ),
    ),
    "a first wait above the longest": Fault(
        topic('retry = { max = "500ms" }'),
        (
            f"{FILE}: [topics.email.retry] max: expected at least [topics.email.retry] base "
            '("1s"), got "500ms"'
        ),
    ),
    # addresses
    "SQLite in another way": Fault(
        '[engine]\nurl = "sqlite:///shop.db"',
        (
            f'{FILE}: [engine] url: expected "memory:", "sqlite:PATH" or "nats://HOST:PORT", '
            'got "sqlite:///shop.db"; '
            'write "sqlite:shop.db"?'
        ),
    ),
    "SQLite in memory": Fault(
        '[engine]\nurl = "sqlite::memory:"',
        (
            f'{FILE}: [engine] url: expected "memory:", "sqlite:PATH" or "nats://HOST:PORT", '
            'got "sqlite::memory:"; '
            'write "memory:"?'
        ),
    ),
    "an engine unheard of": Fault(
        '[engine]\nurl = "redis://localhost"',
        f'{FILE}: [engine] url: expected "memory:", "sqlite:PATH" or "nats://HOST:PORT", got "redis://localhost"',
    ),
    "a host with its port": Fault(
        server('host = "localhost:8080"'),
        (
            f'{FILE}: [server] host: expected a host name or address such as "127.0.0.1", '
            'without a port, got "localhost:8080"'
        ),
    ),
    "an address without a scheme": Fault(
        sink('url = "example.com/hook"'),
        (
            f'{FILE}: [topics.api.sink] url: expected a URL such as "https://example.com/hook", '
            'got "example.com/hook"'
        ),
    ),
    "an address without a host": Fault(
        sink('url = "https:///hook"'),
        (
            f'{FILE}: [topics.api.sink] url: expected a URL such as "https://example.com/hook", '
            'got "https:///hook"'
        ),
    ),
    "an address with a broken port": Fault(
        sink('url = "https://example.com:eighty/"'),
        (
            f'{FILE}: [topics.api.sink] url: expected a URL such as "https://example.com/hook", '
            'got "https://example.com:eighty/"'
        ),
    ),
    "an address with a port that is none": Fault(
        sink('url = "https://example.com:0/"'),
        (
            f'{FILE}: [topics.api.sink] url: expected a URL such as "https://example.com/hook", '
            'got "https://example.com:0/"'
        ),
    ),
    "a function without its module": Fault(
        topic("").replace("shop:send", "send"),
        (
            f"{FILE}: [topics.email] handler: expected a function such as "
            '"shop.handlers:send_welcome", got "send"'
        ),
    ),
    "a header that is the sink's own": Fault(
        sink('url = "https://example.com"\nheaders = { Content-Type = "text/plain" }'),
        (
            f"{FILE}: [topics.api.sink.headers.Content-Type]: expected a header such as "
            '"x-api-key", other than host, connection, transfer-encoding, content-type, '
            "content-length, ce-* and those of a webhook's signature, which the sink sets itself, "
            'got "Content-Type"'
        ),
    ),
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_a_fault_is_told_in_full_and_once(fault: Fault) -> None:
    assert problems(fault.text) == (fault.says,)


@pytest.mark.parametrize(
    ("value", "hint"),
    [
        ("0", '; write "0%" or "0/s"?'),
        ("0.25", '; write "25%" or "0.25/s"?'),
        ("1.0", '; write "100%" or "1.0/s"?'),
        ("1.5", '; write "1.5%" or "1.5/s"?'),
        ("1", '; write "1%" or "1/s"?'),
        ('"10"', '; write "10%" or "10/s"?'),
        ("0.001", '; write "0.1%" or "0.001/s"?'),
        ("0.0001", ""),
        ("-1", ""),
        ("100", '; write "100%" or "100/s"?'),
        ("101", '; write "101/s"?'),
        ("999999999999999", '; write "999999999999999/s"?'),
        ("1_000_000_000_000_000", ""),
    ],
)
def test_a_hint_repeats_only_what_can_be_written(value: str, hint: str) -> None:
    (problem,) = problems(topic(f"recovery.rate = {value}"))

    assert problem.partition("; ")[1] + problem.partition("; ")[2] == hint


def test_all_problems_are_told_at_once() -> None:
    text = """
        [server]
        host = "0.0.0.0"
        drain = 20

        [topics.email]
        capacity = 0
        retry = { jitter = "ful" }

        [topics.api]
        handler = "shop:send"
        rate = "50/s"

        [[routes]]
        match = "user.*"
        topics = ["emial"]

        [logs]
    """

    assert problems(text, EVENTFLOW_SERVER__PRT="80", EVENTFLOW_COMMON__CAPACITY="0") == (
        f"{FILE}: there is no table [logs]. Did you mean 'log'?",
        (
            f'{FILE}: [server] drain: expected a duration such as "250ms" or "5m", got 20; '
            'write "20s" or "20m"?'
        ),
        "EVENTFLOW_COMMON__CAPACITY: expected 1 to 10000000 events, got 0",
        f"{FILE}: [topics.email] capacity: expected 1 to 10000000 deliveries, got 0",
        (
            f'{FILE}: [topics.email.retry] jitter: expected "none", "full", "equal" or '
            '"decorrelated", got "ful". Did you mean \'full\'?'
        ),
        (
            f"{FILE}: [topics.api] rate is not available in this version: "
            "only `concurrency` limits how fast a topic delivers."
        ),
        (
            f'{FILE}: [server] host: expected a loopback address such as "127.0.0.1", '
            'or tokens as well, got "0.0.0.0" without tokens'
        ),
        f"{FILE}: [topics.email]: expected a handler or a sink, got neither",
        f"{FILE}: [routes #1] topics #1: there is no topic \"emial\". Did you mean 'email'?",
        "EVENTFLOW_SERVER__PRT: there is no such setting. Did you mean 'EVENTFLOW_SERVER__PORT'?",
    )


def test_a_fault_makes_no_second_one() -> None:
    """What can't be read is not held against anything else."""
    text = """
        topics = 5
        [common]
        max_event = "70MiB"
        [server]
        host = "0.0.0.0"
        tokens = "shop"
        [[routes]]
        match = "**"
        topics = ["email"]
    """

    assert len(problems(text)) == 3


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("[server]\nport 80", "line 2, column 6: "),
        ("a = 'x", "line 1, column 7: "),
        ("[a]\n\n[a]", "line 3, column 3: "),
        ("a = 5\na = 6", "line 2, column 6: "),
        ("a = [\n1,\n", "line 3, column 1: "),
    ],
)
def test_a_file_that_is_no_toml(text: str, place: str) -> None:
    """Where it is wrong comes first; what is wrong is said in the words of Python's reader."""
    (problem,) = problems(text)

    assert problem.startswith(f"{FILE}: {place}")
    assert "(at " not in problem


def test_a_number_too_long_to_read() -> None:
    assert problems(f"a = {'9' * 5_000}") == (f"{FILE}: a number has too many digits.",)


def test_lists_too_deep_to_read() -> None:
    assert len(problems(f"a = {'[' * 20_000}")) == 1
