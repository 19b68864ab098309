"""The audit trail: rows that can't be changed afterwards without anybody noticing.

Each row is hashed together with the hash before it:

    hash = SHA-256(previous hash ‖ row), or HMAC-SHA-256 of the same under a key
    the first previous hash is 32 zero bytes

A row is UTF-8 JSON, keys sorted, no blanks, no floats: a float under a name that ends in `_s` is
written as whole microseconds under `..._us`, one under `at` or `..._at` as RFC 3339 time with
microseconds and `Z`, any other as the text Python's `repr` gives, which names it exactly.
Each row carries `chain` (the node that wrote it), `seq` (from 1, without a gap) and `format` (1).

Held against itself, a chain shows an edit, a gap or a swap. A tail that was cut off, or a whole
chain computed anew, shows only against the key or a head noted elsewhere; a verdict says which it
had.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import TYPE_CHECKING, Any

import msgspec

from eventflow.clock import rfc3339
from eventflow.storage.protocol import AuditRow, Verdict

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import apsw

FORMAT = 1
FIRST_PREVIOUS = bytes(32)

_encode = msgspec.json.Encoder(order="sorted").encode
_FAULTS_MAX = 100


def canonical(row: Mapping[str, Any]) -> bytes:
    """Return a row as it is hashed.

    Raises:
        TypeError: it holds what JSON can't.
    """
    return _encode(_plain(row))


def _plain(row: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in row.items():
        if isinstance(value, float):
            name, value = _exact(name, value)  # noqa: PLW2901  # the float goes nowhere
        elif isinstance(value, dict):
            value = _plain(value)  # noqa: PLW2901
        elif isinstance(value, list | tuple):
            value = [_item(item) for item in value]  # noqa: PLW2901
        found[name] = value
    return found


def _item(value: Any) -> Any:
    if isinstance(value, dict):
        return _plain(value)
    return repr(value) if isinstance(value, float) else value


def _exact(name: str, value: float) -> tuple[str, Any]:
    if name == "at" or name.endswith("_at"):
        return name, rfc3339(value)
    if name.endswith("_s"):
        return f"{name[:-2]}_us", round(value * 1_000_000)
    return name, repr(value)


def link(previous: bytes, row: bytes, key: bytes | None = None) -> bytes:
    """Return the hash of a row that follows the one with hash `previous`: 32 bytes."""
    if key is None:
        return hashlib.sha256(previous + row).digest()
    return hmac.digest(key, previous + row, "sha256")


def verify(
    rows: Iterable[AuditRow],
    key: bytes | None = None,
    heads: Mapping[str, tuple[int, bytes]] | None = None,
) -> Verdict:
    """Hold chains against their hashes, and against heads noted before.

    Args:
        rows: By chain and seq.
        key: The HMAC key they were written under.
        heads: By chain: the seq and hash it once ended with.
    """
    faults: list[str] = []
    count = 0
    previous: dict[str, tuple[int, bytes]] = {}
    open_heads = dict(heads or {})
    for row in rows:
        count += 1
        seq, before = previous.get(row.chain, (0, FIRST_PREVIOUS))
        if row.seq != seq + 1:
            faults.append(f"chain {row.chain}: after row {seq} comes row {row.seq}")
        elif link(before, row.row, key) != row.hash:
            faults.append(f"chain {row.chain}: row {row.seq} is not what was hashed")
        elif not _names_itself(row):
            faults.append(f"chain {row.chain}: row {row.seq} says it is another one")
        previous[row.chain] = row.seq, row.hash
        head = open_heads.get(row.chain)
        if head is not None and head[0] == row.seq:
            del open_heads[row.chain]
            if head[1] != row.hash:
                faults.append(f"chain {row.chain}: row {row.seq} differs from the exported head")
    faults += [f"chain {chain}: its end is cut off before row {seq}, an exported head"
               for chain, (seq, _) in open_heads.items()]  # fmt: skip
    against = "an exported head" if heads else ("the key" if key else "itself")
    return Verdict(not faults, count, tuple(faults[:_FAULTS_MAX]), against)


def _names_itself(row: AuditRow) -> bool:
    try:
        said = msgspec.json.decode(row.row)
    except msgspec.DecodeError:
        return False
    return said.get("chain") == row.chain and said.get("seq") == row.seq


class AuditLog:
    """One node's chain in a database, and reading all chains there."""

    def __init__(self, connection: apsw.Connection, chain: str, key: bytes | None = None) -> None:
        self._connection = connection
        self.chain = chain
        self._key = key
        self._head: tuple[int, bytes] | None = None

    def append(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write rows at the end of this node's chain, in the caller's transaction."""
        # Read again each time: a transaction that was rolled back has taken its rows with it.
        seq, previous = self.head()
        values = []
        for row in rows:
            seq += 1
            text = canonical({**row, "chain": self.chain, "seq": seq, "format": FORMAT})
            previous = link(previous, text, self._key)
            values.append((self.chain, seq, row.get("ref"), text, previous))
        self._connection.executemany("INSERT INTO audit VALUES (?, ?, ?, ?, ?)", values)

    def head(self) -> tuple[int, bytes]:
        """Return the last row's seq and hash; (0, zero bytes) where there is none."""
        found = self._connection.execute(
            "SELECT seq, hash FROM audit WHERE chain = ? ORDER BY seq DESC LIMIT 1", (self.chain,)
        ).fetchone()
        return (0, FIRST_PREVIOUS) if found is None else (found[0], found[1])

    def heads(self) -> dict[str, tuple[int, bytes]]:
        """Return each chain's last seq and hash: what to note elsewhere."""
        sql = "SELECT chain, max(seq), hash FROM audit GROUP BY chain"
        return {row[0]: (row[1], row[2]) for row in self._connection.execute(sql)}

    def trail(self, ref: str, limit: int) -> list[AuditRow]:
        """Return the rows about an event, oldest first."""
        sql = "SELECT chain, seq, row, hash FROM audit WHERE ref = ? ORDER BY chain, seq LIMIT ?"
        return [AuditRow(*row) for row in self._connection.execute(sql, (ref, limit))]

    def verify(self, heads: Mapping[str, tuple[int, bytes]] | None = None) -> Verdict:
        """Hold every chain against its hashes."""
        sql = "SELECT chain, seq, row, hash FROM audit ORDER BY chain, seq"
        rows = (AuditRow(*row) for row in self._connection.execute(sql))
        return verify(rows, self._key, heads)
