"""What must fit together between settings, once each is right by itself.

A check looks only at values that were read without a problem, so that no fault is told twice.
Messages repeat what was written, never what a variable held.
"""

from __future__ import annotations

import ipaddress
import posixpath
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from eventflow.config.kinds import Unfit
from eventflow.config.nats import split_user
from eventflow.config.reader import Draft
from eventflow.config.schema import Leaf, Table
from eventflow.config.secret import Secret
from eventflow.config.settings import EVENT_BYTES, SERVERS_EVENT_BYTES, STORAGE_URL, on_servers
from eventflow.config.sinks import SmtpSinkSettings
from eventflow.config.sinks.sql import EVENT_KEY
from eventflow.config.texts import WEBHOOK_SECRET
from eventflow.config.tree import Tree, location, quoted, show
from eventflow.config.unavailable import ELSEWHERE, IN_DATABASE
from eventflow.errors import did_you_mean
from eventflow.policy.nodes import ROLES

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

SHORT_SECRET: Final = 16
"""Characters below which a token's secret can be guessed in time."""

BATCH_SINKS: Final = {"sql", "file"}
"""Sinks that take several events at once."""

WEBHOOK_TYPES: Final = {
    "github": "github.{{ header['x-github-event'] }}",
    "standard": "{{ event.data.type }}",
    "stripe": "stripe.{{ event.data.type }}",
}
"""By scheme, the type of a webhook's events where none is given."""

FAULTY: Final = object()
"""Stands for a value that was given, and could not be read."""


@dataclass(frozen=True)
class Subject:
    """What the checks look at."""

    draft: Draft
    tree: Tree
    declared: Collection[str]
    """Topics whose handler is given by Python code."""

    def table(self, name: str) -> Draft:
        """Return a table; an empty one where it is faulty."""
        found = self.draft.get(name)
        return found if isinstance(found, Draft) else Draft(Table(object, ()), (name,))

    def tables(self, name: str) -> list[Draft]:
        """Return the tables of a list, without the faulty ones."""
        return drafts(self.draft.get(name))

    def where(self, table: Draft, name: str) -> str:
        """Return how a message names a key of `table`."""
        return self.tree.where(table.at(name))

    def said(self, table: Draft, name: str) -> str:
        """Return what was written for a key of `table`, or its default."""
        given = self.tree.get(table.at(name))
        key = table.table.key(name)
        if given is None and key is not None and isinstance(key.node, Leaf):
            return key.node.kind.write(key.default)
        return show(given)


def drafts(found: object) -> list[Draft]:
    """Return the tables of a list, without the faulty ones."""
    return [item for item in found if isinstance(item, Draft)] if isinstance(found, list) else []


def follow(draft: Draft) -> None:
    """Fill in the defaults that follow another setting."""
    storage, engine = draft.get("storage", {}), draft.get("engine", {})
    if storage.get("url", FAULTY) is None and "url" in engine:
        here = engine["url"]
        storage["url"] = Secret(STORAGE_URL if on_servers(here) else here)
    common = draft.get("common", {})
    if common.get("max_event_bytes", FAULTY) is None:
        beside = on_servers(engine.get("url"))
        common["max_event_bytes"] = SERVERS_EVENT_BYTES if beside else EVENT_BYTES
    for webhook in drafts(draft.get("webhooks")):
        scheme = webhook.get("scheme")
        if scheme is not None:
            if webhook.get("type", FAULTY) is None:
                webhook["type"] = WEBHOOK_TYPES[scheme]
            if webhook.get("when_full", FAULTY) is None:
                webhook["when_full"] = "park" if scheme == "github" else "refuse"
    for topic in drafts(draft.get("topics")):
        sink = topic.get("sink") or {}
        if sink.get("timeout_s", FAULTY) is None and "timeout_s" in topic:
            sink["timeout_s"] = topic["timeout_s"]


def problems(subject: Subject) -> Iterator[str]:
    """Yield what can't go together."""
    yield from _one_place(subject)
    yield from _one_login(subject)
    yield from _all_roles(subject)
    yield from _guarded_door(subject)
    yield from _told_apart(subject)
    yield from _sizes(subject)
    yield from _standard_secrets(subject)
    for topic in subject.tables("topics"):
        yield from _one_handler(subject, topic)
        yield from _only_for_handlers(subject, topic)
        yield from _waits(subject, topic)
        yield from _mapped_key(subject, topic)
        yield from _own_file(subject, topic)
        yield from _mail_server(subject, topic)
    yield from _known_topics(subject)


