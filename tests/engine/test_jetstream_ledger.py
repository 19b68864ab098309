"""A node's record in the ledger: whose end is counted already is found there by the other nodes."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any, cast

import pytest

from eventflow.engine.jetstream import ledger as ledger_module
from eventflow.engine.jetstream import names
from eventflow.engine.jetstream.counting import End
from eventflow.engine.jetstream.ends import RECORDED_MAX, REMEMBERED_S, UNSURE_S
from eventflow.engine.jetstream.ledger import FRESH_S, SILENT_S, Ledger, Moves
from eventflow.engine.jetstream.marks import Marks
from eventflow.engine.jetstream.wire import EXPECTED_OTHERWISE, Message, Refused, Stored
from eventflow.errors import EngineUnavailable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from eventflow.engine.jetstream.wire import Item, Wire

NOW = 1_000.0
LEASE_S = 30.0


class Servers:
    """What the ledger's stream keeps: the latest message of each subject."""

    def __init__(self) -> None:
        self._latest: dict[str, Message] = {}
        self._seq = 0
        self.down = self.late = self.mute = False
        """Whether nothing is stored; or later, if at all; or whether nothing is said of it."""
        self._under_way: list[Item] = []
        self.gone = 0
        """How often nothing is read before there is an answer."""
        self.behind: list[Message] = []
        """What servers answer that are cut off from the others."""

    async def put(self, item: Item) -> Stored:
        if self.down:
            raise EngineUnavailable("no answer")
        if self.late:
            self._under_way.append(item)
            raise EngineUnavailable("no answer")
        expected = item.headers.get("Nats-Expected-Last-Subject-Sequence")
        latest = self._latest.get(item.subject)
        if expected is not None and int(expected) != (latest.seq if latest else 0):
            raise Refused(min(EXPECTED_OTHERWISE), 400, "wrong last sequence")
        self._seq += 1
        self._latest[item.subject] = Message(self._seq, item.subject, item.body)
        if self.mute:
            raise EngineUnavailable("no answer")
        return Stored(self._seq)

    async def let_in(self) -> None:
        """Take what was under way."""
        for item in self._under_way:
            with suppress(Refused):
                await self.put(item)

    async def get(self, stream: str, *, last_by_subj: str) -> Message | None:
        assert stream == names.LEDGER
        if self.behind:
            return self.behind.pop()
        return self._latest.get(last_by_subj)

    async def read(self, stream: str, subjects: str, after: int, limit: int) -> Sequence[Message]:
        assert (stream, subjects) == (names.LEDGER, "ef.ledger.*")
        if self.gone:
            self.gone -= 1
            raise EngineUnavailable("no answer")
        found = sorted(self._latest.values(), key=lambda message: message.seq)
        return [message for message in found if message.seq > after][:limit]


@pytest.fixture
def servers() -> Servers:
    return Servers()


async def ledger(servers: Servers, node: str, now: float = NOW) -> Ledger:
    made = Ledger(cast("Wire", cast("Any", servers)), node, now)
    await made.load()
    return made


def fence(of: str) -> bytes:
    """Return what stands for the end of a lease."""
    return of.encode().ljust(names.FENCE_BYTES)


async def end(one: Ledger, *leases: str, confirmed: bool = True, now: float = NOW) -> None:
    """Count the ends of leases as a settlement does."""
    keys = [fence(lease) for lease in leases]
    one.end(dict.fromkeys(keys, End("mail", "delivered")), now)
    await one.commit()
    if confirmed:
        one.sure(keys, now)


def end_many(one: Ledger, count: int) -> None:
    """Count so many ends, `r0:0` and on, that are confirmed, without a record."""
    keys = [fence(f"r{n}:0") for n in range(count)]
    one.end(dict.fromkeys(keys, End("mail", "delivered")), NOW)
    one.sure(keys, NOW)


async def test_others_find_an_end_that_is_counted(servers: Servers) -> None:
    one, other = await ledger(servers, "n1"), await ledger(servers, "n2")
    await end(one, "r1:0")
    await other.refresh()

    assert other.has(fence("r1:0"))
    assert not other.has(fence("r1:1"))


