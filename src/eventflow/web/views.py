"""How deliveries, groups and the audit trail are shown: what JSON can hold, times as text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from eventflow.clock import rfc3339

if TYPE_CHECKING:
    from eventflow.storage.protocol import AuditRow, Group, Kept


def moment(at: float | None) -> str | None:
    """Return a time as RFC 3339 text; None for one that no calendar has."""
    if at is None:
        return None
    try:
        return rfc3339(at)
    except (ValueError, OverflowError, OSError):  # an `expirytime` beyond the year 9999
        return None


def kept_view(kept: Kept) -> dict[str, Any]:
    """Return a delivery as listings show it: its last failure, its event without the data."""
    one = kept.delivery
    last = one.history[-1] if one.history else None
    return {
        "id": one.id,
        "ref": one.ref,
        "topic": one.topic,
        "state": kept.state,
        "reason": one.reason,
        "since": moment(kept.since),
        "accepted_at": moment(one.accepted_at),
        "due_at": moment(one.due_at),
        "expires_at": moment(one.expires_at),
        **msgspec.structs.asdict(one.tally),
        "cause": last.cause if last else None,
        "error": last.error if last else None,
        "fingerprint": last.fingerprint if last else None,
        "size_bytes": kept.size_bytes,
        "event": one.event.attributes(),
    }


def group_view(group: Group) -> dict[str, Any]:
    """Return a group of deliveries whose last failures look alike."""
    shown: dict[str, Any] = msgspec.structs.asdict(group)
    return shown | {"first_at": moment(group.first_at), "last_at": moment(group.last_at)}


def audit_view(row: AuditRow) -> dict[str, Any]:
    """Return an audit row; `row` is the very text that was hashed."""
    return {
        "chain": row.chain,
        "seq": row.seq,
        "hash": row.hash.hex(),
        "row": msgspec.Raw(row.row),
    }
