"""Audit rows that storage does not take wait on the servers, and are in the trail in the end."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, cast

import msgspec
import pytest
from tests.engine.test_jetstream import OnOneServer

from eventflow.engine.jetstream import names
from eventflow.engine.jetstream.untold import HELD_UP_S, SILENT_S, Untold
from eventflow.engine.jetstream.wire import Full, Message, Refused, Stored
from eventflow.engine.protocol import Note, Plan, TopicPlan
from eventflow.errors import EngineUnanswered, EngineUnavailable, StorageUnavailable
from eventflow.testing import run
from eventflow.testing.engine_bench import EngineBench, bring_one, lane, lease_one, settle, topic

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from eventflow.engine.jetstream import JetStreamEngine
    from eventflow.engine.jetstream.wire import Item, Wire
    from eventflow.storage.protocol import Keeper

MINE = names.audit_subject("n1")


class Servers:
    """The stream for it."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.down = self.full = self.keeps = False
        """Whether they don't answer; take nothing; or forget nothing."""
        self.mute = 0
        """How often they store something and don't say so."""
        self.takes_s = 0.0
        self.asked = 0
        """How often to forget something."""
        self._ids: dict[str, int] = {}
        self._seq = 0
        self._names = 0

    def unique(self) -> str:
        self._names += 1
        return f"id{self._names}"

    async def put(self, item: Item) -> Stored:
        await asyncio.sleep(self.takes_s)
        if self.down:
            raise EngineUnavailable("no answer")
        if self.full:
            raise Full(10077, 503, "maximum bytes exceeded")
        if item.id in self._ids:
            return Stored(self._ids[item.id], duplicate=True)
        self._seq += 1
        self._ids[item.id] = self._seq
        self.messages.append(Message(self._seq, item.subject, item.body))
        if self.mute:
            self.mute -= 1
            raise EngineUnanswered("no answer")
        return Stored(self._seq)

    async def get(self, _: str, *, last_by_subj: str) -> Message | None:
        found = [one for one in self.messages if one.subject == last_by_subj]
        return found[-1] if found else None

    async def read(self, _: str, subject: str, after: int, limit: int) -> list[Message]:
        if self.down:
            raise EngineUnavailable("no answer")
        found = [one for one in self.messages if one.subject == subject and one.seq > after]
        return found[:limit]

    async def ask(self, what: str, wish: Mapping[str, Any]) -> None:
        self.asked += 1
        if self.keeps or self.down:
            raise EngineUnavailable("no answer")
        if what == f"STREAM.MSG.DELETE.{names.AUDIT}":
            self.messages = [one for one in self.messages if one.seq != wish["seq"]]
            return
        assert what == f"STREAM.PURGE.{names.AUDIT}"
        gone = (wish["filter"], wish["seq"])
        self.messages = [
            one for one in self.messages if one.subject != gone[0] or one.seq >= gone[1]
        ]

    def made_anew(self) -> None:
        """Somebody has removed the stream, and it was declared again."""
        self.messages.clear()
        self._ids.clear()
        self._seq = 0


class Trail:
    """Storage, of which the trail alone is asked for."""

    def __init__(self) -> None:
        self.down = False
        self.whats: list[str] = []

    async def note(self, rows: Sequence[Mapping[str, Any]]) -> None:
        await asyncio.sleep(0)
        if self.down:
            raise StorageUnavailable("down")
        self.whats += [row["what"] for row in rows]


@pytest.fixture
def servers() -> Servers:
    return Servers()


@pytest.fixture
def trail() -> Trail:
    return Trail()


UNREAD: list[str] = []


async def life(servers: Servers, trail: Trail, node: str = "n1") -> Untold:
    UNREAD.clear()
    untold = Untold(
        cast("Wire", servers), cast("Keeper", trail), node, lambda _, why: UNREAD.append(why)
    )
    await untold.load()
    return untold


async def outage(untold: Untold, trail: Trail, *whats: str) -> None:
    """Have the node tell something, one after the other, while storage is down."""
    trail.down = True
    for what in whats:
        await untold.tell(rows(what))
    trail.down = False


def rows(*whats: str, **more: Any) -> list[dict[str, Any]]:
    return [{"at": 1_000.5, "what": what, **more} for what in whats]


async def test_rows_go_to_storage_at_once(servers: Servers, trail: Trail) -> None:
    untold = await life(servers, trail)
    await untold.tell(rows("a", "b"))
    await untold.tell([])
    assert trail.whats == ["a", "b"]
    assert servers.messages == []


