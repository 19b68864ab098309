"""Every route of the HTTP interface, once: who may use it, what it takes, what it answers.

Roles are enforced from here (`web.asgi`), docs/reference/http.md is held against it by a test,
and OpenAPI will be made from it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from starlette.responses import Response

from eventflow.web import events, operations, page, webhooks
from eventflow.web.auth import Role
from eventflow.web.call import Call

Handler = Callable[[Call], Awaitable[Response | None]]
"""Answers a request. None: it has sent the answer itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """A method on a path."""

    method: str
    path: str
    """`{name}` stands for one segment."""
    role: Role
    handler: Handler
    summary: str
    query: Mapping[str, str] = field(default_factory=dict)
    """Parameters behind the `?`, and what they mean."""
    body: str = ""
    """What the body is."""
    schema: Any = None
    """Type of the body, where it is JSON that msgspec checks."""
    answers: Mapping[int, str]
    """What is answered by status, beside what any route answers: 400, 401, 403, 413, 500."""


_FILTERS = {
    "state": "`retrying`, `parked` or `dead`; without it all of them",
    "topic": "name of a topic",
    "reason": "why it is there, such as `permanent`",
    "cause": "cause of its last attempt, such as `http 503`",
    "fingerprint": "of its last failure, as groups have it",
    "type": "event type; `*` within one dot-segment, `**` across",
    "q": "text in the event's id, source or subject, or in the error of the last attempt",
}
_LIMIT = {"limit": "how many at most, 1 to 1,000; 100 if left out"}
_WHY = 'nothing, or `{"why": text}` for the audit trail'
_UNAVAILABLE = {503: "storage can't be read or written now; `Retry-After` says when to try again"}

