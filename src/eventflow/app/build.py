"""From settings to what they mean: policies, topics, routes, an open engine."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from eventflow.app.importing import imported
from eventflow.config import BatchSettings, Share
from eventflow.errors import ConfigError
from eventflow.flow.handlers import Batch, Handler
from eventflow.flow.ingress import Rules
from eventflow.flow.node import Shape, Wanted, plan_of
from eventflow.flow.schemas import Schemas
from eventflow.flow.topic import Topic
from eventflow.policy.backoff import Backoff
from eventflow.policy.expression import compile_expression
from eventflow.policy.routing import Route, Router, compile_routes
from eventflow.policy.values import RecoveryPolicy, RetryPolicy, TopicPolicy
from eventflow.sinks import make_sink
from eventflow.sinks.base import BatchSink

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from eventflow.config import Settings, TopicSettings
    from eventflow.sinks.base import AnySink

T = TypeVar("T")


def policy_of(topic: TopicSettings) -> TopicPolicy:
    """Return a topic's policies."""
    retry, recovery = topic.retry, topic.recovery
    backoff = Backoff(retry.base_s, retry.factor, retry.max_s, retry.jitter)
    shared = isinstance(recovery.rate, Share)
    return TopicPolicy(
        RetryPolicy(retry.max_attempts, backoff, retry.max_overflows, retry.max_in_queue_s),
        RecoveryPolicy(
            recovery.max_rounds,
            recovery.after_s,
            recovery.low_water,
            rate_share=recovery.rate.fraction if isinstance(recovery.rate, Share) else 0.1,
            rate_per_s=None if shared else float(recovery.rate),  # type: ignore[arg-type]
        ),
    )


class Built(NamedTuple):
    """A topic's handler, and the settings that it was made of."""

    settings: TopicSettings
    handler: Handler


def handlers_of(
    settings: Settings,
    functions: Mapping[str, Callable[..., Any]],
    known: Mapping[str, Built] | None = None,
) -> dict[str, Built]:
    """Return the handlers by topic. Sinks are not opened yet.

    Args:
        settings: The settings.
        functions: Handlers given in Python, by topic.
        known: Those there are: one whose settings still say the same is kept, sink and all.

    Raises:
        ConfigError: a handler can't be found or called; all of them at once.
    """
    built: dict[str, Built] = {}
    problems: list[str] = []
    for one in settings.topics:
        old = (known or {}).get(one.name)
        try:
            if old is not None and _made_of(old.settings) == _made_of(one):
                handler = replace(old.handler, timeout_s=one.timeout_s)
            else:
                handler = _handler(one, functions.get(one.name))
        except ConfigError as error:
            problems += error.problems
            continue
        built[one.name] = Built(one, handler)
    if problems:
        raise ConfigError(problems)
    return built


def _made_of(topic: TopicSettings) -> tuple[object, ...]:
    """Return what a handler depends on, its timeout left out."""
    sized = topic.concurrency if topic.sink is not None else None
    return topic.handler, topic.sink, topic.executor, topic.batch, sized


def _handler(topic: TopicSettings, function: Callable[..., Any] | None) -> Handler:
    if topic.sink is not None:
        try:
            sink = make_sink(topic.sink, concurrency=topic.concurrency)
        except ConfigError as error:
            where = f"[topics.{topic.name}.sink]"
            told = [f"{where} {problem.removeprefix('sink.')}" for problem in error.problems]
            raise ConfigError(told) from error
        return _handler_of_sink(sink, topic)
    if function is None:
        return _handler_of_name(topic)
    return _handler_of_function(function, topic)


def _handler_of_name(topic: TopicSettings) -> Handler:
    """Return the handler that a file names."""
    name, where = topic.handler or "", f"[topics.{topic.name}] handler"
    function = imported(name, where)
    if not callable(function):
        raise ConfigError([f"{where}: expected a function, got {function!r:.80} at {name!r}."])
    try:
        return _handler_of_function(function, topic)
    except ConfigError as error:
        raise ConfigError([f"[topics.{topic.name}] {one}" for one in error.problems]) from error


