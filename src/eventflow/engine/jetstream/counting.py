"""What a move counts: each message's end once, and its coming to the next place once.

Both are told apart, since servers that were killed bring back what has gone on, and have forgotten
ids: of one delivery there are two messages then, which both end, or meet again where they go.

    coming  end
    new     new     a move: nothing is more or less than before
    new     known   the first message has gone on, this is a second one: created, and repeated
    known   new     a second one comes to where the first one is, or was: discarded
    known   known   nothing

`placed` is what moves put into a queue's stream: all else in there came from a door, and is counted
by the stream's last sequence.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

Change = tuple[str, str, int]
"""Topic, counter, by how much."""


def of_move(topic: str, *, came: bool, ended: bool, queued: bool, routes: bool) -> Iterator[Change]:
    """Yield what is counted of one delivery's way.

    Args:
        topic: That it is in.
        came: Whether its coming is counted first now.
        ended: Whether the end of where it comes from was counted before.
        queued: Whether it came into a queue's stream: no lane, no storage.
        routes: Whether it was made out of a delivery in common, whose end is counted there.
    """
    if came and queued:
        yield topic, "placed", 1
    if came and (routes or ended):
        yield topic, "created", 1
    if came and ended:
        yield topic, "repeated", 1
    if not (came or ended or routes):
        yield topic, "discarded", 1
