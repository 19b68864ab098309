"""What the bench says of other queues, and how it counts what their workers handle."""

from __future__ import annotations

import multiprocessing
import os
import threading
from typing import TYPE_CHECKING

from bench.__main__ import beaten, can_be_measured, table
from bench.contestants import CONTESTANTS, EMPTY, SYNCED
from bench.peers import counts, redis

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

COUNTER = counts.Counter()


def _add(times: int) -> None:
    for _ in range(times):
        COUNTER.add()


def _count(folder: Path, times: int) -> None:
    os.environ[counts.FOLDER] = str(folder)
    threads = [threading.Thread(target=_add, args=(times,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_processes_that_fork_and_their_threads_count_together(tmp_path: Path) -> None:
    fork = multiprocessing.get_context("fork")
    workers = [fork.Process(target=_count, args=(tmp_path, times)) for times in (3, 4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()

    assert counts.total(tmp_path) == 14


def test_each_peer_is_measured_without_fsync_and_with() -> None:
    names = [one.name for one in CONTESTANTS["g"]]

    assert SYNCED in names
    assert len(names) == 8


def test_by_how_much_the_fastest_peer_is_beaten() -> None:
    """From publish to handled is what (b) measures; the workers alone are said beside it."""
    runs = {
        EMPTY: [{"per_s": 140_000.0}, {"per_s": 150_000.0}, {"per_s": 10_000.0}],
        SYNCED: [{"per_s": 7_000.0, "drained_per_s": 14_000.0}] * 3,
    }
    mine = [one for letter in "bg" for one in CONTESTANTS[letter] if one.name in runs]

    assert "(b) is 20.0 times" in beaten(runs)
    assert "10.0 times what its workers alone" in beaten(runs)
    assert "(g) BullMQ, with fsync [drained_per_s]" in table(mine, runs)


def test_without_redis_they_are_left_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(redis, "program", lambda: None)

    assert not can_be_measured()
    assert "Install Debian's package redis-server" in capsys.readouterr().err
