"""A node's record in the ledger: whose end is counted already is found there by the other nodes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import pytest

from eventflow.engine.jetstream import names
from eventflow.engine.jetstream.ledger import RECORDED_MAX, REMEMBERED_S, UNSURE_S, Ledger
from eventflow.engine.jetstream.wire import Message, Stored

if TYPE_CHECKING:
    from collections.abc import Sequence

    from eventflow.engine.jetstream.wire import Item, Wire

NOW = 1_000.0


class Servers:
    """What the ledger's stream keeps: the latest message of each subject."""

    def __init__(self) -> None:
        self._latest: dict[str, Message] = {}
        self._seq = 0

    async def put(self, item: Item) -> Stored:
        self._seq += 1
        self._latest[item.subject] = Message(self._seq, item.subject, item.body)
        return Stored(self._seq)

    async def get(self, stream: str, *, last_by_subj: str) -> Message | None:
        assert stream == names.LEDGER
        return self._latest.get(last_by_subj)

    async def read(self, stream: str, subjects: str, after: int, limit: int) -> Sequence[Message]:
        assert (stream, subjects) == (names.LEDGER, "ef.ledger.*")
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
    one.remember(keys, now)
    await one.commit([("mail", "delivered", len(keys))])
    if confirmed:
        one.sure(keys, now)


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
    for n in range(RECORDED_MAX + 10):
        one.remember([fence(f"r{n}:0")], NOW)
        one.sure([fence(f"r{n}:0")], NOW)
    await one.commit(())
    await other.refresh()

    assert other.has(fence("u:0"))
    assert other.has(fence(f"r{RECORDED_MAX + 9}:0"))
    assert not other.has(fence("r0:0"))


async def test_a_node_in_its_next_life_knows_them(servers: Servers) -> None:
    await end(await ledger(servers, "n1"), "u:0", confirmed=False)
    again = await ledger(servers, "n1", NOW + 1)

    assert again.has(fence("u:0"))
    assert again.counters("mail").delivered == 1


async def test_they_are_forgotten_at_last(servers: Servers) -> None:
    one = await ledger(servers, "n1")
    await end(one, "sure:0")
    await end(one, "u:0", confirmed=False)

    await end(one, "l:0", now=NOW + REMEMBERED_S)
    assert not one.has(fence("sure:0"))
    assert one.has(fence("u:0"))
    await end(one, "m:0", now=NOW + UNSURE_S)
    assert not one.has(fence("u:0"))
