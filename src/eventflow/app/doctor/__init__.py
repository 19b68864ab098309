"""What can be wrong with a node on one machine: looked at without changing anything.

    finding   what an examination comes to
    machine   disk, clock, open files: what the machine gives
    servers   NATS servers, where the queues are there
    file      the journal: its folder, its rights, its age, what it holds
    examine   all of it, for a configuration

Each judgement is a pure function of what was measured; `examine` measures.
"""

from eventflow.app.doctor.examine import examine
from eventflow.app.doctor.finding import BAD, DOUBTFUL, GOOD, Finding

__all__ = ["BAD", "DOUBTFUL", "GOOD", "Finding", "examine"]
