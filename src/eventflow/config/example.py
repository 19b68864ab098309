"""A commented example of a configuration: every setting at its default, or as a sample.

Settings that are left out stand behind `# `, what is said of them behind `#   `. Everything comes
from the schema, so the example can't name a setting that is not there.
"""

from __future__ import annotations

import inspect
import textwrap
from typing import TYPE_CHECKING, Final

from eventflow.config.describe import described
from eventflow.config.kinds import Choice
from eventflow.config.schema import (
    MISSING,
    Group,
    Key,
    Leaf,
    Many,
    Shape,
    Table,
    Variants,
    table_of,
)
from eventflow.config.settings import Settings
from eventflow.config.tree import Path, location

if TYPE_CHECKING:
    from collections.abc import Iterator

SAMPLES: Final = {
    "engine.nats.user": '"shop"',
    "engine.nats.password": '"${NATS_PASSWORD}"',
    "engine.nats.token": '"${NATS_TOKEN}"',
    "engine.nats.creds": '"node.creds"',
    "engine.nats.nkey": '"node.nk"',
    "engine.nats.ca": '"ca.pem"',
    "engine.nats.cert": '"node.pem"',
    "engine.nats.key": '"node.key"',
    "audit.key": '"${AUDIT_KEY}"',
    "server.tokens": '[{ name = "shop", role = "publish", secret = "${SHOP_TOKEN}" }]',
    "webhooks.github.scheme": '"github"',
    "webhooks.github.secret": '"${GITHUB_WEBHOOK_SECRET}"',
    "webhooks.github.type": "\"github.{{ header['x-github-event'] }}\"",
    "webhooks.github.when_full": '"park"',
    "topics.api.match": '"user.*"',
    "topics.api.handler": '"shop.handlers:send_welcome"',
    "topics.api.executor": '"thread"',
    "topics.api.sink.type": '"http"',
    "topics.api.sink.url": '"https://example.com/hook"',
    "topics.api.sink.headers": '{ authorization = "Bearer ${API_TOKEN}" }',
    "topics.api.sink.secret": '"${WEBHOOK_SECRET}"',
    "topics.smtp.sink.host": '"smtp.example.com"',
    "topics.smtp.sink.ca_file": '"ca.pem"',
    "topics.smtp.sink.username": '"shop"',
    "topics.smtp.sink.password": '"${SMTP_PASSWORD}"',
    "topics.smtp.sink.to": '"{{ event.data.email }}"',
    "topics.smtp.sink.text": '"Hello {{ event.data.name }}"',
    "topics.smtp.sink.html": '"<p>Hello {{ event.data.name }}</p>"',
    "topics.sql.sink.url": '"postgresql://shop:${DB_PASSWORD}@localhost/shop"',
    "topics.sql.sink.table": '"users"',
    "topics.sql.sink.columns": '{ email = "event.data.email" }',
    "topics.file.sink.path": '"events.ndjson"',
    "topics.file.sink.rotate_every": '"1d"',
    "routes.match": '["user.*", "order.**"]',
    "routes.when": "\"event.data.country == 'FR'\"",
    "routes.topics": '["api"]',
}
"""For settings that have no default, or one that would show nothing."""

NEEDED: Final = {"topics.api.match", "topics.api.sink.type", "topics.api.sink.url"}
"""The samples that are settings of the example itself."""

PAIR: Final = ("user.registered", "schemas/user.json")
"""A sample of `[schemas]`."""

HEAD: Final = """\
# EventFlow's settings. Each stands at its default; those behind "# " are left out.
# Durations are written "250ms", "10s", "5m", "1h", "7d", sizes "512KiB", "1MiB", "10GB".
# "${NAME}" reads a variable of the environment: secrets need not stand here.
"""


def example() -> str:
    """Return the example, as a TOML file."""
    return HEAD + "".join(_top(key) for key in table_of(Settings).keys)


