"""Words and exit statuses where the world, not the command line, says no."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import socket
import sys
from typing import TYPE_CHECKING

import pytest
from aiohttp import web

from eventflow import EventFlow
from eventflow.cli import main

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from pathlib import Path


@pytest.fixture(autouse=True)
def process() -> Iterator[None]:
    """`serve` owns its process: give back to the other tests what it takes."""
    loggers = [logging.getLogger(name) for name in (None, "uvicorn", "uvicorn.error")]
    before = [(one.handlers[:], one.level, one.propagate) for one in loggers]
    interval = sys.getswitchinterval()
    yield
    for one, (handlers, level, propagate) in zip(loggers, before, strict=True):
        one.handlers[:] = handlers
        one.setLevel(level)
        one.propagate = propagate
    sys.setswitchinterval(interval)


@pytest.fixture
def taken() -> Iterator[int]:
    """A port that somebody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening.getsockname()[1]


@pytest.mark.parametrize("more", [[], ["--check-free"]], ids=["serve", "check-free"])
def test_a_port_in_use_is_no_fault_of_the_settings(
    more: list[str],
    taken: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)

    assert main(["serve", "--port", str(taken), *more]) == 1
    assert capsys.readouterr().err == (
        "eventflow: there is no ./eventflow.toml: the defaults and the environment are used.\n"
        f"eventflow: [server] host and port: can't listen on 127.0.0.1:{taken}: Address already "
        "in use. Stop what holds it, or choose another port; 0 takes any. Nothing was started.\n"
    )


def test_check_free_starts_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "eventflow.toml").write_text("[server]\nport = 0\n")

    assert main(["serve", "--check-free"]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("http://127.0.0.1:")
    assert out.endswith(" is free\n")
    assert err == "eventflow: ./eventflow.toml is used.\n"
    assert [path.name for path in tmp_path.iterdir()] == ["eventflow.toml"]


async def test_a_journal_in_use_names_its_holder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    async with EventFlow(engine="sqlite:eventflow.db"):
        assert await asyncio.to_thread(main, ["serve", "--port", "0"]) == 1
    assert capsys.readouterr().err.endswith(
        f"eventflow: journal eventflow.db is in use by process {os.getpid()} on "
        f"{socket.gethostname()}; nothing was opened. One process at a time: stop that one, or "
        "give this node a file of its own.\n"
    )


def test_check_names_what_each_step_finds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A handler that is not there hides neither a route nor a schema that is wrong."""
    config = tmp_path / "e.toml"
    config.write_text(
        '[topics.a]\nhandler = "no_such_module:f"\nmatch = "x"\n'
        f'[schemas]\n"x" = "{tmp_path}/nowhere.json"\n'
    )

    assert main(["check", str(config)]) == 2
    said = capsys.readouterr().err
    assert "[topics.a] handler: expected a module to import, got 'no_such_module'" in said
    assert "nowhere.json" in said
    assert said.endswith("Nothing was started.\n")


async def answered(handler: Callable[[web.Request], Awaitable[web.Response]], *words: str) -> int:
    """Run a command against a server whose /v1/stats is `handler`."""
    app = web.Application()
    app.router.add_get("/v1/stats", handler)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        await web.SockSite(runner, listening).start()
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        try:
            return await asyncio.to_thread(main, [*words, "--url", url])
        finally:
            await runner.cleanup()


COUNTS = ("created", "delivered", "queued", "running", "retrying", "parked", "dead")
TOPIC = dict.fromkeys((*COUNTS, "discarded", "archived", "unaccounted"), 0)
STATS = {
    "accepted": 12_345,
    "unaccounted": 0,
    "durability": "fsync",
    "since": "2026-11-24T08:00:00Z",
    "storage": {"used_bytes": 4_096, "max_bytes": 1_048_576},
    "topics": {"email": TOPIC | {"created": 12_345, "parked": 7, "paused": True}},
}


async def test_stats_shows_the_ledger(capsys: pytest.CaptureFixture[str]) -> None:
    async def stats(_request: web.Request) -> web.Response:
        return web.json_response(STATS)

    assert await answered(stats, "stats") == 0
    shown = capsys.readouterr().out
    head, _, row = shown.splitlines()[:3]
    assert head.split() == ["topic", *COUNTS, "unaccounted"]
    assert row.split() == ["email", "(paused)", "12,345", *["0"] * 4, "7", "0", "0"]
    assert "accepted 12,345, unaccounted 0\n" in shown


@pytest.mark.parametrize("text", ["<html>", "[]", "{}", '{"topics": {"a": 1}}', '{"topics": 1}'])
async def test_stats_of_something_else_is_said(
    text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    async def stats(_request: web.Request) -> web.Response:
        return web.Response(text=text)

    assert await answered(stats, "stats") == 1
    assert "answered what no EventFlow node does; nothing was shown." in capsys.readouterr().err


async def test_a_token_that_may_not_read_is_told_so(capsys: pytest.CaptureFixture[str]) -> None:
    async def stats(_request: web.Request) -> web.Response:
        return web.json_response({"detail": "expected a token of role read."}, status=403)

    assert await answered(stats, "stats", "--token", "secret-of-shop") == 1
    said = capsys.readouterr().err
    assert re.fullmatch(r"eventflow: http://\S+: expected a token of role read\.\n", said), "once"
