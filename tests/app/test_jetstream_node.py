"""A node whose queues are on a NATS server: the same handlers, the same ledger."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
from tests.engine.jetstream_server import Server, ask, connected
from tests.ports import free_port

from eventflow import Event, EventFlow
from eventflow.engine.jetstream import engine
from eventflow.errors import EngineUnavailable, QueueFull
from eventflow.storage.protocol import Actor

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.slow  # a real server

SOON_S = 60.0


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path)
    server.start()
    yield server
    server.kill()


def node(server: Server, tmp_path: Path, **said: Any) -> tuple[EventFlow, Counter[str]]:
    settings = {"url": server.url, "node": "n1"} | said
    lines = [f"engine.{name} = {json.dumps(value)}" for name, value in settings.items()]
    lines += [f'storage.url = "sqlite:{tmp_path / "storage.db"}"']
    file = tmp_path / "eventflow.toml"
    file.write_text("\n".join(lines))
    flow = EventFlow(file)
    ran: Counter[str] = Counter()

    @flow.topic("mail", match="user.*", retry={"base": "50ms", "max": "100ms"})
    async def mail(event: Event) -> None:
        ran[event.id] += 1
        if event.data["fails"] and ran[event.id] == 1:
            raise TimeoutError("the first time")

    return flow, ran


def registered(id: str, *, fails: bool = False) -> Event:
    return Event(type="user.registered", source="/shop", id=id, data={"fails": fails})


async def drained(flow: EventFlow, accepted: int) -> dict[str, Any]:
    loop = asyncio.get_running_loop()
    give_up_at = loop.time() + SOON_S
    while True:
        stats = dict(await flow.door.stats())
        ended = stats["topics"]["mail"]["delivered"] >= accepted and stats["moving"] == 0
        if ended or loop.time() > give_up_at:
            return stats
        await asyncio.sleep(0.1)


async def test_events_are_delivered_retried_and_counted(server: Server, tmp_path: Path) -> None:
    flow, ran = node(server, tmp_path)
    async with flow:
        for n in range(20):
            await flow.publish(registered(f"e{n}", fails=n % 5 == 0))
        stats = await drained(flow, 20)

    assert ran == {f"e{n}": 2 if n % 5 == 0 else 1 for n in range(20)}
    assert (stats["accepted"], stats["unaccounted"], stats["exact"]) == (20, 0, False)


async def test_what_a_stopped_node_left_is_delivered_by_the_next(
    server: Server, tmp_path: Path
) -> None:
    first, _ = node(server, tmp_path)
    await first.start()
    await first.door.pause("mail", Actor("somebody"))
    for n in range(5):
        await first.publish(registered(f"e{n}"))
    await first.stop()
    second, ran = node(server, tmp_path)
    async with second:  # a pause is kept in storage, so this one is paused, too
        assert not ran
        await second.door.resume("mail", Actor("somebody"))
        stats = await drained(second, 5)

    assert ran == Counter({f"e{n}": 1 for n in range(5)})
    assert stats["unaccounted"] == 0


async def test_a_server_that_dies_and_comes_back_loses_nothing(tmp_path: Path) -> None:
    server = Server(tmp_path, port=free_port())
    server.start()
    flow, ran = node(server, tmp_path)
    accepted: list[str] = []
    refused = 0
    try:
        async with flow:
            for n in range(300):
                if n in {100, 200}:
                    server.kill()
                    await asyncio.sleep(0.2)
                    server.start()
                try:
                    await flow.publish(registered(f"e{n}"))
                except (EngineUnavailable, QueueFull):
                    refused += 1
                else:
                    accepted.append(f"e{n}")
            stats = await drained(flow, len(accepted))
    finally:
        server.kill()

    assert set(accepted) - set(ran) == set()
    assert refused < 10
    assert (stats["unaccounted"], stats["moving"]) == (0, 0)


async def test_a_server_that_does_not_sync_is_refused(tmp_path: Path) -> None:
    lazy = Server(tmp_path, sync=False)
    lazy.start()
    try:
        flow, _ = node(lazy, tmp_path, monitor=lazy.monitor)
        with pytest.raises(EngineUnavailable, match="sync_always off"):
            await flow.start()
        flow, _ = node(lazy, tmp_path, monitor=lazy.monitor, durability="os")
        async with flow:
            assert (await flow.door.stats())["durability"] == "os"
    finally:
        lazy.kill()


async def test_one_that_does_is_said_to(server: Server, tmp_path: Path) -> None:
    flow, _ = node(server, tmp_path, monitor=server.monitor)
    async with flow:
        stats = await flow.door.stats()
    assert stats["durability"] == "fsync"
    assert stats["doubts"] == []


async def test_where_nobody_can_be_asked_that_is_shown(server: Server, tmp_path: Path) -> None:
    flow, _ = node(server, tmp_path)
    async with flow:
        stats = await flow.door.stats()
    assert stats["durability"] == "unknown"
    assert [one["what"] for one in stats["doubts"]] == ["sync"]


async def test_one_server_of_three_is_refused(server: Server, tmp_path: Path) -> None:
    flow, _ = node(server, tmp_path, replicas=3)
    with pytest.raises(EngineUnavailable, match="expected 3 servers"):
        await flow.start()


async def test_a_monitor_that_nobody_has_is_refused(server: Server, tmp_path: Path) -> None:
    nowhere = f"http://127.0.0.1:{free_port()}"
    flow, _ = node(server, tmp_path, monitor=nowhere)
    with pytest.raises(EngineUnavailable, match="does not answer as a NATS server does"):
        await flow.start()
    flow, _ = node(server, tmp_path, monitor=f"{server.monitor},{nowhere}")
    async with flow:
        (doubt,) = (await flow.door.stats())["doubts"]
    assert doubt["what"] == "monitor"


async def test_an_event_that_no_message_holds_is_refused_at_start_and_later(
    server: Server, tmp_path: Path
) -> None:
    flow, _ = node(server, tmp_path)
    config = tmp_path / "eventflow.toml"
    text = config.read_text()
    config.write_text(f'{text}\ncommon.max_event = "1MiB"\n')
    with pytest.raises(EngineUnavailable, match="1,179,648 bytes or more"):
        await flow.start()

    config.write_text(text)
    flow, _ = node(server, tmp_path)
    async with flow:
        assert flow.settings.common.max_event_bytes == 896 * 2**10
        config.write_text(f'{text}\ncommon.max_event = "1MiB"\n')
        with pytest.raises(EngineUnavailable, match="1,179,648 bytes or more"):
            await flow.reload()
        assert flow.settings.common.max_event_bytes == 896 * 2**10


async def changed(server: Server, stream: str, **config: Any) -> None:
    async with connected(server) as client:
        held = (await ask(client, f"STREAM.INFO.{stream}"))["config"]
        await ask(client, f"STREAM.UPDATE.{stream}", **{**held, **config})


async def doubts(flow: EventFlow) -> list[str]:
    told = (await flow.door.stats())["doubts"]
    return [f"{one['what']}: {one['found']}" for one in told if one["what"] != "sync"]


async def test_what_somebody_changed_is_put_right_and_said(server: Server, tmp_path: Path) -> None:
    flow, _ = node(server, tmp_path)
    async with flow:
        assert await doubts(flow) == []
    await changed(server, "EF_T_mail", discard="old", max_age=3_600 * 10**9)
    flow, _ = node(server, tmp_path)
    async with flow:
        (said,) = await doubts(flow)
    assert said == (
        "stream EF_T_mail: was configured otherwise: max_age expected 0 s, found 3600 s; "
        "discard expected new, found old; put right"
    )
    flow, _ = node(server, tmp_path)
    async with flow:
        assert await doubts(flow) == []


async def test_what_somebody_changes_meanwhile_is_said(
    server: Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(engine, "LOOK_S", 0.2)
    flow, _ = node(server, tmp_path)
    async with flow:
        await changed(server, "EF_COMMON", max_msgs=5)
        give_up_at = asyncio.get_running_loop().time() + SOON_S
        while not (found := await doubts(flow)):
            assert asyncio.get_running_loop().time() < give_up_at
            await asyncio.sleep(0.05)
    assert found == ["stream EF_COMMON: configured otherwise: max_msgs expected 100,000, found 5"]
    lines = [record.getMessage() for record in caplog.records]
    assert sum("servers.doubted" in line and "EF_COMMON" in line for line in lines) == 1


async def test_what_can_t_be_put_right_is_refused(server: Server, tmp_path: Path) -> None:
    async with connected(server) as client:
        await ask(
            client,
            "STREAM.CREATE.EF_T_mail",
            name="EF_T_mail",
            subjects=["ef.t.mail.>"],
            storage="memory",
        )
    flow, _ = node(server, tmp_path)
    with pytest.raises(EngineUnavailable) as caught:
        await flow.start()
    assert "storage expected file, found memory" in str(caught.value)
    assert "retention expected workqueue, found limits" in str(caught.value)
    assert "Nothing was accepted" in str(caught.value)


async def test_a_user_that_is_revoked_makes_a_node_unready_until_it_is_back(tmp_path: Path) -> None:
    known = "authorization { users: [{ user: shop, password: ten-small-boats }] }"
    server = Server(tmp_path, more=known)
    server.start()
    try:
        url = server.url.replace("//", "//shop:ten-small-boats@")
        flow, ran = node(server, tmp_path, url=url)
        async with flow:
            assert await flow.door.ready() == []
            server.reload(known.replace("ten", "nine"))
            (reason,) = await ready_or(flow, wanted=False)
            server.reload(known)
            await ready_or(flow, wanted=True)
            await flow.publish(registered("e1"))
            stats = await drained(flow, 1)
    finally:
        server.kill()

    assert "refuse user 'shop' with a password: they say 'authorization violation'" in reason
    assert "It goes on trying" in reason
    assert "ten-small-boats" not in reason
    assert ran == {"e1": 1}
    assert stats["unaccounted"] == 0


async def ready_or(flow: EventFlow, *, wanted: bool) -> list[str]:
    give_up_at = asyncio.get_running_loop().time() + SOON_S
    while ((reasons := list(await flow.door.ready())) == [] and not wanted) or (reasons and wanted):
        assert asyncio.get_running_loop().time() < give_up_at, reasons
        await asyncio.sleep(0.05)
    return reasons
