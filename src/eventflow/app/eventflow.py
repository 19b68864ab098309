"""The public class: topics by decorator, publish, drain, run."""

from __future__ import annotations

import asyncio
import random
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

from eventflow.app import build, engines
from eventflow.app.door import Door
from eventflow.app.importing import refuse_while_importing
from eventflow.app.live import Live, of_settings
from eventflow.clock import Clock, SystemClock
from eventflow.config import Settings, parse
from eventflow.config.load import read
from eventflow.config.process import environment
from eventflow.delivery import COMMON
from eventflow.engine.embedded.writer import ThreadWriter, Writer
from eventflow.errors import ConfigError, EventFlowError, QueueFull
from eventflow.flow.node import Flow, Tools, Wanted
from eventflow.flow.supervise import cancel, supervise
from eventflow.telemetry import names
from eventflow.telemetry.logging import log
from eventflow.telemetry.metrics import Metrics
from eventflow.version import VERSION

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import TracebackType

    from eventflow.app.engines import AnyEngine
    from eventflow.config.difference import Difference
    from eventflow.engine.protocol import Receipt
    from eventflow.event import Event
    from eventflow.flow.handlers import Batch, Handler

    F = TypeVar("F", bound=Callable[..., Any])

_AGAIN_S = 0.05
"""How long `publish(wait_s=...)` waits between tries while there is no room."""


class Surroundings:
    """What a node takes from outside: time, chance, the environment. Tests give their own."""

    def __init__(
        self,
        clock: Clock | None = None,
        random_source: random.Random | None = None,
        environ: Mapping[str, str] | None = None,
        writer: Callable[[], Writer] = ThreadWriter,
        engine: Callable[..., Any] = engines.engine_of,
        handler: Callable[[str, Handler], Handler] | None = None,
    ) -> None:
        self.clock: Clock = SystemClock() if clock is None else clock
        self.random = random.Random() if random_source is None else random_source  # noqa: S311  # jitter
        self.variables = environment() if environ is None else environ
        self.writer = writer
        self.engine = engine
        """Opens the engine: called as `engines.engine_of` is."""
        self.handler = handler
        """Given a topic's name and handler, returns the handler to run: for simulations."""


