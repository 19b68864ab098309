"""The reference of all settings, written from the schema.

    python -m eventflow.config.reference > docs/reference/configuration.md

A test holds the checked-in page against this text.
"""

from __future__ import annotations

import inspect
import sys
import textwrap
from typing import TYPE_CHECKING, Final

from eventflow.config.describe import Said, described
from eventflow.config.environ import OTHERS, variable
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
from eventflow.config.unavailable import NOT_BUILT

if TYPE_CHECKING:
    from collections.abc import Iterator

PLACEHOLDER: Final = "NAME"
"""What stands for a name of the user's own."""

HEAD: Final = """\
# Configuration

Written by `python -m eventflow.config.reference` from the settings themselves: don't edit this
page. `eventflow check` says what is wrong with a file, all of it at once.

## How values are written

| | in the file | in Python |
|---|---|---|
| duration | `"250ms"`, `"1.5s"`, `"5m"`, `"1h"`, `"7d"` | seconds, a name in `_s` |
| size | `"512KiB"`, `"1MiB"`, `"10GB"` (KiB = 1024, KB = 1000) | bytes, a name in `_bytes` |
| rate | `"50/s"`, `"100/m"`, `"5/h"`, `"1/d"` | per second |
| share | `"10%"` | `Share(0.1)` |

A bare number where a unit is due is refused: the message shows both forms. Paths are relative to
the working directory of the process.

`${NAME}` within a text reads a variable of the environment; if it is not set, nothing is started.
`$${` stands for `${`. A setting that is a number may be such a text: `port = "${PORT}"`.

## Variables

Every setting is also a variable, with two underscores between the levels:
`EVENTFLOW_TOPICS__EMAIL__CAPACITY=20000`. It wins over the file. Texts, durations, sizes and words
are written without quotes; everything else, whole tables and lists too, as TOML writes it:
`EVENTFLOW_SERVER__TOKENS=[{ name = "shop", role = "publish", secret = "…" }]`. Its value is
taken as it is: `${NAME}` is nothing special in it. A topic's name stands in capitals, with `_` for
`-`.

"""

TAIL: Final = """
## Not available in this version

Known and refused, so that nobody relies on what is not done:

| setting | what holds instead |
|---|---|
"""


def reference() -> str:
    """Return the page, as Markdown."""
    others = ", ".join(f"`{name}`" for name in sorted(OTHERS))
    text = HEAD + textwrap.fill(
        f"A variable that begins with `EVENTFLOW_` and is no setting is refused, but for {others}: "
        "these belong to the command line and the tests. Those that Kubernetes sets for a service "
        "named `eventflow…` are passed over.",
        100,
    )
    return text + "\n" + "".join(_tables(table_of(Settings), ())) + TAIL + "".join(_not_built())


def _tables(table: Table, path: Path) -> Iterator[str]:
    """Yield the tables within a table; simple ones of the user's own names only from the top."""
    said = described(table.cls)
    for key in table.keys:
        if isinstance(key.node, Variants):
            yield from _variants(key.node, (*path, key.name), said[key.field])
        elif isinstance(key.node, Group) and key.node.shape is not Shape.PAIRS:
            yield from _table(key.node, (*path, key.name), said[key.field])
        elif isinstance(key.node, Group) and not path:
            yield from _pairs(key.node, (key.name,), said[key.field])


def _table(group: Group, path: Path, said: Said) -> Iterator[str]:
    table, single = group.table, group.shape is not Shape.LIST
    if group.shape is Shape.NAMED:
        table, path = table.named, (*path, PLACEHOLDER)
    yield _heading(path, said, single=single)
    yield from _entries(table, path, single=single)
    yield from _tables(table, path)


def _entries(table: Table, path: Path, *, single: bool) -> Iterator[str]:
    """Yield the settings of a table, without the tables within."""
    said = described(table.cls)
    for key in table.keys:
        inner = isinstance(key.node, Group) and key.node.shape is not Shape.PAIRS
        if not inner and not isinstance(key.node, Variants):
            yield _entry(key, (*path, key.name), said[key.field], single=single)


def _variants(variants: Variants, path: Path, said: Said) -> Iterator[str]:
    """Yield `type`, then for each word the settings that go with it."""
    yield _heading(path, said, single=True)
    merged = variants.merged
    type_ = merged.keys[0]
    yield _entry(type_, (*path, "type"), described(merged.cls)["type"], single=True)
    for word, table in zip(variants.type.words, variants.tables, strict=True):
        what = inspect.cleandoc(table.cls.__doc__ or "")
        yield f'\n## `{location(path, table=True)} type = "{word}"`\n\n{what}\n'
        yield from _entries(Table(table.cls, table.keys[1:]), path, single=True)


def _heading(path: Path, said: Said, *, single: bool) -> str:
    title = location(path, table=True)
    text = f"\n## `{title if single else f'[{title}]'}`\n\n{said.what}\n"
    if not single:
        text += f"\nA list of tables; as a variable all of it at once: `{variable(path)}`.\n"
    return f"{text}\n*Why:* {said.why}\n"


def _pairs(group: Group, path: Path, said: Said) -> Iterator[str]:
    by, value = group.table.keys
    yield _heading(path, said, single=True)
    yield f"\n- key: {_expected(by)}\n- value: {_expected(value)}\n"
    yield f"- variable: `{variable(path)}`, all of it at once\n"


def _entry(key: Key, path: Path, said: Said, *, single: bool) -> str:
    facts = [f"{_type(key)}: {_expected(key)}", f"default: {_default(key)}"]
    if single:
        facts.append(f"variable: `{variable(path)}`")
    listed = "".join(f"- {fact}\n" for fact in facts)
    return f"\n### `{key.name}`\n\n{said.what}\n\n{listed}\n*Why:* {said.why}\n"


def _type(key: Key) -> str:
    match key.node:
        case Leaf(kind):
            return kind.type_name
        case Many(kind):
            return f"{kind.type_name}, or list"
        case Group() | Variants():
            return "table"


def _expected(key: Key) -> str:
    match key.node:
        case Leaf(kind) | Many(kind):
            return kind.expected
        case Group(_, table):
            name, value = table.keys
            return f"{_expected(name)} = {_expected(value)}"
        case Variants():  # has a heading of its own
            raise TypeError(f"{key.name} is no entry")


def _default(key: Key) -> str:
    if key.follows:
        return f"that of {key.follows}"
    if key.default is MISSING:
        return "none, it must be given"
    if key.default is None or key.default == ():
        return "left out"
    if isinstance(key.node, Many):
        return f"`[{', '.join(map(key.node.kind.write, key.default))}]`"
    assert isinstance(key.node, Leaf)  # noqa: S101  # tables are empty by default
    return f"`{key.node.kind.write(key.default)}`"


def _not_built() -> Iterator[str]:
    for entry in NOT_BUILT:
        path = tuple(PLACEHOLDER if step == "*" else step for step in entry.path.split("."))
        is_type = entry.shown.startswith(" type")
        where = location(path, table=is_type)
        yield f"| `{where}{entry.shown}` | {entry.instead} |\n"


if __name__ == "__main__":
    sys.stdout.write(reference())
