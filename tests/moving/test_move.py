"""Moving a file, on a target in memory: what is decided, and that a run may end anywhere."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from tests.moving.mixed import NOW, fill, held_by_file

from eventflow.app.moving import Move
from eventflow.app.moving.source import opened
from eventflow.app.moving.target import plan_of
from eventflow.config import parse
from eventflow.delivery import COMMON
from eventflow.engine.embedded import open_engine
from eventflow.engine.embedded.leaving import glance
from eventflow.engine.embedded.writer import InlineWriter
from eventflow.engine.protocol import Applied, Census, Kind, Plan, Queue
from eventflow.errors import (
    JournalMoved,
    MoveRefused,
    MoveUnfinished,
    StorageUnavailable,
)
from eventflow.storage import audit
from eventflow.storage.protocol import Usage
from eventflow.testing.clock import ManualClock

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from eventflow.app.moving import Report
    from eventflow.config import Settings
    from eventflow.delivery import Delivery
    from eventflow.engine.carrying import Carriage
    from eventflow.storage.protocol import Actor, AuditRow, Kept, Verdict

COUNT = 60
SEED = 7


class Killed(BaseException):
    """The process has ended, as by kill -9."""


class Servers:
    """What outlives a run: streams, the ledger's record, and secondary storage."""

    def __init__(self) -> None:
        self.queues: dict[Queue, dict[str, Delivery]] = {}
        self.order: dict[Queue, list[str]] = {}
        self.record: Carriage | None = None
        self.census: Census | None = None
        self.kept: dict[str, Kept] = {}
        self.rows: dict[tuple[str, int], AuditRow] = {}
        self.told: list[Mapping[str, Any]] = []
        self.settings: dict[str, Mapping[str, Any]] = {}
        self.known: dict[str, str] = {}
        """Refs of events accepted lately, by key."""
        self.running: list[str] = []
        self.largest_bytes = 10**6
        self.max_bytes = 10**9
        self.steps_left = 10**9
        """Writes before the process is killed: every second one just before it, else after it."""

    def write(self, act: Any) -> None:
        """Do a write, or be killed beside it."""
        self.steps_left -= 1
        if self.steps_left < 0:
            raise Killed
        act()
        self.steps_left -= 1
        if self.steps_left < 0:
            raise Killed


