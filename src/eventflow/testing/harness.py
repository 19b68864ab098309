"""A whole node on virtual time: publish, let a week pass, look where everything is.

    from shop.app import flow

    @on_virtual_time
    async def test_a_week_of_trouble() -> None:
        mailer = FailsTimes(3)
        async with trial(flow, handlers={"email": mailer}) as node:
            await node.publish(Event(type="user.registered", source="/shop"))
            ledger = await settle(node)
        assert ledger.topics["email"].delivered == 1
        assert mailer.attempts == {4: 1}

The flow that is tried is left alone: its twin has the same topics and settings, in memory and on
virtual time. Ten attempts with backoff, and a rest of a quarter of an hour between them, take
milliseconds. `virtual` and `started` are the parts of it, for a node that a test makes itself.
"""

from __future__ import annotations

import asyncio
import functools
import random
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, overload

from eventflow.app import build
from eventflow.app.eventflow import EventFlow, Surroundings
from eventflow.config.process import environment
from eventflow.engine.embedded import open_engine
from eventflow.engine.embedded.writer import InlineWriter
from eventflow.errors import ConfigError, did_you_mean
from eventflow.flow.handlers import Handler
from eventflow.testing.clock import VirtualClock
from eventflow.testing.loop import run

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Mapping

    from eventflow.engine.protocol import Census

    P = ParamSpec("P")
    T = TypeVar("T")

DAY_S = 86_400.0


def virtual(
    seed: int = 0,
    environ: Mapping[str, str] | None = None,
    *,
    path: str | None = None,
    handler: Callable[[str, Handler], Handler] | None = None,
    **engine: Any,
) -> Surroundings:
    """Return virtual time and seeded chance for a node: `EventFlow(surroundings=virtual())`.

    Args:
        seed: Of jitter and refs.
        environ: The environment; empty if left out.
        path: The journal, ":memory:" for none; left out: what the settings say.
        handler: Given a topic's name and handler, returns the handler to run.
        **engine: Further arguments of `open_engine`: `vfs`, `shelf`.
    """

    async def opened(settings: Any, clock: Any, draw_bits: Any, writer: Any) -> Any:
        said = settings.engine.path
        return await open_engine(
            path or (":memory:" if said is None else str(said)),
            clock=clock,
            draw_bits=draw_bits,
            durability=settings.engine.durability,
            audit_key=build.audit_key_of(settings),
            writer=writer,
            **engine,
        )

    return Surroundings(
        clock=VirtualClock(),
        random_source=random.Random(seed),
        environ=environ or {},
        writer=InlineWriter,
        engine=opened,
        handler=handler,
    )


@overload
def on_virtual_time(test: Callable[P, Coroutine[Any, Any, T]], /) -> Callable[P, T]: ...
@overload
def on_virtual_time(
    *, seed: int | None = None
) -> Callable[[Callable[P, Coroutine[Any, Any, T]]], Callable[P, T]]: ...
def on_virtual_time(test: Any = None, /, *, seed: int | None = None) -> Any:
    """Make an async test one that any runner can call: it runs to its end on a `VirtualLoop`.

    Args:
        test: The test.
        seed: Draws the order of what is ready at the same time. None: first in, first out.
    """
    if test is None:
        return functools.partial(_on_virtual_time, seed=seed)
    return _on_virtual_time(test, seed=seed)


def _on_virtual_time(
    test: Callable[P, Coroutine[Any, Any, T]], *, seed: int | None
) -> Callable[P, T]:
    @functools.wraps(test)
    def called(*args: P.args, **named: P.kwargs) -> T:
        return run(test(*args, **named), seed=seed)

    return called


@asynccontextmanager
async def trial(
    flow: EventFlow,
    *,
    seed: int = 0,
    handlers: Mapping[str, Callable[..., Any]] | None = None,
    environ: Mapping[str, str] | None = None,
) -> AsyncIterator[EventFlow]:
    """Start the twin of a node, in memory and on virtual time; stop it in the end.

    Args:
        flow: The node; it is not started. `EventFlow("eventflow.toml")` is one with all that
            the file says.
        seed: Of jitter and refs.
        handlers: What to run instead of the handlers and sinks of these topics. The others are
            run as they are; a plain `def` is called in the loop.
        environ: The environment; that of the process if left out.

    Raises:
        ConfigError: the settings can't be used, or a topic in `handlers` doesn't exist.
    """
    stand_ins = handlers or {}

    def stood_in(topic: str, handler: Handler) -> Handler:
        return _stand_in(stand_ins[topic], handler) if topic in stand_ins else handler

    variables = environment() if environ is None else environ
    twin = flow.twin(virtual(seed, variables, path=":memory:", handler=stood_in))
    names = [topic.name for topic in twin.settings.topics]
    wrong = [name for name in stand_ins if name not in names]
    if wrong:
        said = "handlers: expected the names of topics, got"
        raise ConfigError([f"{said} {name!r}.{did_you_mean(name, names)}" for name in wrong])
    async with started(twin) as node:
        yield node


def _stand_in(function: Callable[..., Any], handler: Handler) -> Handler:
    """Return what runs in the place of a handler; in that of a sink it takes one event."""
    batch = None if handler.sink is not None else handler.batch
    return Handler.of_function(function, batch=batch, timeout_s=handler.timeout_s)


@asynccontextmanager
async def started(flow: EventFlow) -> AsyncIterator[EventFlow]:
    """Start a node and stop it in the end, without waiting for its queues to be empty."""
    await flow.start()
    try:
        yield flow
    finally:
        await flow.stop()


async def census(flow: EventFlow) -> Census:
    """Return the ledger, every queue walked."""
    return await flow.flow.tools.engine.census(walk=True)


async def settle(flow: EventFlow, *, within_s: float = 30 * DAY_S) -> Census:
    """Let time pass until every delivery is delivered, dead or discarded; return the ledger.

    Raises:
        TimeoutError: something still waits after `within_s` seconds; the message says what.
    """
    loop = asyncio.get_running_loop()
    until = loop.time() + within_s
    pause_s = 0.05
    while True:
        ledger = await flow.flow.tools.engine.census()
        waiting = {
            name: counts
            for name, counts in ledger.topics.items()
            if counts.queued or counts.running or counts.retrying or counts.parked
        }
        if not waiting:
            return await census(flow)
        if loop.time() > until:
            raise TimeoutError(f"after {within_s:g} s there still wait: {waiting}")
        await asyncio.sleep(pause_s)
        pause_s = min(pause_s * 1.5, 30.0)
