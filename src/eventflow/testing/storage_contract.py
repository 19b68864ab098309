"""The storage contract as tests: what every storage beside an engine keeps, one behaviour each.

A storage subclasses `StorageContract` and has a fixture `opening`: a function that returns an async
context manager of a storage, over the same data each time. It takes `chain` and `max_bytes`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any

import pytest

from eventflow.delivery import Attempt, Delivery, Reason
from eventflow.errors import StorageUnavailable, UnknownName
from eventflow.event import Event
from eventflow.storage.audit import FIRST_PREVIOUS, FORMAT, canonical, link
from eventflow.storage.protocol import Actor, AuditRow, Filter, Turnover
from eventflow.storage.rows import kept_of
from eventflow.testing.clock import ManualClock

if TYPE_CHECKING:
    from eventflow.storage.protocol import Keeper, Kept


def a_chain(name: str, length: int, *, what: str = "x") -> list[AuditRow]:
    """Return the first rows of an audit chain, all about event r1."""
    rows: list[AuditRow] = []
    previous = FIRST_PREVIOUS
    for seq in range(1, length + 1):
        told = {"at": 1.0 + seq, "what": what, "ref": "r1", "chain": name, "seq": seq}
        text = canonical({**told, "format": FORMAT})
        previous = link(previous, text)
        rows.append(AuditRow(name, seq, text, previous))
    return rows


Opening = Callable[..., AbstractAsyncContextManager[Any]]

DAY_S = 24 * 3600.0
SOMEBODY = Actor("somebody", "a test")


def a_kept(ref: str = "r1", **facts: Any) -> Kept:
    """Return a kept delivery, ordinary where nothing else is said."""
    event = Event(
        type=facts.get("type", "user.registered"),
        source=facts.get("source", "/shop"),
        id=facts.get("id", f"id-{ref}"),
        subject=facts.get("subject"),
        data=facts.get("data", {"id": 7}),
        **facts.get("extensions", {}),
    )
    state = facts.get("state", "parked")
    attempt = Attempt(
        1.0,
        2.5,
        "failed",
        facts.get("cause", "http 503"),
        facts.get("error", "the target said 503"),
        facts.get("fingerprint", "f1"),
    )
    delivery = Delivery(
        event,
        ref,
        facts.get("topic", "email"),
        900.0,
        hop=facts.get("hop", 3),
        due_at=facts.get("due_at", 2_000.0) if state == "parked" else None,
        reason=facts.get("reason", Reason.RETRIES_EXHAUSTED),
        history=(attempt,) if facts.get("failed", True) else (),
        expiry_lifted=facts.get("expiry_lifted", False),
    )
    return kept_of(delivery, state, facts.get("since", 1_000.0))


def _row(kept: Kept) -> list[dict[str, Any]]:
    return [{"at": 1.0, "what": "delivery.parked", "ref": kept.delivery.ref}]


async def keep(storage: Keeper, *items: Kept, **more: Any) -> list[str | None]:
    """Keep deliveries, each with one audit row."""
    return list(await storage.keep(items, [_row(one) for one in items], **more))


async def hops(storage: Keeper, *ids: str) -> list[int]:
    """Return at which hop these are held."""
    return [kept.delivery.hop for kept in await storage.get(ids)]


def refs(items: Sequence[Kept]) -> list[str]:
    """Return the refs of deliveries."""
    return [kept.delivery.ref for kept in items]


class _Bench:
    @pytest.fixture
    def clock(self) -> ManualClock:
        return ManualClock()


class Keeping(_Bench):
    """Put first, forgotten after; what is said twice or late changes nothing."""

    async def test_what_was_kept_is_read_as_it_was_after_a_restart(self, opening: Opening) -> None:
        items = [
            a_kept("r1", since=1_760_000_000.123456),
            a_kept("r2", state="dead", reason=Reason.PERMANENT),
            a_kept("r3", failed=False, data=bytes(range(256))),
            a_kept("r4", error="\0 nul, ' quote, \ue000 and \U0001f600", subject="Ünïcode"),
        ]
        async with opening() as storage:
            assert await keep(storage, *items) == [None] * 4
            used = storage.usage().used_bytes
        async with opening() as storage:
            assert await storage.get([kept.delivery.id for kept in items]) == items
            assert storage.usage().used_bytes == used == sum(kept.size_bytes for kept in items)

    async def test_said_twice_it_is_kept_and_told_once(self, opening: Opening) -> None:
        async with opening() as storage:
            await keep(storage, a_kept())
            assert await keep(storage, a_kept(state="dead")) == [None]

            assert len(await storage.trail("r1")) == 1
            assert await storage.totals() == {("email", "parked"): (1, a_kept().size_bytes)}

    @pytest.mark.parametrize("hops_said", [(1, 2), (2, 1), (2, 2)])
    async def test_within_a_batch_the_greatest_hop_stays(
        self, opening: Opening, hops_said: tuple[int, int]
    ) -> None:
        async with opening() as storage:
            await keep(storage, *(a_kept(hop=hop) for hop in hops_said))

            assert await hops(storage, "r1.email") == [2]
            assert await storage.totals() == {("email", "parked"): (1, a_kept().size_bytes)}

    @pytest.mark.parametrize("hop", [2, 3])
    async def test_what_has_gone_on_does_not_come_back(self, opening: Opening, hop: int) -> None:
        """Not even after a restart: a put without an answer may arrive late."""
        async with opening() as storage:
            await keep(storage, a_kept(hop=3))
            assert await storage.forget([("r1.email", 3)]) == [True]
        async with opening() as storage:
            assert await keep(storage, a_kept(hop=hop)) == [None]
            assert await storage.get(["r1.email"]) == []
            assert len(await storage.trail("r1")) == 1

    async def test_what_was_forgotten_before_it_came_does_not_come(self, opening: Opening) -> None:
        async with opening() as storage:
            assert await storage.forget([("r1.email", 5)]) == [False]
            await keep(storage, a_kept(hop=5))
            assert await storage.get(["r1.email"]) == []

            await keep(storage, a_kept(hop=6))
            assert await hops(storage, "r1.email") == [6]

    async def test_the_fence_stands_for_a_day(self, opening: Opening, clock: ManualClock) -> None:
        async with opening() as storage:
            await storage.forget([("r1.email", 3)])
            clock.advance(DAY_S - 1)
            await storage.forget([("r2.email", 1)])
            await keep(storage, a_kept(hop=3))
            assert await storage.get(["r1.email"]) == []

            clock.advance(2)
            await storage.forget([("r2.email", 1)])
            await keep(storage, a_kept(hop=3))
            assert await hops(storage, "r1.email") == [3]

    async def test_only_hops_up_to_the_one_told_are_forgotten(self, opening: Opening) -> None:
        async with opening() as storage:
            await keep(storage, a_kept(hop=4))

            assert await storage.forget([("r1.email", 3)]) == [False]
            assert await storage.holds([("r1.email", 3), ("r1.email", 4)]) == [False, True]
            assert await storage.forget([("r1.email", 9), ("r1.email", 9)]) == [True, False]
            assert await storage.totals() == {}

    async def test_what_has_no_room_is_refused_alone(self, opening: Opening) -> None:
        size = a_kept().size_bytes
        async with opening(max_bytes=2 * size) as storage:
            answers = await keep(storage, *(a_kept(f"r{n}") for n in range(3)))

            assert answers[:2] == [None, None]
            assert str(2 * size) in (answers[2] or "")
            assert await hops(storage, "r0.email", "r1.email", "r2.email") == [3, 3]
            storage.resize(3 * size)
            assert await keep(storage, a_kept("r2")) == [None]

    async def test_together_it_is_all_or_none(self, opening: Opening) -> None:
        size = a_kept().size_bytes
        async with opening(max_bytes=2 * size) as storage:
            answers = await keep(storage, *(a_kept(f"r{n}") for n in range(3)), together=True)

            assert None not in answers
            assert await storage.totals() == {}
            assert await storage.trail("r0") == []

    async def test_a_later_state_of_the_same_takes_its_place(self, opening: Opening) -> None:
        size = a_kept().size_bytes
        async with opening(max_bytes=size) as storage:
            await keep(storage, a_kept(hop=3))

            assert await keep(storage, a_kept(hop=4, state="dead")) == [None]
            assert await storage.totals() == {("email", "dead"): (1, size)}
            assert await storage.next_due("email") is None

    async def test_once_closed_it_says_so(self, opening: Opening) -> None:
        async with opening() as storage:
            pass
        with pytest.raises(StorageUnavailable, match="closed"):
            await keep(storage, a_kept())


class Looking(_Bench):
    """What is due, listings, filters and groups."""

    async def test_the_earliest_due_first_then_the_earliest_accepted(
        self, opening: Opening
    ) -> None:
        async with opening() as storage:
            dues = {"r5": 50.0, "r4": 40.0, "r2": 30.0, "r1": 30.0, "r9": 60.000001}
            await keep(storage, *(a_kept(ref, due_at=at) for ref, at in dues.items()))
            await keep(storage, a_kept("r0", state="dead"), a_kept("r3", topic="db", due_at=1.0))

            assert await storage.next_due("email") == 30.0
            assert refs(await storage.due("email", now=29.0, limit=9)) == []
            assert refs(await storage.due("email", now=60.0, limit=3)) == ["r1", "r2", "r4"]
            # Asked again by the same node: it has moved none of them.
            assert refs(await storage.due("email", now=60.0, limit=9)) == ["r1", "r2", "r4", "r5"]
            assert await storage.next_due("api") is None

    async def test_what_expires_is_due_then(self, opening: Opening) -> None:
        expiring = a_kept(due_at=9e9, extensions={"expirytime": "1970-01-01T00:01:00Z"})
        async with opening() as storage:
            await keep(storage, expiring)

            assert await storage.next_due("email") == 60.0
            assert refs(await storage.due("email", now=61.0, limit=9)) == ["r1"]

    @pytest.mark.parametrize(
        ("which", "expected"),
        [
            (Filter(), "fedcba"),
            (Filter(state="parked"), "feca"),
            (Filter(state="queued"), ""),
            (Filter(topic="db", state="parked"), "c"),
            (Filter(reason="retry_full"), "a"),
            (Filter(cause="KeyError"), "b"),
            (Filter(topic="db", reason="retries_exhausted", fingerprint="f2"), "c"),
            (Filter(type="user.registered"), "da"),
            (Filter(type="user.*"), "dba"),
            (Filter(type="*"), "fe"),
            (Filter(type="**"), "fedcba"),
            (Filter(type="**.created"), "c"),
            (Filter(type="[*]"), "f"),
            (Filter(type="user?*"), ""),
            (Filter(q="TARGET SAID"), "dcba"),
            (Filter(q="strasse"), "d"),
            (Filter(q="50%"), "d"),
            (Filter(q="_"), "e"),
            (Filter(q="\\"), ""),
            (Filter(q="\ud800"), ""),
            (Filter(ids=("c.db", "a.email", "zz")), "ca"),
            (Filter(ids=("c.db", "a.email"), state="dead"), ""),
            (Filter(topic="' OR '1'='1"), ""),
        ],
        ids=repr,
    )
    async def test_a_filter_means_these(
        self, opening: Opening, which: Filter, expected: str
    ) -> None:
        async with opening() as storage:
            await keep(storage, *_VARIED)
            found, after = [], None
            while True:
                page = await storage.page(which, after=after, limit=2)
                found += refs(page.items)
                after = page.cursor
                if after is None:
                    break

            assert found == list(expected)
            assert await storage.count(which) == len(expected)
            assert [id[0] for id in await storage.ids(which)] == list(reversed(expected))
            assert sum(group.count for group in await storage.groups(which)) == len(expected)

    async def test_what_comes_and_goes_between_pages_hides_and_repeats_nothing(
        self, opening: Opening
    ) -> None:
        async with opening() as storage:
            await keep(storage, *(a_kept(f"r{n}", since=float(n)) for n in range(6)))
            first = await storage.page(Filter(), limit=3)
            await keep(storage, a_kept("new", since=9.0), a_kept("late", since=0.5))
            await storage.forget([("r3.email", 9), ("r0.email", 9)])
            rest = await storage.page(Filter(), after=first.cursor, limit=9)

            assert refs(first.items) == ["r5", "r4", "r3"]
            assert refs(rest.items) == ["r2", "r1", "late"]
            with pytest.raises(UnknownName, match="there is no cursor"):
                await storage.page(Filter(), after="1-2-3")

    async def test_the_largest_group_first_each_shown_by_its_newest(self, opening: Opening) -> None:
        async with opening() as storage:
            await keep(
                storage,
                *(a_kept(f"a{n}", since=10.0 + n, error=f"error {n}") for n in range(3)),
                a_kept("b1", fingerprint="f2", since=50.0, state="dead", cause="KeyError"),
                a_kept("b2", fingerprint="f2", since=40.0, state="dead", cause="KeyError"),
                a_kept("c1", topic="db"),
            )
            groups = await storage.groups(Filter())

            assert [(g.topic, g.state, g.fingerprint, g.count) for g in groups] == [
                ("email", "parked", "f1", 3),
                ("email", "dead", "f2", 2),
                ("db", "parked", "f1", 1),
            ]
            assert (groups[0].error, groups[0].example) == ("error 2", "a2.email")
            assert (groups[0].first_at, groups[0].last_at) == (10.0, 12.0)
            (only,) = await storage.groups(Filter(q="error 1"))
            assert (only.count, only.example) == (1, "a1.email")

    async def test_along_goes_by_acceptance_whatever_matches(self, opening: Opening) -> None:
        async with opening() as storage:
            await keep(
                storage,
                *(
                    a_kept(f"r{n}", topic=topic, state="dead" if n % 2 else "parked", since=-n)
                    for n in range(9, -1, -1)
                    for topic in ("db", "email")
                ),
            )
            which, after, found, calls = Filter(topic="email", state="dead"), None, [], 0
            while True:
                items, after = await storage.along(which, after=after, limit=3)
                found += [kept.delivery.id for kept in items]
                calls += 1
                if after is None:
                    break

            assert found == [f"r{number}.email" for number in (1, 3, 5, 7, 9)]
            assert calls == 8

    async def test_an_event_is_found_by_its_ref_and_its_id(self, opening: Opening) -> None:
        async with opening() as storage:
            await keep(
                storage,
                a_kept("r1", topic="email", id="same"),
                a_kept("r1", topic="db", id="same"),
                a_kept("r2", id="same"),
                a_kept("r10"),
            )

            assert [k.delivery.topic for k in await storage.find("r1")] == ["db", "email"]
            assert await storage.ref_of("/shop", "same") == "r2"
            assert await storage.ref_of("/shop", "other") is None


_VARIED = (
    a_kept("a", since=1.0, reason=Reason.RETRY_FULL),
    a_kept("b", since=2.0, topic="db", state="dead", type="user.deleted", cause="KeyError"),
    a_kept("c", since=3.0, topic="db", type="shop.order.created", fingerprint="f2"),
    a_kept("d", since=4.0, state="dead", source="/Straße", subject="50% off"),
    a_kept("e", since=5.0, failed=False, id="under_score", type="user"),
    a_kept("f", since=6.0, topic="api", reason=Reason.POISON, type="[a?]", error="!"),
)


class Acts(_Bench):
    """Acts of operators, settings made at run time, and the trail."""

    async def test_replaying_twice_changes_nothing(self, opening: Opening) -> None:
        async with opening() as storage:
            await keep(storage, a_kept(state="dead"))
            asked = ["r1.email", "no.email"]
            first = await storage.replay(asked, SOMEBODY)
            second = await storage.replay(asked, SOMEBODY)

            assert first == {"r1.email": "replayed", "no.email": "unknown"}
            assert second == {"r1.email": "already", "no.email": "unknown"}
            assert await hops(storage, "r1.email") == [4]
            assert await storage.totals() == {("email", "parked"): (1, a_kept().size_bytes)}
            assert [b'"delivery.replayed"' in row.row for row in await storage.trail("r1")] == [
                *(False, True)
            ]

    async def test_what_is_discarded_is_counted_for_ever(self, opening: Opening) -> None:
        async with opening() as storage:
            await keep(storage, a_kept("r1"), a_kept("r2"))
            answers = await storage.discard(["r1.email", "r1.email", "no.email"], SOMEBODY)
            assert answers == {"r1.email": "discarded", "no.email": "unknown"}
        async with opening() as storage:
            assert await storage.turnover() == {
                "email": Turnover(parked=1, arrived=2, discarded=1),
            }
            await keep(storage, a_kept("r1"))
            assert await storage.get(["r1.email"]) == []
            assert b'"by":"somebody"' in (await storage.trail("r1"))[-1].row

    async def test_what_arrived_is_here_or_was_forgotten_or_discarded(
        self, opening: Opening
    ) -> None:
        async with opening() as storage:
            await keep(storage, a_kept("r1"), a_kept("r2"), a_kept("r3"), a_kept("r1"))
            await keep(storage, a_kept("r2", hop=5), a_kept("r4", topic="db"))
            await storage.forget([("r1.email", 3), ("r1.email", 3), ("r2.email", 4), ("no", 1)])
            await keep(storage, a_kept("r1"))  # it has gone on
        async with opening() as storage:
            assert await storage.turnover() == {
                "email": Turnover(parked=2, arrived=3, forgotten=1),
                "db": Turnover(parked=1, arrived=1),
            }
            await keep(storage, a_kept("r1", hop=5))
            assert (await storage.turnover())["email"] == Turnover(parked=3, arrived=4, forgotten=1)

    async def test_settings_made_at_run_time_stay(self, opening: Opening) -> None:
        async with opening() as storage:
            await storage.reconfigured(["topics.email.capacity"], SOMEBODY)
            await storage.override("email", {"capacity": 1}, SOMEBODY)
            await storage.override("email", {"capacity": 2}, SOMEBODY)
            await storage.override("db", {"paused": True}, SOMEBODY)
        async with opening() as storage:
            assert await storage.overrides() == {"db": {"paused": True}, "email": {"capacity": 2}}
            await storage.override("db", None, SOMEBODY)
            assert await storage.overrides() == {"email": {"capacity": 2}}
            assert (await storage.verify()).rows == 5

    async def test_each_node_has_a_chain_and_all_hold(self, opening: Opening) -> None:
        async with opening(chain="n1") as one, opening(chain="n2") as two:
            for number, node in enumerate((one, two)):
                await keep(node, *(a_kept(f"r{number}-{i}") for i in range(5)))
            noted = {"at": 1.0, "what": "x"}
            await asyncio.gather(*(node.note([noted]) for node in (one, two) for _ in "123"))

            verdict = await one.verify()
            assert (verdict.ok, verdict.rows) == (True, 16)
            assert [head.split(":")[:2] for head in await two.heads()] == [["n1", "8"], ["n2", "8"]]
            assert len(await one.seal()) == 2
            assert await one.seal() == []
            assert sum(count for count, _ in (await two.totals()).values()) == 10

    async def test_chains_are_taken_over_as_they_are(self, opening: Opening) -> None:
        rows = a_chain("before", 5)
        async with opening(chain="n1") as storage:
            await storage.note([{"at": 1.0, "what": "x"}])
            await storage.adopt(rows[:3])
            await storage.adopt(rows[1:])  # twice some of it, as after a kill
            verdict = await storage.verify()

            assert (verdict.ok, verdict.rows) == (True, 6)
            assert await storage.trail("r1") == rows
            assert f"before:5:{rows[-1].hash.hex()}" in await storage.heads()

    async def test_another_row_in_the_same_place_is_refused(self, opening: Opening) -> None:
        async with opening(chain="n1") as storage:
            await storage.adopt(a_chain("before", 3))
            with pytest.raises(StorageUnavailable, match="another row 2 of the audit chain 'befor"):
                await storage.adopt([*a_chain("before", 1), *a_chain("before", 4, what="y")[1:]])

            assert (await storage.verify()).rows == 3

    async def test_a_head_that_is_gone_is_found(self, opening: Opening) -> None:
        async with opening(chain="n1") as storage:
            await storage.note([{"at": 1.0, "what": "x"}])
            verdict = await storage.verify([f"n1:2:{'0' * 64}"])

            assert not verdict.ok
            assert "the tail was cut off behind seq 1" in verdict.faults[0]


class StorageContract(Keeping, Looking, Acts):
    """All of it."""