class Target:
    """`OnServers`, `Carrier` and `Keeper` on them, for one run."""

    def __init__(self, servers: Servers) -> None:
        self._servers = servers
        self.storage: Any = self
        self.largest_bytes = servers.largest_bytes

    # OnServers

    def carrier(self) -> Target:
        return self

    async def apply(self, plan: Plan) -> Applied:
        for topic in plan.topics:
            for kind in Kind:
                self._servers.queues.setdefault(Queue(kind, topic), {})
        return Applied()

    async def census(self, **_: bool) -> Census:
        assert self._servers.census is not None
        return self._servers.census

    async def close(self) -> None:
        pass

    # Carrier

    def size_bytes(self, _: Queue, delivery: Delivery) -> int:
        return delivery.event.size_bytes

    async def found(self) -> Carriage | None:
        return self._servers.record

    async def held(self) -> dict[Queue, int]:
        return {queue: len(held) for queue, held in self._servers.queues.items()}

    async def given(self) -> dict[Queue, int]:
        return {}

    async def remember(self, ids: Sequence[tuple[str, str]]) -> None:
        self._servers.write(lambda: self._servers.known.update(ids))

    async def runners(self) -> Sequence[str]:
        return self._servers.running

    async def note(self, carriage: Carriage) -> None:
        self._servers.write(lambda: setattr(self._servers, "record", carriage))

    async def put(self, queue: Queue, deliveries: Sequence[Delivery], *, anew: bool) -> None:
        held = self._servers.queues[queue]
        for one in deliveries:
            # A server forgets ids: only who asks whether it is there finds it.
            assert anew or one.id not in held, "put twice without being looked for"
        new = {one.id: one for one in deliveries if one.id not in held}
        self._servers.write(lambda: held.update(new))

    async def finish(self, carriage: Carriage, census: Census) -> None:
        def act() -> None:
            self._servers.record = msgspec.structs.replace(carriage, finished=True)
            self._servers.census = census

        self._servers.write(act)

    # Keeper

    def usage(self) -> Usage:
        used = sum(kept.size_bytes for kept in self._servers.kept.values())
        return Usage(used, self._servers.max_bytes)

    async def totals(self) -> dict[tuple[str, str], tuple[int, int]]:
        found: dict[tuple[str, str], tuple[int, int]] = {}
        for kept in self._servers.kept.values():
            key = (kept.delivery.topic, kept.state)
            count, size = found.get(key, (0, 0))
            found[key] = (count + 1, size + kept.size_bytes)
        return found

    async def keep(self, items: Sequence[Kept], rows: Sequence[Any]) -> Sequence[str | None]:
        assert all(not its for its in rows)
        new = {kept.delivery.id: kept for kept in items}
        self._servers.write(lambda: self._servers.kept.update(new))
        return [None for _ in items]

    async def adopt(self, rows: Sequence[AuditRow]) -> None:
        new = {(row.chain, row.seq): row for row in rows}
        self._servers.write(lambda: self._servers.rows.update(new))

    async def heads(self) -> list[str]:
        ends = dict(sorted(self._servers.rows))
        return [f"{c}:{s}:{self._servers.rows[c, s].hash.hex()}" for c, s in ends.items()]

    async def verify(self) -> Verdict:
        return audit.verify([self._servers.rows[key] for key in sorted(self._servers.rows)])

    async def overrides(self) -> Mapping[str, Mapping[str, Any]]:
        return self._servers.settings

    async def override(self, topic: str, values: Mapping[str, Any], _: Actor) -> None:
        self._servers.write(lambda: self._servers.settings.update({topic: values}))

    async def note_rows(self, rows: Sequence[Mapping[str, Any]]) -> None:
        self._servers.told += rows


class Storage:
    """The `Keeper` half: its `note` is another one than the carrier's."""

    def __init__(self, target: Target) -> None:
        self._target = target

    def __getattr__(self, name: str) -> Any:
        return getattr(self._target, "note_rows" if name == "note" else name)


CONFIG = """
[engine]
url = "nats://10.0.0.1:4222"
[storage]
url = "sqlite:elsewhere.db"
[common]
capacity = 100_000
[topics.email]
handler = "a:b"
match = "shop.email"
[topics.db]
handler = "a:b"
match = "shop.db"
capacity = 10_000
"""


def settings_of(text: str) -> Settings:
    return parse(text, name="test", environ={})


async def in_memory(servers: Servers) -> Target:
    made = Target(servers)
    made.storage = Storage(made)
    return made


def a_move(path: Path, servers: Servers, text: str = CONFIG, **other: Any) -> Move:
    """Return a move to these servers; `told` and `open_target` may be other ones."""
    return Move(
        path,
        lambda _, __: settings_of(text),
        other.get("clock", ManualClock(NOW + 100.0)),
        lambda _: 1,
        told=other.get("told", lambda _, __: None),
        open_target=other.get("open_target", lambda *_: in_memory(servers)),
    )


async def moved(path: Path, servers: Servers, text: str = CONFIG) -> Report:
    return await a_move(path, servers, text).run(dry_run=False)


def content(path: Path) -> bytes:
    return path.read_bytes()


def copied(path: Path, to: Path) -> Path:
    to.write_bytes(path.read_bytes())
    return to


@pytest.fixture
async def file(tmp_path: Path) -> Path:
    path = tmp_path / "eventflow.db"
    await fill(path, COUNT, SEED)
    return path


