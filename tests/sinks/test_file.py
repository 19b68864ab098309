"""The file sink: whole lines, one fsync a batch, files put aside, and what errors leave behind."""

from __future__ import annotations

import errno
import json
import os
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from eventflow.cloudevents import decode_structured
from eventflow.config import FileSinkSettings, parse
from eventflow.delivery import Delivery
from eventflow.event import Event, from_parts
from eventflow.sinks.file import FileSink
from eventflow.testing import ManualClock

if TYPE_CHECKING:
    from collections.abc import Callable

    from eventflow.sinks.base import SinkError

DAY_S = 86_400.0
MIDNIGHT = 1_795_651_200.0
"""2026-11-26, in seconds since 1970."""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "events.ndjson"


def sink_on(path: Path, *, clock: ManualClock | None = None, **keys: Any) -> FileSink:
    return FileSink(FileSinkSettings(type="file", path=path, **keys), clock=clock)


def event(number: int = 1, **data: Any) -> Event:
    return Event(type="a", source="/shop", id=str(number), data=data or {"number": number})


def deliver(sink: FileSink, *events: Event) -> list[SinkError | None]:
    return list(sink.deliver_batch(events, [Delivery(one, "019", "file", 0.0) for one in events]))


def causes(sink: FileSink, *events: Event) -> set[tuple[str, bool] | None]:
    said = deliver(sink, *events)
    return {None if one is None else (one.failed.cause, one.failed.permanent) for one in said}


def ids(path: Path) -> list[str]:
    return [decode_structured(line).id for line in path.read_bytes().splitlines()]


def files(path: Path) -> dict[str, list[str]]:
    return {one.name: ids(one) for one in sorted(path.parent.iterdir())}


