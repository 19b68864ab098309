"""What two configurations of a node differ in, and what of that can change while it runs.

Each key is one or the other: what is in `RESTART` is read once, when a node starts; everything
else takes effect at once. A value is told by its key as TOML has it: `topics.email.concurrency`,
`server.port`; lists and tables without names are one value: `routes`, `server.tokens`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from eventflow.config.schema import Group, Shape, Table, table_of
from eventflow.config.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

RESTART: Final = frozenset({
    "engine.url",
    "engine.nats.user",
    "engine.nats.password",
    "engine.nats.token",
    "engine.nats.creds",
    "engine.nats.nkey",
    "engine.nats.ca",
    "engine.nats.cert",
    "engine.nats.key",
    "engine.nats.tls_first",
    "engine.monitor",
    "engine.replicas",
    "engine.node",
    "engine.durability",
    "storage.url",
    "audit.key",
    "server.host",
    "server.port",
    "log.level",
    "log.format",
})  # fmt: skip
"""Keys that are read once, when a node starts. Of a table within a table it is all or none."""


@dataclass(frozen=True, slots=True)
class Difference:
    """Keys whose values differ, in the order of the reference."""

    live: tuple[str, ...]
    """What takes effect at once."""
    restart: tuple[str, ...]
    """What a running node keeps as it is."""


def difference(old: Settings, new: Settings) -> Difference:
    """Return what is different in `new`."""
    before, after = flat(old), flat(new)
    named = {_owner(key) for key in before} ^ {_owner(key) for key in after}
    differing = [key for key in {**before, **after} if before.get(key) != after.get(key)]
    # Of a topic that has come or gone its name says it all.
    owners = [_owner(key) for key in differing]
    keys = dict.fromkeys(
        owner if owner in named else key for key, owner in zip(differing, owners, strict=True)
    )
    return Difference(
        tuple(key for key in keys if key not in RESTART),
        tuple(key for key in keys if key in RESTART),
    )


def applied(old: Settings, new: Settings) -> Settings:
    """Return what a node that runs with `old` is to be: `new`, but for keys that need a restart."""
    kept: dict[str, Any] = {}
    for key in table_of(Settings).keys:
        names = {name.partition(".")[2] for name in RESTART if name.startswith(f"{key.name}.")}
        if names and isinstance(key.node, Group):
            ours = getattr(old, key.field)
            fields = {
                one.field: getattr(ours, one.field)
                for one in key.node.table.keys
                if one.name in {name.partition(".")[0] for name in names}
            }
            kept[key.field] = replace(getattr(new, key.field), **fields)
    return replace(new, **kept)


def _owner(key: str) -> str:
    """Return the table with a name that a key is in, or the key itself."""
    kind, _, rest = key.partition(".")
    name, _, _ = rest.partition(".")
    return f"{kind}.{name}" if kind in {"topics", "webhooks"} else key


def flat(settings: Settings) -> Mapping[str, Any]:
    """Return every value by its key."""
    return dict(_values(table_of(Settings), settings, ""))


def _values(table: Table, value: Any, path: str) -> Iterator[tuple[str, Any]]:
    for key in table.keys:
        found, where = getattr(value, key.field), f"{path}{key.name}"
        match key.node:
            case Group(Shape.ONE, inner) if found is not None:
                yield from _values(inner, found, f"{where}.")
            case Group(Shape.NAMED, inner):
                name_of = inner.keys[0].field
                for item in found:
                    below = f"{where}.{getattr(item, name_of)}."
                    yield from _values(inner.named, item, below)
            case _:
                yield where, found