async def test_all_of_it_comes_as_it_was(file: Path) -> None:
    servers = Servers()
    report = await moved(file, servers)
    before = await held_by_file(file)

    queues = {
        f"{queue.kind.value}:{queue.topic}": [msgspec.json.encode(one) for one in held.values()]
        for queue, held in servers.queues.items()
        if held
    }
    assert queues == {
        name: lines
        for name, lines in before.places.items()
        if not name.startswith(("parked", "dead"))
    }
    kept = [line for name, lines in before.places.items() if ":" in name for line in lines]
    assert len(servers.kept) == len(kept) - sum(map(len, queues.values()))
    assert report.file == report.servers
    assert report.file.unaccounted == 0
    assert servers.settings == {"email": {"paused": True}, "db": {"concurrency": 2}}
    assert report.trail_faults == ()
    assert [row["what"] for row in servers.told] == ["journal.moved"]
    assert {"queue", "retrying", "parked", "dead"} & set(report.file.topics["email"])


@pytest.mark.slow  # a run for each write
@pytest.mark.timeout(120)
async def test_a_run_may_be_killed_beside_every_write(file: Path, tmp_path: Path) -> None:
    """And gone on with: nothing is lost, nothing is there twice."""
    whole = Servers()
    await moved(copied(file, tmp_path / "copy.db"), whole)
    steps = 10**9 - whole.steps_left
    assert steps > 40
    for kill_after in range(steps):
        servers, path = Servers(), copied(file, tmp_path / f"{kill_after}.db")
        servers.steps_left = kill_after
        with pytest.raises(Killed):
            await moved(path, servers)
        servers.steps_left = 10**9
        await moved(path, servers)
        assert servers.queues == whole.queues
        assert (servers.kept, servers.rows) == (whole.kept, whole.rows)
        assert servers.census == whole.census
        assert servers.known == whole.known


@pytest.mark.parametrize(("later_s", "known"), [(100.0, True), (601.0, False)])
async def test_events_accepted_lately_are_known_there(
    file: Path,
    later_s: float,
    known: bool,  # noqa: FBT001  # a table
) -> None:
    servers = Servers()
    move = a_move(file, servers, clock=ManualClock(NOW + later_s))
    await move.run(dry_run=False)
    held = [msgspec.json.decode(one) for name, one in await _lines(file) if "dead" not in name]
    assert held
    assert set(servers.known.values()) >= ({one["ref"] for one in held} if known else set())
    assert bool(servers.known) is known


async def _lines(file: Path) -> list[tuple[str, bytes]]:
    places = (await held_by_file(file)).places
    return [(name, one) for name, lines in places.items() for one in lines if "parked" not in name]


async def test_a_second_run_changes_nothing(file: Path) -> None:
    servers = Servers()
    first = await moved(file, servers)
    as_it_was = content(file)
    again = await moved(file, Servers())  # it asks nobody

    assert (again.before, again.finished) == (True, True)
    assert (again.file, again.servers) == (first.file, first.servers)
    assert content(file) == as_it_was


async def test_no_node_starts_on_the_file_any_more(file: Path) -> None:
    servers = Servers()
    servers.steps_left = 9
    with pytest.raises(Killed):
        await moved(file, servers)
    with pytest.raises(JournalMoved, match=r"is being moved to nats://10\.0\.0\.1:4222"):
        await _started(file)
    servers.steps_left = 10**9
    await moved(file, servers)
    with pytest.raises(JournalMoved, match=r"was moved to nats://10\.0\.0\.1:4222"):
        await _started(file)


async def _started(file: Path) -> None:
    engine = await open_engine(
        str(file), clock=ManualClock(NOW), draw_bits=lambda _: 1, writer=InlineWriter
    )
    await engine.close()


async def test_what_was_running_when_the_node_was_killed_counts_a_crash(file: Path) -> None:
    servers = Servers()
    await moved(file, servers)
    crashes = [
        one.tally.crashes
        for queue, held in servers.queues.items()
        if queue.kind is Kind.TOPIC
        for one in held.values()
    ]
    assert sum(crashes) > 0
    assert set(crashes) <= {0, 1}