class EventFlow:
    """A node: accepts events, and delivers each to the topics its routes name.

    Args:
        config: A TOML file, or `Settings`. Without it: the defaults and the environment.
        engine: Where the queues are kept: "sqlite:PATH", "memory:" or "nats://HOST:PORT". Wins
            over `config`.
        surroundings: Time, chance and environment; for tests.

    Raises:
        ConfigError: (at start) the settings can't be used; all that is wrong at once.
    """

    def __init__(
        self,
        config: str | Path | Settings | None = None,
        *,
        engine: str | None = None,
        surroundings: Surroundings | None = None,
    ) -> None:
        self._config = config
        self._overrides: dict[str, Any] = {}
        if engine is not None:
            self._overrides = {"engine": {"url": engine}}
            if engine.startswith(("memory:", "sqlite:")):
                self._overrides["storage"] = {"url": engine}
        self._around = surroundings or Surroundings()
        self._declared: dict[str, dict[str, Any]] = {}
        self._functions: dict[str, Callable[..., Any]] = {}
        self._text: str | None = None
        """What the file said when it was read last and could be used."""
        self._settings: Settings | None = config if isinstance(config, Settings) else None
        self._engine: AnyEngine | None = None
        self._flow: Flow | None = None
        self._door: Door | None = None
        self._following: asyncio.Task[None] | None = None
        """Is what operators of other nodes set."""

    # topics ------------------------------------------------------------------

    def topic(
        self,
        name: str,
        *,
        match: str | Sequence[str] = (),
        batch: Batch | None = None,
        **settings: Any,
    ) -> Callable[[F], F]:
        """Return a decorator that makes a function the handler of topic `name`.

        Args:
            name: `[a-z][a-z0-9_-]{0,62}`, not "common".
            match: Event types that go there: a pattern or several. `[[routes]]` may add more.
            batch: The function takes lists of events.
            **settings: As in the topic's TOML table, with units: `capacity=10_000`,
                `concurrency=16`, `timeout="10s"`, `retry={"max_attempts": 3, "base": "2s"}`.
                The configuration file and the environment win over them.

        Raises:
            ConfigError: the node has started already, or the topic has a handler.
        """
        if self._flow is not None:
            raise ConfigError([f"topic {name!r}: topics are declared before the node starts"])
        if name in self._functions:
            raise ConfigError([f"topic {name!r}: it has a handler already; one topic, one handler"])
        declared = dict(settings)
        if match:
            declared["match"] = [match] if isinstance(match, str) else list(match)
        if batch is not None:
            declared["batch"] = {"max": batch.max, "linger": f"{batch.linger_s * 1000:g}ms"}

        def register(function: F) -> F:
            self._declared[name] = declared
            self._functions[name] = function
            return function

        return register

    @property
    def settings(self) -> Settings:
        """All settings, as file, environment and Python have them.

        Raises:
            ConfigError: they can't be used.
        """
        live = None if self._door is None else self._door.live
        if live is not None:
            self._settings = live.settings
        elif self._settings is None:
            self._settings = self._read({})
        return self._settings

    def twin(self, surroundings: Surroundings) -> EventFlow:
        """Return a node with the same topics and settings elsewhere, not started: for tests."""
        other = EventFlow(self._config, surroundings=surroundings)
        other.override(self._overrides)
        other._declared, other._functions = dict(self._declared), dict(self._functions)
        return other

    def _read(self, operators: Mapping[str, Mapping[str, Any]]) -> Settings:
        """Return what file, environment and Python say, and operators over them."""
        if isinstance(self._config, Settings):
            if operators:
                raise ConfigError(["settings given as a value can't be overridden: give a file"])
            return self._config
        name = "settings" if self._config is None else str(self._config)
        if self._text is None:
            self._text = "" if self._config is None else read(Path(name))
        return parse(
            self._text,
            name=name,
            environ=self._around.variables,
            overrides=self._overrides,
            declared=self._declared,
            operators=operators,
        )

    def check(self) -> Settings:
        """Return the settings, once sure that a node can be built of them. Nothing is opened.

        Raises:
            ConfigError: they can't be used, or a handler, route or schema can't.
        """
        build.wanted_of(self.settings, self._functions)
        return self.settings

    def settings_with(self, overrides: Mapping[str, Mapping[str, Any]]) -> Settings:
        """Return the settings with what operators have set while a node ran, as storage has it.

        What does not fit any more counts for nothing, as when a node starts.

        Raises:
            ConfigError: the settings can't be used.
        """
        settings = self._read({})
        operators = of_settings(overrides)
        try:
            return self._read(operators) if operators else settings
        except ConfigError:
            return settings

    def override(self, values: Mapping[str, Mapping[str, Any]]) -> None:
        """Let values win over file and environment: what a command line says."""
        for table, keys in values.items():
            self._overrides.setdefault(table, {}).update(keys)

    # life --------------------------------------------------------------------

    async def start(self) -> None:
        """Open the engine, and let every stage go.

        Raises:
            ConfigError: the settings can't be used.
            EngineUnavailable: no NATS server answers.
            JournalInUse: another process has the journal open.
            JournalUnreadable: the journal is damaged, or of another version.
            NameInUse: another node on the same NATS servers has this one's name.
        """
        if self._flow is not None:
            raise EventFlowError("this node has been started already")
        settings, around = self.settings, self._around
        wanted, built = build.wanted_of(settings, self._functions)
        engine = await around.engine(
            settings, around.clock, around.random.getrandbits, around.writer
        )
        self._engine = engine
        try:
            await engine.join(engines.member_of(settings, around.clock.now_s()))
            operators = of_settings(await engine.overrides.overrides())
            if operators:
                settings, wanted, built = self._overridden(operators, (settings, wanted, built))
                self._settings = settings
            if around.handler is not None:
                for topic in wanted.topics:
                    if topic.handler is not None:
                        topic.handler = around.handler(topic.name, topic.handler)
            metrics = Metrics(VERSION)
            tools = Tools(
                engine,
                engine.storage,
                around.clock,
                around.random.random,
                metrics,
                engine.overrides,
            )
            self._flow = Flow(tools, wanted)
            self._door = Door(self._flow, settings, engine)
            live = self._door.live = Live(
                self._read, settings, built, self._functions, self._flow, self._door
            )
            await self._flow.start()
            engine.on_override(live.heard.set)
            self._following = supervise("settings", COMMON, live.follow)
        except BaseException:
            await self._close()
            raise

    def _overridden(
        self,
        operators: Mapping[str, Mapping[str, Any]],
        otherwise: tuple[Settings, Wanted, dict[str, build.Built]],
    ) -> tuple[Settings, Wanted, dict[str, build.Built]]:
        """Return what the node is with operators' overrides; `otherwise` if they don't fit now.

        They fitted the file that there was when they were set: a node that would not start for
        their sake helps nobody.
        """
        try:
            settings = self._read(operators)
            return settings, *build.wanted_of(settings, self._functions)
        except ConfigError as error:
            log(names.SETTINGS_REFUSED, problems=list(error.problems))
            return otherwise

    async def reload(self) -> Difference:
        """Read the configuration file again, and be what it says: what SIGHUP does.

        Returns:
            The keys that were different: those that hold now, and those that need a restart.

        Raises:
            ConfigError: it can't be used. Nothing was changed.
            EventFlowError: the node is not running.
        """
        live = self.door.live
        assert live is not None  # noqa: S101  # `start` has set it
        before, self._text = self._text, None
        try:
            return await live.reload()
        except BaseException:
            self._text = before  # what is overridden is overridden over a file that can be used
            raise

    async def stop(self, drain_s: float | None = None) -> int:
        """Finish what runs within `drain_s` seconds, release the rest, close; return how many.

        What is released has used up no attempt. Stopping twice does nothing.
        """
        if self._flow is None:
            return 0
        wanted = self.settings.server.drain_s if drain_s is None else drain_s
        released = await self._flow.stop(wanted)
        await self._close()
        return released

    async def _close(self) -> None:
        if self._following is not None:
            await cancel([self._following])
            self._following = None
        if self._engine is not None:
            await self._engine.close()
        self._engine = self._flow = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            await self.drain()
        await self.stop()

    @property
    def flow(self) -> Flow:
        """The stages, once started.

        Raises:
            EventFlowError: it is not running.
        """
        if self._flow is None:
            raise EventFlowError("this node is not running: use `async with flow:` or `flow.run()`")
        return self._flow

    @property
    def door(self) -> Door:
        """What an HTTP door asks of this node, once started."""
        if self._door is None:
            raise EventFlowError("this node is not running: use `async with flow:` or `flow.run()`")
        return self._door

    def announce(self, url: str) -> None:
        """Let those who find the journal in use know where this node can be asked."""
        if self._engine is not None:
            self._engine.announce(url)

    # events ------------------------------------------------------------------

    async def publish(self, event: Event, *, wait_s: float = 0.0) -> Receipt:
        """Have one event stored; when this returns it survives a crash.

        Args:
            event: The event.
            wait_s: Seconds to wait for room, where there is none.

        Raises:
            QueueFull: no room, also after `wait_s`. Nothing was stored.
            InvalidEvent: it breaks the schema of its type. Nothing was stored.
            EngineUnavailable: it could not be made durable.
        """
        return (await self.publish_many([event], wait_s=wait_s))[0]

    async def publish_many(
        self, events: Sequence[Event], *, wait_s: float = 0.0
    ) -> Sequence[Receipt]:
        """Have the events stored, all of them or none: much faster than one by one.

        Raises:
            QueueFull: no room for all, also after `wait_s`. Nothing was stored.
            InvalidEvent: one breaks the schema of its type. Nothing was stored.
            EngineUnavailable: they could not be made durable.
        """
        ingress = self.flow.ingress
        loop = asyncio.get_running_loop()
        until = loop.time() + wait_s
        while True:
            try:
                return await ingress.accept(events)
            except QueueFull:
                if loop.time() >= until:
                    raise
            await asyncio.sleep(min(_AGAIN_S, max(0.0, until - loop.time())))

    async def drain(self) -> None:
        """Wait until common and the topics are empty. What is retrying or parked waits on."""
        await self.flow.drain()

    def run(self) -> None:
        """Serve until SIGTERM or Ctrl-C: the node and its HTTP door. For the end of a script.

        Raises:
            ConfigError: the module is only imported, by `--app` or for its handlers.
            SystemExit: it could not be started (2: the settings can't be used) or has failed (1);
                the reason is on stderr.
        """
        refuse_while_importing()
        from eventflow.app.serving import run  # noqa: PLC0415  # needs this class

        try:
            status = run(self)
        except EventFlowError as error:
            sys.stderr.write(f"eventflow: {error}\n")
            status = 2 if isinstance(error, ConfigError) else 1
        if status:
            raise SystemExit(status)