def warnings(subject: Subject) -> Iterator[str]:
    """Yield what can, and probably was not meant."""
    yield from _unreached(subject)
    yield from _short_secrets(subject)
    yield from _nats_in_the_clear(subject)
    yield from _cut_timeouts(subject)


def _one_place(subject: Subject) -> Iterator[str]:
    engine, storage = subject.table("engine"), subject.table("storage")
    here, secret = engine.get("url"), storage.get("url")
    if not here or not isinstance(secret, Secret):
        return
    there = secret.reveal()
    in_database = there.startswith("postgresql:")
    if on_servers(here) and (in_database or there.startswith("sqlite:")):
        return
    if _place(here) != _place(there):
        refused = IN_DATABASE if in_database else ELSEWHERE
        yield refused.refusal(subject.where(storage, "url"))


def _all_roles(subject: Subject) -> Iterator[str]:
    """Beside a file or memory there is nobody else who could do the rest."""
    engine = subject.table("engine")
    url, roles = engine.get("url"), engine.get("roles")
    if not url or roles is None or roles is FAULTY or on_servers(url):
        return
    missing = [f'"{role}"' for role in ROLES if role not in roles]
    if missing:
        yield (
            f"{subject.where(engine, 'roles')} leaves out {', '.join(missing)}: expected all four "
            f"with queues that no other node shares. Leave it out, or set [engine] url to nats://"
        )


LOGINS: Final = ("user", "token", "creds", "nkey")
"""Of `[engine.nats]`: the ways to say who the node is. One is enough, two contradict."""


def _one_login(subject: Subject) -> Iterator[str]:
    """How a node logs in on NATS servers: in one way, and wholly."""
    engine = subject.table("engine")
    nats, url = engine.get("nats"), engine.get("url")
    if not isinstance(nats, Draft):
        return
    given = [name for name in LOGINS if nats.get(name, FAULTY) is not None]
    users = split_user(url)[1] if on_servers(url) else ()
    where = subject.where(engine, "url")
    if len(users) > 1:
        yield f"{where}: expected one user for all servers, got several"
    if users and (given or nats.get("password") is not None):
        yield f"{where}: expected a user there or in [engine.nats], got both"
    if len(given) > 1:
        first, second = given[:2]
        yield f"{subject.where(nats, second)}: expected this or {first}, got both"
    for one, other in (("user", "password"), ("cert", "key")):
        yield from _both(subject, nats, one, other)


def _both(subject: Subject, table: Draft, one: str, other: str) -> Iterator[str]:
    """Yield a problem where one of two keys stands alone."""
    first, second = table.get(one, FAULTY), table.get(other, FAULTY)
    if (first is None) != (second is None) and FAULTY not in (first, second):
        given, missing = (one, other) if second is None else (other, one)
        yield f"{subject.where(table, given)}: expected a {missing} as well, got none"


def _place(url: str) -> str:
    scheme, _, path = url.partition(":")
    return f"{scheme}:{posixpath.normpath(path)}"


def _guarded_door(subject: Subject) -> Iterator[str]:
    server = subject.table("server")
    host, tokens = server.get("host"), server.get("tokens", FAULTY)
    if host is not None and not _is_loopback(host) and not tokens:
        yield (
            f"{subject.where(server, 'host')}: expected a loopback address such as "
            f'"127.0.0.1", or tokens as well, got {subject.said(server, "host")} without tokens'
        )


def _is_loopback(host: str) -> bool:
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _told_apart(subject: Subject) -> Iterator[str]:
    """Names and secrets of tokens: each once."""
    tokens = drafts(subject.table("server").get("tokens"))
    for field, what in (("name", "a name"), ("secret", "a secret")):
        first: dict[str | Secret, Draft] = {}
        for token in tokens:
            value = token.get(field)
            if value is None:
                continue
            other = first.setdefault(value, token)
            if other is not token:
                where, taken = subject.where(token, field), location(other.path, table=True)
                yield f"{where}: expected {what} of its own, got that of {taken}"


