"""What operators and monitors ask a node, and what they have it do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
from starlette.responses import Response, StreamingResponse

from eventflow.clock import rfc3339
from eventflow.cloudevents import encode_lines
from eventflow.errors import ConfigError, UnknownName, WrongState
from eventflow.storage.protocol import Filter
from eventflow.web.call import Json, whole
from eventflow.web.node import DONE
from eventflow.web.problem import COMMON_HEADERS, Problem, Refusal, bad_request
from eventflow.web.views import audit_view, group_view, kept_view

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from eventflow.event import Event
    from eventflow.storage.protocol import Actor
    from eventflow.web.call import Call
    from eventflow.web.node import Acted

Why = Annotated[str, msgspec.Meta(max_length=1_000)]
Text = Annotated[str, msgspec.Meta(min_length=1, max_length=1_000)]

FILTERS = ("state", "topic", "reason", "cause", "fingerprint", "type", "q")
LISTED = ("retrying", "parked", "dead")
KEPT = ("parked", "dead")
_LINES = "application/x-ndjson"
_ALL = ("queued", "running", *LISTED)
_EXPORTED: Mapping[str, tuple[str, ...]] = {
    "": KEPT,
    **{state: (state,) for state in _ALL},
    "all": _ALL,
}


class Reasoned(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An act, and why: kept in the audit trail."""

    why: Why = ""


TopicPatch = dict[str, Any]
"""Keys of a topic's TOML table, and `why`."""


