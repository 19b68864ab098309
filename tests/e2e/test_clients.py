"""Both clients against a node in a process of its own, which is killed in the middle."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import threading
from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING, Any

import pytest
from tests.e2e.shop import Shop
from tests.ports import free_port

from eventflow import AsyncClient, Client, Event, NodeUnavailable
from eventflow.errors import InvalidEvent, TooLarge

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Iterator
    from pathlib import Path

    from eventflow.engine.protocol import Receipt

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

SCHEMA = '{"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}'


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    """A shop whose orders must have a number, and no more than 4 KiB."""
    shop = Shop(tmp_path / "shop", free_port())
    (shop.folder / "order.json").write_text(SCHEMA)
    with (shop.folder / "eventflow.toml").open("a") as config:
        config.write('\n[schemas]\n"order.placed" = "order.json"\n')
    text = (shop.folder / "eventflow.toml").read_text()
    limited = text.replace("[common]\n", '[common]\nmax_event = "4KiB"\n')
    (shop.folder / "eventflow.toml").write_text(limited)
    return shop


@dataclass
class Seen:
    """What a caller saw."""

    receipts: list[Receipt] = field(default_factory=list)
    error: BaseException | None = None
    again: Receipt | None = None
    """Of an event that was published after the end, and after `close`."""
    stats: dict[str, Any] = field(default_factory=dict)

    @property
    def refs(self) -> set[str | None]:
        return {receipt.ref for receipt in self.receipts}


def blocking(url: str, events: Iterable[Event], last: Event, **given: Any) -> Seen:
    seen = Seen()
    with Client(url, **given) as client:
        try:
            for receipt in client.publish_stream(events):
                seen.receipts.append(receipt)
        except Exception as error:  # noqa: BLE001  # each test says which
            seen.error = error
        client.close()
        seen.again = client.publish(last)
        seen.stats = client.stats()
    return seen


def awaiting(url: str, events: Iterable[Event], last: Event, **given: Any) -> Seen:
    async def run() -> Seen:
        seen = Seen()
        async with AsyncClient(url, **given) as client:
            try:
                async for receipt in client.publish_stream(events):
                    seen.receipts.append(receipt)
            except Exception as error:  # noqa: BLE001  # each test says which
                seen.error = error
            await client.close()
            seen.again = await client.publish(last)
            seen.stats = await client.stats()
        return seen

    return asyncio.run(run())


both = pytest.mark.parametrize("publish", [blocking, awaiting])
Publish = Any


def orders(count: int) -> list[Event]:
    return [Event(type="order.placed", source="/shop", data={"n": n}) for n in range(count)]


@both
def test_a_node_that_is_killed_and_comes_back_costs_nothing(shop: Shop, publish: Publish) -> None:
    """Every event is accepted once, whatever the node had stored without an answer."""
    events = orders(6_000)
    served = _Served(shop)

    def made() -> Iterator[Event]:
        for place, event in enumerate(events):
            if place in {1_700, 3_900}:
                served.killed_and_started_later(0.5)
            yield event

    with served:
        seen = publish(shop.url, made(), orders(1)[0])
    assert seen.error is None
    assert len(seen.receipts) == len(events)
    assert len(seen.refs) == len(events)
    assert seen.again is not None
    assert not seen.again.duplicate
    common = seen.stats["topics"]["common"]
    assert common["created"] == len(events) + 1
    assert common["unaccounted"] == 0
    assert served.starts == 3


@both
def test_a_node_that_stays_away_is_said_in_time(shop: Shop, publish: Publish) -> None:
    with shop.serving():
        pass
    with pytest.raises(NodeUnavailable) as caught:
        publish(shop.url, orders(1), orders(1)[0], wait_s=0.5)
    assert "no node answers (Connection refused)" in str(caught.value)


@both
@pytest.mark.parametrize(
    ("data", "error", "said"),
    [
        ({"n": "seven"}, InvalidEvent, 'data/n: "seven" is not of type "integer"'),
        ({"n": 7, "text": "x" * 8_000}, TooLarge, "is over the limit of 4096"),
    ],
    ids=["schema", "size"],
)
def test_of_a_batch_with_a_wrong_event_what_is_before_its_500_is_accepted(
    shop: Shop, publish: Publish, data: Any, error: type[Exception], said: str
) -> None:
    events = orders(1_200)
    events[777] = Event(type="order.placed", source="/shop", data=data)
    with shop.serving():
        seen = publish(shop.url, events, events[600])
    assert isinstance(seen.error, error)
    assert said in str(seen.error)
    assert "event 777" in str(seen.error)
    assert any("first 500 events were accepted" in note for note in seen.error.__notes__)
    assert len(seen.receipts) == 500
    assert seen.again is not None
    assert not seen.again.duplicate, "an event of the refused 500 is not stored"
    assert seen.stats["topics"]["common"]["created"] == 501


@both
def test_what_a_generator_raises_is_the_callers(shop: Shop, publish: Publish) -> None:
    """Whole lists before it are stored; the client can be used as before."""
    events = orders(1_300)

    def made() -> Iterator[Event]:
        yield from events
        raise LookupError("the database of orders is gone")

    with shop.serving():
        seen = publish(shop.url, made(), events[1_299])
    assert isinstance(seen.error, LookupError)
    assert len(seen.receipts) == 1_000
    assert seen.again is not None
    assert not seen.again.duplicate
    assert seen.stats["topics"]["common"]["created"] == 1_001


async def test_tasks_share_a_client(shop: Shop) -> None:
    events = orders(400)
    with shop.serving():
        async with AsyncClient(shop.url) as client:
            receipts = await asyncio.gather(*(client.publish(event) for event in events))
            known = await client.publish_many(events)
    assert len({receipt.ref for receipt in receipts}) == len(events)
    assert [one.ref for one in known] == [one.ref for one in receipts]
    assert all(one.duplicate for one in known)


def test_threads_share_a_client(shop: Shop) -> None:
    lists = [orders(50) for _ in range(8)]
    refs: list[str | None] = []
    with shop.serving(), Client(shop.url) as client:

        def run(events: list[Event]) -> None:
            refs.extend(client.publish(event).ref for event in events)

        threads = [threading.Thread(target=run, args=(one,)) for one in lists]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        known = client.publish_many(chain(*lists))
    assert len(set(refs)) == len(refs) == 400
    assert all(one.duplicate for one in known)


class _Served:
    """A node that can be killed, and is started again from a thread."""

    def __init__(self, shop: Shop) -> None:
        self.shop = shop
        self.starts = 0
        self._serving: Any = None
        self._node: Any = None
        self._timers: list[threading.Timer] = []

    def __enter__(self) -> None:
        self._start()

    def __exit__(self, *_: object) -> None:
        self._join()
        self._serving.__exit__(None, None, None)

    def killed_and_started_later(self, delay_s: float) -> None:
        """Kill it, and start another one while the caller tries."""
        self._join()
        self._node.kill()
        self._serving.__exit__(None, None, None)
        self._timers.append(threading.Timer(delay_s, self._start))
        self._timers[-1].start()

    def _start(self) -> None:
        self._serving = self.shop.serving()
        self._node = self._serving.__enter__()
        self.starts += 1

    def _join(self) -> None:
        for timer in self._timers:
            timer.join()


FORKED = """\
import os, sys
from eventflow import Client, Event

