"""What ends count keeps the ledger level, also where servers bring messages back and forget ids.

The model has what servers have: a queue, a lane and storage, which know for some time what they
were given, and count what comes. Nodes read each other's records, some late; they die with what
they have put and not counted.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

from hypothesis import given
from hypothesis import strategies as st

from eventflow.engine.jetstream.counting import stands

if TYPE_CHECKING:
    from collections.abc import Sequence

NODES = ("n1", "n2", "n3")


class Message(NamedTuple):
    place: str
    seq: int
    hop: int


class Model:
    """One delivery, as often as servers make it be there."""

    def __init__(self) -> None:
        self.live = [Message("queue", 1, 0)]
        self.gone: list[Message] = []
        self.arrived = Counter({"queue": 1})
        self.ids: dict[tuple[str, int], int] = {}
        self.counted: dict[str, dict[Message, str]] = {node: {} for node in NODES}
        """By node: what it has counted the end of a message as."""

    @property
    def ends(self) -> list[tuple[str, Message, str]]:
        return [(n, one, way) for n, ends in self.counted.items() for one, way in ends.items()]

    def known(self, message: Message) -> bool:
        return any(message in ends for ends in self.counted.values())

    def unaccounted(self) -> int:
        ways = Counter(way for *_, way in self.ends)
        created = sum(self.arrived.values()) - ways["moved"]
        return created - ways["delivered"] - len(self.live)

    def end(self, which: int, way: str, *nodes: str, dies: bool = False) -> None:
        """Move or deliver a message by nodes that have not read each other's records."""
        message = self.live[which % len(self.live)]
        if way != "delivered":
            self._put(way, message.hop + 1)
        if dies:
            return  # its lease runs out
        if not self.known(message):
            for node in nodes:
                self.counted[node][message] = "delivered" if way == "delivered" else "moved"
        self.live.remove(message)
        self.gone.append(message)

    def _put(self, place: str, hop: int) -> None:
        """Put it where it was not yet, as far as that place knows."""
        if (place, hop) not in self.ids:
            self.arrived[place] += 1
            seq = self.ids[place, hop] = self.arrived[place]
            self.live.append(Message(place, seq, hop))

    def read(self, dead: Sequence[str] = ()) -> None:
        """Let all nodes read the others' records, but for dead ones."""
        for node, message, _ in self.ends:
            others = [one for one in NODES if one != node and message in self.counted[one]]
            stand = [stands(node, other, dead=other in dead) for other in others]
            if node not in dead and not all(stand):
                del self.counted[node][message]

    def bring_back(self, which: int) -> None:
        """Be a server that was killed, and forgot an ack that it had confirmed."""
        self.live.append(self.gone.pop(which % len(self.gone)))

    def forget_ids(self) -> None:
        """Be servers that were all killed: they know the ids of what they hold."""
        held = {(message.place, message.hop): message.seq for message in self.live}
        self.ids = {at: seq for at, seq in self.ids.items() if held.get(at) == seq}


ENDS = ("delivered", "queue", "lane", "storage")
STEPS = st.tuples(
    st.sampled_from([*ENDS, "come back", "forget", "read"]),
    st.integers(0, 9),
    st.lists(st.sampled_from(NODES), min_size=1, max_size=3, unique=True),
    st.booleans(),
)


@given(st.lists(STEPS, max_size=30), st.sampled_from([None, *NODES]))
def test_the_ledger_comes_level(
    steps: Sequence[tuple[str, int, list[str], bool]], dead: str | None
) -> None:
    model = Model()
    for way, which, nodes, dies in steps:
        if way == "forget":
            model.forget_ids()
        elif way == "read":
            model.read()
        elif way == "come back":
            if model.gone:
                model.bring_back(which)
        elif model.live:
            model.end(which, way, *nodes, dies=dies)
    model.read([dead] if dead else [])
    # What has come back is counted, and is there until its lease ends again.
    twice = sum(model.known(message) for message in model.live)
    assert model.unaccounted() == -twice
