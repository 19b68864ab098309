"""Handlers outside the loop: real threads, and (slow) real processes."""

from __future__ import annotations

import asyncio
import contextvars
import importlib
import os
import signal
import sys
import textwrap
import threading
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from eventflow.clock import SystemClock
from eventflow.delivery import Delivery
from eventflow.errors import ConfigError
from eventflow.event import Event
from eventflow.flow.executors import Threads
from eventflow.flow.handlers import Batch, Handler
from eventflow.flow.slots import Runner
from eventflow.policy.outcome import SUCCEEDED, Postponed
from eventflow.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path
    from types import ModuleType

DELIVERY = Delivery(Event(type="user.registered", source="/shop", data={"id": 7}), "r", "email", 0)


@asynccontextmanager
async def running(
    function: Callable[..., Any], *, concurrency: int = 2, **settings: Any
) -> AsyncIterator[Runner]:
    handler = Handler.of_function(function, **{"timeout_s": 10.0, **settings})
    runner = Runner(handler, "email", concurrency, SystemClock(), Metrics())
    try:
        await runner.start()
        yield runner
    finally:
        await runner.close()


class TestThreads:
    async def test_run_sync_handlers_beside_the_loop(self) -> None:
        seen: list[tuple[Event, str, bool]] = []

        def handler(event: Event) -> None:
            thread = threading.current_thread()
            seen.append((event, thread.name, thread.daemon))

        async with running(handler) as runner:
            assert await runner.run(0, DELIVERY) is SUCCEEDED

        assert seen == [(DELIVERY.event, "eventflow-email-1", True)]

    async def test_run_as_many_at_once_as_the_topic_may(self) -> None:
        """All three wait for each other: with fewer threads this would hang."""
        together = threading.Barrier(3)

        async with running(lambda _: together.wait() and None, concurrency=3) as runner:
            outcomes = await asyncio.gather(*(runner.run(n, DELIVERY) for n in range(3)))

        assert outcomes == [SUCCEEDED] * 3

    async def test_are_used_again(self) -> None:
        seen: set[str] = set()

        async with running(lambda _: seen.add(threading.current_thread().name)) as runner:
            for _ in range(20):
                await runner.run(0, DELIVERY)

        assert seen == {"eventflow-email-1"}

    async def test_see_the_context_of_their_slot(self) -> None:
        variable = contextvars.ContextVar("variable", default="")
        seen: list[str] = []
        variable.set("from the slot")

        async with running(lambda _: seen.append(variable.get())) as runner:
            await runner.run(0, DELIVERY)

        assert seen == ["from the slot"]

    async def test_hand_on_what_a_handler_raises(self) -> None:
        def handler(event: Event) -> None:
            raise KeyError(event.source)

        async with running(handler) as runner:
            failed: Any = await runner.run(0, DELIVERY)

        assert (failed.cause, failed.permanent) == ("KeyError", True)
        assert failed.traceback.count("File ") == 1, "it begins at the handler"

    @pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, GeneratorExit, StopIteration])
    async def test_let_no_handler_end_the_node(self, kind: type[BaseException]) -> None:
        """`sys.exit()` in a thread ends the thread; here it is a failure of this event."""

        def handler(_event: Event) -> None:
            raise kind

        async with running(handler) as runner:
            failed: Any = await runner.run(0, DELIVERY)
            assert failed.cause == "RuntimeError"
            assert kind.__name__ in failed.traceback
            assert (await _run(runner)).cause == "RuntimeError", "the thread still works"

    async def test_refuse_work_that_was_left_undone(self) -> None:
        async def send(_event: Event) -> None: ...

        async with running(lambda event: send(event)) as runner:  # noqa: PLW0108  # as users do
            assert (await _run(runner)).permanent

    async def test_take_batches(self) -> None:
        def handler(events: list[Event]) -> list[Exception | None]:
            return [None] * (len(events) - 1) + [OSError("the last one")]

        async with running(handler, batch=Batch()) as runner:
            outcomes: Any = await runner.run_batch(0, [DELIVERY] * 3)

        assert outcomes[:2] == [SUCCEEDED] * 2
        assert outcomes[2].error == "the last one"


