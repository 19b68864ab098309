"""What JetStream does, where the promises G3 to G7 rest on it.

These tests pin the facts of the world that the engine on JetStream rests on. They speak to a real
server in plain requests and know nothing of EventFlow but its frame of weights. Each says what to
do if it fails one day: then the world has changed, not our code.

ADR 0002 and ADR 0003 stand on what is seen here.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import pytest
from tests.engine.jetstream_server import (
    STORE_FAILED,
    Cluster,
    Refused,
    Server,
    Stored,
    connected,
    names,
    running,
    stream,
    times,
)

from eventflow.policy.priority import frame, share

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from nats.aio.client import Client

pytestmark = pytest.mark.slow  # a real server, and its real time

NEVER = str(2**63 - 1)
"""A sequence that no stream comes to."""
LEASE_S = 0.5


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(tmp_path_factory.mktemp("nats")) as server:
        yield server


@pytest.fixture
async def client(server: Server) -> AsyncIterator[Client]:
    async with connected(server) as client:
        yield client


class TestG3:
    """A queue never holds more than its capacity, leased ones included."""

    async def test_the_bound_is_exact(self, server: Server, client: Client) -> None:
        """G3 says "never", not "hardly ever". If this fails, count in EventFlow, or soften G3."""
        queue = await stream(client, capacity=40)
        async with AsyncExitStack() as stack:
            others = [await stack.enter_async_context(connected(server)) for _ in range(3)]
            doors = [queue, *(queue.seen_by(other) for other in others)]
            answers = await asyncio.gather(
                *(doors[n % 4].put(f"{n}", f"{n}:0") for n in range(100)), return_exceptions=True
            )

        assert sum(isinstance(answer, Stored) for answer in answers) == 40
        assert sum(isinstance(answer, Refused) and answer.full for answer in answers) == 60
        assert await queue.depth() == 40

    async def test_full_is_told_by_code_and_text(self, client: Client) -> None:
        """10077 is any write that the store refused, so its text has to be looked at.

        If the text of "full" has changed, add the new one to `Refused.full`, and to the engine:
        until then a full queue looks like a server in trouble. If the code alone tells, drop it.
        """
        queue = await stream(client, capacity=1)
        other = await stream(
            client, capacity=9, max_msgs_per_subject=1, discard_new_per_subject=True
        )
        await queue.put("a", "a:0")
        await other.put("a", "a:0")

        with pytest.raises(Refused) as full:
            await queue.put("b", "b:0")
        with pytest.raises(Refused) as refused:
            await other.put("a", "a:1")

        assert full.value.full
        assert refused.value.code == full.value.code == STORE_FAILED
        assert not refused.value.full

    async def test_what_is_leased_keeps_its_place(self, client: Client) -> None:
        """If leased ones stop counting, the engine has to keep count of them itself (G3)."""
        queue = await stream(client, capacity=2)
        await queue.consumer("w")
        await queue.fill(["a", "b"])
        leased = await queue.pull("w", 2)

        with pytest.raises(Refused):
            await queue.put("c", "c:0")
        await queue.settle(leased[:1])

        assert await queue.comes_to(1)
        await queue.put("c", "c:0")
        assert await queue.depth() == 2

    async def test_a_full_lane_does_not_take_its_own_delivery_back(self, client: Client) -> None:
        """What comes due and finds its topic full again goes back to its lane, at the next hop.

        The embedded engine gives it the place it has. Here the old one is let go only after the
        new one is stored, so a full lane refuses it: the engine has to leave it where it is and
        give it back with a delay. If it is taken one day, that special case can go. (With
        `max_msgs_per_subject: 1` a single server does replace it, three replicas do not.)
        """
        lane = await stream(client, capacity=1)
        await lane.consumer("mover")
        await lane.fill(["a"])
        leased = await lane.pull("mover", 1)

        with pytest.raises(Refused) as refused:
            await lane.put("a", "a:1")
        await lane.settle(leased, "-NAK", delay_s=0.2)

        assert refused.value.full
        assert names(await lane.pull("mover", 1)) == ["a"]


class TestG4:
    """Starts are shared 64 : 16 : 4 : 1; within a priority by entry into this queue."""

    async def test_our_frame_shares_among_consumers_of_a_priority(self, client: Client) -> None:
        """JetStream ranks no messages, so each priority has a consumer and we pull by the frame.

        If a consumer no longer knows exactly what waits for it, keep a few of each priority
        fetched and let `share` look at those.
        """
        slots = frame((64, 16, 4, 1))
        queue = await stream(client, capacity=200)
        for rank in range(4):
            await queue.consumer(f"p{rank}", f"{rank}.*")
        counts = (70, 20, 10, 3)
        await asyncio.gather(
            *(
                queue.put(f"{rank}.{n}", f"{rank}.{n}:0")
                for rank in range(4)
                for n in range(counts[rank])
            )
        )

        for rank in range(4):
            assert await queue.comes_to_wait(f"p{rank}", counts[rank])

        started: list[int] = []
        entries: dict[int, list[int]] = {rank: [] for rank in range(4)}
        position = 0
        for limit in (40, 45):
            waiting = [await queue.waiting(f"p{rank}") for rank in range(4)]
            order, position = share(slots, position, waiting, limit)
            for rank, count in sorted(Counter(order).items()):
                leases = await queue.pull(f"p{rank}", count)
                entries[rank] += [lease.metadata.sequence.stream for lease in leases]
            started += order

        assert started == list(slots)
        assert [len(entries[rank]) for rank in range(4)] == [64, 16, 4, 1]
        assert all(sequence == sorted(sequence) for sequence in entries.values())

    async def test_a_released_one_comes_before_those_that_came_later(self, client: Client) -> None:
        """`Released` is a NAK. The server hands released ones out first, in the order of NAKs.

        So the engine gives a batch back in order of entry. If the order of NAKs stops mattering,
        it need not; if released ones come last, G4's "by entry" is lost for them: say so in G4.
        """
        queue = await stream(client, capacity=9)
        await queue.consumer("w")
        await queue.fill("abcde")
        leased = await queue.pull("w", 3)

        await queue.settle([leased[1], leased[0], leased[2]], "-NAK")

        assert names(await queue.pull("w", 5)) == ["b", "a", "c", "d", "e"]

    async def test_a_release_counts_as_a_delivery(self, client: Client) -> None:
        """So a lease's count of deliveries is not its count of crashes.

        A release counts nothing (DESIGN, section 3): the engine notes each before its NAK and
        takes it off. If the server tells the two apart one day, the notes can go.
        """
        queue = await stream(client, capacity=9)
        await queue.consumer("w")
        await queue.fill("a")

        await queue.settle(await queue.pull("w", 1), "-NAK")

        assert [times(lease) for lease in await queue.pull("w", 1)] == [2]


class TestG5:
    """A lease lasts unless extended; once it has run out the delivery is leased again."""

    async def test_a_lease_that_runs_out_is_given_again(self, client: Client) -> None:
        """`ack_wait` is the lease. If this fails, stop: nothing would bring back a node's work."""
        queue = await stream(client, capacity=9)
        await queue.consumer("w", lease_s=LEASE_S)
        await queue.fill("a")
        began = time.monotonic()
        await queue.pull("w", 1)

        again = await queue.pull("w", 1)

        assert [times(lease) for lease in again] == [2]
        assert time.monotonic() - began > 0.95 * LEASE_S

    async def test_an_extended_lease_does_not(self, client: Client) -> None:
        """`extend` is +WPI, each good for another `ack_wait`.

        If this fails, `ack_wait` has to be longer than the longest handler, and the work of a dead
        node waits as long.
        """
        queue = await stream(client, capacity=9)
        await queue.consumer("w", lease_s=4 * LEASE_S)
        await queue.fill("a")
        leased = await queue.pull("w", 1)

        for _ in range(5):
            assert await queue.pull("w", 1, wait_s=LEASE_S) == []
            await queue.settle(leased, "+WPI")

        assert [times(lease) for lease in await queue.pull("w", 1)] == [2]


