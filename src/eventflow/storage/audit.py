"""The audit trail: rows that nobody changes afterwards without it being found.

Each node writes one chain. A row is hashed together with the hash of the row before it:

    hash = SHA-256(previous hash ‖ row), or under a key HMAC-SHA-256(previous hash ‖ row)

The first previous hash is 32 zero bytes. What a check finds depends on what it has:

    it has             it finds
    itself             an edit, a gap, a swap
    the key            also a chain that somebody without the key made anew
    an exported head   also a tail that was cut off, or a chain made anew by anybody, up to there

The key alone can't tell a cut tail: what is left is as true as it was. That is what heads are
for: `AuditLog.seal` gives them every minute, to be logged where this machine can't reach.

A node that gets its key later goes on with its chain. The first row under the key vouches for
those before it, since it was hashed with the last of them; after it no row without the key passes.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import msgspec

from eventflow.clock import from_rfc3339, rfc3339
from eventflow.errors import StorageUnavailable
from eventflow.storage import bulk
from eventflow.storage.protocol import AuditRow, Verdict
from eventflow.storage.rows import micros

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import apsw

FORMAT = 1
"""Of the rows written. A check refuses others."""
FIRST_PREVIOUS = bytes(32)
"""What stands for the hash before the first row."""
FAULTS_SHOWN = 100
"""Most sentences in a verdict: with a wrong key, every row of a chain is a fault."""

_encode = msgspec.json.Encoder(order="sorted").encode
_HASH_BYTES = 32
_SECONDS = "seconds"
_TIME = "time"
_READ_ROWS = 2_000

_APPEND = """
INSERT INTO audit (chain, seq, ref, at_us, row, hash)
SELECT ?3, value->>2, value->>3, value->>4,
    substr(?2, value->>0, value->>1 - 32), substr(?2, value->>0 + value->>1 - 32, 32)
FROM jsonb_each(?1)
"""
_ADOPT = """
INSERT INTO audit (chain, seq, ref, at_us, row, hash)
SELECT value->>2, value->>3, value->>4, value->>5,
    substr(?2, value->>0, value->>1 - 32), substr(?2, value->>0 + value->>1 - 32, 32)
FROM jsonb_each(?1)
"""
_HELD = "SELECT seq, hash FROM audit WHERE chain = ? AND seq BETWEEN ? AND ?"
_END = "SELECT seq, hash FROM audit WHERE chain = ? ORDER BY seq DESC LIMIT 1"
# From one chain to the next by the index: a minute's seal must not read the whole trail.
_HEADS = """
WITH RECURSIVE named (chain) AS (
    SELECT min(chain) FROM audit
    UNION ALL
    SELECT (SELECT min(chain) FROM audit WHERE chain > named.chain) FROM named
    WHERE named.chain IS NOT NULL)
SELECT audit.chain, audit.seq, audit.hash FROM named CROSS JOIN audit
ON audit.chain = named.chain
AND audit.seq = (SELECT max(seq) FROM audit WHERE chain = named.chain)
"""
_LINES = """
SELECT json_group_array(json_array(at_us, chain, seq, length(row), length(hash))),
    CAST(group_concat(row, '') AS BLOB), CAST(group_concat(hash, '') AS BLOB)
FROM (SELECT * FROM audit {})
"""
_TRAIL = _LINES.format("""INDEXED BY audit_ref WHERE ref = ?
    ORDER BY at_us, chain, seq LIMIT ?""")
_BEHIND = _LINES.format("""WHERE (chain, seq) > (?, ?) ORDER BY chain, seq LIMIT ?""")
_MISFILED = """
SELECT chain, seq FROM audit
WHERE (chain, seq) > (?, ?) AND (chain, seq) <= (?, ?)
    AND json_valid(CAST(row AS TEXT)) AND ref IS NOT CAST(row AS TEXT)->>'ref' LIMIT ?
