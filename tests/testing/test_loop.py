"""Virtual time, the order drawn from a seed, and what ends a run."""

from __future__ import annotations

import asyncio
import contextvars
import math
import threading
import time
from collections import Counter
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from eventflow.testing import Stuck, TooManySteps, VirtualLoop, run

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

WEEK_S = 7 * 86_400.0


def now_s() -> float:
    return asyncio.get_running_loop().time()


async def started_order(count: int) -> list[int]:
    """Return the order in which tasks made one after the other first run."""
    order: list[int] = []

    async def note(number: int) -> None:
        order.append(number)

    async with asyncio.TaskGroup() as group:
        for number in range(count):
            group.create_task(note(number))
    return order


async def fired_order(delays_s: list[float]) -> list[int]:
    """Return the order in which timers fire that are set one after the other."""
    order: list[int] = []
    for number, delay_s in enumerate(delays_s):
        asyncio.get_running_loop().call_later(delay_s, order.append, number)
    await asyncio.sleep(max(delays_s) + 1)
    return order


class TestTime:
    def test_a_week_takes_less_than_a_second(self) -> None:
        async def a_nap_an_hour() -> float:
            for _ in range(7 * 24):
                await asyncio.sleep(3600)
            return now_s()

        began = time.perf_counter()

        assert run(a_nap_an_hour()) == WEEK_S
        assert time.perf_counter() - began < 1

    @pytest.mark.parametrize("delay_s", [1e-9, 86_400.0, 1e9])
    def test_one_sleep_is_one_jump_however_long(self, delay_s: float) -> None:
        """Loops of asyncio itself wait at most a day at once, and forget timers of a nanosecond."""

        async def nap() -> tuple[float, int]:
            loop = asyncio.get_running_loop()
            assert isinstance(loop, VirtualLoop)
            await asyncio.sleep(delay_s)
            return loop.time(), loop.steps

        assert run(nap()) == (delay_s, 2)

    def test_a_timer_fires_though_a_float_can_no_longer_tell_it_from_now(self) -> None:
        """Thirty years on, a nanosecond more is the same number: it must not wait for ever."""

        async def nap() -> float:
            await asyncio.sleep(1e9)
            await asyncio.sleep(1e-9)
            return now_s()

        assert run(nap(), max_steps=100) == 1e9

    def test_timers_fire_in_the_order_of_their_times(self) -> None:
        delays_s = [3.0, 1.0, 2.0, 0.5]

        assert all(run(fired_order(delays_s), seed=seed) == [3, 1, 2, 0] for seed in range(20))

    def test_time_does_not_run_to_timers_that_were_cancelled(self) -> None:
        async def quick() -> float:
            async with asyncio.timeout(30):
                await asyncio.sleep(1)
            await asyncio.sleep(1)
            return now_s()

        assert run(quick()) == 2

    def test_time_does_not_run_to_a_cancelled_timer_even_if_there_is_no_other(self) -> None:
        async def stop_early() -> None:
            async with asyncio.timeout(30):
                await asyncio.sleep(1)
            await asyncio.Event().wait()

        with pytest.raises(Stuck, match="virtual time 1 s"):
            run(stop_early())

    def test_a_live_timer_survives_a_crowd_of_cancelled_ones(self) -> None:
        async def crowd() -> float:
            alive = asyncio.create_task(asyncio.sleep(50, "alive"))
            for _ in range(1_000):
                async with asyncio.timeout(100):
                    await asyncio.sleep(0.01)
            assert await alive == "alive"
            return now_s()

        assert run(crowd()) == 50

    def test_timeouts_are_kept_to_the_second(self) -> None:
        async def late() -> float:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(5):
                    await asyncio.Event().wait()
            return now_s()

        assert run(late()) == 5


