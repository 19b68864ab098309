"""Moving a stopped node's file to NATS servers: `eventflow move`.

    source   the file, read in parts
    target   the servers: what they are to hold, and whether it fits
    carry    the parts, one after the other, and whether all is there
    move     a run from its beginning to its end
    report   what is said of it

ADR 0012 has why a move can be killed at any moment and run again, and how counters are carried.
"""

from eventflow.app.moving.move import Move
from eventflow.app.moving.report import Report, told

__all__ = ["Move", "Report", "told"]