client = Client()
refs = [client.publish(Event(type="order.placed", source="/f", data={"n": 0})).ref]
read, write = os.pipe()
child = os.fork()
for n in range(50):
    event = Event(type="order.placed", source="/f", data={"n": n})
    refs.append(client.publish(event).ref)
    assert client.event(refs[-1])["ref"] == refs[-1], "an answer of the other process"
if child == 0:
    os.write(write, " ".join(refs[1:]).encode())
    os._exit(0)
os.waitpid(child, 0)
refs += os.read(read, 100_000).decode().split()
print(len(set(refs)))
"""


def test_a_client_made_before_a_fork_serves_both_processes(shop: Shop) -> None:
    (shop.folder / "forked.py").write_text(FORKED)
    with shop.serving():
        done = shop.shell(f"{sys.executable} forked.py")
    assert (done.stdout, done.stderr) == ("101\n", "")


async def test_a_publish_that_is_cancelled_leaves_a_client_that_works(shop: Shop) -> None:
    """The connection it was on is not used again: its answer would be taken for another's."""
    events = orders(3_000)
    with shop.serving():
        async with AsyncClient(shop.url) as client:
            await client.publish(orders(1)[0])
            for delay_s in (0.0, 0.002, 0.01, 0.05):
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(delay_s):
                        await client.publish_many(events)
                one = orders(1)[0]
                receipt = await client.publish(one)
                assert receipt.ref is not None
                assert (await client.event(receipt.ref))["event"]["id"] == one.id
            receipts = await client.publish_many(events)
    assert len({receipt.ref for receipt in receipts}) == len(events)


async def test_a_stream_that_is_left_leaves_a_client_that_works(shop: Shop) -> None:
    with shop.serving():
        async with AsyncClient(shop.url) as client:
            stream = client.publish_stream(orders(1_500))
            first = [receipt async for _, receipt in azip(range(10), stream)]
            stats = await client.stats()
    assert len({receipt.ref for receipt in first}) == 10
    assert stats["topics"]["common"]["created"] == 500, "no more than was asked for"


async def azip(numbers: Iterable[int], stream: AsyncIterator[Receipt]) -> AsyncIterator[Any]:
    for number in numbers:
        yield number, await anext(stream)