async def test_what_storage_does_not_take_waits_in_order(servers: Servers, trail: Trail) -> None:
    untold = await life(servers, trail)
    trail.down = True
    await untold.tell(rows("a"))
    await untold.tell(rows("b", "c"))
    with pytest.raises(StorageUnavailable):
        await untold.carry_out()
    assert len(servers.messages) == 2
    trail.down = False
    await untold.tell(rows("d"))  # behind those that wait
    assert trail.whats == []
    await untold.carry_out()
    assert trail.whats == ["a", "b", "c", "d"]
    assert servers.messages == []
    await untold.tell(rows("e"))
    assert trail.whats[-1] == "e"


async def test_the_next_life_of_the_node_tells_it(servers: Servers, trail: Trail) -> None:
    trail.down = True
    await (await life(servers, trail)).tell(rows("a"))
    await (await life(servers, trail, "n2")).tell(rows("other's"))
    trail.down = False
    untold = await life(servers, trail)
    await untold.tell(rows("b"))
    await untold.carry_out()
    assert trail.whats == ["a", "b"]
    assert [one.subject for one in servers.messages] == [names.audit_subject("n2")]


async def test_nothing_is_told_twice_where_servers_forget_late(
    servers: Servers, trail: Trail
) -> None:
    untold = await life(servers, trail)
    trail.down = True
    await untold.tell(rows("a"))
    trail.down, servers.keeps = False, True
    for _ in range(2):
        with pytest.raises(EngineUnavailable):
            await untold.carry_out()
    assert trail.whats == ["a"]
    servers.keeps = False
    await untold.carry_out()
    assert (trail.whats, servers.messages) == (["a"], [])


@pytest.mark.parametrize("how", ["down", "full"])
async def test_what_nobody_takes_is_held_here(servers: Servers, trail: Trail, how: str) -> None:
    untold = await life(servers, trail)
    trail.down = True
    await untold.tell(rows("a"))
    setattr(servers, how, True)
    await untold.tell(rows("b"))
    await untold.tell(rows("c"))
    assert len(servers.messages) == 1
    with pytest.raises((StorageUnavailable, EngineUnavailable)):
        await untold.carry_out()
    setattr(servers, how, False)
    with pytest.raises(StorageUnavailable):
        await untold.carry_out()
    trail.down = False
    await untold.carry_out()
    assert trail.whats == ["a", "b", "c"]
    assert servers.messages == []


async def test_held_rows_go_to_storage_though_servers_are_full(
    servers: Servers, trail: Trail
) -> None:
    untold = await life(servers, trail)
    trail.down = servers.full = True
    await untold.tell(rows("a"))
    trail.down = False
    await untold.carry_out()
    assert trail.whats == ["a"]


async def test_many_rows_are_several_messages(servers: Servers, trail: Trail) -> None:
    untold = await life(servers, trail)
    trail.down = True
    whats = [f"w{n}" for n in range(3_000)]
    await untold.tell(rows(*whats, because={"text": "x" * 1_000}))
    assert 20 < len(servers.messages) < 30
    assert max(len(one.body) for one in servers.messages) < 2**18
    trail.down = False
    await untold.carry_out()
    assert trail.whats == whats


async def test_a_row_says_the_same_as_if_it_had_never_waited(
    servers: Servers, trail: Trail, monkeypatch: pytest.MonkeyPatch
) -> None:
    from eventflow.storage.audit import canonical  # noqa: PLC0415

    seen: list[bytes] = []

    async def note(given: Sequence[Mapping[str, Any]]) -> None:
        seen.extend(map(canonical, given))

    (row,) = rows("a", wait_s=0.25, because={"share": 0.1, "text": "\ud800", "many": 2**70})
    trail.down = True
    untold = await life(servers, trail)
    await untold.tell([row])
    monkeypatch.setattr(trail, "note", note)
    await untold.carry_out()
    assert seen == [canonical(row)]


async def test_what_another_release_wrote_is_left_and_told_of(
    servers: Servers, trail: Trail
) -> None:
    """It keeps nobody from the trail."""
    trail.down = True
    await (await life(servers, trail)).tell(rows("a"))
    later = Message(99, MINE, msgspec.msgpack.encode((2, [])))
    servers.messages.append(later)
    servers._seq = 99  # noqa: SLF001  # ours
    await (await life(servers, trail)).tell(rows("b"))
    trail.down = False
    untold = await life(servers, trail)
    await untold.tell(rows("c"))
    for _ in range(2):
        await untold.carry_out()
    assert trail.whats == ["a", "b", "c"]
    assert servers.messages == [later]
    assert "format 2" in UNREAD[0]
    await untold.tell(rows("d"))
    assert trail.whats[-1] == "d"


