"""What the quickstart prints."""

from __future__ import annotations

from typing import Any

_COLUMNS = (
    ("topic", "topic"),
    ("created", "created"),
    ("delivered", "delivered"),
    ("retried", "retries"),
    ("overflowed", "overflows"),
    ("parked", "parked"),
    ("recovered", "recovered"),
    ("dead", "dead"),
    ("waiting", "waiting"),
    ("unaccounted", "unaccounted"),
)
_WAITING = ("queued", "running", "retrying", "parked")


def waiting(stats: dict[str, Any]) -> int:
    """Return how many deliveries are not at their end yet."""
    return sum(topic[state] for topic in stats["topics"].values() for state in _WAITING)


def ledger(stats: dict[str, Any]) -> str:
    """Return the ledger as a table; "parked" counts every time a delivery was."""
    rows = [[title for title, _ in _COLUMNS]]
    for name, topic in stats["topics"].items():
        line = {**topic["since_start"], "topic": name, "created": topic["created"]}
        line |= {"delivered": topic["delivered"], "dead": topic["dead"]}
        line |= {"waiting": sum(topic[state] for state in _WAITING)}
        line |= {"unaccounted": topic["unaccounted"]}
        rows.append([str(line[key]) for _, key in _COLUMNS])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        row[0].ljust(widths[0])
        + "".join(cell.rjust(width + 2) for cell, width in zip(row[1:], widths[1:], strict=True))
        for row in rows
    ]
    return "\n".join(lines)


def dead(items: list[dict[str, Any]]) -> str:
    """Return what is dead, a line each, with the reason."""
    lines = []
    for item in items:
        why = f"{item['cause'] or ''}: {item['error'] or ''}".strip(": ").splitlines()
        shown = why[0][:70] if why else "no route takes it"
        lines.append(
            f"  {item['topic']:<7} {item['event']['type']:<17} {item['reason']:<19} {shown}"
        )
    return "\n".join(lines)