"""


class Head(msgspec.Struct, frozen=True, gc=False):
    """The end of a chain at a time: what a later check can hold the chain against."""

    chain: str
    seq: int
    hash: bytes
    at: float = 0.0
    """When it was sealed, seconds since 1970."""

    @property
    def text(self) -> str:
        """`<chain>:<seq>:<hash in hex>`: how it is logged and exported."""
        return f"{self.chain}:{self.seq}:{self.hash.hex()}"

    @staticmethod
    def of(text: str) -> Head:
        """Return the head that `text` names.

        Raises:
            ValueError: it names none.
        """
        try:
            chain, seq, digits = text.strip().rsplit(":", 2)
            head = Head(chain, int(seq), bytes.fromhex(digits))
        except ValueError:
            head = Head("", 0, b"")
        if head.seq < 1 or len(head.hash) != _HASH_BYTES:
            raise ValueError(f"head: expected <chain>:<seq>:<64 hex digits>, got {text[:200]!r}")
        return head


def canonical(row: Mapping[str, Any]) -> bytes:
    """Return a row as it is hashed and stored: UTF-8 JSON, keys sorted, no blanks, no floats.

    Numbers become exact by these rules, in nested objects too and for each number of a list:

        name           number of              is written as
        `at`, `…_at`   seconds since 1970     RFC 3339 text, UTC, microseconds and `Z`
        `…_s`          seconds                integer microseconds, under the name `…_us`
        any other      a float                the text of Python's `repr`, which names it exactly

    Also written as text: integers beyond 64 bits, and what has no time or whole number to it, such
    as `inf`. Lone surrogates in text become question marks. Otherwise it is what Python's
    `json.dumps(…, sort_keys=True, separators=(",", ":"), ensure_ascii=False)` writes.

    Raises:
        TypeError: it holds what is not null, a boolean, a number, text, a list or an object.
        ValueError: two names become the same one (`wait_s` beside `wait_us`).
    """
    return _encode(_object(row))


def _object(row: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for given, value in row.items():
        name, unit = _name(given)
        if type(value) is str and value.isascii():  # most values, said twice for speed
            found[name] = value
        elif unit != _SECONDS:
            found[name] = _exact(name, unit, value)
        elif _is_measure(value):
            found[f"{name[:-1]}us"] = _exact(name, unit, value)
        else:  # no seconds: some other word with that ending
            found[name] = _exact(name, "", value)
    if len(found) != len(row):
        raise ValueError(f"audit row: two values have one name once units are named: {list(row)}")
    return found


@lru_cache(maxsize=1024)
def _name(given: str) -> tuple[str, str]:
    """Return a name as it can be stored, and what it says of numbers under it."""
    if not isinstance(given, str):
        raise TypeError(f"audit row: expected text as a name, got {given!r}")
    name = bulk.storable(given)
    if name.endswith("_s"):
        return name, _SECONDS
    return name, _TIME if name == "at" or name.endswith("_at") else ""


def _exact(name: str, unit: str, value: Any) -> Any:
    kind = type(value)
    if kind is int and not unit and -(2**63) <= value < 2**63:
        return value
    if value is None or kind is bool:
        return value
    if isinstance(value, str):
        return value if value.isascii() else bulk.storable(value)
    if isinstance(value, int | float):
        return _number(unit, value)
    if kind is dict or isinstance(value, Mapping):
        return _object(value)
    if isinstance(value, list | tuple):
        return [_exact(name, unit, item) for item in value]
    raise TypeError(f"audit row: {name}: expected what JSON holds, got {kind.__name__}")


def _is_measure(value: Any) -> bool:
    """Whether a value under a name `…_s` is one of seconds, none yet, or a list of them."""
    if isinstance(value, list | tuple):
        return all(map(_is_measure, value))
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def _number(unit: str, value: float) -> int | str:
    try:
        if unit == _TIME:
            return rfc3339(value)
        if unit == _SECONDS:
            value = round(value * 1_000_000)
    except (ValueError, OverflowError, OSError):  # not finite, or beyond the year 9999
        return repr(value)
    if isinstance(value, int) and -(2**63) <= value < 2**63:
        return value
    return repr(value)


def link(previous: bytes, row: bytes, key: bytes | None = None) -> bytes:
    """Return the hash of a row that follows the one with hash `previous`: 32 bytes."""
    if key is None:
        return hashlib.sha256(previous + row).digest()
    return hmac.digest(key, previous + row, "sha256")


def verify(
    rows: Iterable[AuditRow], key: bytes | None = None, heads: Sequence[Head] = ()
) -> Verdict:
    """Hold chains against their hashes, and against a key and heads where there are some.

    Args:
        rows: Each chain's in order; chains may be mixed.
        key: What the chains were written under.
        heads: As exported before, in any order.
    """
    check = Check(key, heads)
    check.feed(rows)
    return check.verdict()


class _Facts(msgspec.Struct, gc=False):
    """What a row says of its own place."""

    chain: str
    seq: int
    format: int


class _Chain:
    """How far a chain has been checked."""

    __slots__ = ("hash", "keyed", "seq")

    def __init__(self) -> None:
        self.seq = 0
        self.hash = FIRST_PREVIOUS
        self.keyed = False
        """Whether a row under the key has vouched for those before it."""


_facts = msgspec.json.Decoder(_Facts).decode


class Check:
    """A check of chains, a part at a time: a long trail need not be read in one go."""

    def __init__(self, key: bytes | None = None, heads: Sequence[Head] = ()) -> None:
        self.position = ("", 0)
        """Chain and seq of the row fed last."""
        self._key = key
        self._heads: dict[tuple[str, int], list[Head]] = {}
        for head in heads:
            self._heads.setdefault((head.chain, head.seq), []).append(head)
        self._against = _against(key, heads)
        self._chains: dict[str, _Chain] = {}
        self._rows = 0
        self._faults: list[str] = []
        self._faults_left_out = 0

    def feed(self, rows: Iterable[AuditRow]) -> None:
        """Go on with these rows."""
        for row in rows:
            self._rows += 1
            chain = self._chains.setdefault(row.chain, _Chain())
            self._feed(row, chain)
            chain.seq = row.seq
            chain.hash = row.hash
            self.position = (row.chain, row.seq)

    def fault(self, chain: str, seq: int | None, what: str) -> None:
        """Note that something is wrong."""
        if len(self._faults) >= FAULTS_SHOWN:
            self._faults_left_out += 1
        elif seq is None:
            self._faults.append(f"chain {chain!r}: {what}")
        else:
            self._faults.append(f"chain {chain!r}, seq {seq}: {what}")

    def verdict(self) -> Verdict:
        """Return what was found, taking the chains to end here. Ask once."""
        for wanted in [head for heads in self._heads.values() for head in heads]:
            end = self._chains.get(wanted.chain, _Chain()).seq
            what = f"is missing, but was exported as a head: the tail was cut off behind seq {end}"
            self.fault(wanted.chain, wanted.seq, what)
        for name, chain in self._chains.items():
            if self._key is not None and not chain.keyed:
                what = "no row is under the key: made anew without it, or before there was one"
                self.fault(name, None, what)
        faults = tuple(self._faults)
        if self._faults_left_out:
            faults += (f"and {self._faults_left_out} more",)
        return Verdict(not faults, self._rows, faults, self._against)

    def _feed(self, row: AuditRow, chain: _Chain) -> None:
        if row.seq > chain.seq + 1:
            missing = f"rows {chain.seq + 1} to {row.seq - 1} before it are missing"
            self.fault(row.chain, row.seq, missing)
        elif row.seq <= chain.seq:
            self.fault(row.chain, row.seq, f"stands behind seq {chain.seq}: swapped or doubled")
        elif not self._follows(row, chain):
            what = "is not what was hashed: it, its hash or the hash before was changed"
            self.fault(row.chain, row.seq, what)
        elif (wrong := _misnamed(row)) is not None:
            self.fault(row.chain, row.seq, wrong)
        for head in self._heads.pop((row.chain, row.seq), ()):
            if head.hash != row.hash:
                what = "differs from its exported head: the chain was made anew"
                self.fault(row.chain, row.seq, what)

    def _follows(self, row: AuditRow, chain: _Chain) -> bool:
        if row.hash == link(chain.hash, row.row, self._key):
            chain.keyed = self._key is not None
            return True
        may_be_plain = self._key is not None and not chain.keyed
        return may_be_plain and row.hash == link(chain.hash, row.row)


class _About(msgspec.Struct, gc=False):
    """What a row is filed under."""

    at: str
    ref: str | None = None


_about = msgspec.json.Decoder(_About).decode


def about(row: AuditRow) -> tuple[str | None, int]:
    """Return what a row is filed under: its event's ref, and when, microseconds since 1970."""
    try:
        said = _about(row.row)
        return said.ref, _at_us(said.at)
    except (msgspec.MsgspecError, ValueError):  # damaged: taken over all the same, a check finds it
        return None, 0


