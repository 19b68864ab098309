"""publish against a small server on real sockets: what is sent again, left out, and counted."""

from __future__ import annotations

import asyncio
import io
import json
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web

from eventflow.cli import main
from eventflow.cli.node import Node
from eventflow.cli.patience import Patience
from eventflow.cli.publish import publish
from eventflow.cli.sender import CHUNK, Report, Sender
from eventflow.cli.source import Source, opened
from eventflow.client.lines import Line

if TYPE_CHECKING:
    from pathlib import Path

Refusal = Callable[[list[str], int], dict[str, Any] | None]


def text(id: object) -> bytes:
    return json.dumps({"specversion": "1.0", "id": str(id), "source": "/t", "type": "a.b"}).encode()


def lines(count: int) -> list[Line]:
    return [Line(place, text(place)) for place in range(1, count + 1)]


def refusal(status: int, detail: str, *events: tuple[int, str], **more: Any) -> dict[str, Any]:
    errors = [{"event": index, "detail": said} for index, said in events]
    return {"status": status, "problem": {"detail": detail, "errors": errors, **more}}


@dataclass
class Door:
    """Takes chunks as a node does: each all or nothing, a refusal ends the answer."""

    refuse: Refusal = lambda _ids, _first: None
    breaks: list[int] = field(default_factory=list)
    """After so many chunks of a request the connection is cut; a number a request."""
    stored: list[str] = field(default_factory=list)
    requests: list[int] = field(default_factory=list)
    tokens: list[str | None] = field(default_factory=list)
    hangs: bool = False
    url: str = ""

    async def post(self, request: web.Request) -> web.StreamResponse:
        ids = [json.loads(line)["id"] for line in (await request.read()).split(b"\n")]
        self.requests.append(len(ids))
        self.tokens.append(request.headers.get("authorization"))
        left = self.breaks.pop(0) if self.breaks else None
        answer = web.StreamResponse(headers={"content-type": "application/x-ndjson"})
        for first in range(0, len(ids), CHUNK):
            chunk = ids[first : first + CHUNK]
            refused = self.refuse(chunk, first)
            if refused is not None and not answer.prepared:
                return self.problem(refused)
            if not answer.prepared:
                await answer.prepare(request)
            if left == 0:
                assert request.transport is not None
                request.transport.abort()
                return answer
            left = None if left is None else left - 1
            where = {"first": first, "count": len(chunk)}
            if refused is not None:
                await answer.write(json.dumps({**where, **refused}).encode() + b"\n")
                return answer
            new = [id for id in chunk if id not in self.stored]
            self.stored += new
            took = {"accepted": len(new), "duplicates": len(chunk) - len(new), "events": []}
            await answer.write(json.dumps({**where, "status": 202, **took}).encode() + b"\n")
            if self.hangs:
                await asyncio.Event().wait()
        return answer

    @staticmethod
    def problem(refused: dict[str, Any]) -> web.Response:
        wait = refused["problem"].get("retry_after_s")
        headers = {} if wait is None else {"retry-after": str(wait)}
        kind = "application/problem+json"
        body = json.dumps(refused["problem"])
        return web.Response(status=refused["status"], text=body, content_type=kind, headers=headers)


@pytest.fixture
async def door() -> AsyncIterator[Door]:
    found = Door()
    app = web.Application(client_max_size=2**26)
    app.router.add_post("/v1/events", found.post)
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True)
    await runner.setup()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        await web.SockSite(runner, listening).start()
        found.url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        yield found
        await runner.cleanup()


@dataclass
class Waits:
    """Time that passes only where somebody waits for it."""

    now_s: float = 0.0
    all: list[float] = field(default_factory=list)

    async def sleep(self, seconds: float) -> None:
        self.all.append(seconds)
        self.now_s += seconds

    def patience(self, wait_s: float) -> Patience:
        return Patience(wait_s, lambda: self.now_s, self.sleep)


async def run(door: Door, source: Source, patience: Patience, token: str = "") -> int:
    """Run the command beside the server, as a process of its own would."""
    return await asyncio.to_thread(publish, Node(door.url, token), source, patience)


def numbers(*ids: range) -> list[str]:
    return [str(id) for each in ids for id in each]