async def test_what_servers_stored_without_an_answer_is_told_once(
    servers: Servers, trail: Trail
) -> None:
    untold = await life(servers, trail)
    trail.down, servers.mute = True, 1
    await untold.tell(rows("a"))
    await untold.tell(rows("b"))
    trail.down = False
    await untold.carry_out()
    assert trail.whats == ["a", "b"]
    assert servers.messages == []
    await (await life(servers, trail)).carry_out()
    assert trail.whats == ["a", "b"]


async def test_a_stream_that_was_made_anew_begins_again(servers: Servers, trail: Trail) -> None:
    untold = await life(servers, trail)
    await outage(untold, trail, "a", "b", "c")
    await untold.carry_out()
    servers.made_anew()
    await outage(untold, trail, "d", "e")
    await untold.carry_out()
    assert trail.whats == ["a", "b", "c", "d", "e"]
    assert servers.messages == []


@pytest.mark.parametrize("stored", [True, False])
async def test_an_answer_that_is_lost_behind_a_new_stream_loses_no_row(
    servers: Servers,
    trail: Trail,
    stored: bool,  # noqa: FBT001
) -> None:
    """Its retry says "duplicate", at the place where it stands."""
    untold = await life(servers, trail)
    await outage(untold, trail, "a", "b")
    await untold.carry_out()
    servers.made_anew()
    servers.mute, servers.full = 1, not stored
    await outage(untold, trail, "c")
    servers.full = False
    await outage(untold, trail, "d")
    await untold.carry_out()
    assert trail.whats == ["a", "b", "c", "d"]