def _standard_secrets(subject: Subject) -> Iterator[str]:
    """Secrets of Standard Webhooks have a form; those of the others are any text."""
    for webhook in subject.tables("webhooks"):
        if webhook.get("scheme") != "standard":
            continue
        for secret in webhook.get("secret") or ():
            try:
                WEBHOOK_SECRET.read("" if secret is None else secret.reveal())
            except Unfit as unfit:
                if secret is not None:
                    where = subject.where(webhook, "secret")
                    yield f"{where}: expected {unfit.expected}, got something else"


def _sizes(subject: Subject) -> Iterator[str]:
    common, server, engine = map(subject.table, ("common", "server", "engine"))
    yield from _ordered(subject, (common, "max_event"), (server, "max_request"))
    yield from _ordered(subject, (server, "max_request"), (engine, "memory_limit"))


def _waits(subject: Subject, topic: Draft) -> Iterator[str]:
    retry = topic.get("retry")
    if isinstance(retry, Draft):
        yield from _ordered(subject, (retry, "base"), (retry, "max"))


def _ordered(subject: Subject, low: tuple[Draft, str], high: tuple[Draft, str]) -> Iterator[str]:
    """Yield a problem where the value of `low` is above that of `high`: on what was written."""
    least, most = _value(*low), _value(*high)
    if least is None or most is None or least <= most:
        return
    table, name = low
    this, other, bound = low, high, "at most"
    if subject.tree.get(table.at(name)) is None:
        this, other, bound = high, low, "at least"
    limit = f"{bound} {location(other[0].at(other[1]))} ({subject.said(*other)})"
    yield f"{subject.where(*this)}: expected {limit}, got {subject.said(*this)}"


def _value(table: Draft, name: str) -> Any:
    key = table.table.key(name)
    return None if key is None else table.get(key.field)


def _one_handler(subject: Subject, topic: Draft) -> Iterator[str]:
    name = str(topic.path[-1])
    given = [field for field in ("handler", "sink") if topic.get(field, FAULTY) is not None]
    where = subject.tree.where(topic.path, table=True)
    if name in subject.declared:
        for field in given:
            place = subject.where(topic, field)
            yield f"{place}: expected none, since Python code gives this topic a handler"
    elif len(given) == 2:
        yield f"{where}: expected a handler or a sink, got both"
    elif not given:
        meant = did_you_mean(name, _names(subject) - {name})
        yield f"{where}: expected a handler or a sink, got neither{'.' if meant else ''}{meant}"


def _only_for_handlers(subject: Subject, topic: Draft) -> Iterator[str]:
    sink = topic.get("sink", FAULTY)
    in_batches = isinstance(sink, Draft) and sink.get("type") in BATCH_SINKS
    for field in ("executor", "batch"):
        if (
            sink is not None
            and topic.get(field) is not None
            and not (in_batches and field == "batch")
        ):
            where = subject.where(topic, field)
            yield f"{where}: expected only where there is a handler, got it beside a sink"


def _mapped_key(subject: Subject, topic: Draft) -> Iterator[str]:
    """Rows are told apart by columns that are written."""
    sink = topic.get("sink")
    if not isinstance(sink, Draft) or sink.get("type") != "sql":
        return
    written = sink.get("columns", FAULTY)
    if not isinstance(written, list):
        return
    names = [EVENT_KEY, *(column["name"] for column in written if "name" in column)]
    for name in sink.get("key") or ():
        if name is not None and name not in names:
            where, meant = subject.where(sink, "key"), did_you_mean(name, names)
            yield f"{where}: expected columns that `columns` maps, got {quoted(name)}.{meant}"


def _own_file(subject: Subject, topic: Draft) -> Iterator[str]:
    """A sink that writes into the engine's own file would lock it out, and be locked out."""
    sink, engine = topic.get("sink"), subject.table("engine").get("url")
    if not isinstance(sink, Draft) or not engine:
        return
    url = sink.get("url")
    files = {"path": sink.get("path")}
    if isinstance(url, Secret):
        files["url"] = url.reveal().partition("sqlite:///")[2] or None
    for key, path in files.items():
        if path is not None and _place(f"sqlite:{path}") == _place(engine):
            where = subject.where(sink, key)
            yield f"{where}: expected a file of its own, got that of [engine] url"