class TestOrder:
    def test_the_same_seed_gives_the_same_order(self) -> None:
        first = [run(started_order(8), seed=seed) for seed in range(20)]
        again = [run(started_order(8), seed=seed) for seed in range(20)]

        assert first == again

    def test_every_order_occurs_about_as_often(self) -> None:
        """No order is out of reach and none is preferred."""
        seen = Counter(tuple(run(started_order(3), seed=seed)) for seed in range(300))

        assert len(seen) == 6
        assert min(seen.values()) > 25

    def test_timers_of_one_moment_fire_in_every_order(self) -> None:
        seen = {tuple(run(fired_order([1.0, 1.0, 1.0]), seed=seed)) for seed in range(60)}

        assert len(seen) == 6

    def test_without_a_seed_it_is_first_in_first_out(self) -> None:
        assert run(started_order(20)) == list(range(20))
        assert run(fired_order([1.0] * 20)) == list(range(20))

    def test_nobody_waits_longer_than_one_step(self) -> None:
        """Only what was ready when a step began is reordered: all take turns."""

        async def take_turns() -> int:
            turns = [0, 0, 0]
            widest = 0

            async def spin(number: int) -> None:
                nonlocal widest
                for _ in range(100):
                    turns[number] += 1
                    widest = max(widest, max(turns) - min(turns))
                    await asyncio.sleep(0)

            async with asyncio.TaskGroup() as group:
                for number in range(3):
                    group.create_task(spin(number))
            return widest

        assert {run(take_turns(), seed=seed) for seed in range(20)} == {1}

    def test_a_set_of_tasks_is_walked_in_the_same_order_every_time(self) -> None:
        """A task group keeps its tasks in a set and cancels them in that set's order."""
        keep_addresses_in_use: list[object] = []

        async def cancelled_order() -> list[int]:
            order: list[int] = []

            async def stay(number: int) -> None:
                keep_addresses_in_use.append(asyncio.current_task())
                try:
                    await asyncio.Event().wait()
                finally:
                    order.append(number)

            async def stop() -> None:
                await asyncio.sleep(1)
                raise ValueError

            with suppress(ExceptionGroup):
                async with asyncio.TaskGroup() as group:
                    for number in range(30):
                        group.create_task(stay(number))
                    group.create_task(stop())
            return order

        runs = [run(cancelled_order(), seed=3) for _ in range(5)]

        assert sorted(runs[0]) == list(range(30))
        assert runs == [runs[0]] * 5

    def test_locks_queues_and_cancellation_stay_correct_in_any_order(self) -> None:
        async def program() -> None:
            lock, queue = asyncio.Lock(), asyncio.Queue[int](maxsize=2)
            inside = 0
            got: list[int] = []

            async def use_the_lock() -> None:
                nonlocal inside
                async with lock:
                    inside += 1
                    try:
                        assert inside == 1
                        await asyncio.sleep(0)
                    finally:
                        inside -= 1

            async def put_all() -> None:
                for number in range(10):
                    await queue.put(number)

            async def get_all() -> None:
                while len(got) < 10:
                    got.append(await queue.get())

            async with asyncio.TaskGroup() as group:
                users = [group.create_task(use_the_lock()) for _ in range(6)]
                group.create_task(put_all())
                group.create_task(get_all())
                await asyncio.sleep(0)
                users[2].cancel()
                users[4].cancel()
            assert got == list(range(10))
            assert inside == 0
            assert not lock.locked()

        for seed in range(50):
            run(program(), seed=seed)