def _handler_of_function(function: Callable[..., Any], topic: TopicSettings) -> Handler:
    batch = None if topic.batch is None else _batch(topic.batch)
    executor = topic.executor if topic.executor == "process" else None
    return Handler.of_function(function, executor=executor, batch=batch, timeout_s=topic.timeout_s)


def _handler_of_sink(sink: AnySink, topic: TopicSettings) -> Handler:
    name = "" if topic.sink is None else topic.sink.type
    if isinstance(sink, BatchSink):
        batch = _batch(topic.batch or BatchSettings())
        return Handler.of_batch_sink(sink, name=name, batch=batch, timeout_s=topic.timeout_s)
    return Handler.of_sink(sink, name=name, timeout_s=topic.timeout_s)


def _batch(settings: BatchSettings) -> Batch:
    return Batch(settings.max, linger_s=settings.linger_s)


def topics_of(built: Mapping[str, Built]) -> list[Topic]:
    """Return the topics, common left out."""
    return [
        Topic(
            name,
            policy_of(one),
            handler,
            concurrency=min(one.concurrency, handler.at_once or one.concurrency),
            capacity=one.capacity,
            lane_capacity=one.retry.capacity,
        )
        for name, (one, handler) in built.items()
    ]


def routes_of(settings: Settings) -> Router:
    """Return the routes: the topics' own `match`, then `[[routes]]`.

    Raises:
        ConfigError: an expression can't be read; it says where.
    """
    problems: list[str] = []
    routes = [Route(topic.match, (topic.name,)) for topic in settings.topics if topic.match]
    for place, route in enumerate(settings.routes, 1):
        when = None
        if route.when is not None:
            try:
                when = compile_expression(route.when)
            except ConfigError as error:
                problems += [f"[routes #{place}] when: {problem}" for problem in error.problems]
        routes.append(Route(route.match, route.topics, when))
    if problems:
        raise ConfigError(problems)
    return compile_routes(routes)


def shape_of(settings: Settings, topics: Sequence[Topic]) -> Shape:
    """Return what the node is beside its topics and routes."""
    common, weights = settings.common, settings.common.weights
    plan = plan_of(
        topics,
        common.capacity,
        dedup_window_s=common.dedup_window_s,
        dedup_max=common.dedup_max,
        memory_limit_bytes=settings.engine.memory_limit_bytes,
        weights=(weights.critical, weights.high, weights.normal, weights.low),
        storage_max_bytes=settings.storage.max_size_bytes,
        max_event_bytes=common.max_event_bytes,
    )
    return Shape(
        plan,
        Rules(common.max_event_bytes, refuse_unroutable=common.unroutable == "refuse"),
        settings.engine.history_max,
        TopicPolicy(recovery=RecoveryPolicy(low_water=common.low_water, rate_share=1.0)),
        settings.engine.roles,
    )


def schemas_of(settings: Settings) -> Schemas:
    """Read the JSON Schemas that the settings name.

    Raises:
        ConfigError: one can't be read or used.
    """
    return Schemas.read({schema.type: schema.path for schema in settings.schemas})


def wanted_of(
    settings: Settings,
    functions: Mapping[str, Callable[..., Any]],
    known: Mapping[str, Built] | None = None,
) -> tuple[Wanted, dict[str, Built]]:
    """Return what a node of these settings is, and its handlers by topic. Nothing is opened.

    Args:
        settings: The settings.
        functions: Handlers given in Python, by topic.
        known: See `handlers_of`.

    Raises:
        ConfigError: something can't be found, read or compiled; all of it at once.
    """
    problems: list[str] = []

    def tried(step: Callable[[], T], otherwise: T) -> T:
        try:
            return step()
        except ConfigError as error:
            problems.extend(error.problems)
            return otherwise

    nothing: dict[str, Built] = {}
    built = tried(lambda: handlers_of(settings, functions, known), nothing)
    routes = tried(lambda: routes_of(settings), compile_routes(()))
    schemas = tried(lambda: schemas_of(settings), Schemas())
    if problems:
        raise ConfigError(problems)
    topics = topics_of(built)
    return Wanted(shape_of(settings, topics), topics, routes, schemas), built


def audit_key_of(settings: Settings) -> bytes | None:
    """Return what the audit trail is keyed with; None: nothing."""
    key = settings.audit.key
    return None if key is None else key.reveal().encode()
