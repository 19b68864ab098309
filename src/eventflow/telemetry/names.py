"""Every metric and every log event of EventFlow, named once.

docs/reference/telemetry.md lists them for users, and a test holds the two against each other.
A metric that has `topic` among its labels has one series a topic, so its number is bounded by
the configuration; every other label has few values, or is cut off (`values_max`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["counter", "gauge", "histogram", "info"]
Level = Literal["debug", "info", "warning", "error"]

_QUICK_S = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)
_HANDLER_S = (*_QUICK_S, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
_COMMIT_S = (*_QUICK_S, 2.5, 5.0)
_WAY_S = (*_QUICK_S[3:], 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0, 21600.0, 86400.0)
_BATCH = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0, 5000.0)


@dataclass(frozen=True, slots=True, eq=False)
class Metric:
    """A family of series."""

    name: str
    """Without the ending that OpenMetrics adds: `_total`, `_bucket`, `_info`."""
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    unit: str = ""
    """What one of it is: the last word of the name."""
    buckets: tuple[float, ...] = ()
    """Of a histogram: upper bounds, rising, without infinity."""
    values_max: int | None = None
    """How many values the last label may have; what comes later counts as "other"."""

    @property
    def shown(self) -> str:
        """The name that users see: a counter's ends in `_total`, an info's in `_info`."""
        endings: dict[Kind, str] = {"counter": "_total", "info": "_info"}
        return self.name + endings.get(self.kind, "")


@dataclass(frozen=True, slots=True, eq=False)
class LogEvent:
    """A line in the log: what happened, as `noun.past_participle`."""

    name: str
    level: Level
    help: str
    fields: tuple[str, ...] = ()


# ------------------------------------------------------------------ metrics: the doors

EVENTS_ACCEPTED = Metric(
    "eventflow_events_accepted",
    "counter",
    "Events taken in, durable before the answer. Without duplicates.",
)
EVENTS_DUPLICATE = Metric(
    "eventflow_events_duplicate",
    "counter",
    "Events sent again within the dedup window: answered, not stored again.",
)
EVENTS_REFUSED = Metric(
    "eventflow_events_refused",
    "counter",
    "Events not let in; nothing was stored. Reasons: full, invalid, too_large, unroutable, "
    "unauthorized, stopping, unavailable.",
    ("reason",),
    values_max=20,
)

WEBHOOK_REQUESTS = Metric(
    "eventflow_webhook_requests",
    "counter",
    "Requests to a webhook that exists: accepted, duplicate, parked, or the code of the problem.",
    ("webhook", "result"),
    values_max=20,
)

# ------------------------------------------------------------------ metrics: deliveries

DELIVERIES_ROUTED = Metric(
    "eventflow_deliveries_routed",
    "counter",
    "Deliveries that routing created.",
    ("topic",),
)
DELIVERIES_DELIVERED = Metric(
    "eventflow_deliveries_delivered",
    "counter",
    "Deliveries whose handler returned.",
    ("topic",),
)
ATTEMPTS = Metric(
    "eventflow_attempts",
    "counter",
    "Runs of a handler by how they ended: succeeded, failed, permanent, timeout, postponed.",
    ("topic", "outcome"),
    values_max=10,
)
FAILURES = Metric(
    "eventflow_failures",
    "counter",
    "Runs that failed, by cause: an exception's name or a status. At most 50 causes, then other.",
    ("topic", "cause"),
    values_max=50,
)
RETRIES = Metric(
    "eventflow_retries",
    "counter",
    "Deliveries put into the retry queue because their handler failed or asked for it.",
    ("topic",),
)
OVERFLOWS = Metric(
    "eventflow_overflows",
    "counter",
    "Times that a delivery found its topic queue full. Uses up no attempt.",
    ("topic",),
)
DELIVERIES_PARKED = Metric(
    "eventflow_deliveries_parked",
    "counter",
    "Deliveries put into secondary storage that will be tried again.",
    ("topic", "reason"),
    values_max=30,
)
DELIVERIES_DEAD = Metric(
    "eventflow_deliveries_dead",
    "counter",
    "Deliveries that will not be tried again unless a person replays them.",
    ("topic", "reason"),
    values_max=30,
)
DELIVERIES_RECOVERED = Metric(
    "eventflow_deliveries_recovered",
    "counter",
    "Parked deliveries brought back into their topic queue.",
    ("topic",),
)
ROW_TAKEN = Metric(
    "eventflow_row_taken",
    "counter",
    "How often each row of the table of a delivery's life was taken.",
    ("row",),
    values_max=50,
)

# ------------------------------------------------------------------ metrics: times

HANDLER_SECONDS = Metric(
    "eventflow_handler_seconds",
    "histogram",
    "How long one run of a handler took, whatever its end. A batch counts once.",
    ("topic",),
    "seconds",
    _HANDLER_S,
)
DELIVERY_SECONDS = Metric(
    "eventflow_delivery_seconds",
    "histogram",
    "From the acceptance of an event to the end of its delivery, retries and waiting included.",
    ("topic",),
    "seconds",
    _WAY_S,
)
COMMIT_SECONDS = Metric(
    "eventflow_commit_seconds",
    "histogram",
    "How long one commit of the journal took, the disk's sync included.",
    (),
    "seconds",
    _COMMIT_S,
)
COMMIT_OPERATIONS = Metric(
    "eventflow_commit_operations",
    "histogram",
    "Events accepted and leases settled in one commit of the journal.",
    (),
    "operations",
    _BATCH,
)

# ------------------------------------------------------------------ metrics: how full

QUEUE_DEPTH = Metric(
    "eventflow_queue_depth_deliveries",
    "gauge",
    "Deliveries in a queue, leased ones included. queue: topic, lane (of the retry queue), common.",
    ("topic", "queue"),
    "deliveries",
)
QUEUE_CAPACITY = Metric(
    "eventflow_queue_capacity_deliveries",
    "gauge",
    "Deliveries that a queue holds at most.",
    ("topic", "queue"),
    "deliveries",
)
PARKED = Metric(
    "eventflow_parked_deliveries",
    "gauge",
    "Deliveries parked in secondary storage now.",
    ("topic",),
    "deliveries",
)
DEAD = Metric(
    "eventflow_dead_deliveries",
    "gauge",
    "Dead deliveries in secondary storage now.",
    ("topic",),
    "deliveries",
)
STORAGE_USED = Metric(
    "eventflow_storage_used_bytes",
    "gauge",
    "Bytes of parked and dead deliveries and of audit rows.",
    (),
    "bytes",
)
STORAGE_MAX = Metric(
    "eventflow_storage_max_bytes",
    "gauge",
    "Bytes that secondary storage may hold (`[storage] max_size`).",
    (),
    "bytes",
)
UNACCOUNTED = Metric(
    "eventflow_unaccounted_deliveries",
    "gauge",
    "Deliveries that were created and are in no place. Anything but 0 while still is a bug.",
    (),
    "deliveries",
)

# ------------------------------------------------------------------ metrics: the node

LOOP_BLOCKED = Metric(
    "eventflow_loop_blocked_seconds",
    "counter",
    "Time for which the event loop stood still, in blocks of more than 250 ms each. topic: whose "
    "handler was on its stack, else unknown.",
    ("topic",),
    "seconds",
)
STUCK_THREADS = Metric(
    "eventflow_stuck_threads",
    "gauge",
    "Threads still running a handler that is past its timeout: each takes up a slot.",
    ("topic",),
    "threads",
)
TOPIC_PAUSED = Metric(
    "eventflow_topic_paused",
    "gauge",
    "1 while the topic is paused, else 0.",
    ("topic",),
)
READY = Metric(
    "eventflow_ready",
    "gauge",
    "1 while /readyz says yes, else 0.",
)
BUILD = Metric(
    "eventflow_build",
    "info",
    "Which EventFlow this is, on which Python.",
    ("version", "python"),
)
DURABILITY = Metric(
    "eventflow_durability",
    "info",
    "What acceptance survives: fsync a power cut, os a crash of the process, memory neither.",
    ("engine", "durability"),
)

# ------------------------------------------------------------------ log events

NODE_STARTED = LogEvent(
    "node.started",
    "info",
    "The node takes events in.",
    ("version", "address", "engine", "durability", "topics"),
)
NODE_STOPPING = LogEvent(
    "node.stopping",
    "info",
    "The doors are closed; running handlers finish within the drain time.",
    ("running", "drain_s"),
)
NODE_STOPPED = LogEvent(
    "node.stopped",
    "info",
    "Nothing runs any more; what was running and did not finish is released.",
    ("released", "unaccounted"),
)
DURABILITY_LOWERED = LogEvent(
    "durability.lowered",
    "warning",
    "Acceptance does not survive a power cut (os), or not even a crash (memory).",
    ("durability",),
)
SERVERS_DOUBTED = LogEvent(
    "servers.doubted",
    "warning",
    "Something of the NATS servers is not as the configuration claims, or was not and was put "
    "right. While it is so, /v1/stats shows it under `doubts`.",
    ("what", "found", "advice"),
)
SETTINGS_APPLIED = LogEvent(
    "settings.applied",
    "info",
    "New settings are in force; those named need a restart.",
    ("changed", "need_restart"),
)
SETTINGS_REFUSED = LogEvent(
    "settings.refused",
    "error",
    "The new configuration is faulty. The node goes on with the one it has.",
    ("problems",),
)
AUDIT_SEALED = LogEvent(
    "audit.sealed",
    "info",
    "The end of an audit chain that has grown: chain, row and hash. Kept elsewhere it shows later "
    "whether rows were cut off.",
    ("head",),
)
AUDIT_LOST = LogEvent(
    "audit.lost",
    "error",
    "A node on NATS servers has ended while neither storage nor the servers took these rows of the "
    "audit trail.",
    ("rows", "reason"),
)
BACKUP_WRITTEN = LogEvent(
    "backup.written",
    "info",
    "A copy of the journal's file was written and read back.",
    ("path", "size_bytes", "seconds", "by", "why"),
)
SETTINGS_DOUBTFUL = LogEvent(
    "settings.doubted",
    "warning",
    "The settings are allowed but probably not meant.",
    ("warning",),
)
SETTINGS_FOLLOWED = LogEvent(
    "settings.followed",
    "info",
    "Another node was told to pause a topic or to change its settings: it holds here, too.",
    ("topic", "by", "why"),
)
TOPIC_ORPHANED = LogEvent(
    "topic.orphaned",
    "warning",
    "A topic gone from the configuration still holds deliveries: it is kept, paused.",
    ("topic", "deliveries"),
)
QUEUE_OVERFULL = LogEvent(
    "queue.overfilled",
    "warning",
    "A queue holds more than its new capacity: it takes nothing more until it has drained.",
    ("topic", "queue", "deliveries", "capacity"),
)
TOPIC_PAUSED_LOG = LogEvent(
    "topic.paused", "info", "Its deliveries wait in their queue.", ("topic", "by", "why")
)
TOPIC_RESUMED = LogEvent(
    "topic.resumed", "info", "Its deliveries are started again.", ("topic", "by", "why")
)
DELIVERY_DEAD = LogEvent(
    "delivery.dead",
    "info",
    "Deliveries came to be dead together, for one reason: they are not tried again unless "
    "replayed. `eventflow groups` shows which, and why.",
    ("topic", "reason", "deliveries"),
)
ENGINE_FAILED = LogEvent(
    "engine.failed",
    "error",
    "The engine can't take anything: the doors answer 503.",
    ("error",),
)
ENGINE_RESTORED = LogEvent("engine.restored", "info", "The engine takes events again.")
NODE_AWAITED = LogEvent(
    "name.awaited",
    "info",
    "A node of this name was there lately: start waits until it is known to have gone.",
    ("node", "holder", "wait_s"),
)
NAME_LOST = LogEvent(
    "name.lost",
    "error",
    "Another node has this one's name: this one was not heard for too long. It takes nothing more, "
    "and ends.",
    ("node", "holder"),
)
UNREADABLE = LogEvent(
    "message.unread",
    "warning",
    "A later release wrote it, or it is damaged: it is left as it is, for nodes that can read it.",
    ("where", "reason"),
)
HANDLER_BLOCKED = LogEvent(
    "handler.blocked",
    "error",
    "A handler keeps the event loop from everything else: no other handler, door or timer of the "
    "node goes on. Logged when found, with the handler's stack.",
    ("topic", "handler", "blocked_s", "stack", "advice"),
)
LOOP_BLOCKED_LOG = LogEvent(
    "loop.blocked",
    "error",
    "The event loop stood still and no handler was found on its stack.",
    ("blocked_s", "stack"),
)
LOOP_RESUMED = LogEvent(
    "loop.resumed",
    "warning",
    "The event loop goes on after a block, with how long it stood in all.",
    ("topic", "handler", "blocked_s"),
)
THREAD_STUCK = LogEvent(
    "thread.stuck",
    "warning",
    "A handler in a thread is past its timeout. Its slot stays taken until it returns.",
    ("topic", "handler", "timeout_s", "stuck_threads"),
)
THREAD_RETURNED = LogEvent(
    "thread.returned",
    "info",
    "A handler past its timeout has returned; its slot is free again.",
    ("topic", "handler", "stuck_threads"),
)
FILE_REPAIRED = LogEvent(
    "file.repaired",
    "warning",
    "A file of a sink ended within a line, as after a crash: that was cut off. Its event was not "
    "delivered then, and comes again.",
    ("path", "cut_bytes"),
)
REQUEST_FAILED = LogEvent(
    "request.failed",
    "error",
    "A request could not be answered because of a fault of EventFlow.",
    ("method", "path", "error"),
)
STAGE_FAILED = LogEvent(
    "stage.failed",
    "error",
    "A stage ended with a fault of EventFlow and is started again.",
    ("stage", "topic", "error"),
)


def metrics() -> tuple[Metric, ...]:
    """Return every metric, in the order of this file."""
    return tuple(value for value in globals().values() if isinstance(value, Metric))


def log_events() -> tuple[LogEvent, ...]:
    """Return every log event, in the order of this file."""
    return tuple(value for value in globals().values() if isinstance(value, LogEvent))
