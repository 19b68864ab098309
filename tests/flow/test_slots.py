"""How a run ends: in every way a handler can end, and in those it can't help."""

from __future__ import annotations

import asyncio
import contextlib
from math import inf
from typing import TYPE_CHECKING, Any

import pytest

from eventflow import testing
from eventflow.delivery import Delivery
from eventflow.errors import Permanent, RetryLater
from eventflow.event import Event
from eventflow.flow.handlers import Batch, Handler
from eventflow.flow.slots import Runner, is_virtual
from eventflow.policy.outcome import SUCCEEDED, Failed, Postponed
from eventflow.telemetry import names
from eventflow.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from eventflow.policy.causes import Verdict

DELIVERY = Delivery(Event(type="user.registered", source="/shop"), "ref", "email", 0.0)
TIMEOUT_S = 10.0


def runner_of(
    function: Callable[..., Any],
    *,
    timeout_s: float = TIMEOUT_S,
    batch: Batch | None = None,
    metrics: Metrics | None = None,
    overrides: dict[str, Verdict] | None = None,
) -> Runner:
    """Return a runner on the running loop, virtual in all tests of this file."""
    handler = Handler.of_function(function, timeout_s=timeout_s, batch=batch)
    return Runner(handler, "email", 2, testing.VirtualClock(), metrics or Metrics(), overrides)


def outcome(function: Callable[..., Any], **settings: Any) -> Any:
    """Return how one run of a handler ends, on virtual time."""

    async def story() -> Any:
        return await runner_of(function, **settings).run(0, DELIVERY)

    return testing.run(story())


def now() -> float:
    return asyncio.get_running_loop().time()


def left_over() -> int:
    """Return how many cancellations the running task still has before it."""
    task = asyncio.current_task()
    assert task is not None
    return task.cancelling()


class TestARun:
    def test_that_returns_has_succeeded(self) -> None:
        seen: list[Event] = []

        async def handler(event: Event) -> str:
            seen.append(event)
            return "what it returns does not matter"

        assert outcome(handler) is SUCCEEDED
        assert seen == [DELIVERY.event]

    def test_gets_the_delivery_if_it_asks_for_it(self) -> None:
        seen: list[Delivery] = []

        async def handler(event: Event, delivery: Delivery) -> None:
            assert event is delivery.event
            seen.append(delivery)

        assert outcome(handler) is SUCCEEDED
        assert seen == [DELIVERY]

    def test_that_raises_has_failed(self) -> None:
        async def handler(event: Event) -> None:
            raise ConnectionError(f"no route to {event.source}")

        failed = outcome(handler)

        assert (failed.cause, failed.error) == ("ConnectionError", "no route to /shop")
        assert not failed.permanent
        assert not failed.timed_out

    def test_shows_a_traceback_that_begins_at_the_handler(self) -> None:
        async def handler(_event: Event) -> None:
            raise KeyError("id")

        failed = outcome(handler)

        assert failed.permanent
        assert failed.traceback.count("File ") == 1
        assert "in handler" in failed.traceback

    def test_may_ask_for_another_time(self) -> None:
        async def handler(_event: Event) -> None:
            raise RetryLater(60, count=False, why="at lunch")

        assert outcome(handler) == Postponed(testing.EPOCH_S + 60, counted=False, why="at lunch")

    def test_may_say_that_nothing_helps(self) -> None:
        async def handler(_event: Event) -> None:
            raise Permanent("no such user")

        failed = outcome(handler)

        assert (failed.cause, failed.error, failed.permanent) == (
            "Permanent",
            "no such user",
            True,
        )

    def test_is_judged_by_the_topics_own_words(self) -> None:
        async def handler(_event: Event) -> None:
            raise KeyError("id")

        assert not outcome(handler, overrides={"KeyError": "retry"}).permanent

    @pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
    def test_that_ends_the_process_ends_it(self, kind: type[BaseException]) -> None:
        async def handler(_event: Event) -> None:
            raise kind

        with pytest.raises(kind):
            outcome(handler)

    def test_of_a_sync_function_is_called_at_once_on_a_virtual_loop(self) -> None:
        def handler(_event: Event) -> None:
            raise OSError("no")

        assert outcome(handler).cause == "OSError"

    def test_of_a_sync_function_that_leaves_work_undone_has_failed(self) -> None:
        """`lambda event: send(event)` calls nothing of `send`: never take that as delivered."""

        async def send(_event: Event) -> None: ...

        failed = outcome(lambda event: send(event))  # noqa: PLW0108  # as users write it

        assert failed.permanent
        assert "async def handler(event): await send(event)" in failed.error


