"""The embedded engine: queues in memory, made durable by a journal in one SQLite file.

    engine      the promises G1 to G8, kept with all below
    opening     a file is read back and taken over
    stopped     the file while no node uses it: read, copied, checked
    leaving     the file whose content has gone elsewhere, and the mark that says so
    storage     secondary storage for the rest of EventFlow, in the same file

    arrival     events are accepted and routed in one write, where nothing waits
    parking     events that find common full are accepted into storage
    settlement  leases end: which place each delivery takes
    placement   deliveries come back from storage

    state       all that is in memory
    queues      bounded queues with weighted priorities, and lanes ordered by due time
    run         plain deliveries that move together
    dedup       which events were accepted lately

    committer   group commit: everything that waits rides in the next transaction
    riders      what rides along though nobody waits for it
    cleaning    old rows are told again so that they can go
    space       what is unused goes back to the disk
    journal     the file's content: schema, one transaction a commit, reading back
    records     what the journal says: one small record for each thing that happened
    replay      from the records back to the queues
    file        the SQLite file, for one process at a time
    writer      who runs the journal: a thread in production, inline in a simulation
    backup      a copy of the file while it is in use

A test keeps this list and the files of this folder the same.
"""

from eventflow.engine.embedded.engine import EmbeddedEngine
from eventflow.engine.embedded.opening import open_engine
from eventflow.engine.embedded.stopped import open_stopped

__all__ = ["EmbeddedEngine", "open_engine", "open_stopped"]