class TestEnds:
    def test_a_deadlock_names_who_waits_and_where(self) -> None:
        async def wait_for_room() -> None:
            await asyncio.Event().wait()

        async def main() -> None:
            await asyncio.sleep(12)
            await asyncio.create_task(wait_for_room(), name="topic email")

        with pytest.raises(Stuck) as stuck:
            run(main(), seed=7)

        assert len(stuck.value.waiting) == 2
        assert "virtual time 12 s, seed 7" in str(stuck.value)
        assert "'topic email' in " in stuck.value.waiting[1]
        assert "wait_for_room (test_loop.py:" in stuck.value.waiting[1]
        assert "> Event.wait (locks.py:" in stuck.value.waiting[1]

    def test_a_timer_at_infinity_keeps_nobody_alive(self) -> None:
        with pytest.raises(Stuck, match="sleep"):
            run(asyncio.sleep(math.inf))

    def test_a_program_that_spins_is_stopped(self) -> None:
        async def spin() -> None:
            while True:  # noqa: ASYNC110  # it waits for nothing: that is its fault
                await asyncio.sleep(0)

        with pytest.raises(TooManySteps, match=r"500 steps \(step 500,(.|\n)*spin \(test_loop.py:"):
            run(spin(), max_steps=500)

    def test_the_last_step_allowed_may_be_the_end(self) -> None:
        assert run(asyncio.sleep(1, "done"), max_steps=4) == "done"
        with pytest.raises(TooManySteps):
            run(asyncio.sleep(1, "done"), max_steps=3)

    def test_a_check_runs_after_every_step_and_ends_the_run_at_once(self) -> None:
        level = 0
        checked: list[int] = []

        def check() -> None:
            checked.append(level)
            assert level < 3, "the queue is over its bound"

        async def fill() -> None:
            nonlocal level
            while True:
                await asyncio.sleep(1)
                level += 1

        with pytest.raises(AssertionError, match="over its bound") as failed:
            run(fill(), seed=5, on_step=[check])

        assert checked == [0, 0, 1, 1, 2, 2, 3]
        assert failed.value.__notes__ == ["virtual loop: step 7, virtual time 3 s, seed 5"]

    def test_an_error_of_main_says_how_to_run_into_it_again(self) -> None:
        async def fail() -> None:
            await asyncio.sleep(1.5)
            raise ValueError("no")

        with pytest.raises(ValueError, match="no") as failed:
            run(fail(), seed=11)

        assert failed.value.__notes__ == ["virtual loop: step 4, virtual time 1.5 s, seed 11"]

    def test_an_error_in_a_callback_ends_the_run(self) -> None:
        async def main() -> None:
            asyncio.get_running_loop().call_later(2, lambda: 1 / 0)
            await asyncio.sleep(10)

        with pytest.raises(ZeroDivisionError) as failed:
            run(main())

        assert failed.value.__notes__[-1] == "virtual loop: step 2, virtual time 2 s, seed None"

    def test_an_error_in_a_task_that_nobody_awaits_ends_the_run(self) -> None:
        async def fail() -> None:
            await asyncio.sleep(1)
            raise ValueError("nobody looks")

        async def main() -> None:
            asyncio.create_task(fail())  # noqa: RUF006  # nobody looks
            await asyncio.sleep(10)

        with pytest.raises(ValueError, match="nobody looks"):
            run(main())


class TestLeftovers:
    def test_they_are_cancelled_oldest_first_and_waited_for(self) -> None:
        ended: list[tuple[str, float]] = []

        async def stay(name: str) -> None:
            try:
                await asyncio.sleep(100)
            finally:
                await asyncio.sleep(1)
                ended.append((name, now_s()))

        async def main() -> str:
            tasks = [asyncio.create_task(stay(name)) for name in "abc"]
            await asyncio.sleep(5)
            return f"{len(tasks)} left"

        assert run(main()) == "3 left"
        assert ended == [("a", 6), ("b", 6), ("c", 6)]

    def test_generators_are_closed(self) -> None:
        closed: list[str] = []

        async def numbers() -> AsyncIterator[int]:
            try:
                yield 1
            finally:
                closed.append("closed")

        kept = numbers()

        async def main() -> None:
            await anext(kept)

        run(main())
        assert closed == ["closed"]

    def test_one_that_does_not_end_is_named(self) -> None:
        async def refuse() -> None:
            while True:
                try:
                    await asyncio.Event().wait()
                except asyncio.CancelledError:
                    continue

        async def main() -> None:
            task = asyncio.create_task(refuse(), name="stubborn")
            await asyncio.sleep(1)
            assert not task.done()

        with pytest.raises(Stuck, match="'stubborn' in"):
            run(main())

    def test_one_that_fails_while_it_ends_fails_the_run(self) -> None:
        async def fail_at_the_end() -> None:
            try:
                await asyncio.sleep(100)
            finally:
                raise ValueError("lost in the end")

        async def main() -> None:
            task = asyncio.create_task(fail_at_the_end())
            await asyncio.sleep(1)
            assert not task.done()

        with pytest.raises(ValueError, match="lost in the end"):
            run(main())

    def test_checks_do_not_run_any_more(self) -> None:
        steps: list[float] = []

        async def main() -> None:
            asyncio.create_task(asyncio.sleep(100))  # noqa: RUF006  # left behind
            await asyncio.sleep(1)

        run(main(), on_step=[lambda: steps.append(now_s())])
        assert steps == [0, 0, 1, 1, 1]