class TestATimeout:
    def test_ends_the_run_when_its_time_is_over(self) -> None:
        async def handler(_event: Event) -> None:
            await asyncio.sleep(3_600)

        async def story() -> None:
            failed = await runner_of(handler).run(0, DELIVERY)

            assert isinstance(failed, Failed)
            assert (failed.cause, failed.timed_out) == ("timeout", True)
            assert failed.error == "ran longer than its timeout of 10 s"
            assert "asyncio.sleep(3_600)" in (failed.traceback or "")
            assert now() == TIMEOUT_S
            assert left_over() == 0

        testing.run(story())

    def test_leaves_a_run_alone_that_ends_in_time(self) -> None:
        async def handler(_event: Event) -> None:
            await asyncio.sleep(TIMEOUT_S - 0.001)

        assert outcome(handler) is SUCCEEDED

    def test_is_each_runs_own(self) -> None:
        """The second begins 4 s after the first in another slot, and ends 4 s after it."""
        ended: dict[int, float] = {}

        async def handler(_event: Event) -> None:
            await asyncio.sleep(3_600)

        async def slot(runner: Runner, number: int) -> None:
            await asyncio.sleep(4 * number)
            await runner.run(number, DELIVERY)
            ended[number] = now()

        async def story() -> None:
            runner = runner_of(handler)
            await asyncio.gather(slot(runner, 0), slot(runner, 1))

        testing.run(story())

        assert ended == {0: TIMEOUT_S, 1: TIMEOUT_S + 4}

    def test_is_that_of_the_run_not_of_the_one_before(self) -> None:
        """The timer of the first run rings during the third, which has time left."""

        async def handler(_event: Event) -> None:
            await asyncio.sleep(4)

        async def story() -> None:
            runner = runner_of(handler)

            assert [await runner.run(0, DELIVERY) for _ in range(10)] == [SUCCEEDED] * 10

        testing.run(story())

    def test_may_be_shortened_while_running(self) -> None:
        async def handler(_event: Event) -> None:
            await asyncio.sleep(3_600)

        async def story() -> None:
            runner = runner_of(handler)
            first = asyncio.create_task(_run(runner, 0))
            await asyncio.sleep(1)
            runner.handler = Handler.of_function(handler, timeout_s=2)
            second = asyncio.create_task(_run(runner, 1))

            assert (await second).timed_out
            assert now() == 3
            assert (await first).timed_out
            assert now() == TIMEOUT_S

        testing.run(story())

    def test_costs_one_timer_however_many_run(self, monkeypatch: pytest.MonkeyPatch) -> None:
        async def handler(_event: Event) -> None:
            await asyncio.sleep(0)

        async def story() -> None:
            runner = runner_of(handler)
            armed: list[float] = []
            arm = runner.timekeeper.arm

            def counted(at: float) -> None:
                armed.append(at)
                arm(at)

            monkeypatch.setattr(runner.timekeeper, "arm", counted)
            await asyncio.gather(*(_many(runner, number, 100) for number in range(5)))

            assert armed == [TIMEOUT_S]

        testing.run(story())

    def test_rests_while_nothing_runs(self) -> None:
        async def handler(_event: Event) -> None: ...

        async def story() -> None:
            runner = runner_of(handler)
            await runner.run(0, DELIVERY)
            await asyncio.sleep(100)

            assert runner.timekeeper.armed_at == inf

        testing.run(story())

    def test_lets_a_handler_clean_up_and_return(self) -> None:
        """It returned: whoever swallows a cancellation says that the work is done."""

        async def handler(_event: Event) -> None:
            try:
                await asyncio.sleep(3_600)
            except asyncio.CancelledError:
                await asyncio.sleep(1)

        async def story() -> None:
            assert await runner_of(handler).run(0, DELIVERY) is SUCCEEDED
            assert left_over() == 0
            await asyncio.sleep(1)  # and nothing ends this

        testing.run(story())

    def test_is_the_cause_also_where_cleaning_up_fails(self) -> None:
        async def handler(_event: Event) -> None:
            try:
                await asyncio.sleep(3_600)
            finally:
                raise KeyError("connection")

        failed = outcome(handler)

        assert (failed.cause, failed.permanent) == ("timeout", False)
        assert failed.error == "ran longer than its timeout of 10 s, then raised KeyError"
        assert "KeyError" in failed.traceback

    @pytest.mark.parametrize("said", [Permanent("gone"), RetryLater(60)])
    def test_leaves_the_last_word_to_the_handler(self, said: Exception) -> None:
        async def handler(_event: Event) -> None:
            try:
                await asyncio.sleep(3_600)
            except asyncio.CancelledError:
                raise said from None

        ended = outcome(handler)

        assert isinstance(ended, Postponed) or ended.cause == "Permanent"

    def test_of_the_handlers_own_is_a_failure_like_any_other(self) -> None:
        async def handler(_event: Event) -> None:
            async with asyncio.timeout(1):
                await asyncio.sleep(3_600)

        failed = outcome(handler)

        assert (failed.cause, failed.timed_out) == ("TimeoutError", False)


