"""The tables of secondary storage in SQLite, as steps that a file goes through once, in order.

    kept      what is parked or dead, a row a delivery
    audit     the trail: a chain a node, a row a step of trouble or act of an operator
    override  settings made at run time, a row a topic

They know nothing of the journal they may share a file with. A released step never changes: what
has to be different comes as a further step.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import apsw

STEPS: tuple[str, ...] = (
    """
CREATE TABLE kept (
    number INTEGER PRIMARY KEY,
    id TEXT NOT NULL,              -- <ref>.<topic>
    ref TEXT NOT NULL,
    topic TEXT NOT NULL,
    hop INTEGER NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('parked', 'dead')),
    reason TEXT NOT NULL,
    cause TEXT NOT NULL,           -- of the last attempt; '' without one
    fingerprint TEXT NOT NULL,     -- of the last attempt; '' without one
    type TEXT NOT NULL,
    event_key INTEGER NOT NULL,    -- the first 8 bytes of the event's key
    wake_at_us INTEGER,            -- parked: when it is due or expires, whichever comes first
    since_us INTEGER NOT NULL,
    size_bytes INTEGER NOT NULL,
    search TEXT NOT NULL,          -- event id, source, subject and error, folded to one case
    body BLOB NOT NULL,            -- the whole delivery: see rows.py
    CHECK ((state = 'parked') = (wake_at_us IS NOT NULL))
) STRICT;
CREATE UNIQUE INDEX kept_id ON kept (id);
CREATE INDEX kept_event ON kept (event_key);
CREATE INDEX kept_due ON kept (topic, wake_at_us, id) WHERE state = 'parked';
-- The listing, with what most filters ask for; then groups, and sums for the ledger.
CREATE INDEX kept_listed ON kept (state, since_us, number, topic, reason, type);
CREATE INDEX kept_alike ON kept (
    state, topic, reason, fingerprint, since_us, number, size_bytes
);

CREATE TABLE audit (
    chain TEXT NOT NULL,
    seq INTEGER NOT NULL,
    ref TEXT,                      -- of the event it is about, if it is about one
    at_us INTEGER NOT NULL,
    row BLOB NOT NULL,             -- canonical JSON: see audit.py
    hash BLOB NOT NULL,
    PRIMARY KEY (chain, seq)
) STRICT;
CREATE INDEX audit_ref ON audit (ref, at_us) WHERE ref IS NOT NULL;

CREATE TABLE override (topic TEXT PRIMARY KEY, settings TEXT NOT NULL) STRICT;
""",
)
"""Times are integer microseconds since 1970."""


def create(connection: apsw.Connection, held: int = 0) -> None:
    """Make the tables, or bring those of `held` steps up to date, in the caller's transaction.

    Args:
        connection: Where they go.
        held: Steps the file has been through already: `len(STEPS)` of the release that wrote it.
    """
    for step in STEPS[held:]:
        connection.execute(step)
