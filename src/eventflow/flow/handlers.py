"""A handler: a user's function, held against the rules once, at start.

    async def f(event)              mode "async"    awaited in the event loop
    def f(event)                    mode "thread"   run in one of the topic's threads
    def f(event), executor=process  mode "process"  run in a worker process
    sink.deliver                    mode "async"
    sink.deliver_batch              mode "thread"

Any of them may take the delivery too, and with `batch` takes a list of events (and of
deliveries) instead of one. How a slot runs a handler is in `flow/slots.py`.
"""

from __future__ import annotations

import difflib
import functools
import inspect
import re
import sys
from dataclasses import dataclass
from types import CodeType
from typing import TYPE_CHECKING, Any, Literal, cast

from eventflow.config.units import parse_duration
from eventflow.delivery import Delivery
from eventflow.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from eventflow.sinks.base import AnySink, BatchSink, Sink

Mode = Literal["async", "thread", "process"]

_DELIVERY = re.compile(r"\bDelivery\b")
_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_EXECUTORS = ("process",)

_EXECUTOR = """\
handler {name}: executor: expected 'process' or nothing, got {executor!r}.{hint}
    Without it an async function runs in the event loop, any other in a thread."""
_YIELDS = """\
handler {name}: it yields, so a call would run nothing of it.
    async def handler(event): yield event          # wrong
    async def handler(event): await send(event)    # right"""
_ASYNC_IN_PROCESS = """\
handler {name}: an async function runs in the event loop, not in a process.
    async def handler(event): ...   with executor="process"   # wrong
    def handler(event): ...         with executor="process"   # right"""
_A_CLASS = """\
handler {name}: expected a function, got a class: a call would make an object, and do nothing.
    class Handler: ...          with Handler                       # wrong
    handler = Handler(...)      with its method, or its __call__   # right"""
_NOT_IMPORTABLE = """\
handler {name}: a worker process imports the function by its name, and can't find this one.
    executor="process" with a lambda, a method, or a function inside another   # wrong
    executor="process" with a function at the top of its module                # right"""


class Batch:
    """A handler takes several events at once.

    Args:
        max: Events in a batch at most. 1 to 10,000.
        linger: How long to wait for more after the first, such as "20ms". At most a minute.
        linger_s: The same in seconds, instead of `linger`.

    Raises:
        ConfigError: a value is out of its range, or has no unit.
    """

    __slots__ = ("linger_s", "max")

    def __init__(
        self, max: int = 500, linger: str = "20ms", *, linger_s: float | None = None
    ) -> None:
        if not 1 <= max <= 10_000:
            raise ConfigError([f"batch.max: expected 1 to 10000 events, got {max!r}"])
        try:
            seconds = parse_duration(linger) if linger_s is None else linger_s
        except (ValueError, TypeError) as error:
            raise ConfigError([f"batch.linger: {error}. Write it as linger='20ms'"]) from error
        if not 0 <= seconds <= 60:
            raise ConfigError([f"batch.linger: expected 0 to 60 seconds, got {seconds!r}"])
        self.max = max
        self.linger_s = seconds

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Batch):
            return NotImplemented
        return (self.max, self.linger_s) == (other.max, other.linger_s)

    def __hash__(self) -> int:
        return hash((self.max, self.linger_s))

    def __repr__(self) -> str:
        return f"Batch(max={self.max}, linger_s={self.linger_s:g})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Handler:
    """What a topic runs for each delivery, or for each batch of them."""

    name: str
    """Where it is written: "shop.handlers.send_welcome", or a sink's "http"."""
    mode: Mode
    """Where it runs: in the event loop, in a thread, in a process."""
    function: Callable[..., Any]
    wants_delivery: bool
    """It takes the delivery beside the event."""
    timeout_s: float
    """Seconds that one run may last."""
    batch: Batch | None = None
    """It takes a list; None: one event at a time."""
    at_once: int | None = None
    """Runs at the same time at most, whatever the topic says; None: as it says."""
    sink: AnySink | None = None
    """What is opened before its first run, and closed after its last."""

    @classmethod
    def of_function(
        cls,
        function: Callable[..., Any],
        *,
        executor: str | None = None,
        batch: Batch | None = None,
        timeout_s: float,
    ) -> Handler:
        """Return the handler that `function` makes.

        Args:
            function: Takes an event, and the delivery where it has a parameter of that name or
                annotation; lists of them with `batch`.
            executor: "process" for a CPU-bound function; None: the loop or a thread.
            batch: How many events it takes at once, if it takes several.
            timeout_s: Seconds one run may last, above 0.

        Raises:
            ConfigError: it can't be called with an event; the message shows what can.
        """
        name = name_of(function)
        if not callable(function):
            raise ConfigError([f"handler {name}: expected a function, got {function!r:.80}"])
        if inspect.isclass(function):
            raise ConfigError([_A_CLASS.format(name=name)])
        if not timeout_s > 0:
            raise ConfigError([f"handler {name}: timeout: expected above 0 s, got {timeout_s!r}"])
        return cls(
            name=name,
            mode=_mode(function, name, executor),
            function=function,
            wants_delivery=_wants_delivery(function, name, batched=batch is not None),
            timeout_s=float(timeout_s),
            batch=batch,
        )

    @classmethod
    def of_sink(cls, sink: Sink, *, name: str, timeout_s: float) -> Handler:
        """Return the handler that delivers to `sink`, `timeout_s` seconds at most."""
        return cls(
            name=name,
            mode="async",
            function=sink.deliver,
            wants_delivery=True,
            timeout_s=timeout_s,
            sink=sink,
        )

    @classmethod
    def of_batch_sink(
        cls, sink: BatchSink, *, name: str, batch: Batch, timeout_s: float
    ) -> Handler:
        """Return the handler that delivers to `sink` in batches, `timeout_s` seconds at most."""
        return cls(
            name=name,
            mode="thread",
            function=sink.deliver_batch,
            wants_delivery=True,
            timeout_s=timeout_s,
            batch=batch,
            at_once=sink.at_once,
            sink=sink,
        )

    @property
    def codes(self) -> frozenset[CodeType]:
        """The code objects that are on a stack while this handler runs."""
        return frozenset(_codes(self.function))