class TestG6:
    """Settling late loses nothing: it ends the delivery or says that the lease was lost."""

    async def test_a_late_ack_wins(self, client: Client) -> None:
        """And nobody is told: neither the late one nor the one whose lease it ended.

        So on JetStream `Settled.lost` is what the engine's own clock says. If the server refuses
        a late ack one day, or says that there was nothing to end, G6 can be made strict.
        """
        queue = await stream(client, capacity=9)
        await queue.consumer("w", lease_s=LEASE_S)
        await queue.fill("a")
        late = await queue.pull("w", 1)
        held = await queue.pull("w", 1)

        await queue.settle(late)

        assert await queue.comes_to(0)
        await queue.settle(held)  # answered like any other

    async def test_a_late_release_starts_it_a_third_time(self, client: Client) -> None:
        """While the second run goes on.

        So the engine sends no NAK for a lease that has run out by its own clock. If the server
        ignores such a one by itself, that check can go.
        """
        lease_s = 4 * LEASE_S
        queue = await stream(client, capacity=9)
        await queue.consumer("w", lease_s=lease_s)
        await queue.fill("a")
        late = await queue.pull("w", 1)
        await queue.pull("w", 1)

        await queue.settle(late, "-NAK")

        # Sooner than that run's own lease ends.
        again = await queue.pull("w", 1, wait_s=0.8 * lease_s)
        assert [times(lease) for lease in again] == [3]