def spans(rows: Iterable[AuditRow]) -> list[tuple[str, int, int]]:
    """Return each chain among rows with its least and greatest number."""
    found: dict[str, list[int]] = {}
    for row in rows:
        found.setdefault(row.chain, []).append(row.seq)
    return [(chain, min(numbers), max(numbers)) for chain, numbers in found.items()]


def missing(rows: Iterable[AuditRow], held: Mapping[tuple[str, int], bytes]) -> list[AuditRow]:
    """Return those of the rows that are not held, by chain and number.

    Raises:
        StorageUnavailable: one is held as another.
    """
    coming: list[AuditRow] = []
    for row in rows:
        hash = held.get((row.chain, row.seq))
        if hash is None:
            coming.append(row)
        elif hash != row.hash:
            raise StorageUnavailable(
                f"it holds another row {row.seq} of the audit chain {row.chain!r} than the one to "
                f"be taken over; nothing was written over. Two files with one chain are copies of "
                f"each other: only one of them can be moved there"
            )
    return coming


def _against(key: bytes | None, heads: Sequence[Head]) -> str:
    had = ["the key"] if key is not None else []
    if heads:
        had.append("an exported head" if len(heads) == 1 else f"{len(heads)} exported heads")
    return " and ".join(had) or "itself"


def _misnamed(row: AuditRow) -> str | None:
    try:
        facts = _facts(row.row)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        return f"is no audit row: {error}"
    if facts.format != FORMAT:
        return f"has format {facts.format}, this EventFlow reads format {FORMAT}"
    if (facts.chain, facts.seq) != (row.chain, row.seq):
        return f"says that it is seq {facts.seq} of chain {facts.chain!r}"
    return None


