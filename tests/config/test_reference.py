"""The manual and the example say what the code does: both are written from it."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
from pathlib import Path

import pytest

from eventflow.config import HttpSinkSettings, Settings, parse
from eventflow.config.describe import described
from eventflow.config.example import example
from eventflow.config.quantities import Duration, Size
from eventflow.config.reference import reference
from eventflow.config.schema import Group, Leaf, Table, Variants, table_of
from eventflow.config.unavailable import NOT_BUILT

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "reference" / "configuration.md"


def tables(table: Table) -> set[Table]:
    inner = []
    for key in table.keys:
        if isinstance(key.node, Group):
            inner.append(tables(key.node.table))
        elif isinstance(key.node, Variants):
            inner += [tables(one) for one in key.node.tables]
    return {table}.union(*inner)


TABLES = sorted(tables(table_of(Settings)), key=lambda table: str(table.cls))


class TestReference:
    def test_the_page_is_up_to_date(self) -> None:
        """If this fails: python -m eventflow.config.reference > docs/reference/configuration.md."""
        assert PAGE.read_text(encoding="utf-8") == reference()

    @pytest.mark.slow
    def test_the_command_writes_it(self) -> None:
        command = [sys.executable, "-W", "error", "-m", "eventflow.config.reference"]
        written = subprocess.run(command, check=True, capture_output=True)

        assert written.stdout.decode() == reference()

    def test_it_has_every_setting(self) -> None:
        page = reference()
        for table in TABLES:
            said = described(table.cls)
            for key in table.keys:
                if key.name in ("name", "value", "type", "path"):  # names and pairs: in the text
                    continue
                assert said[key.field].what in page, (table.cls, key.name)
                assert said[key.field].why in page, (table.cls, key.name)

    def test_it_lists_what_is_not_available(self) -> None:
        page = reference()

        assert all(f"{entry.shown}` | {entry.instead} |" in page for entry in NOT_BUILT)

    def test_defaults_and_ranges_are_the_code_s(self) -> None:
        """Spot checks, against a page that is consistently wrong."""
        page = reference()

        assert (
            "### `timeout`\n\nHow long one attempt may take.\n\n- duration: 1ms to 1d\n"
            '- default: `"10s"`\n- variable: `EVENTFLOW_TOPICS__NAME__TIMEOUT`\n'
        ) in page
        assert "- default: that of `[engine] url`\n" in page
        assert "- default: none, it must be given\n" in page


class TestDocstrings:
    @pytest.mark.parametrize("table", TABLES, ids=lambda table: table.cls.__name__)
    def test_every_setting_says_what_it_is_and_why(self, table: Table) -> None:
        said = described(table.cls)

        assert set(said) >= {key.field for key in table.keys}
        for key in table.keys:
            what, why = said[key.field]
            assert what.endswith((".", "`.")), key.field
            assert why.endswith("."), key.field

    @pytest.mark.parametrize("table", TABLES, ids=lambda table: table.cls.__name__)
    def test_names_in_python_carry_their_units(self, table: Table) -> None:
        for key in table.keys:
            kind = key.node.kind if isinstance(key.node, Leaf) else None
            unit = re.search(r"_(s|ms|at|bytes)\Z", key.field)
            assert (unit[0] if unit else "") == (kind.suffix if kind else ""), key.field
            assert bool(unit) == isinstance(kind, Duration | Size), key.field

    @pytest.mark.parametrize("table", TABLES, ids=lambda table: table.cls.__name__)
    def test_every_table_is_frozen_and_takes_names_only(self, table: Table) -> None:
        parameters = table.cls.__dataclass_params__
        assert (parameters.frozen, table.cls.__slots__ != ()) == (True, True)
        assert all(field.kw_only for field in dataclasses.fields(table.cls))

    @pytest.mark.parametrize("table", TABLES, ids=lambda table: table.cls.__name__)
    def test_every_default_is_in_its_range(self, table: Table) -> None:
        """What the manual shows as default can be written into the file."""
        for key in table.keys:
            if not isinstance(key.node, Leaf) or key.required or key.default is None:
                continue
            written = key.node.kind.write(key.default)
            text = written[1:-1] if written.startswith('"') else written
            assert key.node.kind.read(key.node.kind.from_text(text)) == key.default, key.field


class TestExample:
    def test_it_stands_at_the_defaults(self) -> None:
        settings = parse(example(), name="example.toml", environ={})

        (topic,) = settings.topics
        defaults = Settings()
        assert settings == dataclasses.replace(defaults, topics=(topic,))
        assert topic == dataclasses.replace(
            topic,
            **{
                field.name: getattr(defaults_of_a_topic(), field.name)
                for field in dataclasses.fields(topic)
                if field.name not in ("name", "match", "sink")
            },
        )
        assert topic.sink == HttpSinkSettings(type="http", url="https://example.com/hook")

    def test_what_it_leaves_out_can_be_put_in(self) -> None:
        """But for what has no place beside its sink."""
        left_out = re.compile(r"^# (?=[\[\w\"])", re.MULTILINE)
        text = left_out.sub("", example().partition("\n\n")[2])
        text = re.sub(
            r"^(handler|executor) = .*\n|^\[topics\.api\.batch\]\n", "", text, flags=re.MULTILINE
        )
        text = re.sub(r"^(max = 500|linger) ?.*\n", "", text, flags=re.MULTILINE)
        text = text.replace("starttls = false", "starttls = true")  # which its `ca_file` is for
        text = re.sub(r"^(token|creds|nkey) = .*\n", "", text, flags=re.MULTILINE)  # one login
        whsec = f"whsec_{'A' * 32}"
        secrets = {
            "WEBHOOK_SECRET": whsec,
            "API_TOKEN": "x",
            "GITHUB_WEBHOOK_SECRET": "x",
            "DB_PASSWORD": "x",
            "SMTP_PASSWORD": "x",
            "NATS_PASSWORD": "x",
        }
        settings = parse(
            text,
            name="example.toml",
            environ={"SHOP_TOKEN": "1234567890123456", "AUDIT_KEY": "a-key", **secrets},
        )

        assert [token.name for token in settings.server.tokens] == ["shop"]
        assert [route.topics for route in settings.routes] == [("api",)]
        assert [schema.type for schema in settings.schemas] == ["user.registered"]

    def test_it_has_every_setting(self) -> None:
        text = example()
        for table in TABLES:
            for key in table.keys:
                inner = isinstance(key.node, Group | Variants)
                if not inner and key.name not in ("name", "value", "path"):
                    assert re.search(rf"^(# )?\[?\[?{key.name}\b|{key.name} = ", text, re.MULTILINE)


def defaults_of_a_topic() -> object:
    text = '[topics.api]\nmatch = "**"\nsink = { type = "http", url = "https://example.com/hook" }'
    return parse(text, name="", environ={}).topics[0]
