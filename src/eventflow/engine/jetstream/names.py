"""What things are called on the server: streams, consumers, subjects, ids.

    stream      EF_COMMON             the queue of common
                EF_T_<topic>          a topic's own queue
                EF_R_<topic>          its lane of the retry queue
                EF_NOTES              what is new of deliveries that stay where they are
                EF_DOOR               ids of events that were parked at the door
                EF_LEDGER             each node's counters
                EF_AUDIT              each node's audit rows, while storage does not take them
                EF_NODES              each node's last word
                EF_OPERATORS          what operators have set of each topic
    consumer    critical high normal low of a queue, `mover` of a lane
    subject     ef.common.<priority>.<slot>.<key>.<ref>
                ef.t.<topic>.<priority>.<slot>.<key>.<ref>
                ef.r.<topic>.<priority>.<slot>.<key>.<ref>

A slot, 00 to 15, is what `order = "key"` will share out among nodes; it is there from the first
day, since a message's subject never changes.
"""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING

from eventflow.delivery import COMMON
from eventflow.engine.protocol import Kind, Queue
from eventflow.event import PRIORITIES

if TYPE_CHECKING:
    from eventflow.delivery import Delivery
    from eventflow.event import Event

NOTES = "EF_NOTES"
DOOR = "EF_DOOR"
LEDGER = "EF_LEDGER"
AUDIT = "EF_AUDIT"
NODES = "EF_NODES"
OPERATORS = "EF_OPERATORS"
MOVER = "mover"
RANKS = tuple(priority.value for priority in PRIORITIES)
"""The consumers of a queue, by rank."""
COMMON_QUEUE = Queue(Kind.TOPIC, COMMON)
FENCE_BYTES = 8

_SLOTS = tuple(f"{number:02d}" for number in range(16))
_TOPIC_STREAM = "EF_T_"
_LANE_STREAM = "EF_R_"


def stream(queue: Queue) -> str:
    """Return the name of the stream that is this queue."""
    if queue == COMMON_QUEUE:
        return "EF_COMMON"
    return (_TOPIC_STREAM if queue.kind is Kind.TOPIC else _LANE_STREAM) + queue.topic


def queue_of(stream: str) -> Queue | None:
    """Return the queue that a stream is; None: it is none of ours, or no queue."""
    if stream == "EF_COMMON":
        return COMMON_QUEUE
    if stream.startswith(_TOPIC_STREAM):
        return Queue(Kind.TOPIC, stream.removeprefix(_TOPIC_STREAM))
    if stream.startswith(_LANE_STREAM):
        return Queue(Kind.LANE, stream.removeprefix(_LANE_STREAM))
    return None


def head(queue: Queue) -> str:
    """Return what all subjects of a queue begin with, without the dot."""
    if queue == COMMON_QUEUE:
        return "ef.common"
    return f"ef.{'t' if queue.kind is Kind.TOPIC else 'r'}.{queue.topic}"


def subject(queue: Queue, event: Event, ref: str, key: str = "") -> str:
    """Return the subject of a delivery in a queue; `key` is the event's, where it is known."""
    return f"{head(queue)}.{RANKS[event.rank]}.{slot(event, ref)}.{key or event.key}.{ref}"


def ref_of(subject: str) -> str:
    """Return the ref in a subject of a queue."""
    return subject.rpartition(".")[2]


def slot(event: Event, ref: str) -> str:
    """Return the slot, 00 to 15: of the partition key, or of the ref where there is none."""
    given = event.extension("partitionkey")
    of = ref if given is None else str(given)
    return _SLOTS[hashlib.sha256(of.encode()).digest()[0] % len(_SLOTS)]


def move_id(delivery: Delivery) -> str:
    """Return the id of the move that brings a delivery where it will have this hop."""
    return f"{delivery.id}:{delivery.hop}"


def fence(what: str) -> bytes:
    """Return what the ledger knows something by that it counts once: it keeps thousands."""
    return hashlib.blake2b(what.encode(), digest_size=FENCE_BYTES).digest()


def end_of(queue: Queue, seq: int, ref: str) -> bytes:
    """Return the fence of the end of one message.

    Not of one delivery's: a server that was killed has forgotten the ids of what has gone on, and
    takes a move a second time. Both messages end, each once.
    """
    return fence(f"end:{stream(queue)}:{seq}:{ref}")


def note_subject(queue: Queue, ref: str) -> str:
    """Return the subject of what is new of a delivery in this queue."""
    return f"ef.note.{'t' if queue.kind is Kind.TOPIC else 'r'}.{queue.topic}.{ref}"


def ledger_subject(node: str) -> str:
    """Return the subject of a node's line in the ledger."""
    return f"ef.ledger.{node}"


def audit_subject(node: str) -> str:
    """Return the subject of a node's audit rows that storage has not taken yet."""
    return f"ef.audit.{node}"


def operators_subject(topic: str) -> str:
    """Return the subject of what operators have set of a topic."""
    return f"ef.set.{topic}"


def node_name(text: str) -> str:
    """Return a node's name as it can stand in a subject."""
    return re.sub(r"[^\w-]", "_", text, flags=re.ASCII) or "node"
