"""Secondary storage in PostgreSQL: for several nodes, or for who keeps their data there anyway.

    storage   the Protocol's methods, a transaction each
    shelf     parked and dead deliveries, the fence, counts, settings made at run time
    trail     the audit trail
    schema    the tables, and how they are brought up to date
    link      connections, time limits, errors, and what a database must be like

Needs the extra: `pip install "eventflow[postgres]"`. ADR 0010 has the fence and the leases.
"""

from eventflow.storage.postgres.storage import PostgresStorage, open_postgres

__all__ = ["PostgresStorage", "open_postgres"]