class TestACancellation:
    def test_that_the_handler_raised_itself_is_a_failure(self) -> None:
        """Awaiting a task that somebody cancelled, for instance."""

        async def handler(_event: Event) -> None:
            raise asyncio.CancelledError

        failed = outcome(handler)

        assert (failed.cause, failed.permanent) == ("CancelledError", False)

    def test_from_outside_passes(self) -> None:
        async def handler(_event: Event) -> None:
            await asyncio.sleep(5)

        async def story() -> None:
            slot = asyncio.create_task(_run(runner_of(handler), 0))
            await asyncio.sleep(1)
            slot.cancel()
            with pytest.raises(asyncio.CancelledError):
                await slot
            assert slot.cancelled()
            assert now() == 1

        testing.run(story())

    def test_from_outside_passes_also_at_the_moment_of_the_timeout(self) -> None:
        async def handler(_event: Event) -> None:
            await asyncio.sleep(3_600)

        async def story() -> None:
            slot = asyncio.create_task(_run(runner_of(handler), 0))
            asyncio.get_running_loop().call_at(TIMEOUT_S, slot.cancel)
            with pytest.raises(asyncio.CancelledError):
                await slot

        testing.run(story())

    @pytest.mark.parametrize("error", [None, OSError("while cleaning up")])
    def test_from_outside_ends_the_slot_even_if_the_handler_swallowed_it(
        self, error: Exception | None
    ) -> None:
        """Its outcome counts, and still the slot ends: or a node could never be stopped."""
        outcomes: list[object] = []

        async def handler(_event: Event) -> None:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(5)
            if error is not None:
                raise error

        async def slot(runner: Runner) -> None:
            while True:
                outcomes.append(await runner.run(0, DELIVERY))
                await asyncio.sleep(0)

        async def story() -> None:
            task = asyncio.create_task(slot(runner_of(handler)))
            await asyncio.sleep(1)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

        testing.run(story())

        assert len(outcomes) == 1
        assert (outcomes[0] is SUCCEEDED) == (error is None)

    def test_leaves_the_slots_number_to_the_next_task(self) -> None:
        async def handler(_event: Event) -> None:
            await asyncio.sleep(3_600)

        async def story() -> None:
            runner = runner_of(handler)
            first = asyncio.create_task(_run(runner, 0))
            await asyncio.sleep(1)
            first.cancel()
            await asyncio.sleep(1)

            assert (await _run(runner, 0)).timed_out
            assert now() == 2 + TIMEOUT_S

        testing.run(story())


