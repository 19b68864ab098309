"""A node with its HTTP door, from start to the last word."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import signal
import sys
from typing import TYPE_CHECKING, Any, TypeVar

from eventflow.errors import ConfigError, EventFlowError
from eventflow.flow.watchdog import BlockDetector
from eventflow.telemetry import names
from eventflow.telemetry.logging import configure, log
from eventflow.version import VERSION
from eventflow.web.server import Server, make_app

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator

    from eventflow.app.eventflow import EventFlow

T = TypeVar("T")

SWITCH_INTERVAL_S = 0.0001
"""How long a thread may hold the interpreter while another one wants it.

Every return from SQLite into Python waits for that long at worst: with Python's own 5 ms the
journal's thread falls to a tenth of its speed beside a busy event loop.
"""
COLLECT_AFTER = (20_000, 50, 100)
"""Python's thresholds for looking for cycles of garbage. Its own look at everything there is again
and again, ids of half a million events among it: pauses of 100 ms and more.
"""
WATCH_S = 0.5
"""How often the engine is looked at for a fault."""
EXIT_FAILED = 1


def tune() -> None:
    """Set Python up for a process whose work a node is: for threads' turns, and for garbage."""
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    gc.collect()
    gc.freeze()  # modules and settings stay: nobody has to look at them again
    gc.set_threshold(*COLLECT_AFTER)


async def serve(
    flow: EventFlow,
    *,
    started: Callable[[str], None] | None = None,
    stop: asyncio.Event | None = None,
    signals: bool = True,
) -> int:
    """Run a node and its door until a signal, or until `stop` is set; return the exit status.

    SIGTERM or Ctrl-C: the doors close, what runs may finish within `[server] drain`, the rest is
    released. A second one releases at once.

    Args:
        flow: The node, not started.
        started: Called with the door's URL once it is open.
        stop: Ends it when set.
        signals: Listen to SIGTERM and SIGINT.

    Raises:
        ConfigError: the settings can't be used.
        JournalInUse: another process has the journal open.
        JournalUnreadable: the journal is damaged, or of another version.
        OSError: the address can't be listened on.
    """
    tune()
    stop = stop or asyncio.Event()
    settings = flow.settings
    for warning in settings.warnings:
        log(names.SETTINGS_DOUBTFUL, warning=warning)
    await flow.start()
    watchdog = BlockDetector(flow.flow.tools.metrics)
    flow.flow.on_handler = watchdog.watch
    for name, topic in flow.flow.topics.items():
        if topic.handler is not None:
            watchdog.watch(name, topic.handler)
    server = Server(make_app(flow.door), settings.server.host, settings.server.port)
    try:
        await server.start()
    except BaseException:
        await flow.stop(0.0)
        raise
    watchdog.start()
    with _listening(flow, stop) if signals else contextlib.nullcontext():
        flow.announce(server.url)
        if started is not None:
            started(server.url)
        _say_started(flow, server.url)
        failed = await _until_stopped(flow, stop)
        # What a broken engine can't settle would run for nothing: it has to run again anyhow.
        drain_s = 0.0 if failed else flow.settings.server.drain_s
        released, unaccounted = await _stop(flow, server, watchdog, drain_s)
    log(names.NODE_STOPPED, released=released, unaccounted=unaccounted)
    return EXIT_FAILED if failed else 0


async def _stop(
    flow: EventFlow, server: Server, watchdog: BlockDetector, drain_s: float
) -> tuple[int, int]:
    stages = flow.flow
    stages.ingress.stopping = True  # the doors answer 503 from here on, and stay open to say so
    log(names.NODE_STOPPING, running=stages.running, drain_s=drain_s)
    census = stages.tools.engine.census
    released = await stages.stop(drain_s)
    unaccounted = (await census()).unaccounted
    await server.stop()
    watchdog.stop()
    await flow.stop(0.0)
    return released, unaccounted


async def _until_stopped(flow: EventFlow, stop: asyncio.Event) -> bool:
    """Wait for the end; return whether it is the engine's failure."""
    engine = flow.flow.tools.engine
    fault: str | None = None
    while not stop.is_set():
        now = getattr(engine, "fault", None)
        if now != fault:
            fault = now
            if fault is None:
                log(names.ENGINE_RESTORED)
            else:
                log(names.ENGINE_FAILED, error=fault)
        if getattr(engine, "broken", False):
            # What the file holds is known only by reading it again: a new process does that.
            return True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(WATCH_S):
                await stop.wait()
    return False


@contextlib.contextmanager
def _listening(flow: EventFlow, stop: asyncio.Event) -> Iterator[None]:
    """Let the first signal stop the node, the second release what still runs; SIGHUP reloads."""
    loop = asyncio.get_running_loop()

    def told() -> None:
        if stop.is_set():
            flow.flow.hurry.set()
        stop.set()

    reloading: set[asyncio.Task[None]] = set()

    def reload() -> None:
        task = asyncio.create_task(_reload(flow), name="reload")
        reloading.add(task)
        task.add_done_callback(reloading.discard)

    listening = {signal.SIGTERM: told, signal.SIGINT: told, signal.SIGHUP: reload}
    for each, act in listening.items():
        loop.add_signal_handler(each, act)
    try:
        yield
    finally:
        for each in listening:
            loop.remove_signal_handler(each)


async def _reload(flow: EventFlow) -> None:
    """Read the file again; a faulty one changes nothing, and the log says why."""
    try:
        found = await flow.reload()
    except EventFlowError as error:
        problems = error.problems if isinstance(error, ConfigError) else (str(error),)
        log(names.SETTINGS_REFUSED, problems=list(problems))
    else:
        log(names.SETTINGS_APPLIED, changed=list(found.live), need_restart=list(found.restart))


def _say_started(flow: EventFlow, url: str) -> None:
    settings = flow.settings
    durability = flow.door.durability
    log(
        names.NODE_STARTED,
        version=VERSION,
        address=url,
        engine=settings.engine.url,
        durability=durability,
        topics=len(settings.topics),
    )
    if durability != "fsync":
        log(names.DURABILITY_LOWERED, durability=durability)


def run(flow: EventFlow, *, started: Callable[[str], None] | None = None) -> int:
    """Serve in an event loop of its own, uvloop where there is one; return the exit status."""
    settings = flow.settings
    configure(settings.log.format, level=settings.log.level)
    return in_loop(serve(flow, started=started))


def in_loop(work: Coroutine[Any, Any, T]) -> T:
    """Run to the end in an event loop of its own: uvloop where there is one."""
    try:
        import uvloop  # noqa: PLC0415  # not on Windows
    except ImportError:
        return asyncio.run(work)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work)
