"""How topics, deliveries and events are shown: what JSON can hold, times as RFC 3339 text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from eventflow.app.outlook import outlook
from eventflow.app.story import story
from eventflow.telemetry import names
from eventflow.web.views import moment

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from eventflow.app.outlook import Surroundings
    from eventflow.delivery import Attempt, Delivery
    from eventflow.engine.members import Member
    from eventflow.engine.protocol import Counts, Found
    from eventflow.flow.topic import Topic
    from eventflow.storage.protocol import AuditRow, Kept
    from eventflow.telemetry.metrics import Metrics
    from eventflow.telemetry.names import Metric


def topic_stats(
    topic: Topic | None, counts: Counts, metrics: Metrics, name: str, *, now: float
) -> dict[str, Any]:
    """Return one topic's line of `GET /v1/stats`, without what the engine alone knows."""
    shown: dict[str, Any] = msgspec.structs.asdict(counts)
    shown["unaccounted"] = counts.unaccounted
    if topic is not None:
        shown["capacity"] = topic.capacity
        shown["lane_capacity"] = topic.lane_capacity
        shown["paused"] = topic.paused
        shown["orphan"] = topic.orphan
        shown["rates"] = {
            "arrived_per_s": round(topic.arrived.per_s(now), 3),
            "delivered_per_s": round(topic.delivered.per_s(now), 3),
        }
    shown["latencies"] = {
        f"p{percent}_s": metrics.quantile(names.DELIVERY_SECONDS, percent / 100, name)
        for percent in (50, 95, 99)
    }
    shown["since_start"] = {
        "retries": _counted(metrics, names.RETRIES, name),
        "overflows": _counted(metrics, names.OVERFLOWS, name),
        "parked": _counted(metrics, names.DELIVERIES_PARKED, name),
        "recovered": _counted(metrics, names.DELIVERIES_RECOVERED, name),
        "dead": _counted(metrics, names.DELIVERIES_DEAD, name),
    }
    shown["breaker"] = None  # not in this version
    return shown


def node(one: Member) -> dict[str, Any]:
    """Return what is known of a node."""
    return {
        "name": one.name,
        "state": one.state,
        "roles": list(one.roles),
        "version": one.version,
        "host": one.host,
        "pid": one.pid,
        "url": one.url or None,
        "started_at": moment(one.started_at),
        "beat_at": moment(one.beat_at),
    }


def _counted(metrics: Metrics, metric: Metric, topic: str) -> int:
    """Return how often something happened in a topic since the node started."""
    series = metrics.counted(metric)
    return int(sum(value for labels, value in series.items() if labels[0] == topic))


def attempt(one: Attempt) -> dict[str, Any]:
    """Return one failed attempt."""
    return {
        "round": one.round,
        "outcome": one.outcome,
        "cause": one.cause,
        "error": one.error,
        "fingerprint": one.fingerprint,
        "started_at": moment(one.started_at),
        "ended_at": moment(one.ended_at),
    }


def delivery(one: Delivery, state: str, around: Surroundings) -> dict[str, Any]:
    """Return where one delivery is and why, what holds it and what is next, without its event."""
    ahead = outlook(one, state, around)
    return {
        "id": one.id,
        "topic": one.topic,
        "state": state,
        "reason": one.reason,
        "hop": one.hop,
        "since": moment(one.entered_at),
        "due_at": moment(one.due_at),
        "expires_at": moment(one.expires_at),
        **msgspec.structs.asdict(one.tally),
        "owed": list(one.owed),
        "history": [attempt(each) for each in one.history],
        "traceback": one.traceback,
        "held_by": ahead.held_by,
        "next": ahead.next,
        "next_at": moment(ahead.next_at),
    }


def event(one: Delivery) -> dict[str, Any]:
    """Return the event's attributes and data."""
    what = one.event
    data: Any = what.body
    if what.body is not None and what.is_json:
        data = msgspec.Raw(what.body)
    elif what.body is not None:
        data = what.body.decode("utf-8", "replace")
    return {
        "ref": one.ref,
        "key": what.key,
        "accepted_at": moment(one.accepted_at),
        "event": {**what.attributes(), "data": data},
    }


def found_at(
    ref: str,
    found: Sequence[Found],
    kept: Sequence[Kept],
    ended: Sequence[tuple[str, float]],
    trail: Sequence[AuditRow],
    around: Callable[[str], Surroundings],
) -> Mapping[str, Any] | None:
    """Return all that is known of an event, None where that is nothing."""
    if not (found or kept or ended or trail):
        return None
    places = [delivery(one.delivery, one.state, around(one.delivery.topic)) for one in found]
    places += [delivery(one.delivery, one.state, around(one.delivery.topic)) for one in kept]
    known = {place["topic"] for place in places}
    places += [
        {"id": f"{ref}.{topic}", "topic": topic, "state": "delivered", "since": moment(at)}
        for topic, at in ended
        if topic not in known
    ]
    shown: dict[str, Any] = {"ref": ref}
    deliveries = [one.delivery for one in found] + [one.delivery for one in kept]
    if deliveries:
        shown |= event(deliveries[0])
    shown["deliveries"] = places
    shown["story"] = story([msgspec.json.decode(row.row) for row in trail])
    shown["trail"] = [msgspec.Raw(row.row) for row in trail]
    return shown