class TestG7:
    """Moving never loses and never merges: publish at the next hop, then end the old one."""

    async def test_a_repeated_move_is_a_duplicate(self, client: Client) -> None:
        """A node dies between the two halves of a move; the next one makes the same move again.

        If this fails, a crash there leaves two deliveries: `repeats` would have to say so.
        """
        topic = await stream(client, capacity=9)
        lane = await stream(client, capacity=9)
        await topic.consumer("w", lease_s=LEASE_S)
        await topic.fill(["a"])
        await topic.pull("w", 1)
        first = await lane.put("a", "a:1")  # and here it dies

        again = await topic.pull("w", 1)
        second = await lane.put("a", "a:1")
        await topic.settle(again)

        assert second == Stored(first.seq, duplicate=True)
        assert await topic.comes_to(0)
        assert await lane.depth() == 1

    async def test_a_hop_must_never_come_again(self, client: Client) -> None:
        """The trap: an id is known long after its message was consumed.

        What comes under it again is answered "duplicate" and not stored; whoever took that for "it
        is there" and let the old one go would lose the delivery. So the id holds the hop, and a
        hop grows at every move. If this fails, ids could be made of anything: keep the hop all the
        same, storage is fenced by it.
        """
        lane = await stream(client, capacity=9)
        await lane.consumer("mover")
        await lane.put("a", "a:1")
        await lane.settle(await lane.pull("mover", 1))
        assert await lane.comes_to(0)

        swallowed = await lane.put("a", "a:1")
        assert swallowed.duplicate
        assert await lane.depth() == 0

        later = await lane.put("a", "a:3")
        assert not later.duplicate
        assert await lane.depth() == 1

    async def test_what_was_refused_leaves_no_trace(self, client: Client) -> None:
        """Full, so the next place is tried under the same id; and this one again later.

        If a refused id is remembered, every try needs a hop of its own, and `Settle` with it.
        """
        queue = await stream(client, capacity=1)
        await queue.consumer("w")
        await queue.fill("a")
        for _ in range(2):
            with pytest.raises(Refused):
                await queue.put("b", "b:1")
        await queue.settle(await queue.pull("w", 1))

        assert await queue.comes_to(0)
        assert not (await queue.put("b", "b:1")).duplicate

    async def test_a_known_id_is_answered_even_when_full(self, client: Client) -> None:
        """A move that is repeated into a full queue is "there", not "full".

        If this fails, a repeated move goes on to its next place and the delivery is in two: look
        for it with `MSG.GET` before believing "full" for a delivery that was leased before.
        """
        queue = await stream(client, capacity=1)
        first = await queue.put("a", "a:1")

        assert await queue.put("a", "a:1") == Stored(first.seq, duplicate=True)

    async def test_a_restart_forgets_the_ids_of_what_was_consumed(self, tmp_path: Path) -> None:
        """And knows those of what is still stored.

        So ids make a move repeatable, they fence nothing for ever: storage keeps a fence of its
        own, and `repeats` counts what comes through. If nothing is forgotten any more, G2 needs no
        exception for crashes on JetStream.
        """
        with running(tmp_path) as server:
            async with connected(server) as client:
                queue = await stream(client, capacity=9)
                await queue.consumer("w")
                await queue.fill(["gone", "there"])
                await queue.settle(await queue.pull("w", 1))
                assert await queue.comes_to(1)
                server.kill()
            server.start()
            async with connected(server) as client:
                queue = queue.seen_by(client)

                assert not (await queue.put("gone", "gone:0")).duplicate
                assert (await queue.put("there", "there:0")).duplicate