async def test_also_after_thousands_of_others_where_no_server_confirmed_it(
    servers: Servers,
) -> None:
    """Its lease runs out only then, and any node may be given it."""
    one, other = await ledger(servers, "n1"), await ledger(servers, "n2")
    await end(one, "u:0", confirmed=False)
    end_many(one, RECORDED_MAX + 10)
    await one.commit()
    await other.refresh()

    assert other.has(fence("u:0"))
    assert other.has(fence(f"r{RECORDED_MAX + 9}:0"))
    assert not other.has(fence("r0:0"))


async def test_a_node_in_its_next_life_knows_them(servers: Servers) -> None:
    await end(await ledger(servers, "n1"), "u:0", confirmed=False)
    again = await ledger(servers, "n1", NOW + 1)

    assert again.has(fence("u:0"))
    assert again.counters("mail").delivered == 1


async def test_in_its_next_life_what_is_confirmed_takes_no_room_from_what_comes(
    servers: Servers,
) -> None:
    """Else others would find nothing of what it ends from then on."""
    one = await ledger(servers, "n1")
    end_many(one, RECORDED_MAX)
    await one.commit()
    again, other = await ledger(servers, "n1", NOW + 1), await ledger(servers, "n2")
    await end(again, "late:0", now=NOW + 1)
    await again.commit()
    await other.refresh()

    assert other.has(fence("late:0"))
    assert again.has(fence("r5:0"))


async def test_they_are_forgotten_at_last(servers: Servers) -> None:
    one = await ledger(servers, "n1")
    await end(one, "sure:0")
    await end(one, "u:0", confirmed=False)

    await end(one, "l:0", now=NOW + REMEMBERED_S)
    assert not one.has(fence("sure:0"))
    assert one.has(fence("u:0"))
    await end(one, "m:0", now=NOW + UNSURE_S)
    assert not one.has(fence("u:0"))


async def test_others_know_what_moves_here(servers: Servers) -> None:
    one, other = await ledger(servers, "n1"), await ledger(servers, "n2")
    one.begin(3)
    one.over(1)
    assert one.is_dated
    await one.commit()
    await other.refresh()

    assert one.is_dated  # until nothing moves: a node that says nothing moves nothing
    assert other.moves(LEASE_S) == one.moves(LEASE_S) == Moves(2, 3)
    one.over(2)
    await one.commit()
    await other.refresh()
    assert not one.is_dated
    assert other.moves(LEASE_S) == Moves(0, 3)


