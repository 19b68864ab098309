"""The programs of the bench, by the letter or word that asks for them."""

from __future__ import annotations

from typing import NamedTuple


class Contestant(NamedTuple):
    """One program, and what of its answer is shown."""

    name: str
    arguments: tuple[str, ...]
    figures: tuple[str, ...] = ("per_s",)
    floor: str = ""
    """Whose median its own is divided by: of the same figure, or else of its first."""


def _http(kind: str, connections: int, batch: int = 1) -> Contestant:
    size = "" if batch == 1 else f" batches of {batch},"
    return Contestant(
        f"(c) {kind},{size} {connections} connections",
        ("http", kind, "--connections", str(connections), "--batch", str(batch)),
        floor="" if kind == "durable" else f"(c) durable,{size} {connections} connections",
    )


FLOOR, EMPTY = "(a) floor", "(b) publish_many of 500"
CONTESTANTS = {
    "a": [Contestant(FLOOR, ("floor",))],
    "b": [
        Contestant(EMPTY, ("embedded",), floor=FLOOR),
        Contestant("(b) fan-out to three", ("embedded", "--fan-out"), floor=FLOOR),
    ],
    "c": [_http(kind, n) for n in (1, 32, 128) for kind in ("node", "bare", "durable")]
    + [_http(kind, 8, 500) for kind in ("node", "bare", "durable")],
    "d": [
        Contestant(f"(d) latency, {kind}, 5,000/s", ("latency", kind), ("p50_ms", "p99_ms"))
        for kind in ("python", "http")
    ],
    "e": [
        Contestant("(e) a waiting event beside its body", ("memory", "waiting"), ("bytes",)),
        Contestant(
            "(e) reopening 200,000 events", ("memory", "reopening", "--events", "200000"), ("s",)
        ),
    ],
    "f": [
        Contestant(f"(f) (b) with {n:,} waiting", ("embedded", "--waiting", str(n)), floor=EMPTY)
        for n in (100_000, 500_000)
    ]
    + [Contestant("(f) lateness of 100,000 retries", ("retries",), ("p50_ms", "p99_ms"))],
}
PEERS = {"celery": "Celery", "dramatiq": "Dramatiq", "taskiq": "Taskiq", "bullmq": "BullMQ"}
SYNCED = "(g) BullMQ, with fsync"
"""The fastest peer that keeps what it accepts over a power cut, as (b) does."""
CONTESTANTS["g"] = [
    Contestant(
        f"(g) {called}, {'with' if fsync else 'no'} fsync",
        ("peers", name, *(("--fsync",) if fsync else ())),
        ("per_s", "drained_per_s"),
        floor=EMPTY,
    )
    for name, called in PEERS.items()
    for fsync in (False, True)
]

# On three NATS servers: floor and EventFlow of the same hops, and how late a handler is called.
COST = ("per_s", "cpu_s_per_1000", "servers_cpu_s_per_1000")
CONTESTANTS["cluster"] = [
    Contestant(
        f"{kind}, {way}",
        ("cluster", kind, "--hops", str(hops)),
        COST,
        floor=f"floor, {way}" if kind != "floor" else "",
    )
    for hops, way in ((1, "straight to a topic"), (2, "through common"))
    for kind in ("floor", "node")
]
CONTESTANTS["cluster"].append(
    Contestant("latency, 500/s", ("cluster", "latency"), ("p50_ms", "p99_ms"))
)
BY_DEFAULT = "abcdef"
"""What needs no more than the project's own wheels, and one machine's engine."""