class Which(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Which kept deliveries are meant: those that match every member given."""

    state: Literal["parked", "dead"] | None = None
    topic: Text | None = None
    reason: Text | None = None
    cause: Text | None = None
    fingerprint: Text | None = None
    type: Text | None = None
    q: Text | None = None


class Bulk(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An act on many deliveries: `ids`, or all that match `filter`."""

    ids: Annotated[tuple[Text, ...], msgspec.Meta(min_length=1, max_length=1_000)] | None = None
    filter: Which | None = None
    dry_run: bool = False
    why: Why = ""


class Against(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What to hold the audit chains against, beside themselves."""

    heads: Annotated[tuple[Text, ...], msgspec.Meta(max_length=1_000)] = ()


class Backup(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A backup that is asked for."""

    name: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")] | None = None
    """Of the file. No folder: those who may ask for backups must not write anywhere else."""
    why: Why = ""


# ------------------------------------------------------------------ the ledger, health


async def get_stats(call: Call) -> Response:
    """Answer the whole ledger."""
    call.query()
    return Json(await call.node.stats())


async def get_nodes(call: Call) -> Response:
    """Answer which nodes work on the same queues."""
    call.query()
    return Json(await call.node.nodes())


async def get_metrics(call: Call) -> Response:
    """Answer the metrics as Prometheus reads them."""
    body, content_type = await call.node.metrics()
    return Response(body, headers={**COMMON_HEADERS, "content-type": content_type})


async def get_livez(call: Call) -> Response:
    """Answer that the event loop goes round: nothing else is looked at."""
    del call
    return Json({"alive": True})


async def get_readyz(call: Call) -> Response:
    """Answer whether to send events here. Why not is only for those who may read."""
    reasons = list(await call.node.ready())
    if call.node.stopping:
        reasons.append("the node is stopping")
    if not reasons:
        return Json({"ready": True})
    shown = reasons if call.gate.may_read(call.scope) else []
    detail = f"this node is not ready: {'; '.join(shown) or 'its log says why'}."
    raise Refusal(
        Problem(
            status=503,
            code="not-ready",
            title="Not ready",
            detail=detail,
            more={"reasons": shown} if shown else {},
        )
    )


# ------------------------------------------------------------------ topics


async def get_topics(call: Call) -> Response:
    """Answer every topic with its settings."""
    call.query()
    return Json({"topics": await call.node.topics()})


async def post_pause(call: Call) -> Response:
    """Pause a topic."""
    topic, by = call.param("topic"), await _actor(call)
    await call.node.pause(topic, by)
    return Json({"topic": topic, "paused": True})


async def post_resume(call: Call) -> Response:
    """Resume a topic."""
    topic, by = call.param("topic"), await _actor(call)
    await call.node.resume(topic, by)
    return Json({"topic": topic, "paused": False})


async def patch_topic(call: Call) -> Response:
    """Override settings of a topic."""
    topic = call.param("topic")
    patch = await call.command(TopicPatch)
    why = patch.pop("why", "")
    if not isinstance(why, str):
        raise bad_request("why: expected text. Nothing was changed.")
    try:
        await call.node.override(topic, patch, call.by(why))
    except ConfigError as error:
        raise bad_request(f"{'; '.join(error.problems)}. Nothing was changed.") from error
    return Json({"topic": topic, "overridden": patch})


async def delete_overrides(call: Call) -> Response:
    """Drop the overrides of a topic."""
    topic, by = call.param("topic"), await _actor(call)
    await call.node.drop_overrides(topic, by)
    return Json({"topic": topic, "overridden": {}})


async def _actor(call: Call) -> Actor:
    return call.by((await call.command(Reasoned)).why)


# ------------------------------------------------------------------ events


async def get_event(call: Call) -> Response:
    """Answer where an event is and what happened to it."""
    ref = call.param("ref")
    return _shown(call, await call.node.event(ref), f"event {ref[:80]}")


async def get_event_by(call: Call) -> Response:
    """Answer the same, found by what its sender called it."""
    query = call.query("source", "id")
    if len(query) < 2:
        raise bad_request("expected the parameters source and id, both.")
    source, id = query["source"], query["id"]
    found = await call.node.event_by(source, id)
    return _shown(call, found, f"event {id[:80]!r} of {source[:80]!r}")


def _shown(call: Call, found: Mapping[str, Any] | None, name: str) -> Response:
    if found is not None:
        return Json(found)
    raise Refusal(
        Problem(
            status=404,
            code="unknown-event",
            title="Nothing is known of the event",
            detail=f"{name} was never accepted here, or delivered without trouble before "
            f"{rfc3339(call.node.shown_since)}.",
        )
    )


# ------------------------------------------------------------------ deliveries


async def get_deliveries(call: Call) -> Response:
    """Answer a page of what is retrying, parked or dead."""
    query = call.query(*FILTERS, "cursor", "limit")
    which = _filter(query, LISTED)
    limit = whole(query.get("limit", "100"), "limit", range(1, 1_001))
    page = await call.node.deliveries(which, after=query.get("cursor"), limit=limit)
    return Json({"deliveries": [kept_view(kept) for kept in page.items], "cursor": page.cursor})


async def get_groups(call: Call) -> Response:
    """Answer what is parked or dead, grouped by what the failures look like."""
    query = call.query(*FILTERS, "limit")
    limit = whole(query.get("limit", "100"), "limit", range(1, 1_001))
    groups = await call.node.groups(_filter(query, KEPT), limit=limit)
    return Json({"groups": [group_view(group) for group in groups]})


def _filter(query: Mapping[str, str], states: tuple[str, ...]) -> Filter:
    state = query.get("state")
    if state is not None and state not in states:
        raise bad_request(f"state: expected one of {', '.join(states)}, got {state[:80]!r}.")
    return msgspec.convert({name: query[name] for name in FILTERS if name in query}, Filter)


async def post_replay_one(call: Call) -> Response:
    """Make one parked or dead delivery due now."""
    id, by = call.param("id"), await _actor(call)
    return _one(id, await call.node.replay(Filter(ids=(id,)), by, dry_run=False))


async def post_discard_one(call: Call) -> Response:
    """Forget one parked or dead delivery."""
    id, by = call.param("id"), await _actor(call)
    return _one(id, await call.node.discard(Filter(ids=(id,)), by, dry_run=False))


def _one(id: str, acted: Acted) -> Response:
    result = acted.results.get(id, "unknown")
    if result in DONE:
        return Json({"id": id, "result": result})
    if result == "unknown":
        raise UnknownName("delivery", id)
    if result == "max_replays":
        raise Refusal(
            Problem(
                status=409,
                code="max-replays",
                title="Replayed too often",
                detail=f"delivery {id} has been replayed as often as it may be. Nothing was "
                "changed; discard it, or find out why it keeps failing.",
            )
        )
    raise WrongState(id, result, "parked or dead")


async def post_replay(call: Call) -> Response:
    """Make many parked or dead deliveries due now."""
    bulk = await call.command(Bulk)
    which, by = _meant(bulk), call.by(bulk.why)
    return Json(await call.node.replay(which, by, dry_run=bulk.dry_run))


async def post_discard(call: Call) -> Response:
    """Forget many parked or dead deliveries."""
    bulk = await call.command(Bulk)
    which, by = _meant(bulk), call.by(bulk.why)
    return Json(await call.node.discard(which, by, dry_run=bulk.dry_run))


def _meant(bulk: Bulk) -> Filter:
    """Return which deliveries are meant. An empty filter would mean all: that has to be said."""
    if (bulk.ids is None) == (bulk.filter is None):
        raise bad_request("expected either ids or filter. Nothing was changed.")
    if bulk.ids is not None:
        return Filter(ids=bulk.ids)
    members = msgspec.to_builtins(bulk.filter)
    if not members:
        raise bad_request(
            "filter: expected at least one member, got {}. Nothing was changed. For all of a "
            'kind say so: {"state": "dead"}.'
        )
    return msgspec.convert(members, Filter)


# ------------------------------------------------------------------ the audit trail


async def get_audit(call: Call) -> Response:
    """Answer the trail of one event."""
    query = call.query("event")
    if "event" not in query:
        raise bad_request("expected the parameter event: the ref of an event.")
    rows = await call.node.trail(query["event"])
    return Json({"event": query["event"], "rows": [audit_view(row) for row in rows]})


async def get_heads(call: Call) -> Response:
    """Answer the end of every chain, to be noted elsewhere."""
    call.query()
    return Json({"heads": await call.node.heads()})


async def post_verify(call: Call) -> Response:
    """Check every chain of the audit trail."""
    heads = (await call.command(Against)).heads
    try:
        return Json(await call.node.verify(heads))
    except ValueError as error:
        raise bad_request(f"heads: {error}.") from error


# ------------------------------------------------------------------ copies


async def get_export(call: Call) -> Response:
    """Answer all events of a kind as lines, one by one as they are read."""
    query = call.query(*FILTERS)
    states = _EXPORTED.get(query.pop("state", ""))
    if states is None:
        raise bad_request(f"state: expected one of {', '.join(filter(None, _EXPORTED))}.")
    if call.scope["method"] == "HEAD":
        return Response(headers=COMMON_HEADERS, media_type=_LINES)
    batches = call.node.export(_filter(query, ()), states)
    # What fails at once is still answered as a problem; later only the connection can tell.
    first = await anext(batches, None)

    async def lines() -> AsyncIterator[bytes]:
        yield _lines(first or ())
        async for events in batches:
            yield _lines(events)

    return StreamingResponse(lines(), headers=COMMON_HEADERS, media_type=_LINES)


def _lines(events: Sequence[Event]) -> bytes:
    return encode_lines(events)


async def post_backup(call: Call) -> Response:
    """Write a copy of the node's file into its folder for backups."""
    wanted = await call.command(Backup)
    return Json(await call.node.backup(wanted.name, call.by(wanted.why)))