class TestIds:
    """What accepting rests on, beside G3."""

    async def test_whether_an_id_is_known_can_be_asked(self, client: Client) -> None:
        """By a publish that can't be stored: its id is looked at before the last id it expects.

        So the engine finds out which events of a refused batch are duplicates. If the order of the
        two has changed, look for another header; one that expects a sequence never told them apart.
        """
        queue = await stream(client, capacity=2)
        await queue.put("a", "a:0")

        known = await queue.put("x", "a:0", Nats_Expected_Last_Msg_Id="none")
        with pytest.raises(Refused) as unknown:
            await queue.put("x", "x:0", Nats_Expected_Last_Msg_Id="none")
        with pytest.raises(Refused) as too_early:
            await queue.put("x", "a:0", Nats_Expected_Last_Sequence="99")

        assert known == Stored(1, duplicate=True)
        assert (unknown.value.code, too_early.value.code) == (10070, 10071)
        assert await queue.depth() == 1


class TestThreeReplicas:
    """What is otherwise where three servers hold each stream."""

    @pytest.mark.timeout(120)  # three servers take some 5 s to agree on a leader
    async def test_an_id_is_asked_for_by_an_impossible_sequence(self, tmp_path: Path) -> None:
        """There the id is looked at before the sequence it expects, also where there is no room.

        Not by an impossible last id, as on one server: that is looked at after the servers have
        agreed to store it, and from then on the stream answers nobody until its leader changes.
        """
        servers = Cluster(tmp_path)
        servers.start()
        try:
            async with connected(servers) as client:
                queue = await stream(client, capacity=2, num_replicas=3)
                await queue.put("a", "a:0")
                await queue.put("b", "b:0")

                known = await queue.put("x", "a:0", Nats_Expected_Last_Sequence=NEVER)
                with pytest.raises(Refused) as unknown:
                    await queue.put("x", "x:0", Nats_Expected_Last_Sequence=NEVER)

                assert known == Stored(1, duplicate=True)
                assert unknown.value.code == 10071
                assert await queue.depth() == 2
        finally:
            servers.kill()