async def test_everything_is_sent_once(door: Door, capsys: pytest.CaptureFixture[str]) -> None:
    source = Source("f", lines(1_200))

    assert await run(door, source, Waits().patience(0), token="secret-of-shop") == 0
    assert door.stored == numbers(range(1, 1_201))
    assert door.tokens == ["Bearer secret-of-shop"]
    assert capsys.readouterr().out == "accepted 1,200, duplicates 0, refused 0\n"


async def test_it_goes_on_at_the_chunk_that_found_no_room(door: Door) -> None:
    """The node asks for 7 s after the second chunk: nothing before it is sent again."""
    full = iter([None, None, refusal(429, "No room.", retry_after_s=7)])
    door.refuse = lambda _ids, _first: next(full, None)
    waits = Waits()

    assert await run(door, Source("f", lines(1_200)), waits.patience(10)) == 0
    assert door.requests == [1_200, 200]
    assert door.stored == numbers(range(1, 1_201))
    assert waits.all == [7]


async def test_no_room_at_all_is_given_up_and_said(
    door: Door, capsys: pytest.CaptureFixture[str]
) -> None:
    door.refuse = lambda _ids, first: refusal(429, "No room.", retry_after_s=7) if first else None

    assert await run(door, Source("f", lines(700)), Waits().patience(5)) == 1
    out, err = capsys.readouterr()
    assert out == "accepted 500, duplicates 0, refused 0\n"
    assert err == (
        f"eventflow: {door.url}: No room. Given up, as --wait 5 says.\n"
        "What came up to line 500 was answered, what follows was not.\n"
    )


@pytest.mark.parametrize("of_request", [True, False], ids=["request", "chunk"])
async def test_a_wrong_event_is_named_and_left_out(
    door: Door, capsys: pytest.CaptureFixture[str], *, of_request: bool
) -> None:
    """Also in a later chunk, whether its events are counted from the request or from the chunk."""
    wrong = {"3", "600", "601"}

    def refuse(ids: list[str], first: int) -> dict[str, Any] | None:
        bad = [i for i, id in enumerate(ids, first if of_request else 0) if id in wrong]
        return refusal(400, "Wrong.", (bad[0], "type: expected text")) if bad else None

    door.refuse = refuse

    assert await run(door, Source("f", lines(1_200)), Waits().patience(0)) == 1
    assert sorted(door.stored, key=int) == [i for i in numbers(range(1, 1_201)) if i not in wrong]
    out, err = capsys.readouterr()
    assert out == "accepted 1,197, duplicates 0, refused 3\n"
    assert [line for line in err.splitlines() if "refused" in line] == [
        f"line {place} refused: type: expected text" for place in (3, 600, 601)
    ]


async def test_an_event_that_nobody_names_is_found(
    door: Door, capsys: pytest.CaptureFixture[str]
) -> None:
    """As with one that is too large: the node says so without its number."""
    door.refuse = lambda ids, _first: refusal(413, "Too large.") if "777" in ids else None

    assert await run(door, Source("f", lines(1_200)), Waits().patience(0)) == 1
    assert sorted(door.stored, key=int) == numbers(range(1, 777), range(778, 1_201))
    assert "line 777 refused: Too large.\n" in capsys.readouterr().err


async def test_a_broken_connection_is_tried_again_with_the_same_ids(
    door: Door, capsys: pytest.CaptureFixture[str]
) -> None:
    """What was acknowledged before it broke counts, and is not sent again."""
    door.breaks = [1]
    waits = Waits()

    assert await run(door, Source("f", lines(1_200)), waits.patience(0)) == 0
    assert door.stored == numbers(range(1, 1_201))
    assert door.requests[:2] == [1_200, CHUNK]
    assert capsys.readouterr().out == "accepted 1,200, duplicates 0, refused 0\n"
    assert waits.all == [0.25]


async def test_a_connection_that_keeps_breaking_ends_it_truthfully(
    door: Door, capsys: pytest.CaptureFixture[str]
) -> None:
    door.breaks = [1, *[0] * 50]

    assert await run(door, Source("f", lines(700)), Waits().patience(0)) == 1
    out, err = capsys.readouterr()
    assert out == "accepted 500, duplicates 0, refused 0\n"
    assert f"no node answers at {door.url}" in err
    assert "nothing more was sent" in err
    assert "What came up to line 500 was answered, what follows was not." in err