ROUTES: tuple[Route, ...] = (
    Route(
        method="POST",
        path="/v1/events",
        role=Role.PUBLISH,
        handler=events.post_events,
        summary="take events in",
        body="CloudEvents: structured, batch, binary or lines",
        answers={
            200: "lines: one line a chunk",
            202: "every event is durable",
            415: "not a kind of body that brings events, or a compressed one",
            422: "no route takes an event, and such are refused",
            429: "no room; `Retry-After` says when there may be",
            503: "the node is stopping, or its engine is gone; `Retry-After` says when to try",
        },
    ),
    Route(
        method="POST",
        path="/v1/webhooks/{name}",
        role=Role.ANYONE,
        handler=webhooks.post_webhook,
        summary="take in what a webhook brings, by its signature",
        body="JSON, signed",
        answers={
            202: "the event is durable, or was before",
            404: "there is no such webhook",
            415: "not JSON, or a compressed body",
            422: "no route takes the event, and such are refused",
            429: "no room; `Retry-After` says when there may be",
            503: "the node is stopping, or its engine is gone; `Retry-After` says when to try",
        },
    ),
    Route(
        method="GET",
        path="/v1/events",
        role=Role.READ,
        handler=operations.get_event_by,
        summary="where an event is, by what its sender called it",
        query={"source": "the event's `source`", "id": "the event's `id`"},
        answers={200: "where it is", 404: "nothing is known of it (any more)", **_UNAVAILABLE},
    ),
    Route(
        method="GET",
        path="/v1/events/{ref}",
        role=Role.READ,
        handler=operations.get_event,
        summary="where an event is, by its ref",
        answers={200: "where it is", 404: "nothing is known of it (any more)", **_UNAVAILABLE},
    ),
    Route(
        method="GET",
        path="/v1/stats",
        role=Role.READ,
        handler=operations.get_stats,
        summary="the ledger",
        answers={200: "the ledger"},
    ),
    Route(
        method="GET",
        path="/v1/nodes",
        role=Role.READ,
        handler=operations.get_nodes,
        summary="the nodes that work on the same queues",
        answers={200: "the nodes"},
    ),
    Route(
        method="GET",
        path="/v1/topics",
        role=Role.READ,
        handler=operations.get_topics,
        summary="the topics and their settings",
        answers={200: "the topics"},
    ),
    Route(
        method="POST",
        path="/v1/topics/{topic}/pause",
        role=Role.OPERATE,
        handler=operations.post_pause,
        summary="start no more of a topic's deliveries",
        body=_WHY,
        schema=operations.Reasoned,
        answers={200: "it is paused", 404: "there is no such topic", **_UNAVAILABLE},
    ),
    Route(
        method="POST",
        path="/v1/topics/{topic}/resume",
        role=Role.OPERATE,
        handler=operations.post_resume,
        summary="start a topic's deliveries again",
        body=_WHY,
        schema=operations.Reasoned,
        answers={200: "it is not paused", 404: "there is no such topic", **_UNAVAILABLE},
    ),
    Route(
        method="PATCH",
        path="/v1/topics/{topic}",
        role=Role.ADMIN,
        handler=operations.patch_topic,
        summary="let settings of a topic win over the file, until they are deleted",
        body="keys of the topic as in TOML, null takes one away; `why`",
        schema=operations.TopicPatch,
        answers={
            200: "they hold, and will after a restart",
            400: "they can't be used; nothing was changed",
            404: "there is no such topic",
            409: "it is an orphan",
            **_UNAVAILABLE,
        },
    ),
    Route(
        method="DELETE",
        path="/v1/topics/{topic}/overrides",
        role=Role.ADMIN,
        handler=operations.delete_overrides,
        summary="let the file say again what a topic is",
        body=_WHY,
        schema=operations.Reasoned,
        answers={
            200: "nothing is overridden any more",
            404: "there is no such topic",
            409: "it is an orphan",
            **_UNAVAILABLE,
        },
    ),
    Route(
        method="GET",
        path="/v1/deliveries",
        role=Role.READ,
        handler=operations.get_deliveries,
        summary="what is retrying, parked or dead",
        query={**_FILTERS, "cursor": "`cursor` of the page before", **_LIMIT},
        answers={200: "a page, newest first", 404: "there is no such cursor", **_UNAVAILABLE},
    ),
    Route(
        method="POST",
        path="/v1/deliveries/replay",
        role=Role.OPERATE,
        handler=operations.post_replay,
        summary="make many parked or dead deliveries due now",
        body="`ids` or `filter`, `dry_run`, `why`",
        schema=operations.Bulk,
        answers={200: "what became of them", **_UNAVAILABLE},
    ),
    Route(
        method="POST",
        path="/v1/deliveries/discard",
        role=Role.OPERATE,
        handler=operations.post_discard,
        summary="forget many parked or dead deliveries",
        body="`ids` or `filter`, `dry_run`, `why`",
        schema=operations.Bulk,
        answers={200: "what became of them", **_UNAVAILABLE},
    ),
    Route(
        method="POST",
        path="/v1/deliveries/{id}/replay",
        role=Role.OPERATE,
        handler=operations.post_replay_one,
        summary="make one parked or dead delivery due now",
        body=_WHY,
        schema=operations.Reasoned,
        answers={
            200: "it is due",
            404: "there is no such delivery",
            409: "it is neither parked nor dead, or was replayed too often",
            **_UNAVAILABLE,
        },
    ),
    Route(
        method="POST",
        path="/v1/deliveries/{id}/discard",
        role=Role.OPERATE,
        handler=operations.post_discard_one,
        summary="forget one parked or dead delivery",
        body=_WHY,
        schema=operations.Reasoned,
        answers={
            200: "it is forgotten",
            404: "there is no such delivery",
            409: "it is neither parked nor dead",
            **_UNAVAILABLE,
        },
    ),
    Route(
        method="GET",
        path="/v1/groups",
        role=Role.READ,
        handler=operations.get_groups,
        summary="what is parked or dead, grouped by what the failures look like",
        query={**_FILTERS, "state": "`parked` or `dead`; without it both", **_LIMIT},
        answers={200: "the groups, the largest first", **_UNAVAILABLE},
    ),
    Route(
        method="GET",
        path="/v1/audit",
        role=Role.READ,
        handler=operations.get_audit,
        summary="the audit trail of an event",
        query={"event": "its ref"},
        answers={200: "its rows, oldest first; none if it had no trouble", **_UNAVAILABLE},
    ),
    Route(
        method="POST",
        path="/v1/audit/verify",
        role=Role.OPERATE,
        handler=operations.post_verify,
        summary="check the chains of the audit trail",
        body="nothing, or `heads`: ends of chains noted before",
        schema=operations.Against,
        answers={200: "what the check found", **_UNAVAILABLE},
    ),
    Route(
        method="GET",
        path="/v1/audit/heads",
        role=Role.READ,
        handler=operations.get_heads,
        summary="the end of every chain of the audit trail",
        answers={200: "the ends", **_UNAVAILABLE},
    ),
    Route(
        method="GET",
        path="/v1/export",
        role=Role.READ,
        handler=operations.get_export,
        summary="all events of a kind as lines, to be kept or published elsewhere",
        query={
            **_FILTERS,
            "state": "`queued`, `running`, `retrying`, `parked`, `dead` or `all`; without it "
            "parked and dead",
        },
        answers={200: "CloudEvents, one a line, each event once", **_UNAVAILABLE},
    ),
    Route(
        method="POST",
        path="/v1/backup",
        role=Role.ADMIN,
        handler=operations.post_backup,
        summary="write a copy of the node's file while traffic goes on",
        body="nothing, or `name` and `why`",
        schema=operations.Backup,
        answers={
            200: "it is written, synced and read back",
            409: "it can't be written there, or not now; none was written",
            **_UNAVAILABLE,
        },
    ),
    Route(
        method="GET",
        path="/metrics",
        role=Role.READ,
        handler=operations.get_metrics,
        summary="metrics in OpenMetrics text",
        answers={200: "the metrics"},
    ),
    Route(
        method="GET",
        path="/livez",
        role=Role.ANYONE,
        handler=operations.get_livez,
        summary="whether the process is alive",
        answers={200: "it is"},
    ),
    Route(
        method="GET",
        path="/readyz",
        role=Role.ANYONE,
        handler=operations.get_readyz,
        summary="whether to send events here",
        answers={200: "yes", 503: "no, with `reasons` for those who may read"},
    ),
    Route(
        method="GET",
        path="/",
        role=Role.READ,
        handler=page.get_page,
        summary="the ledger as a page",
        answers={200: "a page for people"},
    ),
)