def name_of(function: Any) -> str:
    """Return where a function is written, as "module.qualified_name"."""
    if isinstance(function, functools.partial):
        return name_of(function.func)
    named = function if hasattr(function, "__qualname__") else type(function)
    return f"{named.__module__}.{named.__qualname__}"


def check_importable(handler: Handler) -> None:
    """Make sure that a worker process will find the function of a handler.

    Only once its module has been read to the end: a decorator runs before the name is there.

    Raises:
        ConfigError: the module doesn't hold this function under its own name.
    """
    function = handler.function
    found: Any = sys.modules.get(getattr(function, "__module__", None) or "")
    for part in getattr(function, "__qualname__", "?").split("."):
        found = getattr(found, part, None)
    if found is not function:
        raise ConfigError([_NOT_IMPORTABLE.format(name=handler.name)])


def _mode(function: Callable[..., Any], name: str, executor: str | None) -> Mode:
    if executor is not None and executor not in _EXECUTORS:
        close = difflib.get_close_matches(str(executor), _EXECUTORS, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise ConfigError([_EXECUTOR.format(name=name, executor=executor, hint=hint)])
    if _is(inspect.isgeneratorfunction, function) or _is(inspect.isasyncgenfunction, function):
        raise ConfigError([_YIELDS.format(name=name)])
    if _is(inspect.iscoroutinefunction, function):
        if executor is None:
            return "async"
        raise ConfigError([_ASYNC_IN_PROCESS.format(name=name)])
    if executor is None:
        return "thread"
    if not inspect.isfunction(function) or "<" in function.__qualname__:
        raise ConfigError([_NOT_IMPORTABLE.format(name=name)])
    return "process"


def _is(test: Callable[[Any], bool], function: Any) -> bool:
    """Return whether a function, or what is called when an object is called, passes a test."""
    while isinstance(function, functools.partial):
        function = function.func
    return test(function) or test(getattr(function, "__call__", None))  # noqa: B004  # its kind


def _wants_delivery(function: Callable[..., Any], name: str, *, batched: bool) -> bool:
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (ValueError, TypeError):  # some functions written in C don't say: they get the event
        return False
    places = [p for p in parameters if p.kind in _POSITIONAL]
    if any(p.kind is inspect.Parameter.VAR_POSITIONAL for p in parameters) and not places:
        places = [p for p in parameters if p.kind is inspect.Parameter.VAR_POSITIONAL]
    if not places:
        raise _signature_error(name, "it takes no event", function, batched=batched)
    if _is_delivery(places[0]):
        raise _signature_error(name, "the event comes first", function, batched=batched)
    wants = len(places) > 1 and _is_delivery(places[1])
    spare = [p for p in parameters if p not in places[: 2 if wants else 1] and _required(p)]
    if spare:
        why = f"nothing is given for its parameter {spare[0].name!r}"
        raise _signature_error(name, why, function, batched=batched)
    return wants


def _required(parameter: inspect.Parameter) -> bool:
    variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return parameter.default is inspect.Parameter.empty and parameter.kind not in variable


def _is_delivery(parameter: inspect.Parameter) -> bool:
    if parameter.name in {"delivery", "deliveries"}:
        return True
    annotation = parameter.annotation
    text = annotation if isinstance(annotation, str) else repr(annotation)
    return annotation is Delivery or _DELIVERY.search(text) is not None


def _signature_error(
    name: str, why: str, function: Callable[..., Any], *, batched: bool
) -> ConfigError:
    word = "async def" if _is(inspect.iscoroutinefunction, function) else "def"
    one, two = ("events", "deliveries") if batched else ("event", "delivery")
    rows = [
        (_parameters(function), "wrong"),
        (f"({one})", "right" + (": a list of events" if batched else "")),
        (f"({one}, {two})", f"right, where it wants the {two}"),
    ]
    codes = [f"    {word} {name.rpartition('.')[2]}{parameters}: ..." for parameters, _ in rows]
    width = max(map(len, codes))
    lines = [f"{code:<{width}}   # {says}" for code, (_, says) in zip(codes, rows, strict=True)]
    return ConfigError(["\n".join([f"handler {name}: {why}.", *lines])])


def _parameters(function: Callable[..., Any]) -> str:
    names = []
    for parameter in inspect.signature(function).parameters.values():
        bare = parameter.replace(annotation=inspect.Parameter.empty)
        names.append("*, " + str(bare) if bare.kind is bare.KEYWORD_ONLY else str(bare))
    return f"({', '.join(names)})"


def _codes(function: Any) -> Iterator[CodeType]:
    """Yield the code objects of a function, of what it wraps, and of a callable's `__call__`."""
    while True:
        function = getattr(function, "func", function)  # functools.partial
        function = getattr(function, "__func__", function)  # a bound method
        code = getattr(function, "__code__", None)
        if isinstance(code, CodeType):
            yield code
        elif not inspect.isclass(function):
            call = getattr(type(function), "__call__", None)  # noqa: B004  # its code is wanted
            code = getattr(call, "__code__", None)
            if isinstance(code, CodeType):
                yield code
        inner = getattr(function, "__wrapped__", None)
        if inner is None:
            return
        function = cast("Any", inner)
