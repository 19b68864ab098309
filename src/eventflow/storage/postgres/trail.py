"""The audit trail in PostgreSQL: a chain a node, hashed as `storage.audit` says.

One writer a chain: whoever appends holds the chain's lock to the end of the transaction. So a node
that was started twice under one name makes its chain slower, not wrong.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from eventflow.clock import from_rfc3339
from eventflow.storage.audit import (
    FIRST_PREVIOUS,
    FORMAT,
    Check,
    Head,
    about,
    canonical,
    link,
    missing,
    spans,
)
from eventflow.storage.protocol import AuditRow
from eventflow.storage.rows import micros

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from eventflow.storage.postgres.link import Connection

_READ_ROWS = 2_000
_LOCK = "SELECT pg_advisory_xact_lock(hashtextextended('eventflow audit ' || %s, 0))"
_END = "SELECT seq, hash FROM eventflow.audit WHERE chain = %s ORDER BY seq DESC LIMIT 1"
_APPEND = """
INSERT INTO eventflow.audit (chain, seq, ref, at_us, row, hash)
SELECT %s, * FROM unnest(%s::bigint[], %s::text[], %s::bigint[], %s::bytea[], %s::bytea[])
"""
_ADOPT = """
INSERT INTO eventflow.audit (chain, seq, ref, at_us, row, hash)
SELECT * FROM unnest(
    %s::text[], %s::bigint[], %s::text[], %s::bigint[], %s::bytea[], %s::bytea[])
"""
_HELD = "SELECT seq, hash FROM eventflow.audit WHERE chain = %s AND seq BETWEEN %s AND %s"
_TRAIL = """
SELECT chain, seq, row, hash FROM eventflow.audit WHERE ref = %s
ORDER BY at_us, chain, seq LIMIT %s
"""
_BEHIND = """
SELECT chain, seq, row, hash, ref FROM eventflow.audit WHERE (chain, seq) > (%s, %s)
ORDER BY chain, seq LIMIT %s
"""
# From one chain to the next by the index: a minute's seal must not read the whole trail.
_HEADS = """
WITH RECURSIVE named (chain) AS (
    (SELECT chain FROM eventflow.audit ORDER BY chain LIMIT 1)
    UNION ALL
    SELECT (SELECT chain FROM eventflow.audit WHERE chain > named.chain ORDER BY chain LIMIT 1)
    FROM named WHERE named.chain IS NOT NULL)
SELECT named.chain, ending.seq, ending.hash FROM named CROSS JOIN LATERAL (
    SELECT seq, hash FROM eventflow.audit WHERE audit.chain = named.chain
    ORDER BY seq DESC LIMIT 1) AS ending
"""


class _About(msgspec.Struct, gc=False):
    ref: str | None = None


_about = msgspec.json.Decoder(_About).decode


async def append(
    connection: Connection, chain: str, key: bytes | None, rows: Sequence[Mapping[str, Any]]
) -> None:
    """Write rows at the end of a chain; `chain`, `seq` and `format` are added.

    Raises:
        KeyError: a row has no `at`.
        TypeError, ValueError: a row has no canonical form.
    """
    if not rows:
        return
    await connection.execute(_LOCK, (chain,))
    end = await (await connection.execute(_END, (chain,))).fetchone()
    seq, previous = (0, FIRST_PREVIOUS) if end is None else (end[0], bytes(end[1]))
    lines = []
    for row in rows:
        seq += 1
        text = canonical({**row, "chain": chain, "seq": seq, "format": FORMAT})
        previous = link(previous, text, key)
        at = row["at"]
        at_us = micros(from_rfc3339(at) if isinstance(at, str) else at)
        lines.append((seq, row.get("ref"), at_us, text, previous))
    await connection.execute(_APPEND, (chain, *map(list, zip(*lines, strict=True))))


async def adopt(connection: Connection, rows: Sequence[AuditRow]) -> None:
    """Take over rows of other nodes' chains as they are; those that are there stay.

    Raises:
        StorageUnavailable: another row is there under one of their numbers.
    """
    held: dict[tuple[str, int], bytes] = {}
    for chain, first, last in sorted(spans(rows)):  # always in one order: no circle of locks
        await connection.execute(_LOCK, (chain,))
        found = await connection.execute(_HELD, (chain, first, last))
        held |= {(chain, seq): bytes(hash) for seq, hash in await found.fetchall()}
    coming = missing(rows, held)
    if coming:
        lines = [(row.chain, row.seq, *about(row), row.row, row.hash) for row in coming]
        await connection.execute(_ADOPT, [list(column) for column in zip(*lines, strict=True)])


async def trail(connection: Connection, ref: str, limit: int) -> list[AuditRow]:
    """Return the first `limit` rows about an event, oldest first, of all chains."""
    found = await connection.execute(_TRAIL, (ref, limit))
    return [AuditRow(*_whole(line)) for line in await found.fetchall()]


async def advance(connection: Connection, check: Check) -> bool:
    """Feed a check with the next rows, some thousand; return False if there were none."""
    found = await connection.execute(_BEHIND, (*check.position, _READ_ROWS))
    lines = await found.fetchall()
    check.feed(AuditRow(*_whole(line[:4])) for line in lines)
    for chain, seq, row, _, ref in lines:
        try:
            said = _about(bytes(row)).ref
        except (msgspec.MsgspecError, UnicodeDecodeError):
            continue  # no audit row at all: the check has said so
        if said != ref:
            check.fault(chain, seq, "is filed under another ref than it says")
    return bool(lines)


async def heads(connection: Connection) -> list[Head]:
    """Return the end of every chain."""
    found = await connection.execute(_HEADS)
    return [Head(chain, seq, bytes(hash)) for chain, seq, hash in await found.fetchall()]


def _whole(line: Sequence[Any]) -> tuple[str, int, bytes, bytes]:
    chain, seq, row, hash = line
    return chain, seq, bytes(row), bytes(hash)
