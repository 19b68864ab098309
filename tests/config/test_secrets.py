"""What is secret is used and never shown: not printed, not in a message, not by a detour."""

from __future__ import annotations

import copy
import dataclasses
import pickle

import pytest

from eventflow.config import HttpSinkSettings, Secret, Settings, parse
from eventflow.config.texts import STORAGE_URL
from eventflow.errors import ConfigError

HIDDEN = "hunter2-hunter2-hunter2"

GOOD = """
[server]
tokens = [{ name = "shop", role = "publish", secret = "${SHOP_TOKEN}" }]
[topics.api]
match = "**"
[topics.api.sink]
type = "http"
url = "https://example.com/${HOOK}"
headers = { authorization = "Bearer ${API_TOKEN}" }
"""


@pytest.fixture
def settings() -> Settings:
    environ = dict.fromkeys(("SHOP_TOKEN", "HOOK", "API_TOKEN"), HIDDEN)
    return parse(GOOD, name="eventflow.toml", environ=environ)


def test_it_is_there_for_who_asks_for_it(settings: Settings) -> None:
    (token,), (topic,) = settings.server.tokens, settings.topics

    assert token.secret.reveal() == HIDDEN
    assert isinstance(topic.sink, HttpSinkSettings)
    assert topic.sink.headers[0].value.reveal() == f"Bearer {HIDDEN}"
    assert topic.sink.url == f"https://example.com/{HIDDEN}"


def test_it_is_not_printed(settings: Settings) -> None:
    assert HIDDEN not in repr(settings)
    assert HIDDEN not in str(settings)
    assert HIDDEN not in f"{settings}"
    assert repr(settings.server.tokens[0].secret) == "Secret('***')"


def test_it_is_not_printed_as_a_dictionary() -> None:
    secret = Secret(HIDDEN)

    assert HIDDEN not in f"{secret} {secret!r} {[secret]} {secret!s:>5}"
    assert HIDDEN not in "%s %r" % (secret, secret)  # noqa: UP031  # loggers format so


def test_it_is_a_value() -> None:
    secret = Secret(HIDDEN)

    assert secret == Secret(HIDDEN) == copy.deepcopy(secret) == pickle.loads(pickle.dumps(secret))  # noqa: S301  # our own
    assert secret != Secret("other")
    assert secret != HIDDEN
    assert len({secret, Secret(HIDDEN)}) == 1


def test_dataclasses_keep_it_masked(settings: Settings) -> None:
    assert HIDDEN not in repr(dataclasses.asdict(settings.server))


ASKS = {
    "a number": 'server.port = "${S}"',
    "a duration": 'server.drain = "${S}"',
    "a size": 'engine.memory_limit = "${S}"',
    "a word": 'log.level = "${S}"',
    "a pattern": 'topics.a = { match = ["b", "${S} x"], handler = "a:b" }',
    "a share": 'topics.a = { match = "b", handler = "a:b", recovery.rate = "${S}" }',
    "a function": 'topics.a = { match = "b", handler = "${S}" }',
    "an address": 'topics.a = { match = "b", sink = { type = "http", url = "${S}" } }',
    "a sink": 'topics.a = { match = "b", sink = { type = "${S}", url = "https://a" } }',
    "a host": 'server.host = "${S} x"',
    "a host without tokens": 'server.host = "${S}"',
    "a file": 'engine.url = "${S}"',
    "another file": 'storage.url = "sqlite:${S}"',
    "a topic": 'routes = [{ match = "a", topics = ["${S}"] }]',
    "a single topic": 'routes = [{ match = "a", topics = "${S}" }]',
    "a topic twice": 'topics."hunter2-hunter2-hunter2" = { handler = "a:b" }\n'
    'routes = [{ match = "a", topics = ["${S}", "${S}"] }]',
    "a role": 'server.tokens = [{ name = "a", role = "${S}", secret = "b" }]',
    "a token's name": 'server.tokens = [{ name = "${S} x", role = "read", secret = "b" }]',
    "a token's secret": 'server.tokens = [{ name = "a", role = "read", secret = "${S} x" }]',
    "a path": 'schemas = { "a" = "${S}\\n" }',
}


