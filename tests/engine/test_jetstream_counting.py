"""What moves count keeps the ledger level, also where servers bring messages back and forget ids.

The model has what a server has: a queue and a lane that know ids for some time and number what they
store, and storage, which takes each hop of a delivery once.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventflow.engine.jetstream.counting import of_move

if TYPE_CHECKING:
    from collections.abc import Sequence

TOPIC = "mail"


@pytest.mark.parametrize(
    ("came", "ended", "expected"),
    [
        (True, False, {"placed": 1}),
        (True, True, {"placed": 1, "created": 1, "repeated": 1}),
        (False, False, {"discarded": 1}),
        (False, True, {}),
    ],
)
def test_a_move_within_a_topic(*, came: bool, ended: bool, expected: dict[str, int]) -> None:
    found = of_move(TOPIC, came=came, ended=ended, queued=True, routes=False)
    assert {name: by for _, name, by in found} == expected


@pytest.mark.parametrize(
    ("came", "ended", "expected"),
    [
        (True, False, {"placed": 1, "created": 1}),
        (True, True, {"placed": 1, "created": 1, "repeated": 1}),
        (False, False, {}),
        (False, True, {}),
    ],
)
def test_a_route(*, came: bool, ended: bool, expected: dict[str, int]) -> None:
    """The message of common has its own line: another one of it that meets the first is no loss."""
    found = of_move(TOPIC, came=came, ended=ended, queued=True, routes=True)
    assert {name: by for _, name, by in found} == expected


class Message(NamedTuple):
    place: str
    seq: int
    hop: int


class Model:
    """One delivery, as often as servers make it be there."""

    def __init__(self) -> None:
        self.live = [Message("queue", 1, 0)]
        self.gone: list[Message] = []
        self.last_seq = Counter({"queue": 1})
        self.ids: dict[tuple[str, int], int] = {}
        self.known: set[object] = set()
        self.counts: Counter[str] = Counter()

    @property
    def unaccounted(self) -> int:
        from_doors = self.last_seq["queue"] - self.counts["placed"]
        created = self.counts["created"] + from_doors
        return created - self.counts["delivered"] - self.counts["discarded"] - len(self.live)

    def end(self, which: int, way: str) -> None:
        message = self.live.pop(which % len(self.live))
        ended = message in self.known
        self.known.add(message)
        self.gone.append(message)
        if way == "delivered":
            self.counts["delivered"] += not ended
            return
        seq = self._stored(way, message.hop + 1)
        coming = ("come", way, seq)
        came = coming not in self.known
        self.known.add(coming)
        for _, name, by in of_move(
            TOPIC, came=came, ended=ended, queued=way == "queue", routes=False
        ):
            self.counts[name] += by

    def _stored(self, place: str, hop: int) -> int:
        """Return the number of the message: of the first one, where its id is known."""
        seq = self.ids.get((place, hop))
        if seq is None:
            self.last_seq[place] += 1
            seq = self.ids[place, hop] = self.last_seq[place]
            self.live.append(Message(place, seq, hop))
        return seq

    def bring_back(self, which: int) -> None:
        """Be a server that was killed, and forgot an ack that it had confirmed."""
        self.live.append(self.gone.pop(which % len(self.gone)))

    def forget_ids(self) -> None:
        """Be servers that were all killed: they know the ids of what they hold."""
        held = {(message.place, message.hop): message.seq for message in self.live}
        self.ids = {at: seq for at, seq in self.ids.items() if held.get(at) == seq}


WAYS = ("delivered", "queue", "lane", "come back", "forget")


@given(st.lists(st.tuples(st.sampled_from(WAYS), st.integers(0, 9)), max_size=30))
def test_the_ledger_stays_level(steps: Sequence[tuple[str, int]]) -> None:
    model = Model()
    for way, which in steps:
        if way == "forget":
            model.forget_ids()
        elif way == "come back" and model.gone:
            model.bring_back(which)
            model.counts["brought back"] += 1
        elif way != "come back" and model.live:
            model.end(which, way)
        # What has come back is in two places until its lease ends again.
        twice = sum(message in model.known for message in model.live)
        assert model.unaccounted == -twice
