"""Every default, as the manual promises it. A changed one is a change for users."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from eventflow.config import (
    BatchSettings,
    HttpSinkSettings,
    RouteSettings,
    SchemaSettings,
    Secret,
    Settings,
    Share,
    TopicSettings,
    load,
    parse,
)

KIB, MIB, GIB = 2**10, 2**20, 2**30

TOP: dict[str, Any] = {
    "engine.url": "sqlite:eventflow.db",
    **{
        f"engine.nats.{name}": None
        for name in ("user", "password", "token", "creds", "nkey", "ca", "cert", "key")
    },
    "engine.nats.tls_first": False,
    "engine.monitor": "",
    "engine.replicas": 1,
    "engine.roles": ("accept", "route", "deliver", "recover"),
    "engine.node": "",
    "engine.durability": "fsync",
    "engine.memory_limit_bytes": 512 * MIB,
    "engine.history_max": 100_000,
    "engine.backups": Path("backups"),
    "storage.url": Secret("sqlite:eventflow.db"),
    "storage.max_size_bytes": 10 * GIB,
    "server.host": "127.0.0.1",
    "server.port": 8_080,
    "audit.key": None,
    "server.tokens": (),
    "server.max_request_bytes": 8 * MIB,
    "server.drain_s": 20.0,
    "common.capacity": 100_000,
    "common.dedup_window_s": 600.0,
    "common.dedup_max": 500_000,
    "common.max_event_bytes": MIB,
    "common.unroutable": "dead",
    "common.low_water": 0.5,
    "common.weights.critical": 64,
    "common.weights.high": 16,
    "common.weights.normal": 4,
    "common.weights.low": 1,
    "webhooks": (),
    "topics": (),
    "routes": (),
    "schemas": (),
    "log.level": "info",
    "log.format": "text",
    "warnings": (),
}
TOPIC: dict[str, Any] = {
    "name": "email",
    "match": ("user.*",),
    "handler": "shop:send",
    "sink": None,
    "capacity": 10_000,
    "concurrency": 16,
    "timeout_s": 10.0,
    "executor": None,
    "batch": None,
    "order": "none",
    "retry.max_attempts": 5,
    "retry.base_s": 1.0,
    "retry.factor": 2.0,
    "retry.max_s": 300.0,
    "retry.jitter": "full",
    "retry.capacity": 20_000,
    "retry.max_overflows": 10,
    "retry.max_in_queue_s": 600.0,
    "recovery.max_rounds": 2,
    "recovery.after_s": 900.0,
    "recovery.low_water": 0.5,
    "recovery.rate": Share(0.1),
}
SINK: dict[str, Any] = {
    "type": "http",
    "url": "https://example.com/hook",
    "method": "POST",
    "headers": (),
    "timeout_s": 10.0,
    "secret": (),
    "format": "cloudevents",
    "allow_private": False,
}


def flat(value: Any, path: str = "") -> dict[str, Any]:
    """Return the fields of nested dataclasses by dotted name."""
    found: dict[str, Any] = {}
    for field in dataclasses.fields(value):
        inner, name = getattr(value, field.name), f"{path}{field.name}"
        if dataclasses.is_dataclass(inner) and not isinstance(inner, Share):
            found |= flat(inner, f"{name}.")
        else:
            found[name] = inner
    return found


def of_one_topic(text: str) -> TopicSettings:
    (topic,) = parse(text, name="eventflow.toml", environ={}).topics
    return topic


def test_without_a_file() -> None:
    assert flat(load(None, environ={})) == TOP


def test_an_empty_file_is_no_file() -> None:
    assert parse("", name="eventflow.toml", environ={}) == load(None, environ={}) == Settings()


def test_of_a_topic() -> None:
    topic = of_one_topic('[topics.email]\nmatch = "user.*"\nhandler = "shop:send"')

    assert flat(topic) == TOPIC
    assert topic == TopicSettings(name="email", match=("user.*",), handler="shop:send")


def test_of_an_http_sink() -> None:
    topic = of_one_topic(
        "[topics.api]\nmatch = '**'\nsink = { type = 'http', url = 'https://example.com/hook' }"
    )

    assert isinstance(topic.sink, HttpSinkSettings)
    assert flat(topic.sink) == SINK
    assert topic.sink == HttpSinkSettings(type="http", url="https://example.com/hook")


def test_of_a_batch() -> None:
    topic = of_one_topic("[topics.db]\nmatch = '**'\nhandler = 'shop:store'\nbatch = {}")

    assert topic.batch == BatchSettings() == BatchSettings(max=500, linger_s=0.02)


def test_storage_beside_servers_is_a_file_of_its_own() -> None:
    settings = parse('engine.url = "nats://a:4222,nats://b:4222"', name="", environ={})
    elsewhere = parse('engine.url = "nats://a"\nstorage.url = "sqlite:x.db"', name="", environ={})

    assert settings.engine.on_servers
    assert settings.engine.path is None
    assert settings.storage.path == Path("eventflow-storage.db")
    assert elsewhere.storage.path == Path("x.db")


def test_storage_is_where_the_engine_is() -> None:
    settings = parse('engine.url = "sqlite:/var/lib/shop.db"', name="", environ={})

    assert settings.storage.url.reveal() == settings.engine.url == "sqlite:/var/lib/shop.db"
    assert settings.engine.path == Path("/var/lib/shop.db")
    assert load(None, environ={}, overrides={"engine": {"url": "memory:"}}).engine.path is None


def test_a_sink_has_the_time_its_topic_has() -> None:
    text = """
        [topics.api]
        match = "**"
        timeout = "1m"
        sink = { type = "http", url = "https://example.com/hook" }
    """
    topic = of_one_topic(text)

    assert isinstance(topic.sink, HttpSinkSettings)
    assert topic.sink.timeout_s == topic.timeout_s == 60.0


def test_every_key_can_be_given() -> None:
    """A file with each setting at another value than its default."""
    text = """
        engine.url = "nats://a"
        engine.monitor = "http://127.0.0.1:8222"
        engine.replicas = 3
        engine.roles = ["accept", "route"]
        engine.node = "n1"
        engine.durability = "os"
        engine.memory_limit = "1GiB"
        engine.history_max = 0
        engine.backups = "b"
        engine.nats.user = "a"
        engine.nats.password = "b"
        engine.nats.ca = "c"
        engine.nats.cert = "d"
        engine.nats.key = "e"
        engine.nats.tls_first = true
        storage = { url = "sqlite:s.db", max_size = "1GB" }
        server = { host = "::1", port = 0, max_request = "2MiB", drain = "0s" }
        log = { level = "debug", format = "json" }
        audit = { key = "a-key-of-mine" }
        schemas = { "user.registered" = "schemas/user.json" }
        [common]
        capacity = 1
        dedup_window = "1h"
        dedup_max = 10
        max_event = "64KiB"
        unroutable = "refuse"
        low_water = 1
        weights = { critical = 8, high = 4, normal = 2, low = 2 }
        [webhooks.github]
        scheme = "github"
        secret = "x"
        [topics.email]
        match = ["user.*", "order.**"]
        handler = "shop.handlers:Mail.send"
        capacity = 1
        concurrency = 2
        timeout = "1.5s"
        executor = "process"
        batch = { max = 1, linger = "0s" }
        order = "none"
        retry = { max_attempts = 1, base = "1ms", factor = 1, max = "1ms", jitter = "none" }
        recovery = { max_rounds = 1, after = "1s", low_water = 0.01, rate = "100/m" }
    """
    settings = parse(text, name="eventflow.toml", environ={})
    (topic,) = settings.topics

    same = {name for name, value in flat(settings).items() if TOP[name] == value}
    other_logins = {f"engine.nats.{name}" for name in ("token", "creds", "nkey")}
    assert same == {"routes", "server.tokens", "warnings"} | other_logins
    assert topic.match == ("user.*", "order.**")
    assert topic.batch == BatchSettings(max=1, linger_s=0.0)
    assert topic.recovery.rate == 100 / 60
    assert topic.retry.base_s == topic.retry.max_s == 0.001
    assert settings.schemas == (
        SchemaSettings(type="user.registered", path=Path("schemas/user.json")),
    )


def test_routes_keep_their_order() -> None:
    text = """
        topics = { a = { handler = "shop:a" }, b = { handler = "shop:b" } }
        [[routes]]
        match = "user.*"
        when = "event.data.country == 'FR'"
        topics = ["a", "b"]
        [[routes]]
        match = ["order.*", "cart.*"]
        topics = "b"
    """

    assert parse(text, name="", environ={}).routes == (
        RouteSettings(match=("user.*",), when="event.data.country == 'FR'", topics=("a", "b")),
        RouteSettings(match=("order.*", "cart.*"), topics=("b",)),
    )


def test_settings_can_not_be_changed() -> None:
    settings = load(None, environ={})

    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.server.port = 1  # type: ignore[misc]  # that is what is tried