async def test_what_is_no_node_is_said(door: Door, capsys: pytest.CaptureFixture[str]) -> None:
    door.refuse = lambda _ids, _first: {"status": 200, "problem": {}}

    assert await run(door, Source("f", lines(1)), Waits().patience(0)) == 1
    assert capsys.readouterr().err == (
        f"eventflow: {door.url} answered what no EventFlow node does; nothing was sent. "
        "Name a node with --url or EVENTFLOW_URL.\n"
    )


@pytest.mark.parametrize(
    ("token", "said"), [("", "asks for a token"), ("guess", "does not know this token")]
)
async def test_a_wrong_token_is_said(
    door: Door, token: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    door.refuse = lambda _ids, _first: refusal(401, "No.")

    assert await run(door, Source("f", lines(1)), Waits().patience(0), token) == 1
    assert capsys.readouterr().err == (
        f"eventflow: {door.url} {said}; nothing was sent. "
        "Give the secret of one of its [server] tokens with --token or EVENTFLOW_TOKEN.\n"
    )


async def test_ctrl_c_tells_how_far_it_came(door: Door, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted() -> Iterator[Line]:
        yield from lines(5_000)
        raise KeyboardInterrupt

    assert await run(door, Source("f", interrupted()), Waits().patience(0)) == 130
    out, err = capsys.readouterr()
    assert out == "accepted 5,000, duplicates 0, refused 0\n"
    assert "stopped with Ctrl-C" in err
    assert "What came up to line 5000 was answered" in err


async def test_what_was_acknowledged_counts_before_the_answer_ends(door: Door) -> None:
    """Ctrl-C in the midst of an answer: the first chunk is stored, and said to be."""
    door.hangs = True
    counted = asyncio.Event()
    report = Report(lambda _text: None, lambda _size: counted.set())
    sender = Sender(Node(door.url), Waits().patience(0), report)
    sending = asyncio.create_task(sender.send(lines(1_200)))
    await counted.wait()
    sending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sending
    await sender.close()

    assert (sender.tally.accepted, sender.tally.done) == (500, 500)


async def test_a_dash_is_standard_input(
    door: Door, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text(1) + b"\n" + text(2))))

    assert await asyncio.to_thread(main, ["publish", "-", "--url", door.url]) == 0
    assert door.stored == ["1", "2"]
    assert capsys.readouterr().out == "accepted 2, duplicates 0, refused 0\n"


@pytest.mark.parametrize("words", [["--tpye", "a.b"], ["-x"], ["f", "--tpye", "a.b"]])
def test_an_option_that_is_none_is_no_file(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["publish", *words]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"eventflow: Unknown option: {words[-2] if words[1:] else words[0]}.")
    assert said.endswith("Nothing was started. See `eventflow publish --help`.\n")


def test_a_node_that_is_not_there_is_said_with_how_to_start_one(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))  # held and not listening: nobody else takes it meanwhile
        url = f"http://127.0.0.1:{held.getsockname()[1]}"
        assert main(["publish", "--type", "a.b", "--url", url]) == 1
    assert capsys.readouterr().err == (
        f"eventflow: no node answers at {url} (Connection refused); nothing was sent. "
        "Start one with `eventflow serve`, or name another with --url or EVENTFLOW_URL.\n"
    )


@pytest.mark.parametrize(
    ("content", "places", "unit"),
    [
        (text(1) + b"\n\n" + text(2), [1, 3], "line"),
        (b"[" + text(1) + b",\n" + text(2) + b"]", [1, 2], "event"),
        (json.dumps(json.loads(text(1)), indent=2).encode(), [1], "event"),
        (b"\xef\xbb\xbf" + text(1) + b"\r\n", [1], "line"),
        (b"", [], "line"),
    ],
    ids=["lines", "array", "formatted", "byte order mark", "empty"],
)
def test_every_kind_of_file_is_read(
    content: bytes, places: list[int], unit: str, tmp_path: Path
) -> None:
    file = tmp_path / "events"
    file.write_bytes(content)
    with opened(str(file)) as source:
        found = list(source.lines)

    assert [line.place for line in found] == places
    assert [json.loads(line.text)["id"] for line in found] == ["1", "2"][: len(places)]
    assert all(line.text.startswith(b"{") and b"\n" not in line.text for line in found)
    assert source.unit == unit