DATABASE = 'engine.url = "nats://a:4222"\nstorage.url = "{}"'


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://shop:{HIDDEN}@db:5432/shop",
        f"postgresql://db/shop?user=shop&password={HIDDEN}",
        f"postgres://shop:{HIDDEN}@a,b/shop",
        f"postgresql+psycopg://shop:{HIDDEN}@db/shop",
        f"postgresql://shop:a,{HIDDEN}@db/shop",
    ],
)
@pytest.mark.parametrize("way", ["file", "reference", "variable"])
def test_the_url_of_a_database_is_never_shown(url: str, way: str) -> None:
    environ = {"URL": url} if way == "reference" else {"EVENTFLOW_STORAGE__URL": url}
    text = DATABASE.format({"file": url, "reference": "${URL}", "variable": "sqlite:x.db"}[way])
    settings = parse(text, name="", environ={} if way == "file" else environ)

    assert settings.storage.in_database
    assert settings.storage.path is None
    assert settings.storage.url.reveal().startswith("postgresql://")
    assert HIDDEN in settings.storage.url.reveal()
    assert HIDDEN not in f"{settings} {settings!r} {settings.storage!r}"
    assert HIDDEN not in STORAGE_URL.write(settings.storage.url)
    assert settings.storage.shown.endswith("/shop")
    assert HIDDEN not in settings.storage.shown


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql+asyncpg://shop:{HIDDEN}@db/shop",
        f"postgresql:shop:{HIDDEN}@db/shop",
        f"postgresql://shop:{HIDDEN} @db/shop",
        f"mysql://shop:{HIDDEN}@db/shop",
        f"postgresql://shop:p/{HIDDEN}@db/shop",
        f"postgresql://shop:p@{HIDDEN}@db/shop",
        f"postgresql://shop:p/{HIDDEN}?x@db/shop",
        f"postgresql://shop:{HIDDEN}\\n@db/shop",
    ],
)
def test_nor_is_one_that_can_not_be_used(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(DATABASE.format(url), name="", environ={})

    assert "[storage] url: expected" in str(caught.value)
    assert HIDDEN not in str(caught.value)


@pytest.mark.parametrize("text", ASKS.values(), ids=ASKS)
def test_no_message_shows_what_a_variable_holds(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(text, name="eventflow.toml", environ={"S": HIDDEN})

    (problem,) = caught.value.problems
    assert HIDDEN not in problem
    assert "${S}" in problem or "not shown" in problem or "not available" in problem


@pytest.mark.parametrize("value", ["5", "5m", "0.5", "admn", "nats://", "Email"])
def test_no_hint_shows_it_either(value: str) -> None:
    """A hint repeats what was written: with a unit, in lower case, as the nearest word."""
    keys = ["server.drain", "engine.memory_limit", "log.level", "engine.durability", "server.port"]
    text = "\n".join(f'{key} = "${{S}}"' for key in keys)
    with pytest.raises(ConfigError) as caught:
        parse(text, name="eventflow.toml", environ={"S": value})

    for problem in caught.value.problems:
        assert "write" not in problem
        assert "Did you mean" not in problem


@pytest.mark.parametrize(
    "text",
    [
        f'server.tokens = [{{ name = "a", role = "read", secret = "{HIDDEN} x" }}]',
        f'server.tokens = [{{ name = "a", role = "read", secret = ["{HIDDEN}"] }}]',
        'server.tokens = [{ name = "a", role = "read", secret = 4711 }]',
        f'server.tokens = "{HIDDEN}"',
        f'server.tokens = ["{HIDDEN}"]',
        f'server = "{HIDDEN}"',
        f'topics.a.sink = "{HIDDEN}"',
        f'topics.a.sink = {{ type = "http", headers = "{HIDDEN}" }}',
        f'topics.a.sink = {{ type = "http", headers = {{ a = "{HIDDEN}\\n" }} }}',
        f'topics.a.sink = {{ type = "http", headers = {{ a = ["{HIDDEN}"] }} }}',
        f'topics.a.sink = {{ type = "http", url = "https://user:{HIDDEN}@a" }}',
        f'topics.a.sink = {{ type = "http", url = "https://{HIDDEN}@a:b" }}',
        f'topics.a.sink = {{ type = "http", url = "ftp://user:{HIDDEN}@a" }}',
        f'engine.url = "redis://user:{HIDDEN}@a"',
        f'engine.url = "nats://user:{HIDDEN}@a b"',
        f'engine.url = "nats://user:{HIDDEN}@a,tls://a"',
        f'engine.url = "nats://user:{HIDDEN}@a,nats://b:{HIDDEN}@a"',
        f'engine.nats = {{ user = "a", password = "{HIDDEN}\\n" }}',
        f'engine.nats = {{ password = "{HIDDEN}" }}',
        f'engine.nats = {{ token = ["{HIDDEN}"] }}',
        f'storage.url = "postgresql://user:{HIDDEN}@a"',
    ],
)
def test_no_message_shows_a_secret_of_the_file(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(text, name="eventflow.toml", environ={})

    assert HIDDEN not in str(caught.value)
    assert "4711" not in str(caught.value)