class TestOutsideWorld:
    def test_the_threads_own_loop_is_left_alone(self) -> None:
        before = asyncio.new_event_loop()
        asyncio.set_event_loop(before)
        try:
            run(asyncio.sleep(1))

            assert asyncio.get_event_loop() is before
        finally:
            asyncio.set_event_loop(None)
            before.close()

    async def test_it_does_not_run_inside_a_running_loop(self) -> None:
        with pytest.raises(RuntimeError, match="already runs an event loop"):
            run(asyncio.sleep(1))

    def test_other_threads_are_refused(self) -> None:
        refused: list[str] = []

        async def main() -> None:
            loop = asyncio.get_running_loop()

            def call() -> None:
                try:
                    loop.call_soon_threadsafe(print)
                except RuntimeError as error:
                    refused.append(str(error))

            thread = threading.Thread(target=call, name="writer")
            thread.start()
            thread.join()

        run(main())
        assert len(refused) == 1
        assert "got 'writer'" in refused[0]

    def test_its_own_thread_may_call_threadsafe(self) -> None:
        async def main() -> str:
            called = asyncio.get_running_loop().create_future()
            asyncio.get_running_loop().call_soon_threadsafe(called.set_result, "called")
            return str(await called)

        assert run(main()) == "called"

    def test_functions_for_threads_run_at_once_in_this_one(self) -> None:
        variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable")

        async def main() -> tuple[bool, int, str, int]:
            variable.set("seen")
            future = asyncio.get_running_loop().run_in_executor(None, threading.get_ident)
            done = future.done()
            seen = await asyncio.to_thread(variable.get)
            return done, await future, seen, await asyncio.to_thread(int, "7")

        assert run(main()) == (True, threading.get_ident(), "seen", 7)

    def test_what_such_a_function_raises_reaches_who_awaits_it(self) -> None:
        with pytest.raises(ValueError, match="seven"):
            run(asyncio.to_thread(int, "seven"))

    @pytest.mark.parametrize(
        "reach_out",
        [
            lambda: asyncio.open_connection("localhost", 80),
            lambda: asyncio.open_connection("127.0.0.1", 80),
            lambda: asyncio.start_server(print, "127.0.0.1", 0),
            lambda: asyncio.create_subprocess_exec("true"),
        ],
    )
    def test_there_is_no_network_and_no_process(self, reach_out: Callable[[], object]) -> None:
        async def main() -> None:
            await reach_out()  # type: ignore[misc]

        with pytest.raises(NotImplementedError, match="no network and no processes"):
            run(main())

    def test_it_drives_a_runner(self) -> None:
        with asyncio.Runner(loop_factory=lambda: VirtualLoop(seed=1)) as runner:
            assert runner.run(asyncio.sleep(WEEK_S, "done")) == "done"
            assert runner.get_loop().time() == WEEK_S