class TestABatch:
    def outcomes(self, function: Callable[..., Any], count: int = 3, **settings: Any) -> Any:
        async def story() -> Sequence[Any]:
            runner = runner_of(function, batch=Batch(), **settings)
            return await runner.run_batch(0, [DELIVERY] * count)

        return testing.run(story())

    def test_gets_lists(self) -> None:
        seen: list[Any] = []

        async def handler(events: list[Event], deliveries: list[Delivery]) -> None:
            seen.append((events, deliveries))

        assert self.outcomes(handler, 2) == [SUCCEEDED, SUCCEEDED]
        assert seen == [([DELIVERY.event] * 2, [DELIVERY] * 2)]

    def test_says_how_each_event_ended(self) -> None:
        async def handler(events: list[Event]) -> list[Exception | None]:
            assert len(events) == 4
            return [None, OSError("no"), Permanent("never"), RetryLater(60)]

        well, failed, dead, later = self.outcomes(handler, 4)

        assert well is SUCCEEDED
        assert (failed.cause, failed.permanent) == ("OSError", False)
        assert dead.permanent
        assert later.until == testing.EPOCH_S + 60

    @pytest.mark.parametrize("returned", [[None], [None, None, "sent"], "fine", 3])
    def test_that_says_nothing_sure_has_failed_for_good(self, returned: Any) -> None:
        async def handler(events: list[Event]) -> Any:
            assert events
            return returned

        outcomes = self.outcomes(handler)

        assert [one.permanent for one in outcomes] == [True] * 3
        assert "return [None, error, None]" in outcomes[0].error

    def test_that_raises_has_failed_for_all(self) -> None:
        async def handler(events: list[Event]) -> None:
            raise OSError(f"{len(events)} too many")

        assert [one.error for one in self.outcomes(handler)] == ["3 too many"] * 3

    def test_has_one_timeout(self) -> None:
        async def handler(_events: list[Event]) -> None:
            await asyncio.sleep(3_600)

        assert [one.timed_out for one in self.outcomes(handler)] == [True] * 3

    def test_may_clean_up_after_its_timeout(self) -> None:
        async def handler(_events: list[Event]) -> None:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(3_600)

        assert self.outcomes(handler) == [SUCCEEDED] * 3

    def test_that_is_cancelled_from_outside_has_no_outcome(self) -> None:
        async def handler(_events: list[Event]) -> None:
            await asyncio.sleep(5)

        async def story() -> None:
            runner = runner_of(handler, batch=Batch())
            slot = asyncio.create_task(_awaited(runner.run_batch(0, [DELIVERY])))
            await asyncio.sleep(1)
            slot.cancel()
            with pytest.raises(asyncio.CancelledError):
                await slot

        testing.run(story())

    def test_of_a_sync_function_is_called_at_once_on_a_virtual_loop(self) -> None:
        assert self.outcomes(lambda events: [None] * len(events)) == [SUCCEEDED] * 3


class TestDurations:
    def test_are_all_counted_when_somebody_looks(self) -> None:
        metrics = Metrics()

        async def handler(_event: Event) -> None:
            await asyncio.sleep(0.02)

        async def story() -> None:
            runner = runner_of(handler, metrics=metrics)
            await _many(runner, 0, 1_234)

            assert b'handler_seconds_count{topic="email"} 1234.0' in metrics.render()
            assert metrics.quantile(names.HANDLER_SECONDS, 0.5, "email") == pytest.approx(
                0.02, abs=0.01
            )

        testing.run(story())

    def test_of_failures_count_too_and_a_batch_counts_once(self) -> None:
        metrics = Metrics()

        async def handler(_event: Event) -> None:
            raise OSError("no")

        async def story() -> None:
            await runner_of(handler, metrics=metrics).run(0, DELIVERY)
            await runner_of(handler, metrics=metrics, batch=Batch()).run_batch(0, [DELIVERY] * 9)

        testing.run(story())

        assert b'handler_seconds_count{topic="email"} 2.0' in metrics.render()

    def test_are_handed_over_when_it_closes(self) -> None:
        metrics = Metrics()

        async def handler(_event: Event) -> None: ...

        async def story() -> None:
            runner = runner_of(handler, metrics=metrics)
            assert b"eventflow_stuck_threads{" in metrics.render()
            await runner.run(0, DELIVERY)
            await runner.close()

        testing.run(story())

        assert b'handler_seconds_count{topic="email"} 1.0' in metrics.render()
        assert b"eventflow_stuck_threads{" not in metrics.render()


def test_a_real_loop_is_not_virtual() -> None:
    loop = asyncio.new_event_loop()
    assert not is_virtual(loop)
    loop.close()


def test_the_virtual_loop_is() -> None:
    """`flow` may not import `testing`, so it knows the loop by an attribute."""
    loop = testing.VirtualLoop()
    assert is_virtual(loop)
    loop.close()


async def _run(runner: Runner, number: int) -> Any:
    return await runner.run(number, DELIVERY)


async def _many(runner: Runner, number: int, count: int) -> None:
    for _ in range(count):
        await runner.run(number, DELIVERY)


async def _awaited(awaitable: Any) -> Any:
    return await awaitable
