"""Who counts what in the ledger: places what comes, nodes what ends (G8).

    created    what came into a topic's queue, its lane and storage, less what moved out of them
    delivered  counted by the node that ends the message
    moved      likewise: it is in another place already

A stream counts what comes by itself: the number of its last message. Storage counts in the
transaction that takes a delivery. So whoever puts something and dies has left nothing uncounted:
the delivery is in two places, is `created` twice, and has two ends.

An end is of one message, and counted once by whoever sees it first in nobody's record. Servers that
were killed give a message to a second node while the first one writes its record; then both have
counted it, and the one of the greater name takes its count back when it reads the other's record;
or the other does, once the first is dead.
"""

from __future__ import annotations

from typing import NamedTuple

Change = tuple[str, str, int]
"""Topic, counter, by how much."""


class End(NamedTuple):
    """What the end of one message counts as."""

    topic: str
    counter: str
    """"delivered" or "moved"; "": nothing any more, as another node has counted it."""


NOTHING = End("", "")


def stands(mine: str, other: str, *, dead: bool) -> bool:
    """Return whether this node's count of an end stands, which another has counted, too.

    Of all that counted it the one of the least name keeps it, whoever reads whose record first;
    but one that is dead takes nothing back, so its count stands before that of those who live.
    """
    return mine < other and not dead
