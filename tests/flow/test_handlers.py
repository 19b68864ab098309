"""What may be a handler, and what is said of what may not."""

from __future__ import annotations

import functools
import time
from typing import TYPE_CHECKING, Any

import pytest

from eventflow.delivery import Delivery  # noqa: TC001  # an annotation that is looked at
from eventflow.errors import ConfigError
from eventflow.flow.handlers import Batch, Handler, check_importable, name_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from eventflow.event import Event


async def plain(event: Event) -> None: ...
async def both(event: Event, delivery: Delivery) -> None: ...
async def annotated(event: Event, about: Delivery) -> None: ...
async def with_default(event: Event, client: str = "one") -> None: ...
async def with_both(event: Event, delivery: Delivery | None = None, client: str = "") -> None: ...
async def of_lists(events: list[Event], found: Sequence[Delivery]) -> None: ...
async def variable(*events: Event) -> None: ...
def sync(event: Event) -> None: ...


class Callee:
    async def __call__(self, event: Event) -> None: ...

    async def method(self, event: Event, delivery: Delivery) -> None: ...


def of(function: Callable[..., Any], **settings: Any) -> Handler:
    return Handler.of_function(function, **{"timeout_s": 10.0, **settings})


@pytest.mark.parametrize(
    ("function", "mode", "wants_delivery"),
    [
        (plain, "async", False),
        (both, "async", True),
        (annotated, "async", True),
        (with_default, "async", False),
        (with_both, "async", True),
        (variable, "async", False),
        (sync, "thread", False),
        (Callee(), "async", False),
        (Callee().method, "async", True),
        (functools.partial(with_default, client="two"), "async", False),
        (lambda event: None, "thread", False),  # noqa: ARG005  # it has to be there
    ],
)
def test_a_function_becomes_a_handler(
    function: Callable[..., Any], mode: str, *, wants_delivery: bool
) -> None:
    handler = of(function)

    assert (handler.mode, handler.wants_delivery) == (mode, wants_delivery)


def test_lists_of_deliveries_are_known_by_their_annotation() -> None:
    assert of(of_lists, batch=Batch()).wants_delivery


def test_a_function_without_a_signature_takes_the_event() -> None:
    """Some functions written in C don't say what they take."""
    assert not of(time.sleep).wants_delivery


def test_names_say_where_a_function_is_written() -> None:
    assert name_of(plain).endswith("test_handlers.plain")
    assert name_of(Callee()).endswith("test_handlers.Callee")
    assert name_of(Callee().method).endswith("test_handlers.Callee.method")
    assert name_of(functools.partial(plain)).endswith("test_handlers.plain")


async def nothing() -> None: ...
async def too_much(event: Event, client: str) -> None: ...
async def by_keyword(event: Event, *, delivery: Delivery) -> None: ...
async def turned(delivery: Delivery, event: Event) -> None: ...