async def test_what_may_stand_on_the_servers_is_not_read_there(
    servers: Servers, trail: Trail, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is put again, and read when its place is known: else it would be told twice."""
    untold = await life(servers, trail)
    trail.down = True
    await untold.tell(rows("a"))
    servers.mute = 1
    await untold.tell(rows("b"))
    trail.down, servers.keeps = False, True
    monkeypatch.setattr(servers, "put", unanswered)
    with pytest.raises(EngineUnavailable):
        await untold.carry_out()
    assert trail.whats == ["a"]
    monkeypatch.undo()
    servers.keeps = False
    await untold.carry_out()
    assert trail.whats == ["a", "b"]


async def unanswered(_: object) -> None:
    raise EngineUnanswered("no answer")


def test_storage_gets_rows_though_servers_are_silent_for_long(
    servers: Servers, trail: Trail
) -> None:
    async def story() -> None:
        untold = await life(servers, trail)
        trail.down = servers.down = True
        await untold.tell(rows("a"))
        trail.down = False
        await untold.tell(rows("b"))
        await untold.carry_out()
        assert trail.whats == []  # whether servers have them may come out yet
        await asyncio.sleep(SILENT_S + 1)
        await untold.tell(rows("c"))
        await untold.carry_out()
        assert trail.whats == ["c", "a", "b"]

    run(story())


async def test_a_node_ends_though_much_waits_on_the_servers(servers: Servers, trail: Trail) -> None:
    trail.down = True
    await (await life(servers, trail)).tell(rows(*map(str, range(3_000)), text="x" * 1_000))
    waiting = len(servers.messages)
    trail.down = False
    untold = await life(servers, trail)
    carrying = asyncio.ensure_future(untold.carry_out())
    for _ in range(3):  # it is writing the first ones by then
        await asyncio.sleep(0)
    carrying.cancel()
    await untold.close()
    assert waiting / 2 < len(servers.messages) < waiting
    await (await life(servers, trail)).carry_out()
    assert trail.whats == list(map(str, range(3_000)))  # each once


async def test_a_storage_that_stays_away_costs_nothing_more(servers: Servers, trail: Trail) -> None:
    trail.down = True
    await (await life(servers, trail)).tell(rows("a"))
    servers.messages.append(Message(99, MINE, b"of another release"))
    servers._seq = 99  # noqa: SLF001  # ours
    untold = await life(servers, trail)
    for _ in range(10):
        with pytest.raises(StorageUnavailable):
            await untold.carry_out()
    trail.down = False
    await untold.carry_out()
    assert trail.whats == ["a"]
    assert servers.asked == 1


@pytest.mark.parametrize("mute", [0, 1])
async def test_a_node_that_ends_tells_what_it_holds(
    servers: Servers, trail: Trail, mute: int
) -> None:
    """Storage is back, and the servers give no answer: none at all, or not whether they have it."""
    untold = await life(servers, trail)
    trail.down, servers.mute, servers.down = True, mute, not mute
    await untold.tell(rows("a"))
    trail.down, servers.down = False, True
    await untold.close()
    assert trail.whats == ["a"]


async def test_a_node_that_ends_says_what_nobody_takes(
    servers: Servers, trail: Trail, caplog: pytest.LogCaptureFixture
) -> None:
    untold = await life(servers, trail)
    trail.down = servers.down = True
    await untold.tell(rows("a", "b"))
    await untold.close()
    assert "audit.lost rows=2" in caplog.text


async def test_servers_that_refuse_to_be_read_are_no_surprise(
    servers: Servers, trail: Trail, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def read(*_: object) -> None:
        raise Refused(10059, 404, "stream not found")

    untold = await life(servers, trail)
    trail.down = True
    await untold.tell(rows("a"))
    monkeypatch.setattr(servers, "read", read)
    with pytest.raises(EngineUnavailable, match="stream not found"):
        await untold.carry_out()
    await untold.close()


async def test_what_is_told_while_an_emptied_stream_is_read_is_not_skipped(
    servers: Servers, trail: Trail, monkeypatch: pytest.MonkeyPatch
) -> None:
    untold = await life(servers, trail)
    trail.down = True
    await untold.tell(rows("a"))
    servers.messages.clear()
    read = servers.read

    async def read_slowly(*args: Any) -> list[Message]:
        found = await read(*args)
        monkeypatch.setattr(servers, "read", read)
        await untold.tell(rows("b"))
        return found

    monkeypatch.setattr(servers, "read", read_slowly)
    trail.down = False
    await untold.carry_out()
    assert trail.whats == ["b"]


async def test_a_stream_that_somebody_emptied_is_over(servers: Servers, trail: Trail) -> None:
    trail.down = True
    untold = await life(servers, trail)
    await untold.tell(rows("a"))
    trail.down = False
    servers.messages.clear()
    await untold.carry_out()
    await untold.tell(rows("b"))
    assert trail.whats == ["b"]


def test_nobody_is_held_up_by_slow_servers(servers: Servers, trail: Trail) -> None:
    """A lease runs meanwhile. What many have to tell is in few messages then."""

    async def story() -> float:
        untold = await life(servers, trail)
        trail.down, servers.takes_s = True, 5.0
        loop = asyncio.get_running_loop()
        began = loop.time()
        for n in range(10):
            await untold.tell(rows(f"w{n}"))
        took_s = loop.time() - began
        await untold.close()
        assert 1 < len(servers.messages) < 6
        trail.down, servers.takes_s = False, 0.0
        await (await life(servers, trail)).carry_out()
        return took_s

    assert run(story()) <= 10 * HELD_UP_S + 0.1
    assert trail.whats == [f"w{n}" for n in range(10)]


@pytest.mark.slow
class TestOnAServer(OnOneServer, EngineBench):
    rate = 4.0  # a lease lasts as long as a busy machine needs
    PLAN = Plan(topics={"common": TopicPlan(100), "a": TopicPlan(10, lane_capacity=10)})

    @pytest.mark.parametrize("dies", [False, True])
    async def test_a_failed_attempt_is_in_the_trail(self, dies: bool) -> None:  # noqa: FBT001
        """Though storage was down, and the node has died meanwhile."""
        engine = await self.start(self.PLAN)
        waits = self.lane_place(1.0)
        with self.storage_refuses():
            one = await bring_one(engine, "a")
            ref = one.delivery.ref
            await settle(engine, one, waits, note=Note({"attempt": 1}))
            await self.until_waiting(engine, some=True)  # a busy server may take a second
            if dies:
                await engine.cut_off()
        if dies:
            engine = await self.start(self.PLAN)
        await self.until_waiting(engine, some=False)
        (row,) = await engine.storage.trail(ref)
        assert msgspec.json.decode(row.row)["what"] == f"delivery.{waits.row.value}"
        await self.let_pass(2.0)
        assert (await lease_one(engine, lane("a"))).delivery.ref == ref
        assert await engine.walk(topic("a")) == []
        await engine.close()

    async def until_waiting(self, engine: JetStreamEngine, *, some: bool) -> None:
        """Wait until rows wait on the server, or none."""
        wire = engine._desk.wire  # noqa: SLF001  # nobody else tells
        for _ in range(200):
            if bool(await wire.read(names.AUDIT, "ef.audit.>", 0, 1)) == some:
                return
            await asyncio.sleep(0.05)
        pytest.fail(f"expected {some} after 10 s: rows wait on the server")
