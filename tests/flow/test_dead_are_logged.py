"""What becomes dead is said in the log: a line for each reason of a batch, not one a delivery."""

from __future__ import annotations

from typing import TYPE_CHECKING

from eventflow import Event, EventFlow, Permanent
from eventflow.testing.harness import settle, started, virtual
from eventflow.testing.loop import run

if TYPE_CHECKING:
    import pytest


def test_the_dead_are_said_by_topic_and_reason(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    flow = EventFlow(engine="memory:", surroundings=virtual(1))

    @flow.topic("email", match="user.*")
    async def send(event: Event) -> None:
        raise Permanent("nobody there")

    async def story() -> None:
        async with started(flow):
            events = [Event(type="user.left", source="/s", id=str(n)) for n in range(40)]
            await flow.publish_many(events)
            await settle(flow)

    run(story())

    lines = [line for line in caplog.messages if line.startswith("delivery.dead")]
    assert lines
    assert all("topic=email reason=permanent" in line for line in lines)
    assert sum(int(line.rpartition("deliveries=")[2]) for line in lines) == 40
    assert len(lines) < 40