async def test_what_a_dead_node_moved_is_over_after_a_lease(
    servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is leased again then, by another node; its record is all that is left of it."""
    one, other = await ledger(servers, "n1"), await ledger(servers, "n2")
    one.begin(2)
    await one.commit()
    await other.refresh()
    loop = asyncio.get_running_loop()
    died_at = loop.time()

    monkeypatch.setattr(loop, "time", lambda: died_at + LEASE_S - 1)
    assert other.moves(LEASE_S).now == 2
    monkeypatch.setattr(loop, "time", lambda: died_at + LEASE_S + 1)
    await other.refresh()
    assert other.moves(LEASE_S) == Moves(0, 2)


async def test_a_node_in_its_next_life_goes_on_counting_moves(servers: Servers) -> None:
    one, other = await ledger(servers, "n1"), await ledger(servers, "n2")
    one.begin(2)
    await one.commit()
    again = await ledger(servers, "n1", NOW + 1)
    again.begin(1)
    await again.commit()
    await other.refresh()

    assert other.moves(LEASE_S) == Moves(1, 3)


async def test_what_could_not_be_told_is_told_again(servers: Servers) -> None:
    one = await ledger(servers, "n1")
    one.begin(1)
    servers.down = True
    with pytest.raises(EngineUnavailable):
        await one.commit()
    one.over(1)

    assert one.is_dated
    servers.down = False
    await one.commit()
    assert not one.is_dated


async def test_a_node_does_not_go_on_from_an_old_record_of_its_own(servers: Servers) -> None:
    """A leader that is cut off answers, and does not know that it has been left behind."""
    one = await ledger(servers, "n1")
    old = await servers.get(names.LEDGER, last_by_subj=names.ledger_subject("n1"))
    assert old is not None
    await end(one, "r1:0")
    servers.behind = [old]
    again = await ledger(servers, "n1", NOW + 1)

    assert again.counters("mail").delivered == 1
    assert again.has(fence("r1:0"))


async def test_an_old_record_of_another_is_not_believed(servers: Servers) -> None:
    one, other = await ledger(servers, "n1"), await ledger(servers, "n2")
    old = await servers.get(names.LEDGER, last_by_subj=names.ledger_subject("n1"))
    assert old is not None
    await end(one, "r1:0")
    await other.refresh()
    servers.behind = [old]
    await other.refresh()

    assert other.counters("mail").delivered == 1


async def test_what_was_in_a_record_of_another_is_known_for_some_leases(
    servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = await ledger(servers, "n1"), await ledger(servers, "n2")
    await end(one, "r:0")
    await other.refresh()
    end_many(one, RECORDED_MAX)
    await one.commit()
    await other.refresh()
    assert other.has(fence("r:0"))

    loop = asyncio.get_running_loop()
    later = loop.time() + REMEMBERED_S + 1
    monkeypatch.setattr(loop, "time", lambda: later)
    await other.refresh()
    assert not other.has(fence("r:0"))


async def test_nothing_is_counted_without_knowing_what_others_counted(
    servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Servers that were killed may give this node what another one had ended just before."""
    one, other = await ledger(servers, "n1"), await ledger(servers, "n2")
    await end(one, "r1:0")
    loop = asyncio.get_running_loop()
    later = loop.time() + FRESH_S + 1
    monkeypatch.setattr(ledger_module, "_ASK_AGAIN_S", 0.0)
    monkeypatch.setattr(loop, "time", lambda: later)
    servers.gone = 2
    await other.freshen()

    assert other.has(fence("r1:0"))


async def test_a_record_that_comes_late_is_not_the_latest(servers: Servers) -> None:
    """Of a node that was killed: its next life has gone on from the one before."""
    one = await ledger(servers, "n1")
    servers.late = True
    with pytest.raises(EngineUnavailable):
        await end(one, "r1:0")
    servers.late = False
    again = await ledger(servers, "n1", NOW + 1)
    await end(again, "r2:0", "r3:0")
    await servers.let_in()
    last = await ledger(servers, "n1", NOW + 2)

    assert last.counters("mail").delivered == 2
    assert not last.has(fence("r1:0"))


async def test_one_that_was_stored_without_an_answer_is_written_again(servers: Servers) -> None:
    one = await ledger(servers, "n1")
    servers.mute = True
    with pytest.raises(EngineUnavailable):
        await end(one, "r1:0")
    servers.mute = False
    await end(one, "r2:0")
    last = await ledger(servers, "n1", NOW + 1)

    assert last.counters("mail").delivered == 2


async def counted(*nodes: Ledger) -> list[int]:
    """Return what each shows as delivered, when all have told each other what there is to tell."""
    for _ in range(2):
        for node in nodes:
            await node.refresh()
            if node.is_dated:
                await node.commit()
    return [node.counters("mail").delivered for node in nodes]


async def test_what_two_have_counted_is_counted_once(servers: Servers) -> None:
    """Servers that were killed give one's message to another, while one writes its record."""
    one, other, third = [await ledger(servers, name) for name in ("n1", "n2", "n3")]
    for node in (third, one, other):
        await end(node, "r1:0")
    await end(other, "r2:0")

    assert await counted(other, third, one) == [2, 2, 2]
    assert await counted(one, other, third) == [2, 2, 2]
    assert not any(node.is_dated for node in (one, other, third))


async def test_whose_count_does_not_stand_takes_it_back_in_its_next_life(servers: Servers) -> None:
    one, other = await ledger(servers, "n1"), await ledger(servers, "n2")
    await end(other, "r1:0")
    await end(one, "r1:0", "r2:0")
    again = await ledger(servers, "n2", NOW + 1)

    assert await counted(one, again) == [2, 2]
    assert await counted(one, await ledger(servers, "n2", NOW + 2)) == [2, 2]
    assert await counted(await ledger(servers, "n1", NOW + 2), again) == [2, 2]


async def test_it_is_told_of_one_that_ended_long_ago(servers: Servers) -> None:
    """Thousands have ended since: the record of the one whose count stands named it no more."""
    one = await ledger(servers, "n1")
    await end(one, "old:0")
    end_many(one, RECORDED_MAX)
    await one.commit()
    other = await ledger(servers, "n2")
    assert not other.has(fence("old:0"))
    await end(other, "old:0")

    assert await counted(one, other) == [RECORDED_MAX + 1] * 2


async def test_of_two_the_one_that_is_left_takes_its_count_back(
    servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other one was killed before it read that both had counted it, and never came back."""
    one, other = await ledger(servers, "n1"), await ledger(servers, "n2")
    await end(other, "r1:0")
    await end(one, "r1:0", "r2:0")
    await one.refresh()
    loop = asyncio.get_running_loop()
    silent_since = loop.time()
    monkeypatch.setattr(loop, "time", lambda: silent_since + SILENT_S - 1)
    await one.refresh()
    assert one.counters("mail").delivered == 3
    monkeypatch.setattr(loop, "time", lambda: silent_since + SILENT_S + 1)
    await one.refresh()
    assert one.counters("mail").delivered == 2
    await one.commit()

    again = await ledger(servers, "n2", NOW + 1)  # and if it does come back, its count stands
    assert await counted(one, again) == [2, 2]


async def test_what_two_have_counted_is_remembered_until_one_takes_it_back(
    servers: Servers,
) -> None:
    one, other = await ledger(servers, "n1"), await ledger(servers, "n2")
    await end(one, "r1:0")
    await end(other, "r1:0", now=NOW)
    await one.refresh()
    later = NOW + REMEMBERED_S + 1
    await one.refresh()
    await end(one, "r2:0", now=later)

    assert await counted(one, other) == [2, 2]


async def test_what_could_not_be_taken_back_is_taken_back_later(servers: Servers) -> None:
    one, other = await ledger(servers, "n1"), await ledger(servers, "n2")
    await end(other, "r1:0")
    await end(one, "r1:0")
    await other.refresh()
    servers.down = True
    with pytest.raises(EngineUnavailable):
        await other.commit()
    servers.down = False

    assert other.is_dated
    assert await counted(one, other) == [1, 1]


async def test_the_most_that_a_place_ever_counted_is_known_to_all(servers: Servers) -> None:
    one, other = await ledger(servers, "n1"), await ledger(servers, "n2")
    assert not one.is_dated
    one.marks.saw("EF_T_mail", 7)
    assert one.is_dated
    await one.commit()
    assert not one.is_dated
    one.marks.saw("EF_T_mail", 5)
    await other.refresh()

    assert other.marks.now() == one.marks.now() == {"EF_T_mail": 7}
    assert (await ledger(servers, "n1", NOW + 1)).marks.now() == {"EF_T_mail": 7}


def test_what_a_place_has_lost_it_has_lost_for_ever() -> None:
    one, other = Marks(), Marks()
    assert one.lost("storage", 9, one.now()) == 0
    other.heard(one.now())

    assert one.lost("storage", 5, one.now()) == 4
    assert other.lost("storage", 6, other.now()) == 3
    other.heard(one.now())
    one.heard(other.now())
    assert one.lost("storage", 6, one.now()) == 4
    assert other.lost("storage", 20, other.now()) == 4
    one.heard(other.now())
    assert one.lost("storage", 19, one.now()) == 5


def test_what_others_see_while_a_place_is_asked_is_not_lost() -> None:
    one = Marks()
    before = one.now()
    one.heard({"storage": 8})

    assert one.lost("storage", 7, before) == 0
    assert one.now()["storage"] == 8