class TestLane:
    """A lane gives out what is due: its consumer gives the rest back with a delay."""

    async def test_a_delay_is_kept_and_the_due_time_travels_along(self, client: Client) -> None:
        """The delay is only an alarm clock: a header says when a delivery is due.

        It is looked at each time. If delays are no longer kept, poll: the header stays the truth.
        """
        lane = await stream(client, capacity=2)
        await lane.consumer("mover")
        began = time.time()
        for name, after_s in (("late", 2.0), ("soon", 1.8)):
            await lane.put(name, f"{name}:1", Ef_Due=str(began + after_s))

        for lease in await lane.pull("mover", 2):
            due_at = float((lease.headers or {})["Ef-Due"])
            await lane.settle([lease], "-NAK", delay_s=due_at - time.time())

        assert await lane.pull("mover", 1, wait_s=0.0) == []
        with pytest.raises(Refused):  # who waits keeps the place
            await lane.put("third", "third:1")
        due = [*await lane.pull("mover", 1), *await lane.pull("mover", 1)]
        assert names(due) == ["soon", "late"]
        assert all(float((lease.headers or {})["Ef-Due"]) <= time.time() for lease in due)

    async def test_who_waits_counts_as_leased(self, client: Client) -> None:
        """So a lane's consumer may lease all that the lane holds.

        And nothing waits for its due time in a topic's own queue: it would keep a place there and
        a lease. If waiting ones stop counting, a topic might do without a lane: think again.
        """
        lane = await stream(client, capacity=9)
        await lane.consumer("mover", max_leased=2)
        await lane.fill("abc")
        await lane.settle(await lane.pull("mover", 2), "-NAK", delay_s=60)

        assert await lane.leased("mover") == 2
        assert await lane.pull("mover", 1, wait_s=0.2) == []

    async def test_who_waits_can_be_moved_early(self, client: Client) -> None:
        """By the lease under which it was given back: what `unhold` will rest on (ADR 0002).

        If this fails, a held delivery waits until its due time on JetStream: keep that short.
        """
        lane = await stream(client, capacity=9)
        await lane.consumer("mover")
        await lane.fill("ab")
        given_back = await lane.pull("mover", 2)
        await lane.settle(given_back, "-NAK", delay_s=60)

        await lane.settle(given_back[:1])  # as after a publish into the topic's queue

        assert await lane.comes_to(1)
        assert await lane.leased("mover") == 1


class TestSlots:
    """`order = "key"` gives each slot of a topic a consumer, and the consumer an owner."""

    async def test_a_finer_consumer_needs_the_wide_one_narrowed(self, client: Client) -> None:
        """Two consumers of one work queue share no subject.

        If they may one day, a delivery can be leased twice at once: keep them apart ourselves. If
        narrowing is refused, make the consumers anew while the topic is paused.
        """
        topic = await stream(client, capacity=9)
        await topic.consumer("p2", "normal.*.*")
        await topic.fill(["normal.00.a", "normal.01.b"])

        with pytest.raises(Refused) as refused:
            await topic.consumer("p2s01", "normal.01.*")
        await topic.consumer("p2", "normal.00.*")
        await topic.consumer("p2s01", "normal.01.*")

        assert refused.value.code == 10100
        assert names(await topic.pull("p2", 1)) == ["a"]
        assert names(await topic.pull("p2s01", 1)) == ["b"]
        assert [await topic.waiting(name) for name in ("p2", "p2s01")] == [0, 0]

    async def test_narrowing_leases_again_what_is_leased(self, client: Client) -> None:
        """Both consumers have it then: two owners of one key.

        So a topic changes its `order` only while it is paused and nothing is leased. If the wide
        consumer gives up or keeps to itself what it had leased, it may do so at any time.
        """
        topic = await stream(client, capacity=9)
        await topic.consumer("p2", "normal.*.*")
        await topic.fill(["normal.01.b"])
        leased = await topic.pull("p2", 1)
        await topic.consumer("p2", "normal.00.*")
        await topic.consumer("p2s01", "normal.01.*")

        again = await topic.pull("p2s01", 1)

        assert names(leased) == names(again) == ["b"]
        assert [times(lease) for lease in again] == [1]

    async def test_widening_does_not_look_back(self, client: Client) -> None:
        """A widened consumer goes on from where it was.

        Older messages of the slots it gets are in the stream, and nobody's: lost without a trace.
        So the way back from slots is a new consumer, never an update. If it finds them one day, an
        update will do.
        """
        topic = await stream(client, capacity=9)
        await topic.consumer("p2", "normal.00.*")
        await topic.fill(["normal.01.b", "normal.00.a"])
        await topic.settle(await topic.pull("p2", 1))

        await topic.consumer("p2", "normal.*.*")

        assert await topic.pull("p2", 1, wait_s=0.2) == []
        assert await topic.comes_to(1)
