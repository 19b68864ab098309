"""A commented example of a configuration: every setting at its default, or as a sample.

Settings that are left out stand behind `# `, what is said of them behind `#   `. Everything comes
from the schema, so the example can't name a setting that is not there.
"""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Final

from eventflow.config.describe import described
from eventflow.config.schema import MISSING, Group, Key, Leaf, Shape, Table, table_of
from eventflow.config.settings import Settings
from eventflow.config.tree import Path, location

if TYPE_CHECKING:
    from collections.abc import Iterator

SAMPLES: Final = {
    "server.tokens": '[{ name = "shop", role = "publish", secret = "${SHOP_TOKEN}" }]',
    "topics.api.match": '"user.*"',
    "topics.api.handler": '"shop.handlers:send_welcome"',
    "topics.api.executor": '"thread"',
    "topics.api.sink.type": '"http"',
    "topics.api.sink.url": '"https://example.com/hook"',
    "topics.api.sink.headers": '{ authorization = "Bearer ${API_TOKEN}" }',
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
        case Shape.NAMED:
            return _table(group.table.named, (key.name, "api"), f"[{key.name}.api]", what)
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
        if isinstance(key.node, Group) and key.node.shape is Shape.ONE:
            at = (*path, key.name)
            needed = any(name.startswith(f"{_dotted(at)}.") for name in NEEDED)
            missing = left_out or (key.default is None and not needed)
            what, header = described(table.cls)[key.field].what, location(at, table=True)
            yield _table(key.node.table, at, header, what, left_out=missing)


def _line(key: Key, what: str, path: Path, *, left_out: bool) -> str:
    """Return a value with what it is; nothing for a table within."""
    if isinstance(key.node, Group) and key.node.shape is Shape.ONE:
        return ""
    dotted = _dotted(path)
    sampled = dotted in SAMPLES
    needless = bool(key.follows) or (sampled and dotted not in NEEDED)
    value = SAMPLES[dotted] if sampled else _default(key)
    mark = "# " if left_out or needless else ""
    return f"{_comment(what)}{mark}{key.name} = {value}\n"


def _default(key: Key) -> str:
    if not isinstance(key.node, Leaf) or key.default is None or key.default is MISSING:
        raise LookupError(f"{key.name} has no default to show: it needs a sample")
    return key.node.kind.write(key.default)


def _comment(text: str) -> str:
    return "".join(f"#   {line}\n" for line in textwrap.wrap(text, 90))


def _dotted(path: Path) -> str:
    return ".".join(str(step) for step in path)