class TestAThreadPastItsTimeout:
    async def test_has_its_outcome_at_once_and_takes_up_a_slot(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level("INFO")
        release = threading.Event()

        async with running(lambda _: release.wait() and None, timeout_s=0.02) as runner:
            failed = await _run(runner)
            assert (failed.cause, failed.timed_out) == ("timeout", True)
            assert failed.error.endswith("of 0.02 s; its thread goes on until it returns")
            assert runner.stuck == 1
            assert [str(reading[2]) for reading in runner._gauges()] == ["1"]  # noqa: SLF001  # the metric

            release.set()
            while runner.stuck:  # noqa: ASYNC110  # the thread returns in its own time
                await asyncio.sleep(0)

        logged = [record.getMessage() for record in caplog.records]
        assert logged[0].startswith("thread.stuck topic=email handler=")
        assert logged[1].startswith("thread.returned topic=email handler=")

    async def test_does_not_use_up_the_time_of_the_next_run(self) -> None:
        """The next one waits for a free thread; its time begins when it has one."""
        release = threading.Event()
        block = iter([True, False])

        def handler(_event: Event) -> None:
            if next(block):
                release.wait()

        async with running(handler, timeout_s=0.03, concurrency=1) as runner:
            assert (await _run(runner)).timed_out
            asyncio.get_running_loop().call_later(0.1, release.set)

            assert await runner.run(0, DELIVERY) is SUCCEEDED

    async def test_leaves_the_next_run_its_own_timeout(self) -> None:
        first, second = threading.Event(), threading.Event()
        holds = iter([first, second])

        async with running(
            lambda _: next(holds).wait() and None, timeout_s=0.03, concurrency=1
        ) as r:
            assert (await _run(r)).timed_out
            asyncio.get_running_loop().call_later(0.05, first.set)
            async with asyncio.timeout(5):
                assert (await _run(r)).timed_out
            second.set()

    async def test_frees_one_place_for_one_who_waits(self) -> None:
        """However waiting is given up, a free thread is never forgotten."""
        threads = Threads(1, "t", asyncio.get_running_loop())
        release = threading.Event()
        future = threads.submit(release.wait, ())
        given_up, woken_too_late, waits = (asyncio.create_task(threads.room()) for _ in range(3))
        await asyncio.sleep(0)
        given_up.cancel()
        await asyncio.sleep(0)
        future.add_done_callback(lambda _: woken_too_late.cancel())
        release.set()

        await waits
        assert woken_too_late.cancelled()
        assert threads.busy == 0
        threads.close()

    def test_may_return_when_nobody_is_there_any_more(self) -> None:
        """The loop is closed by then. The thread ends without a word."""
        release = threading.Event()
        threads: list[threading.Thread] = []

        def handler(_event: Event) -> None:
            threads.append(threading.current_thread())
            release.wait()

        async def story() -> None:
            async with running(handler, timeout_s=0.02) as runner:
                assert (await _run(runner)).timed_out

        asyncio.run(story())
        release.set()
        threads[0].join(5)

        assert not threads[0].is_alive()


HANDLERS = """
    import os, time
    from eventflow import Permanent, RetryLater

    time.sleep(float(os.environ.get("SLOW_START_S", "0")))

    def pid(event, delivery):
        assert event == delivery.event and event.data == {"id": 7}
        raise OSError(f"from {os.getpid()}")

    def later(event):
        raise RetryLater(60, count=False)

    def moody(event, delivery):
        if delivery.attempt == 1:
            while True:
                time.sleep(60)
        if delivery.attempt == 2:
            os._exit(3)

    def half(events):
        return [None if n % 2 else Permanent(f"{n}") for n in range(len(events))]

    def exits(event):
        raise SystemExit(1)
"""


@pytest.fixture
def theirs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """A module of a user's, where worker processes can import it from."""
    (tmp_path / "shop_handlers.py").write_text(textwrap.dedent(HANDLERS))
    monkeypatch.syspath_prepend(tmp_path)
    yield importlib.import_module("shop_handlers")
    del sys.modules["shop_handlers"]


def attempt(number: int) -> Delivery:
    tally = type(DELIVERY.tally)(attempts=number - 1)
    return Delivery(DELIVERY.event, "r", "email", 0, tally=tally)


@pytest.mark.slow
@pytest.mark.timeout(60)
class TestProcesses:
    async def test_run_a_handler_elsewhere_and_tell_what_it_raised(
        self, theirs: ModuleType
    ) -> None:
        async with running(theirs.pid, executor="process", concurrency=1) as runner:
            failed = await _run(runner)

        assert failed.cause == "OSError"
        assert failed.error.startswith("from ")
        assert failed.error != f"from {os.getpid()}"
        assert "raise OSError" in failed.traceback

    async def test_know_the_words_of_handlers(self, theirs: ModuleType) -> None:
        async with running(theirs.later, executor="process", concurrency=1) as runner:
            postponed = await _run(runner)

        assert isinstance(postponed, Postponed)
        assert not postponed.counted

    async def test_are_killed_when_their_time_is_over_and_replaced(
        self, theirs: ModuleType
    ) -> None:
        """The one that runs for ever, the one that dies, the one that ends well."""
        async with running(theirs.moody, executor="process", concurrency=1, timeout_s=2) as runner:
            hung: Any = await runner.run(0, attempt(1))
            died: Any = await runner.run(0, attempt(2))
            well = await runner.run(0, attempt(3))

        assert (hung.cause, hung.timed_out) == ("timeout", True)
        assert (died.cause, died.permanent) == ("ProcessDied", False)
        assert died.error == "its worker process ended with status 3"
        assert well is SUCCEEDED

    async def test_have_time_to_start(
        self, theirs: ModuleType, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A run's time begins when a process has taken it."""
        monkeypatch.setenv("SLOW_START_S", "2")
        handler = Handler.of_function(theirs.later, executor="process", timeout_s=1)
        runner = Runner(handler, "email", 1, SystemClock(), Metrics())

        assert isinstance(await _run(runner), Postponed)
        await runner.close()

    async def test_take_batches(self, theirs: ModuleType) -> None:
        async with running(theirs.half, executor="process", concurrency=1, batch=Batch()) as runner:
            outcomes: Any = await runner.run_batch(0, [DELIVERY] * 3)

        assert [one is SUCCEEDED for one in outcomes] == [False, True, False]
        assert outcomes[2].permanent
        assert outcomes[2].error == "2"

    async def test_let_no_handler_end_them(self, theirs: ModuleType) -> None:
        async with running(theirs.exits, executor="process", concurrency=1) as runner:
            assert (await _run(runner)).cause == "SystemExit"

    async def test_that_can_not_import_the_handler_are_found_out_at_start(
        self, theirs: ModuleType, tmp_path: Path
    ) -> None:
        (tmp_path / "shop_handlers.py").write_text("raise OSError('no settings here')")

        with pytest.raises(ConfigError, match="can't import it: OSError: no settings here"):
            async with running(theirs.later, executor="process", concurrency=1):
                pass

    async def test_are_gone_when_the_runner_is_closed(self, theirs: ModuleType) -> None:
        async with running(theirs.pid, executor="process", concurrency=1) as runner:
            pid = int((await _run(runner)).error.removeprefix("from "))

        with pytest.raises(ProcessLookupError):
            os.kill(pid, signal.SIG_DFL)


async def _run(runner: Runner) -> Any:
    return await runner.run(0, DELIVERY)
