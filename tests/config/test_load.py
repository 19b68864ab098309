"""Files, layers and warnings."""

from __future__ import annotations

from pathlib import Path

import pytest

from eventflow.config import Settings, load, parse
from eventflow.errors import ConfigError

EMAIL = '[topics.email]\nmatch = "**"\nhandler = "shop:send"\n'


def refused(path: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        load(path, environ={})
    (problem,) = caught.value.problems
    return problem


class TestFiles:
    def test_a_file_is_read(self, tmp_path: Path) -> None:
        path = tmp_path / "eventflow.toml"
        path.write_bytes(EMAIL.encode())

        assert [topic.name for topic in load(path, environ={}).topics] == ["email"]

    def test_one_from_windows_too(self, tmp_path: Path) -> None:
        """A byte order mark and two characters at the end of a line."""
        path = tmp_path / "eventflow.toml"
        path.write_bytes(b"\xef\xbb\xbf" + EMAIL.replace("\n", "\r\n").encode())

        assert [topic.name for topic in load(path, environ={}).topics] == ["email"]

    def test_messages_name_it(self, tmp_path: Path) -> None:
        path = tmp_path / "shop.toml"
        path.write_text("[server]\nport = 'x'")

        assert refused(path) == f'{path}: [server] port: expected 0 to 65535, got "x"'

    def test_none_there(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        """The whole path: most often it is the directory that is another one."""
        monkeypatch.chdir(tmp_path)

        assert refused(Path("shop.toml")) == (
            f"shop.toml: there is no such file; looked for {tmp_path / 'shop.toml'}. "
            "Check the path and the directory."
        )

    def test_a_directory(self, tmp_path: Path) -> None:
        assert refused(tmp_path).startswith(f"{tmp_path}: can't be read: ")

    def test_not_text(self, tmp_path: Path) -> None:
        path = tmp_path / "eventflow.toml"
        path.write_bytes(b"[server]\nhost = '\xff'")

        assert refused(path) == f"{path}: line 2: expected UTF-8 text."

    def test_a_path_that_can_be_none(self) -> None:
        assert refused(Path("a\0b")).startswith('"a\\u0000b": can\'t be read: ')


class TestTopicsOfPython:
    def test_they_need_no_handler(self) -> None:
        settings = load(None, environ={}, declared={"email": {"match": ["user.*"], "capacity": 7}})

        (topic,) = settings.topics
        assert (topic.name, topic.match, topic.capacity) == ("email", ("user.*",), 7)
        assert (topic.handler, topic.sink) == (None, None)

    def test_file_and_environment_win_over_them(self) -> None:
        declared = {"email": {"match": "a", "capacity": 1, "concurrency": 1, "timeout": "1s"}}
        settings = parse(
            "[topics.email]\nconcurrency = 2\ntimeout = '2s'",
            name="eventflow.toml",
            environ={"EVENTFLOW_TOPICS__EMAIL__TIMEOUT": "3s"},
            declared=declared,
        )

        (topic,) = settings.topics
        assert (topic.capacity, topic.concurrency, topic.timeout_s) == (1, 2, 3.0)
        assert declared["email"]["concurrency"] == 1

    @pytest.mark.parametrize(
        "more", ['handler = "shop:send"', 'sink = { type = "http", url = "https://example.com" }']
    )
    def test_they_take_no_second_handler(self, more: str) -> None:
        field = more.partition(" ")[0]
        with pytest.raises(ConfigError) as caught:
            parse(f"topics.email.{more}", name="f.toml", environ={}, declared={"email": {}})

        assert caught.value.problems == (
            (
                f"f.toml: [topics.email] {field}: expected none, "
                "since Python code gives this topic a handler"
            ),
        )

    def test_their_problems_say_so(self) -> None:
        with pytest.raises(ConfigError) as caught:
            load(None, environ={}, declared={"email": {"match": "a", "timeout": 5, "x": None}})

        assert caught.value.problems == (
            (
                'Python: [topics.email] timeout: expected a duration such as "250ms" or "5m", '
                'got 5; write "5s" or "5m"?'
            ),
        )


class TestOverrides:
    def test_their_problems_say_so(self) -> None:
        with pytest.raises(ConfigError) as caught:
            load(None, environ={}, overrides={"server": {"port": -1}, "engin": {}})

        assert caught.value.problems == (
            "overrides: there is no table [engin]. Did you mean 'engine'?",
            "overrides: [server] port: expected 0 to 65535, got -1",
        )

    def test_none_is_nothing_given(self) -> None:
        assert load(None, environ={}, overrides={"server": {"port": None}}) == Settings()

    def test_they_are_not_changed(self) -> None:
        overrides = {"server": {"port": 1}}
        load(None, environ={"EVENTFLOW_SERVER__HOST": "::1"}, overrides=overrides)

        assert overrides == {"server": {"port": 1}}


class TestWarnings:
    def test_a_topic_that_nothing_reaches(self) -> None:
        text = "\n".join(f'[topics.{name}]\nhandler = "s:{name}"' for name in "abc")
        text += '\n[topics.d]\nhandler = "s:d"\nmatch = "d"\n[[routes]]\nmatch = "b"\ntopics = "b"'

        assert parse(text, name="f.toml", environ={}).warnings == (
            "f.toml: [topics.a]: no event comes here: it has no match, and no route names it",
            "f.toml: [topics.c]: no event comes here: it has no match, and no route names it",
        )

    def test_a_secret_that_can_be_guessed(self) -> None:
        text = 'server.tokens = [{ name = "a", role = "read", secret = "123456789012345" }]'

        assert parse(text, name="f.toml", environ={}).warnings == (
            "f.toml: [server.tokens #1] secret: shorter than 16 characters, it can be guessed",
        )

    def test_a_timeout_that_never_comes(self) -> None:
        text = """
            [topics.api]
            match = "**"
            timeout = "5s"
            sink = { type = "http", url = "https://example.com", timeout = "6s" }
        """

        assert parse(text, name="f.toml", environ={}).warnings == (
            (
                "f.toml: [topics.api.sink] timeout: has no effect: "
                'the topic\'s own timeout of "5s" comes before'
            ),
        )

    def test_nothing_to_warn_of(self) -> None:
        text = (
            EMAIL
            + '[server]\ntokens = [{ name = "a", role = "read", secret = "1234567890123456" }]'
        )

        assert parse(text, name="f.toml", environ={}).warnings == ()


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost", "LOCALHOST"])
def test_a_loopback_address_needs_no_tokens(host: str) -> None:
    assert parse(f'server.host = "{host}"', name="", environ={}).server.host == host


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "localhost.example.com", "127.1"])  # noqa: S104  # that they are all is the point
def test_any_other_needs_them(host: str) -> None:
    token = '{ name = "a", role = "read", secret = "1234567890123456" }'
    with pytest.raises(ConfigError, match="without tokens"):
        parse(f'server.host = "{host}"', name="", environ={})

    text = f'[server]\nhost = "{host}"\ntokens = [{token}]'
    assert parse(text, name="", environ={}).server.host == host