async def test_a_dry_run_writes_nothing(file: Path) -> None:
    as_it_was, servers = content(file), Servers()
    report = await a_move(file, servers).run(dry_run=True)

    assert report.dry_run
    assert report.servers is None
    assert report.live == (await held_by_file(file)).count
    assert (servers.record, servers.kept, servers.rows) == (None, {}, {})
    assert content(file) == as_it_was


async def test_what_has_no_room_is_said_before_anything_is_written(file: Path) -> None:
    servers = Servers()
    servers.max_bytes = 100
    servers.largest_bytes = 150
    small = CONFIG.replace("100_000", "2").replace("10_000", "5")
    with pytest.raises(MoveRefused) as refused:
        await moved(file, servers, small)

    db, common, large, storage = refused.value.problems
    assert "the common queue: 3 deliveries are to come and it holds 2. Set [common] cap" in common
    assert "the queue of topic 'db': " in db
    assert "Set [topics.db] capacity to " in db
    assert "larger than the 150 bytes that the servers take in one message" in large
    assert "it holds 100. Set [storage] max_size" in storage
    assert (servers.record, servers.kept) == (None, {})
    assert glance(file).mark is None


async def test_a_topic_that_is_not_configured_keeps_what_it_has(file: Path) -> None:
    servers = Servers()
    await moved(file, servers)
    assert servers.queues[Queue(Kind.TOPIC, "api")]
    assert servers.queues[Queue(Kind.LANE, "api")]


async def test_a_node_that_runs_there_is_in_the_way(file: Path) -> None:
    servers = Servers()
    servers.running = ["node 'n1'"]
    with pytest.raises(MoveRefused, match="node 'n1' runs there, and would deliver"):
        await moved(file, servers)


async def test_a_move_that_has_begun_goes_on_only_where_it_began(file: Path) -> None:
    servers = Servers()
    servers.steps_left = 9
    with pytest.raises(Killed):
        await moved(file, servers)
    elsewhere = CONFIG.replace("10.0.0.1", "10.0.0.2")
    with pytest.raises(MoveRefused, match=r"its move to nats://10\.0\.0\.1:4222 and .* has begun"):
        await moved(file, Servers(), elsewhere)


async def test_what_somebody_took_away_meanwhile_is_found_and_put_again(file: Path) -> None:
    servers = Servers()
    queue = Queue(Kind.TOPIC, "email")

    def take(_: Any, __: Any) -> None:
        if servers.queues.get(queue):
            servers.queues[queue].popitem()

    move = a_move(file, servers, told=take)
    with pytest.raises(MoveUnfinished, match=r"not all of it is there: topic:email: expected \d+"):
        await move.run(dry_run=False)
    await moved(file, servers)
    names = set(servers.queues[queue])
    found = (await held_by_file(file)).places["topic:email"]
    assert names == {msgspec.json.decode(line)["ref"] + ".email" for line in found}


async def test_storage_that_fails_on_the_way_is_told(file: Path) -> None:
    servers = Servers()

    async def target(*_: Any) -> Target:
        made = await in_memory(servers)

        async def adopt(_: Any) -> None:
            raise StorageUnavailable("the database is down")

        made.adopt = adopt  # type: ignore[method-assign,assignment]  # it fails
        return made

    move = a_move(file, servers, open_target=target)
    with pytest.raises(MoveUnfinished, match=r"the database is down\. Nothing is lost, and"):
        await move.run(dry_run=False)
    await moved(file, servers)
    assert servers.record is not None
    assert servers.record.finished


async def test_queues_are_as_configured_and_of_others_as_full_as_they_are(file: Path) -> None:
    async with opened(file, clock=ManualClock(NOW)) as source:
        plan = plan_of(settings_of(CONFIG), source)
    assert plan.topics["db"].capacity == 10_000
    assert plan.topics["api"].capacity == source.count(Queue(Kind.TOPIC, "api"))
    assert plan.topics[COMMON].capacity == 100_000
