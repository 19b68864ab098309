"""The tables of secondary storage in PostgreSQL, as steps that a database goes through once.

    kept      what is parked or dead, a row a delivery; `leased_*`: who is recovering it
    fence     the greatest hop of a delivery that was ever held, or told to be forgotten
    tally     how much is held, has arrived, was forgotten and was discarded, a row a node, topic
              and state: nodes wait for nobody else's count, and the sum over nodes is exact
    audit     the trail: a chain a node
    override  settings made at run time, a row a topic
    step      which steps this database has been through

All stand in a schema of their own, `eventflow`. A released step never changes: what has to be
different comes as a further step. Texts are compared byte by byte (`COLLATE "C"`), as SQLite does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from eventflow.errors import StorageUnavailable

if TYPE_CHECKING:
    import psycopg

STEPS: tuple[str, ...] = (
    """
CREATE TABLE eventflow.kept (
    number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id text COLLATE "C" NOT NULL UNIQUE,       -- <ref>.<topic>
    ref text COLLATE "C" NOT NULL,
    topic text COLLATE "C" NOT NULL,
    hop bigint NOT NULL,
    state text COLLATE "C" NOT NULL CHECK (state IN ('parked', 'dead')),
    reason text COLLATE "C" NOT NULL,
    cause text COLLATE "C" NOT NULL,           -- of the last attempt; '' without one
    fingerprint text COLLATE "C" NOT NULL,     -- of the last attempt; '' without one
    type text COLLATE "C" NOT NULL,
    event_key bigint NOT NULL,                 -- the first 8 bytes of the event's key
    wake_at_us bigint,                         -- parked: when it is due or expires
    since_us bigint NOT NULL,
    size_bytes bigint NOT NULL,
    search text COLLATE "C" NOT NULL,          -- event id, source, subject, error, in one case
    body bytea NOT NULL,                       -- the whole delivery: see ../rows.py
    leased_by text COLLATE "C",                -- the node that recovers it,
    leased_until_us bigint NOT NULL DEFAULT 0, -- and how long others leave it alone
    CHECK ((state = 'parked') = (wake_at_us IS NOT NULL))
);
CREATE INDEX kept_ref ON eventflow.kept (ref);
CREATE INDEX kept_event ON eventflow.kept (event_key);
CREATE INDEX kept_due ON eventflow.kept (topic, wake_at_us, id) WHERE state = 'parked';
CREATE INDEX kept_listed ON eventflow.kept (since_us, number);
CREATE INDEX kept_alike ON eventflow.kept (topic, state, reason, fingerprint, since_us, number);
CREATE TABLE eventflow.fence (
    id text COLLATE "C" PRIMARY KEY,
    hop bigint NOT NULL,
    at_us bigint NOT NULL
);
CREATE INDEX fence_at ON eventflow.fence (at_us);
CREATE TABLE eventflow.tally (
    node text COLLATE "C" NOT NULL,
    topic text COLLATE "C" NOT NULL,
    state text COLLATE "C" NOT NULL,           -- parked, dead, or discarded
    deliveries bigint NOT NULL,
    bytes bigint NOT NULL,
    PRIMARY KEY (node, topic, state)
);
CREATE TABLE eventflow.audit (
    chain text COLLATE "C" NOT NULL,
    seq bigint NOT NULL,
    ref text COLLATE "C",                      -- of the event it is about, if it is about one
    at_us bigint NOT NULL,
    row bytea NOT NULL,                        -- canonical JSON: see ../audit.py
    hash bytea NOT NULL,
    PRIMARY KEY (chain, seq)
);
CREATE INDEX audit_ref ON eventflow.audit (ref, at_us) WHERE ref IS NOT NULL;
CREATE TABLE eventflow.override (topic text COLLATE "C" PRIMARY KEY, settings text NOT NULL);
""",
    # What has been held until now has arrived; of what had been forgotten nothing is known.
    """
INSERT INTO eventflow.tally (node, topic, state, deliveries, bytes)
SELECT node, topic, 'arrived', sum(deliveries), 0 FROM eventflow.tally
WHERE state IN ('parked', 'dead', 'discarded') GROUP BY node, topic;
""",
)
"""Times are integer microseconds since 1970."""

_LOCK = 0x6576_656E_7466_6C6F  # "eventflo": nodes that start together take their turn


async def migrate(connection: psycopg.AsyncConnection[Any]) -> None:
    """Make the tables, or bring them up to date, in the caller's transaction.

    Raises:
        StorageUnavailable: a later release has been here.
    """
    await connection.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))
    # Asked first: who may only use the tables must not need the right to make them.
    found = await connection.execute("SELECT to_regclass('eventflow.step') IS NOT NULL")
    row = await found.fetchone()
    held = 0
    if row is not None and row[0]:
        found = await connection.execute("SELECT count(*) FROM eventflow.step")
        row = await found.fetchone()
        held = 0 if row is None else row[0]
    else:
        await connection.execute(
            "CREATE SCHEMA IF NOT EXISTS eventflow; CREATE TABLE eventflow.step "
            "(number integer PRIMARY KEY, at timestamptz NOT NULL DEFAULT now())"
        )
    if held > len(STEPS):
        raise StorageUnavailable(
            f"its tables have been through {held} steps, this EventFlow knows {len(STEPS)}; "
            f"they were left as they are. Run the release that made them, or a later one"
        )
    for number, step in enumerate(STEPS[held:], held + 1):
        await connection.execute(step.encode())
        await connection.execute("INSERT INTO eventflow.step (number) VALUES (%s)", (number,))
