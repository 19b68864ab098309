"""One peer, once: how many events a second it handles, of the same bytes as EventFlow's (b)."""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from bench.payload import structured
from bench.peers import counts, redis, sending
from bench.peers.installing import Installed, Missing, installed
from bench.report import answer, fresh_folder

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

ROOT = Path(__file__).parents[2]
WARM = 300
AT_MOST_S = 120.0
"""For each of the two parts."""
UNTIL_DOWN_S = 15.0


class Peer(NamedTuple):
    """How a peer is run."""

    publisher: Sequence[str]
    worker: Sequence[str]
    events: int
    """So many that a run takes some seconds."""
    variables: Mapping[str, str]


def peers(given: Installed) -> dict[str, Peer]:
    """Return all peers by name; the settings are explained in their programs."""
    python, node = (
        [str(given.python), "-m"],
        [str(given.node), str(Path(__file__).parent / "bullmq.mjs")],
    )
    celery = "celery -A bench.peers.celery_tasks worker --pool prefork --concurrency 2 -O default"
    celery += " --without-gossip --without-mingle --without-heartbeat --loglevel error"
    dramatiq = "dramatiq bench.peers.dramatiq_tasks --processes 2 --threads 8"
    taskiq = "taskiq worker bench.peers.taskiq_tasks:broker --workers 2 --max-async-tasks 500"
    taskiq += " --max-prefetch 500 --log-level ERROR"
    return {
        "celery": Peer(
            [*python, "bench.peers.celery_tasks"], [*python, *celery.split()], 5_000, {}
        ),
        "dramatiq": Peer(
            [*python, "bench.peers.dramatiq_tasks"],
            [*python, *dramatiq.split()],
            10_000,
            {"dramatiq_queue_prefetch": "500"},
        ),
        "taskiq": Peer(
            [*python, "bench.peers.taskiq_tasks"], [*python, *taskiq.split()], 10_000, {}
        ),
        "bullmq": Peer([*node, "publish"], [*node, "work"], 50_000, {}),
    }


class Bench:
    """A peer beside its Redis, and the folder where it counts."""

    def __init__(self, peer: Peer, given: Installed, folder: Path, url: str) -> None:
        self.peer = peer
        self.counted = folder / "counts"
        self.counted.mkdir()
        events = folder / "events.ndjson"
        with events.open("wb") as file:
            for number in range(WARM + 2 * peer.events):
                file.write(structured(number) + b"\n")
        self.around = {
            **os.environ,
            **peer.variables,
            counts.FOLDER: str(self.counted),
            sending.REDIS: url,
            sending.EVENTS: str(events),
            "BENCH_MODULES": str(given.modules),
            "PYTHONPATH": str(ROOT),
        }

    @contextlib.contextmanager
    def publisher(self) -> Iterator[Publisher]:
        """Run the program that publishes."""
        with self._started(self.peer.publisher) as process:
            yield Publisher(process)

    @contextlib.contextmanager
    def workers(self) -> Iterator[None]:
        """Run the workers; they finish what they have, and end."""
        with self._started(self.peer.worker):
            yield

    @contextlib.contextmanager
    def _started(self, command: Sequence[str]) -> Iterator[subprocess.Popen[str]]:
        with subprocess.Popen(  # noqa: S603  # its words are all ours
            command,
            cwd=ROOT,
            env=self.around,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            preexec_fn=redis.end_with_parent,  # noqa: PLW1509  # no threads here
        ) as process:
            try:
                yield process
            finally:
                process.terminate()
                try:
                    process.wait(UNTIL_DOWN_S)
                except subprocess.TimeoutExpired:
                    process.kill()

    def reached(self, count: int) -> float:
        """Return when that many have been handled."""
        until = time.perf_counter() + AT_MOST_S
        while (done := counts.total(self.counted)) < count:
            if time.perf_counter() > until:
                raise TimeoutError(f"{done} of {count} events were handled within {AT_MOST_S:g} s")
            time.sleep(0.002)
        return time.perf_counter()


class Publisher:
    """The program that publishes, once it is ready."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._told, self._says = process.stdin, process.stdout
        self._heard("ready")

    def publish(self, first: int, stop: int, *, wait: bool = True) -> None:
        """Let it publish these; with `wait` until all are."""
        self._told.write(f"{first} {stop}\n")
        self._told.flush()
        if wait:
            self.published()

    def published(self) -> None:
        """Wait until what it was told is published."""
        self._heard("published")

    def _heard(self, word: str) -> None:
        line = self._says.readline().strip()
        assert line == word, f"expected {word!r} from the publisher, got {line!r}"


def measure(bench: Bench) -> dict[str, float]:
    """Return events a second: published and handled at once, and handled alone."""
    events = bench.peer.events
    with bench.publisher() as publisher:
        with bench.workers():
            publisher.publish(0, WARM)
            bench.reached(WARM)
            began = time.perf_counter()
            publisher.publish(WARM, WARM + events, wait=False)
            took_s = bench.reached(WARM + events) - began
            publisher.published()
        publisher.publish(WARM + events, WARM + 2 * events)
        with bench.workers():
            # From a tenth on: the start of the workers is not what is measured.
            begun = bench.reached(WARM + events + events // 10)
            before = counts.total(bench.counted)
            drained_s = bench.reached(WARM + 2 * events) - begun
            drained = WARM + 2 * events - before
    return {"per_s": events / took_s, "drained_per_s": drained / drained_s}


def main() -> None:
    """Measure once."""
    parser = argparse.ArgumentParser(prog="bench.peers")
    parser.add_argument("peer", choices=("celery", "dramatiq", "taskiq", "bullmq"))
    parser.add_argument("--fsync", action="store_true", help="Redis syncs before it answers")
    parser.add_argument("--events", type=int, help="for each of the two figures")
    given = parser.parse_args()
    try:
        with_what = installed()
    except Missing as error:
        parser.exit(1, f"The peers can't be installed: {error}\n")
    peer = peers(with_what)[given.peer]
    peer = peer._replace(events=given.events or peer.events)
    with fresh_folder() as folder, redis.server(folder, fsync=given.fsync) as url:
        answer(measure(Bench(peer, with_what, folder, url)))


if __name__ == "__main__":
    main()
