"""Variables: which setting each means, what wins, and what `${NAME}` reads."""

from __future__ import annotations

from textwrap import dedent

import pytest

from eventflow.config import BatchSettings, HttpSinkSettings, Settings, Share, parse
from eventflow.config.environ import OTHERS
from eventflow.errors import ConfigError

FILE = "eventflow.toml"
EMAIL = '[topics.email]\nmatch = "**"\nhandler = "shop:send"\ncapacity = 5\n'
HTTP = '[topics.api]\nmatch = "**"\nsink = { type = "http", url = "https://example.com" }\n'


def read(text: str, **environ: str) -> Settings:
    return parse(dedent(text), name=FILE, environ=environ)


def problems(text: str, **environ: str) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        read(text, **environ)
    return caught.value.problems


class TestVariablesForSettings:
    @pytest.mark.parametrize(
        ("variable", "text", "attribute", "value"),
        [
            ("SERVER__PORT", "80", "server.port", 80),
            ("SERVER__DRAIN", "1m", "server.drain_s", 60.0),
            ("SERVER__HOST", "::1", "server.host", "::1"),
            ("ENGINE__MEMORY_LIMIT", "1GiB", "engine.memory_limit_bytes", 2**30),
            ("ENGINE__HISTORY_MAX", "1_000", "engine.history_max", 1_000),
            ("COMMON__LOW_WATER", "1", "common.low_water", 1.0),
            ("COMMON__WEIGHTS__LOW", "2", "common.weights.low", 2),
            ("LOG__FORMAT", "json", "log.format", "json"),
        ],
    )
    def test_each_kind_of_value(
        self, variable: str, text: str, attribute: str, value: object
    ) -> None:
        found: object = read("", **{f"EVENTFLOW_{variable}": text})
        for name in attribute.split("."):
            found = getattr(found, name)

        assert found == value

    def test_it_wins_over_the_file_and_an_override_wins_over_it(self) -> None:
        file, environ = "server.port = 1", {"EVENTFLOW_SERVER__PORT": "2"}

        assert parse(file, name=FILE, environ={}).server.port == 1
        assert parse(file, name=FILE, environ=environ).server.port == 2
        overrides = {"server": {"port": 3, "host": None}}
        assert parse(file, name=FILE, environ=environ, overrides=overrides).server.port == 3

    def test_it_leaves_the_rest_of_its_table_to_the_file(self) -> None:
        (topic,) = read(EMAIL, EVENTFLOW_TOPICS__EMAIL__RETRY__BASE="2s").topics

        assert (topic.capacity, topic.retry.base_s, topic.retry.max_s) == (5, 2.0, 300.0)

    def test_a_topic_of_its_own(self) -> None:
        (topic,) = read(
            "",
            EVENTFLOW_TOPICS__EMAIL__MATCH="user.*",
            EVENTFLOW_TOPICS__EMAIL__HANDLER="shop:send",
            EVENTFLOW_TOPICS__EMAIL__RECOVERY__RATE="20%",
        ).topics

        assert (topic.name, topic.match, topic.recovery.rate) == ("email", ("user.*",), Share(0.2))

    def test_a_list_of_patterns(self) -> None:
        (topic,) = read(EMAIL, EVENTFLOW_TOPICS__EMAIL__MATCH='["user.*", "order.*"]').topics

        assert topic.match == ("user.*", "order.*")

    def test_whole_tables_and_lists_as_toml_writes_them(self) -> None:
        settings = read(
            EMAIL,
            EVENTFLOW_SERVER__TOKENS='[{ name = "a", role = "read", secret = "0123456789abcdef" }]',
            EVENTFLOW_ROUTES='[{ match = "user.*", topics = ["email"] }]',
            EVENTFLOW_TOPICS__EMAIL="{ concurrency = 3, batch = { max = 7 } }",
            EVENTFLOW_SCHEMAS='{ "user.registered" = "user.json" }',
        )

        assert [token.name for token in settings.server.tokens] == ["a"]
        assert [route.topics for route in settings.routes] == [("email",)]
        assert [schema.type for schema in settings.schemas] == ["user.registered"]
        (topic,) = settings.topics
        assert (topic.capacity, topic.concurrency) == (5, 3)
        assert topic.batch == BatchSettings(max=7)

    def test_the_one_for_a_key_wins_over_the_one_for_its_table(self) -> None:
        (topic,) = read(
            EMAIL,
            EVENTFLOW_TOPICS__EMAIL__CAPACITY="8",
            EVENTFLOW_TOPICS__EMAIL="{ capacity = 7 }",
        ).topics

        assert topic.capacity == 8

    @pytest.mark.parametrize("name", ["user-mail", "user_mail", "user__mail", "user_", "a__b-c_"])
    def test_a_topic_is_found_however_it_is_spelt(self, name: str) -> None:
        variable = f"EVENTFLOW_TOPICS__{name.replace('-', '_').upper()}__CAPACITY"
        (topic,) = read(EMAIL.replace("email", name), **{variable: "7"}).topics

        assert (topic.name, topic.capacity) == (name, 7)

    def test_two_topics_that_look_alike_in_capitals(self) -> None:
        text = EMAIL.replace("email", "a-b") + EMAIL.replace("email", "a_b")

        assert problems(text, EVENTFLOW_TOPICS__A_B__CAPACITY="7") == (
            (
                'EVENTFLOW_TOPICS__A_B__CAPACITY: it may mean "a-b" and "a_b"; '
                "set this one in the file"
            ),
        )

    def test_a_header_of_the_file(self) -> None:
        (topic,) = read(
            HTTP.replace('com" }', 'com", headers = { x-api-key = "a" } }'),
            EVENTFLOW_TOPICS__API__SINK__HEADERS__X_API_KEY="b",
        ).topics

        assert isinstance(topic.sink, HttpSinkSettings)
        assert [header.value.reveal() for header in topic.sink.headers] == ["b"]


