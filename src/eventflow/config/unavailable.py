"""What DESIGN names and this version does not do: known, and refused by name.

A setting that is quietly ignored is a promise broken at the worst time. So each of these has a
line here that says what is not done; the reader refuses them and the reference lists them.
Whoever builds one takes its line out and adds the field to the dataclass.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase


@dataclass(frozen=True)
class NotBuilt:
    """Something of the configuration that is not available in this version."""

    path: str
    """Where it stands, dotted; `*` is any name."""
    instead: str
    """What holds as long as it is not built."""
    value: str | None = None
    """The values that are not built, with `*`. For a table: of its `type`. None: any."""
    shown: str = ""
    """How such a value is shown, behind the place."""

    def refusal(self, where: str) -> str:
        """Return the problem: what is not available, and what holds instead."""
        return f"{where}{self.shown} is not available in this version: {self.instead}"


ELSEWHERE = NotBuilt(
    "storage.url",
    "parked and dead deliveries are kept with the queues. Leave it out, or write the same as in "
    "[engine] url.",
    shown=" other than [engine] url",
)
IN_DATABASE = NotBuilt(
    "storage.url",
    "there a delivery goes from queue to storage in one transaction of one file, which a database "
    'has no part in. Put the queues on NATS servers, [engine] url = "nats://HOST:PORT", or leave '
    "this out.",
    "postgres*:*",
    ' = "postgresql://…" beside queues in a file or in memory',
)
_TOGETHER = (ELSEWHERE, IN_DATABASE)
"""What `checks` refuses: not the value itself, but what it stands beside."""

NOT_BUILT: tuple[NotBuilt, ...] = (
    NotBuilt(
        "engine.url",
        'queues are kept in a file, in memory or on NATS servers. Write "sqlite:PATH", "memory:" '
        'or "nats://HOST:PORT"; PostgreSQL goes into [storage] url.',
        "postgres*:*",
        ' = "postgresql://…"',
    ),
    ELSEWHERE,
    IN_DATABASE,
    NotBuilt("topics.*.rate", "only `concurrency` limits how fast a topic delivers."),
    NotBuilt("topics.*.breaker", "a failing target is called again as `retry` says."),
    NotBuilt(
        "topics.*.order",
        "deliveries of one partition key may overtake each other.",
        "key",
        ' = "key"',
    ),
    NotBuilt("topics.*.on_dead", "no delivery waits for another of its key."),
)


def not_built(path: tuple[str | int, ...], raw: object) -> NotBuilt | None:
    """Return the entry for what stands at `path`; None: it is available, or not known at all."""
    subject = raw.get("type") if isinstance(raw, Mapping) else raw
    for entry in NOT_BUILT:
        if entry in _TOGETHER or not _reaches(entry.path, path):
            continue
        if entry.value is None or (isinstance(subject, str) and fnmatchcase(subject, entry.value)):
            return entry
    return None


def _reaches(pattern: str, path: tuple[str | int, ...]) -> bool:
    steps = pattern.split(".")
    return len(steps) == len(path) and all(
        step in ("*", name) for step, name in zip(steps, path, strict=True)
    )