class TestALine:
    def test_is_the_event(self, path: Path) -> None:
        one = event(7, name="Zoë")
        assert deliver(sink_on(path), one) == [None]

        text = path.read_bytes()
        assert text.endswith(b"}\n")
        assert decode_structured(text) == one

    def test_is_one_line_even_if_its_data_came_on_several(self, path: Path) -> None:
        data = b'{\n  "a": "line\\nbreak",\r\n  "b": 1\n}'
        one = from_parts("1", "/shop", "a", data, None, None, "application/json", None)
        deliver(sink_on(path), one, event(2))

        first, second = path.read_bytes().splitlines()
        assert json.loads(first)["data"] == {"a": "line\nbreak", "b": 1}
        assert decode_structured(second) == event(2)

    def test_comes_after_those_that_are_there(self, path: Path) -> None:
        deliver(sink_on(path), event(1), event(2))
        deliver(sink_on(path), event(3))

        assert ids(path) == ["1", "2", "3"]

    def test_is_written_with_the_others_of_its_batch_at_once(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        calls: list[str] = []
        noted: Callable[[str], Any] = calls.append
        write, fsync = os.write, os.fsync
        sink = sink_on(path)
        deliver(sink, event(0))
        monkeypatch.setattr(os, "write", lambda *a: noted("write") or write(*a))
        monkeypatch.setattr(os, "fsync", lambda *a: noted("fsync") or fsync(*a))

        deliver(sink, *(event(n) for n in range(1, 100)))
        assert calls == ["write", "fsync"]

        calls.clear()
        deliver(sink_on(path, fsync=False), event(100))
        assert calls == ["write"]
        assert len(ids(path)) == 101


class TestATornLine:
    def test_of_ours_is_cut_off(self, path: Path, caplog: pytest.LogCaptureFixture) -> None:
        """What a crash left: its event was not delivered, and comes again."""
        deliver(sink_on(path), event(1), event(2))
        whole = path.read_bytes()
        for left in (1, 19, 20, 40, len(whole) // 2 - 1):
            path.write_bytes(whole + whole[:left])
            deliver(sink_on(path), event(3))
            assert ids(path) == ["1", "2", "3"], left
        assert caplog.text.count("file.repaired") == 5

    def test_that_is_all_there_is(self, path: Path) -> None:
        path.write_bytes(b'{"specversion":"1.0","id"')
        deliver(sink_on(path), event(1))

        assert ids(path) == ["1"]

    def test_that_is_longer_than_a_block(self, path: Path) -> None:
        deliver(sink_on(path), event(1))
        with path.open("ab") as file:
            file.write(b'{"specversion":"1.0","id":"2","data":"' + b"x" * 200_000)
        deliver(sink_on(path), event(3))

        assert ids(path) == ["1", "3"]

    def test_of_somebody_else_is_ended(self, path: Path) -> None:
        """Not ours to cut: a file of another kind under a name that was mistaken."""
        path.write_bytes(b"a note without an end")
        deliver(sink_on(path), event(1))

        assert path.read_bytes().startswith(b"a note without an end\n{")


class TestAFailedWrite:
    @pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
    def test_leaves_nothing_behind(
        self, number: int, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The disk is full in the middle of a line; later there is room again."""
        sink = sink_on(path)
        deliver(sink, event(1))
        write = os.write

        def full(file: int, data: bytes) -> int:
            if len(data) > 30:
                return write(file, data[:30])
            raise OSError(number, os.strerror(number))

        with monkeypatch.context() as patch:
            patch.setattr(os, "write", full)
            assert causes(sink, event(2), event(3)) == {(f"file {errno.errorcode[number]}", False)}
        assert ids(path) == ["1"]

        assert causes(sink, event(2), event(3)) == {None}
        assert ids(path) == ["1", "2", "3"]

    def test_of_the_fsync_is_one(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        sink = sink_on(path)
        deliver(sink, event(1))

        def broken(_: int) -> None:
            raise OSError(errno.EIO, "Input/output error")

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", broken)
            assert causes(sink, event(2)) == {("file EIO", False)}
        assert causes(sink, event(2)) == {None}
        assert ids(path) == ["1", "2"]

    def test_says_which_file_and_why(self, tmp_path: Path) -> None:
        path = tmp_path / "nowhere" / "events.ndjson"
        (error,) = deliver(sink_on(path), event(1))

        assert str(error) == f"{path}: No such file or directory"
        assert causes(sink_on(path), event(1), event(2)) == {("file ENOENT", False)}
        path.parent.mkdir()
        assert causes(sink_on(path), event(1)) == {None}

    def test_where_there_is_a_folder(self, tmp_path: Path) -> None:
        assert causes(sink_on(tmp_path), event(1)) == {("file EISDIR", False)}

    def test_where_there_is_a_pipe(self, tmp_path: Path) -> None:
        """It has no end to be cut off at, and waits for who reads it."""
        os.mkfifo(tmp_path / "pipe")

        assert causes(sink_on(tmp_path / "pipe"), event(1)) == {("file EINVAL", False)}

    def test_without_the_right_to(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Told, not done: root may write anywhere."""

        def refused(*_: object) -> int:
            raise PermissionError(errno.EACCES, "Permission denied")

        monkeypatch.setattr(os, "open", refused)

        assert causes(sink_on(path), event(1)) == {("file EACCES", False)}


class TestAFilePutAside:
    def test_is_one_that_would_be_too_large(self, path: Path) -> None:
        clock = ManualClock(MIDNIGHT)
        sink = sink_on(path, clock=clock, rotate_bytes=1_024)

        for number in range(20):
            deliver(sink, event(number))
            clock.advance(1.0)

        found = files(path)
        assert list(found) == [
            "events-20261126T000008Z.ndjson",
            "events-20261126T000016Z.ndjson",
            "events.ndjson",
        ]
        assert list(chain(*found.values())) == [str(n) for n in range(20)]
        assert all(one.stat().st_size <= 1_024 for one in path.parent.iterdir())

    def test_has_a_name_of_its_own(self, path: Path) -> None:
        """Several in a second, and a batch larger than a file may be."""
        sink = sink_on(path, clock=ManualClock(MIDNIGHT), rotate_bytes=1_024)
        for number in range(3):
            deliver(sink, event(number, text="x" * 2_000))

        assert files(path) == {
            "events-20261126T000000Z-2.ndjson": ["1"],
            "events-20261126T000000Z.ndjson": ["0"],
            "events.ndjson": ["2"],
        }

    def test_is_one_of_another_day(self, path: Path) -> None:
        clock = ManualClock(MIDNIGHT + 3_600)
        for number, written_at in enumerate([MIDNIGHT - 1, MIDNIGHT, MIDNIGHT + 3_600]):
            deliver(sink_on(path, clock=clock, rotate_every_s=DAY_S), event(number))
            os.utime(path, (written_at, written_at))

        assert files(path) == {
            "events-20261126T010000Z.ndjson": ["0"],
            "events.ndjson": ["1", "2"],
        }

    def test_by_others_is_left_to_them(self, path: Path) -> None:
        """As logrotate does, while it is open."""
        sink = sink_on(path)
        deliver(sink, event(1))
        path.rename(path.with_name("moved"))
        deliver(sink, event(2))
        path.unlink()
        deliver(sink, event(3))

        assert files(path) == {"events.ndjson": ["3"], "moved": ["1"]}

    def test_by_another_node_is_noticed(self, path: Path) -> None:
        clock = ManualClock(MIDNIGHT)
        one, other = (sink_on(path, clock=clock, rotate_bytes=1_024) for _ in range(2))
        for number in range(60):
            deliver((one, other)[number % 2], event(number))
            clock.advance(1.0)

        found = files(path)
        assert sorted(map(int, chain(*found.values()))) == list(range(60))
        assert len(found) > 4


async def test_a_closed_one_keeps_no_file_open(path: Path) -> None:
    sink = sink_on(path)
    deliver(sink, event(1))
    assert path in opened()
    await sink.close()
    assert path not in opened()


def opened() -> set[Path]:
    return {Path(os.path.realpath(one)) for one in Path("/proc/self/fd").iterdir()}


def test_its_settings() -> None:
    text = """
        [topics.log]
        match = "**"
        sink = { type = "file", path = "out.ndjson", rotate = "1GiB", rotate_every = "1d" }
    """
    (topic,) = parse(text, name="", environ={}).topics

    assert isinstance(topic.sink, FileSinkSettings)
    assert (topic.sink.rotate_bytes, topic.sink.rotate_every_s) == (2**30, DAY_S)
    assert topic.sink.fsync