class TestVariablesThatAreWrong:
    def test_a_wrong_value_is_told_by_the_variable(self) -> None:
        assert problems(EMAIL, EVENTFLOW_TOPICS__EMAIL__CAPACITY="lots") == (
            'EVENTFLOW_TOPICS__EMAIL__CAPACITY: expected 1 to 10000000 deliveries, got "lots"',
        )

    @pytest.mark.parametrize("text", ["", "1\nport = 2", "1, 2", "0x", "true", "{}", "[1]"])
    def test_an_odd_value_is_no_number(self, text: str) -> None:
        (problem,) = problems("", EVENTFLOW_SERVER__PORT=text)

        assert problem.startswith("EVENTFLOW_SERVER__PORT: expected 0 to 65535, got ")

    def test_a_fault_within_a_list_names_both(self) -> None:
        tokens = '[{ name = "a", role = "none", secret = "0123456789abcdef" }]'

        assert problems("", EVENTFLOW_SERVER__TOKENS=tokens) == (
            (
                "EVENTFLOW_SERVER__TOKENS: [server.tokens #1] role: "
                'expected "publish", "read", "operate" or "admin", got "none"'
            ),
        )

    @pytest.mark.parametrize(
        ("variable", "meant"),
        [
            ("EVENTFLOW_SERVER__PRT", "EVENTFLOW_SERVER__PORT"),
            ("EVENTFLOW_SERVER_PORT", "EVENTFLOW_SERVER__PORT"),
            ("EVENTFLOW_SERVER__PORT__", "EVENTFLOW_SERVER__PORT"),
            ("EVENTFLOW_TOPICS__EMAIL__CAPCITY", "EVENTFLOW_TOPICS__EMAIL__CAPACITY"),
            ("EVENTFLOW_SERVER__PORT__HTTP", "EVENTFLOW_SERVER__PORT"),
            ("EVENTFLOW_ROUTES__0__MATCH", "EVENTFLOW_ROUTES"),
            ("EVENTFLOW_SERVICE_PROT", "EVENTFLOW_SERVER__PORT"),
        ],
    )
    def test_an_unknown_one_is_refused(self, variable: str, meant: str) -> None:
        assert problems(EMAIL, **{variable: "1"}) == (
            f"{variable}: there is no such setting. Did you mean '{meant}'?",
        )

    @pytest.mark.parametrize("tail", ["X_API_KY", "X_API_KEY__X", "Y"])
    def test_a_header_that_is_not_in_the_file(self, tail: str) -> None:
        """A variable can't spell a new one: which of `-` and `_` it has is not known."""
        text = HTTP.replace('com" }', 'com", headers = { x-api-key = "a" } }')
        variable = f"EVENTFLOW_TOPICS__API__SINK__HEADERS__{tail}"
        (problem,) = problems(text, **{variable: "b"})

        assert problem.startswith(f"{variable}: there is no such setting. Did you mean ")
        if tail != "Y":
            assert problem.endswith("'EVENTFLOW_TOPICS__API__SINK__HEADERS__X_API_KEY'?")

    def test_a_misspelt_topic_is_not_a_new_one(self) -> None:
        assert problems(EMAIL, EVENTFLOW_TOPICS__EMIAL__CAPACITY="7") == (
            (
                "EVENTFLOW_TOPICS__EMIAL__CAPACITY: [topics.emial]: "
                "expected a handler or a sink, got neither. Did you mean 'email'?"
            ),
        )

    def test_what_is_not_built_is_known(self) -> None:
        assert problems(
            EMAIL,
            EVENTFLOW_TOPICS__EMAIL__ORDER="key",
            EVENTFLOW_TOPICS__EMAIL__RATE="50/s",
        ) == (
            (
                "EVENTFLOW_TOPICS__EMAIL__RATE is not available in this version: "
                "only `concurrency` limits how fast a topic delivers."
            ),
            (
                'EVENTFLOW_TOPICS__EMAIL__ORDER = "key" is not available in this version: '
                "deliveries of one partition key may overtake each other."
            ),
        )

    def test_a_variable_can_not_reach_through_a_value(self) -> None:
        assert problems("server = 5", EVENTFLOW_SERVER__PORT="80") == (
            f"{FILE}: [server]: expected a table, got 5",
        )