def _top(key: Key) -> str:
    group, what = key.node, described(Settings)[key.field].what
    assert isinstance(group, Group)  # noqa: S101  # all settings are in tables
    match group.shape:
        case Shape.ONE:
            return _table(group.table, (key.name,), f"[{key.name}]", what)
        case Shape.NAMED if key.name == "webhooks":
            header, at = f"[{key.name}.github]", (key.name, "github")
            return _table(group.table.named, at, header, what, left_out=True)
        case Shape.NAMED:
            table = group.table.named
            shown = _table(table, (key.name, "api"), f"[{key.name}.api]", what)
            return shown + "".join(_others(table, (key.name,)))
        case Shape.LIST:
            header = f"[[{key.name}]]"
            return _table(group.table, (key.name,), header, what, left_out=True)
        case Shape.PAIRS:
            name, value = PAIR
            return f'\n{_comment(what)}# [{key.name}]\n# "{name}" = "{value}"\n'


def _table(table: Table, path: Path, header: str, what: str, *, left_out: bool = False) -> str:
    """Return a table: its values, then the tables within it."""
    text = f"\n{_comment(what)}{'# ' if left_out else ''}{header}\n"
    said = described(table.cls)
    for key in table.keys:
        text += _line(key, said[key.field].what, (*path, key.name), left_out=left_out)
    return text + "".join(_inner(table, path, left_out=left_out))


def _inner(table: Table, path: Path, *, left_out: bool) -> Iterator[str]:
    for key in table.keys:
        within = _within(key)
        if within is not None:
            at = (*path, key.name)
            needed = any(name.startswith(f"{_dotted(at)}.") for name in NEEDED)
            missing = left_out or (key.default is None and not needed)
            what, header = described(table.cls)[key.field].what, location(at, table=True)
            yield _table(within, at, header, what, left_out=missing)


def _within(key: Key) -> Table | None:
    """Return the table that a key stands for; of several kinds the first."""
    match key.node:
        case Variants(tables):
            return tables[0]
        case Group(Shape.ONE, table):
            return table
        case _:
            return None


def _others(table: Table, path: Path) -> Iterator[str]:
    """Yield, for each kind of table that `table` does not show, a topic of that name."""
    for key in table.keys:
        if not isinstance(key.node, Variants):
            continue
        for word, other in zip(key.node.type.words[1:], key.node.tables[1:], strict=True):
            at, what = (*path, word), inspect.cleandoc(other.cls.__doc__ or "")
            yield f'\n{_comment(what)}# {location(at, table=True)}\n# match = "user.*"\n'
            within = (*at, key.name)
            yield _table(other, within, location(within, table=True), "", left_out=True)


def _line(key: Key, what: str, path: Path, *, left_out: bool) -> str:
    """Return a value with what it is; nothing for a table within."""
    if _within(key) is not None:
        return ""
    dotted = _dotted(path)
    sampled = dotted in SAMPLES
    needless = bool(key.follows) or (sampled and dotted not in NEEDED)
    value = SAMPLES[dotted] if sampled else _shown(key)
    mark = "# " if left_out or needless else ""
    return f"{_comment(what)}{mark}{key.name} = {value}\n"


def _shown(key: Key) -> str:
    if isinstance(key.node, Leaf) and isinstance(key.node.kind, Choice):
        words = key.node.kind.words
        if len(words) == 1:  # the `type` of one of several tables
            return key.node.kind.write(words[0])
    if isinstance(key.node, Many) and key.default:
        return f"[{', '.join(map(key.node.kind.write, key.default))}]"
    if not isinstance(key.node, Leaf) or key.default is None or key.default is MISSING:
        raise LookupError(f"{key.name} has no default to show: it needs a sample")
    return key.node.kind.write(key.default)


def _comment(text: str) -> str:
    return "".join(f"#   {line}\n" for line in textwrap.wrap(text, 90))


def _dotted(path: Path) -> str:
    return ".".join(str(step) for step in path)