class AuditLog:
    """The table `audit`: this node's chain, and reading of all chains there.

    Made by `schema.create`; rows on the caller's connection, in the caller's transaction. Any
    method may raise `apsw.Error`.
    """

    def __init__(self, connection: apsw.Connection, chain: str, key: bytes | None = None) -> None:
        self._connection = connection
        self._chain = chain
        self._key = key
        self._sealed: dict[str, int] = {}

    def append(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write rows at the end of this node's chain; `chain`, `seq` and `format` are added.

        Args:
            rows: Each with `at`: seconds since 1970, or RFC 3339 text; and with `ref`, if it is
                about an event.

        Raises:
            KeyError: a row has no `at`.
            TypeError, ValueError: a row has no canonical form. In each case nothing was written.
        """
        # Asked each time: a transaction that was undone has taken its rows back.
        seq, previous = self._end()
        lines: list[tuple[tuple[Any, ...], bytes]] = []
        for row in rows:
            seq += 1
            text = canonical({**row, "chain": self._chain, "seq": seq, "format": FORMAT})
            previous = link(previous, text, self._key)
            lines.append(((seq, row.get("ref"), _at_us(row["at"])), text + previous))
        for columns, blobs in bulk.pieces(lines):
            self._connection.execute(_APPEND, (columns, blobs, self._chain))

    def adopt(self, rows: Sequence[AuditRow]) -> None:
        """Take over rows of other nodes' chains as they are; those that are there stay.

        Raises:
            StorageUnavailable: another row is there under one of their numbers.
        """
        held: dict[tuple[str, int], bytes] = {}
        for chain, first, last in spans(rows):
            found = self._connection.execute(_HELD, (chain, first, last))
            held |= {(chain, seq): hash for seq, hash in found}
        lines = [
            ((row.chain, row.seq, *about(row)), row.row + row.hash) for row in missing(rows, held)
        ]
        for piece in bulk.pieces(lines):
            self._connection.execute(_ADOPT, piece)

    def behind(self, position: tuple[str, int], limit: int) -> list[AuditRow]:
        """Return the next rows of all chains behind a chain and number, in that order."""
        found = self._read(_BEHIND, (*position, limit))
        return sorted((row for _, row in found), key=lambda row: (row.chain, row.seq))

    def trail(self, ref: str, limit: int) -> list[AuditRow]:
        """Return the first `limit` rows about an event, oldest first, of all chains."""
        found = self._read(_TRAIL, (bulk.storable(ref), limit))
        return [row for _, row in sorted(found, key=lambda line: line[0])]

    def verify(self, heads: Sequence[Head] = ()) -> Verdict:
        """Hold every chain against its hashes, this log's key, and exported heads."""
        check = self.check(heads)
        while self.advance(check):
            pass
        return check.verdict()

    def check(self, heads: Sequence[Head] = ()) -> Check:
        """Return a check under this log's key, to be fed by `advance`."""
        return Check(self._key, heads)

    def advance(self, check: Check) -> bool:
        """Feed a check with the next rows, some thousand; return False if there were none.

        `verify` in steps, for a writer that has other work in between: rows may be appended
        meanwhile. The check is one of `check`.
        """
        before = check.position
        found = self.behind(before, _READ_ROWS)
        check.feed(found)
        if found:
            bounds = (*before, *check.position, FAULTS_SHOWN)
            for chain, seq in self._connection.execute(_MISFILED, bounds):
                check.fault(chain, seq, "is filed under another ref than it says")
        return bool(found)

    def heads(self) -> list[Head]:
        """Return the end of every chain."""
        return [Head(*line) for line in self._connection.execute(_HEADS)]

    def seal(self, now: float) -> list[Head]:
        """Return the ends of the chains that have grown since this log was last asked.

        Args:
            now: Seconds since 1970.

        Returns:
            Heads to be logged out of this machine's reach.
        """
        grown = [head for head in self.heads() if head.seq > self._sealed.get(head.chain, 0)]
        self._sealed.update((head.chain, head.seq) for head in grown)
        return [msgspec.structs.replace(head, at=now) for head in grown]

    def _end(self) -> tuple[int, bytes]:
        found = self._connection.execute(_END, (self._chain,)).fetchone()
        return (0, FIRST_PREVIOUS) if found is None else (found[0], found[1])

    def _read(self, sql: str, values: tuple[Any, ...]) -> list[tuple[list[Any], AuditRow]]:
        """Return rows with their at, chain and seq: one line from SQLite, in no order."""
        found: Any = self._connection.execute(sql, values).fetchone()
        meta, texts, hashes = found
        lines = msgspec.json.decode(meta)
        row_texts = bulk.cut(texts or b"", (line[3] for line in lines))
        row_hashes = bulk.cut(hashes or b"", (line[4] for line in lines))
        return [
            (line[:3], AuditRow(line[1], line[2], text, hash))
            for line, text, hash in zip(lines, row_texts, row_hashes, strict=True)
        ]


def _at_us(at: float | str) -> int:
    return micros(from_rfc3339(at) if isinstance(at, str) else at)
