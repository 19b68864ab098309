"""(a) The floor: what this machine allows, without EventFlow.

Decodes the same bytes, group-commits them to SQLite with fsync before anything else happens,
awaits the same handler for each event and deletes what is done. No dedup, no topics, no bounds, no
priorities, no retries, no counters. Its batch size, its window and its checkpoint interval are
tried out before it counts: see `SETTINGS`.
"""

from __future__ import annotations

import argparse
import asyncio
import queue
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple

import apsw
import msgspec
import uvloop

from bench.payload import batches
from bench.report import answer, fresh_folder
from eventflow.app.serving import tune

if TYPE_CHECKING:
    from pathlib import Path


class Wire(msgspec.Struct, gc=False, frozen=True):
    """An event, its data unlooked at."""

    specversion: str
    id: str
    source: str
    type: str
    time: str | None = None
    data: msgspec.Raw = msgspec.Raw()


class Setting(NamedTuple):
    """What is tried out."""

    batch: int
    window: int
    """Batches on their way to the disk at once."""
    autocheckpoint_pages: int = 1000


SETTINGS = (
    Setting(500, 1),
    Setting(500, 2),
    Setting(500, 4),
    Setting(1000, 2),
    Setting(2000, 2),
    Setting(500, 2, 4000),
    Setting(1000, 2, 4000),
    Setting(2000, 2, 4000),
    Setting(1000, 4, 4000),
)
BEST = 6
"""Which of them was the fastest where it was tried: `python -m bench floor --tune`."""


class Disk:
    """A thread that takes all that has come and makes it durable in one transaction."""

    def __init__(self, path: Path, autocheckpoint_pages: int) -> None:
        self.loop = asyncio.get_running_loop()
        self.given: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.connection = apsw.Connection(str(path))
        for pragma in (
            "locking_mode=EXCLUSIVE",
            "journal_mode=WAL",
            "synchronous=FULL",
            f"wal_autocheckpoint={autocheckpoint_pages}",
            "temp_store=MEMORY",
        ):
            self.connection.execute(f"PRAGMA {pragma}")
        self.connection.execute("CREATE TABLE body (number INTEGER PRIMARY KEY, blob BLOB)")
        self.thread = threading.Thread(target=self.work, daemon=True)
        self.thread.start()

    def work(self) -> None:
        """Commit until told to end."""
        run = self.connection.execute
        while (first := self.given.get()) is not None:
            batch = [first]
            while not self.given.empty():
                batch.append(self.given.get())
            run("BEGIN IMMEDIATE")
            # A row for all, under the last one's number: this thread waits for the interpreter
            # after each statement, and a door gives it a hundred bodies at once.
            kept = [(number, body) for number, body, _, _ in batch if body is not None]
            if kept:
                blob = kept[0][1] if len(kept) == 1 else b"".join([body for _, body in kept])
                run("INSERT INTO body VALUES (?, ?)", (kept[-1][0], blob))
            gone = max((gone for _, _, gone, _ in batch if gone is not None), default=None)
            if gone is not None:
                run("DELETE FROM body WHERE number <= ?", (gone,))
            run("COMMIT")
            self.loop.call_soon_threadsafe(self.tell, batch)

    @staticmethod
    def tell(batch: list[Any]) -> None:
        """Let those go on whose batches are durable."""
        for _, _, _, future in batch:
            if not future.done():
                future.set_result(None)

    def submit(self, number: int, body: bytes | None, gone: int | None) -> asyncio.Future[None]:
        """Return what ends when this body is durable and those up to `gone` are deleted."""
        future = self.loop.create_future()
        self.given.put((number, body, gone, future))
        return future


async def nothing(event: Any) -> None:
    """The handler."""


async def run(path: Path, bodies: list[bytes], events: int, setting: Setting) -> dict[str, float]:
    """Return events a second, from the first decode until all is deleted, durably."""
    disk = Disk(path, setting.autocheckpoint_pages)
    decode = msgspec.json.Decoder(list[Wire]).decode
    handled = 0
    gone: int | None = None
    cpu_s = time.process_time()
    began = time.perf_counter()
    window: deque[tuple[int, list[Wire], asyncio.Future[None]]] = deque()
    for number, body in enumerate(bodies):
        body.isascii()
        decoded = decode(body)
        window.append((number, decoded, disk.submit(number, body, gone)))
        gone = None
        if len(window) >= setting.window:
            done, batch, future = window.popleft()
            await future
            for event in batch:
                await nothing(event)
            handled += len(batch)
            gone = done
    for done, batch, future in window:
        await future
        for event in batch:
            await nothing(event)
        handled += len(batch)
        gone = done
    await disk.submit(0, None, gone)
    took_s = time.perf_counter() - began
    cpu_s = time.process_time() - cpu_s
    disk.given.put(None)
    disk.thread.join()
    assert handled == events
    assert disk.connection.execute("SELECT count(*) FROM body").fetchall() == [(0,)]
    disk.connection.close()
    return {"per_s": events / took_s, "cpu_us": cpu_s / events * 1e6}


def main() -> None:
    """Measure once, with the setting named, or try all of them."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--events", type=int, default=200_000)
    parser.add_argument("--setting", type=int, choices=range(len(SETTINGS)), default=BEST)
    given = parser.parse_args()
    tune()
    setting = SETTINGS[given.setting]
    bodies = batches(given.events, setting.batch)
    with fresh_folder() as folder:
        answer(uvloop.run(run(folder / "floor.db", bodies, given.events, setting)))


if __name__ == "__main__":
    main()