def _mail_server(subject: Subject, topic: Draft) -> Iterator[str]:
    """How an `smtp` sink connects and logs in; its password never goes over a wire in the clear."""
    sink = topic.get("sink")
    if not isinstance(sink, Draft) or sink.table.cls is not SmtpSinkSettings:
        return
    starttls, tls = sink.get("starttls", FAULTY), sink.get("tls", FAULTY)
    username = sink.get("username", FAULTY)
    if starttls is True and tls is True:
        yield f"{subject.where(sink, 'tls')}: expected this or starttls, got both"
    yield from _both(subject, sink, "username", "password")
    host, plain = sink.get("host"), starttls is False and tls is False
    if plain and username is not None and host is not None and not _is_loopback(host):
        yield (
            f"{subject.where(sink, 'username')}: expected starttls = true or tls = true as well, "
            f"got neither: the password would go in the clear to {subject.said(sink, 'host')}"
        )
    if plain and sink.get("ca_file") is not None:
        where = subject.where(sink, "ca_file")
        yield f"{where}: expected only with starttls or tls, got it without: nothing is encrypted"


def _known_topics(subject: Subject) -> Iterator[str]:
    if "topics" not in subject.draft:  # no table at all: which topics there are is not known
        return
    names = _names(subject)
    for route in subject.tables("routes"):
        seen: set[str] = set()
        for number, topic in enumerate(route.get("topics") or ()):
            if topic is None:
                continue
            written = subject.tree.get(route.at("topics"))
            path = route.at("topics") if isinstance(written, str) else (*route.at("topics"), number)
            said = show(subject.tree.get(path))
            if topic not in names:
                plain = said == quoted(topic)
                meant = did_you_mean(topic, names) if plain else ""
                where = subject.tree.where(path)
                yield f"{where}: there is no topic {said}.{meant}"
            elif topic in seen:
                yield f"{subject.tree.where(path)}: expected each topic once, got {said} again"
            seen.add(topic)


def _names(subject: Subject) -> set[str]:
    """Return the names of all topics, faulty ones too: their own fault is told elsewhere."""
    topics = subject.tree.get(("topics",))
    return set(topics) if isinstance(topics, dict) else set()


def _unreached(subject: Subject) -> Iterator[str]:
    routed = {topic for route in subject.tables("routes") for topic in route["topics"]}
    for topic in subject.tables("topics"):
        if not topic["match"] and topic["name"] not in routed:
            where = subject.tree.where(topic.path, table=True)
            yield f"{where}: no event comes here: it has no match, and no route names it"


def _short_secrets(subject: Subject) -> Iterator[str]:
    for token in drafts(subject.table("server")["tokens"]):
        if len(token["secret"].reveal()) < SHORT_SECRET:
            where = subject.where(token, "secret")
            yield f"{where}: shorter than {SHORT_SECRET} characters, it can be guessed"


def _nats_in_the_clear(subject: Subject) -> Iterator[str]:
    """What a node says to NATS servers, where anybody on the way can read it."""
    engine = subject.table("engine")
    url, nats = engine["url"], engine["nats"]
    where = subject.where(engine, "url")
    if not on_servers(url):
        if any(value is not None and value is not False for value in nats.values()):
            yield f"[engine.nats] has no effect: {where} names no NATS server"
        return
    plain, users = split_user(url)
    hosts = [urlsplit(one).hostname or "" for one in plain.split(",")]
    encrypted = url.startswith("tls:") or nats["ca"] or nats["cert"] or nats["tls_first"]
    secret = users or nats["user"] or nats["token"]
    if secret and not encrypted and not all(map(_is_loopback, hosts)):
        yield f"{where}: the password may go in the clear: with tls:// it can't"


def _cut_timeouts(subject: Subject) -> Iterator[str]:
    for topic in subject.tables("topics"):
        sink = topic["sink"]
        if sink and sink.get("timeout_s", 0.0) > topic["timeout_s"]:
            where, cut = subject.where(sink, "timeout"), subject.said(topic, "timeout")
            yield f"{where}: has no effect: the topic's own timeout of {cut} comes before"
