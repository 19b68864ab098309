"""Reading a stretch of a stream: any server may answer, and what comes last its leader knows."""

from __future__ import annotations

import base64
import fnmatch
import json
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import pytest

from eventflow.engine.jetstream.wire import Refused, Wire

if TYPE_CHECKING:
    from collections.abc import Sequence

    from eventflow.engine.jetstream.client import Persistent

NO_MESSAGE = {"error": {"code": 404, "err_code": 10037, "description": "no message found"}}
NO_STREAM = {"error": {"code": 404, "err_code": 10059, "description": "stream not found"}}


class Answer(NamedTuple):
    data: bytes
    headers: dict[str, str]


class Waiting:
    """A subscription, with what has been answered."""

    def __init__(self) -> None:
        self.answers: list[Answer] = []

    async def next_msg(self, **_: Any) -> Answer:
        return self.answers.pop(0)

    async def unsubscribe(self) -> None:
        pass


class Servers:
    """A stream of so many messages: at the leader, and at the follower that answers first."""

    def __init__(self, leader: int | None, follower: int | None) -> None:
        self._leader = leader
        self._follower = follower
        self.asked = 0
        """How often the leader was."""
        self._waiting = Waiting()

    def new_inbox(self) -> str:
        return "inbox"

    async def subscribe(self, inbox: str) -> Waiting:
        assert inbox == "inbox"
        return self._waiting

    async def publish(self, subject: str, body: bytes, **_: Any) -> None:
        assert subject == "$JS.API.DIRECT.GET.EF"
        wish = json.loads(body)
        if self._follower is None:
            self._waiting.answers = [Answer(b"", {"Status": "503"})]
            return
        found = self._behind(self._follower, wish)[: wish["batch"]]
        self._waiting.answers = [
            *(
                Answer(b"%d" % seq, {"Nats-Sequence": str(seq), "Nats-Subject": subject_of(seq)})
                for seq in found
            ),
            Answer(b"", {"Status": "204" if found else "404"}),
        ]

    async def request(self, subject: str, body: bytes, **_: Any) -> Answer:
        assert subject == "$JS.API.STREAM.MSG.GET.EF"
        self.asked += 1
        return Answer(json.dumps(self._told(json.loads(body))).encode(), {})

    def _told(self, wish: dict[str, Any]) -> dict[str, Any]:
        if self._leader is None:
            return NO_STREAM
        found = self._behind(self._leader, wish)
        if not found:
            return NO_MESSAGE
        data = base64.b64encode(b"%d" % found[0]).decode()
        return {"message": {"seq": found[0], "subject": subject_of(found[0]), "data": data}}

    @staticmethod
    def _behind(count: int, wish: dict[str, Any]) -> Sequence[int]:
        wanted = wish["next_by_subj"]
        behind = range(wish["seq"], count + 1)
        return [seq for seq in behind if fnmatch.fnmatch(subject_of(seq), wanted)]


def subject_of(seq: int) -> str:
    return f"ef.{'odd' if seq % 2 else 'even'}.{seq}"


def wire(servers: Servers, replicas: int) -> Wire:
    return Wire(cast("Persistent", cast("Any", servers)), replicas)


@pytest.mark.parametrize("follower", [0, 1, 4, 9, None])
async def test_what_a_follower_does_not_have_yet_its_leader_tells(follower: int | None) -> None:
    servers = Servers(leader=9, follower=follower)

    found = await wire(servers, replicas=3).read("EF", "ef.*", 2, 100)

    assert [(one.seq, one.body) for one in found] == [(seq, b"%d" % seq) for seq in range(3, 10)]


async def test_nothing_is_told_of_other_subjects_or_above_the_limit() -> None:
    servers = Servers(leader=9, follower=3)

    found = await wire(servers, replicas=3).read("EF", "ef.odd.*", 0, 4)
    assert [one.seq for one in found] == [1, 3, 5, 7]


async def test_a_full_page_needs_no_leader() -> None:
    servers = Servers(leader=9, follower=9)

    assert len(await wire(servers, replicas=3).read("EF", "ef.*", 0, 9)) == 9
    assert servers.asked == 0


async def test_a_single_server_is_asked_once() -> None:
    servers = Servers(leader=9, follower=9)

    assert len(await wire(servers, replicas=1).read("EF", "ef.*", 0, 100)) == 9
    assert servers.asked == 0


async def test_nobody_there_to_answer_is_no_empty_stream() -> None:
    """A stream has no leader for some seconds when one has died."""
    servers = Servers(leader=9, follower=None)
    assert len(await wire(servers, replicas=1).read("EF", "ef.*", 0, 100)) == 9

    servers = Servers(leader=None, follower=None)
    with pytest.raises(Refused, match="10059: stream not found"):
        await wire(servers, replicas=1).read("EF", "ef.*", 0, 100)