class TestVariablesOfOthers:
    def test_those_of_the_command_line_and_the_tests_are_left_alone(self) -> None:
        assert set(OTHERS) == {
            "EVENTFLOW_URL",
            "EVENTFLOW_TOKEN",
            "EVENTFLOW_SEED",
            "EVENTFLOW_PROOF",
        }
        assert read("", **dict.fromkeys(OTHERS, "x")) == Settings()

    def test_those_of_kubernetes_are_left_alone(self) -> None:
        """A service named "eventflow" puts these into every pod of its namespace."""
        environ = {
            "EVENTFLOW_SERVICE_HOST": "10.0.0.11",
            "EVENTFLOW_SERVICE_PORT": "8080",
            "EVENTFLOW_SERVICE_PORT_HTTP": "8080",
            "EVENTFLOW_PORT": "tcp://10.0.0.11:8080",
            "EVENTFLOW_PORT_8080_TCP": "tcp://10.0.0.11:8080",
            "EVENTFLOW_PORT_8080_TCP_PROTO": "tcp",
            "EVENTFLOW_PORT_8080_TCP_PORT": "8080",
            "EVENTFLOW_PORT_8080_TCP_ADDR": "10.0.0.11",
            "EVENTFLOW_WEB_SERVICE_HOST": "10.0.0.12",
        }

        assert read("", **environ) == Settings()

    def test_one_that_only_looks_so_is_refused(self) -> None:
        assert len(problems("", EVENTFLOW_PORT="8080")) == 1
        assert len(problems("", EVENTFLOW_SERVER__PORT="tcp://10.0.0.11:8080")) == 1

    def test_others_are_not_looked_at(self) -> None:
        environ = {"PATH": "/bin", "eventflow_x": "1", "EVENTFLOWER": "1", "MY_EVENTFLOW_X": "1"}

        assert read("", **environ) == Settings()


class TestReferences:
    def test_one_stands_for_a_text_or_a_part_of_it(self) -> None:
        settings = read('engine.url = "sqlite:${DIR}/${NAME}.db"', DIR="/data", NAME="shop")

        assert settings.engine.url == "sqlite:/data/shop.db"

    def test_one_may_stand_for_a_number_and_for_items_of_a_list(self) -> None:
        text = 'server.port = "${PORT}"\n' + EMAIL.replace('"**"', '["${A}.*", "b"]')
        settings = read(text, PORT="81", A="user")

        assert settings.server.port == 81
        assert settings.topics[0].match == ("user.*", "b")

    def test_two_dollars_stand_for_one(self) -> None:
        assert read('engine.url = "sqlite:$${A}.db"', A="x").engine.url == "sqlite:${A}.db"

    def test_a_dollar_alone_is_a_dollar(self) -> None:
        assert read('engine.url = "sqlite:$A$.db"', A="x").engine.url == "sqlite:$A$.db"

    def test_what_a_variable_holds_is_not_read_again(self) -> None:
        """A password may hold anything: also from an EVENTFLOW_ variable."""
        odd = "sqlite:${A}$${B}"

        assert read('engine.url = "${URL}"', URL=odd).engine.url == odd
        assert read("", EVENTFLOW_ENGINE__URL=odd).engine.url == odd

    def test_a_missing_one_is_named_with_its_setting(self) -> None:
        tokens = 'server.tokens = [{ name = "a", role = "read", secret = "${SHOP_TOKEN}" }]'

        assert problems(tokens) == (
            f"{FILE}: [server.tokens #1] secret: the variable SHOP_TOKEN is not set.",
        )

    @pytest.mark.parametrize("text", ["${", "${}", "${A B}", "${1A}", "${A${B}}", "${A-x}"])
    def test_one_that_names_nothing(self, text: str) -> None:
        assert problems(f'engine.url = "sqlite:{text}"', A="x", B="y") == (
            (
                f'{FILE}: [engine] url: "${{" must be followed by a variable\'s name and "}}"; '
                '"$${" is "${".'
            ),
        )

    def test_one_in_python_values_is_read_too(self) -> None:
        settings = parse(
            "",
            name=FILE,
            environ={"HOST": "::1", "M": "user.*"},
            overrides={"server": {"host": "${HOST}"}},
            declared={"email": {"match": ("${M}",)}},
        )

        assert settings.server.host == "::1"
        assert settings.topics[0].match == ("user.*",)
