"""The embedded engine: queues in memory, made durable by a journal in one SQLite file.

queues      bounded queues with weighted priorities, and lanes ordered by due time
records     what the journal says: one small record for each thing that happened
file        opening the SQLite file, for one process at a time
journal     what stands in it: schema, one transaction a commit, reading back
writer      who runs the journal: a thread in production, inline in a simulation
committer   group commit: everything that waits rides in the next transaction
replay      from the records back to the queues
engine      the promises G1 to G8, kept with the above
backup      a copy of the file while it is in use
stopped     the file while no node uses it: read, copied, checked
storage     secondary storage for the rest of EventFlow, in the same file
"""

from eventflow.engine.embedded.engine import EmbeddedEngine, open_engine
from eventflow.engine.embedded.stopped import open_stopped

__all__ = ["EmbeddedEngine", "open_engine", "open_stopped"]