@pytest.mark.parametrize(
    ("function", "said", "wrong"),
    [
        (nothing, "it takes no event", "async def nothing(): ..."),
        (
            too_much,
            "nothing is given for its parameter 'client'",
            "async def too_much(event, client): ...",
        ),
        (
            by_keyword,
            "nothing is given for its parameter 'delivery'",
            "async def by_keyword(event, *, delivery): ...",
        ),
        (turned, "the event comes first", "async def turned(delivery, event): ..."),
    ],
)
def test_a_wrong_signature_is_shown_beside_a_right_one(
    function: Callable[..., Any], said: str, wrong: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        of(function)

    lines = str(caught.value).splitlines()
    assert lines[0] == f"handler {name_of(function)}: {said}."
    assert lines[1].split("#")[0].strip() == wrong
    assert lines[1].endswith("# wrong")
    assert lines[2].split("#")[0].strip() == f"async def {function.__name__}(event): ..."
    assert len({line.index("#") for line in lines[1:]}) == 1, "the remarks stand in a column"


def test_a_batch_handler_is_told_of_lists() -> None:
    with pytest.raises(ConfigError, match=r"async def nothing\(events, deliveries\): ..."):
        of(nothing, batch=Batch())


def test_what_yields_is_no_handler() -> None:
    async def generator(event: Event) -> Any:
        yield event

    def sync_generator(event: Event) -> Any:
        yield event

    for function in (generator, sync_generator):
        with pytest.raises(ConfigError, match="it yields, so a call would run nothing of it"):
            of(function)


def test_what_is_no_function_is_refused() -> None:
    not_a_function: Any = "send_welcome"
    with pytest.raises(ConfigError, match="expected a function, got 'send_welcome'"):
        of(not_a_function)


@pytest.mark.parametrize("timeout_s", [0, -1, float("nan")])
def test_a_timeout_is_above_zero(timeout_s: float) -> None:
    with pytest.raises(ConfigError, match="timeout: expected above 0 s"):
        of(plain, timeout_s=timeout_s)


class TestProcesses:
    def test_a_function_at_the_top_of_a_module_may_run_in_a_process(self) -> None:
        handler = of(sync, executor="process")
        check_importable(handler)

        assert handler.mode == "process"

    def test_nothing_else_may(self) -> None:
        def inner(event: Event) -> None: ...

        for function in (inner, lambda event: event, functools.partial(sync), "".join):
            with pytest.raises(ConfigError, match="a worker process imports the function by its"):
                of(function, executor="process")

    def test_a_name_that_means_something_else_is_found_out_at_start(self) -> None:
        """While the decorator runs, the module does not hold the function yet."""

        def impostor(event: Event) -> None: ...

        impostor.__qualname__ = "sync"
        handler = of(impostor, executor="process")
        with pytest.raises(ConfigError, match="can't find this one"):
            check_importable(handler)

    def test_an_async_function_may_not(self) -> None:
        with pytest.raises(ConfigError, match="an async function runs in the event loop"):
            of(plain, executor="process")

    def test_another_word_for_it_gets_a_hint(self) -> None:
        with pytest.raises(ConfigError, match=r"got 'proces'. Did you mean 'process'\?"):
            of(sync, executor="proces")


class TestBatch:
    def test_is_written_with_units(self) -> None:
        assert Batch(max=100, linger="50ms") == Batch(100, linger_s=0.05)
        assert Batch() == Batch(500, linger_s=0.02)
        assert Batch(linger_s=0) != Batch()
        assert len({Batch(), Batch(500)}) == 1

    @pytest.mark.parametrize(
        ("settings", "said"),
        [
            ({"max": 0}, "batch.max: expected 1 to 10000 events, got 0"),
            ({"max": 10_001}, "batch.max: expected 1 to 10000 events, got 10001"),
            ({"linger": "20"}, "got '20'. Write it as linger='20ms'"),
            ({"linger": 20}, "Write it as linger='20ms'"),
            ({"linger": "61s"}, "batch.linger: expected 0 to 60 seconds, got 61.0"),
            ({"linger_s": -1}, "batch.linger: expected 0 to 60 seconds, got -1"),
        ],
    )
    def test_a_value_out_of_range_is_refused(self, settings: dict[str, Any], said: str) -> None:
        with pytest.raises(ConfigError) as caught:
            Batch(**settings)

        assert said in str(caught.value)


def test_the_code_of_a_handler_is_that_of_all_it_wraps() -> None:
    @functools.wraps(plain)
    async def wrapper(event: Event) -> None:
        await plain(event)

    codes = of(wrapper).codes

    assert {code.co_name for code in codes} == {"wrapper", "plain"}
    assert of(functools.partial(plain)).codes == {plain.__code__}
    assert of(Callee()).codes == {Callee.__call__.__code__}
    assert of(Callee().method).codes == {Callee.method.__code__}
    assert of(time.sleep).codes == frozenset()
