"""A webhook's door while common is full: what parks loses nothing, what refuses says so."""

from __future__ import annotations

import asyncio
import hmac
from collections import Counter
from typing import Any

import pytest
from tests.web.client import Client

from eventflow import Event, EventFlow
from eventflow.telemetry import names
from eventflow.testing.harness import settle, started, virtual
from eventflow.testing.loop import run
from eventflow.web.asgi import make_app

SECRET = "long and hard to guess"  # of this test


def node(seed: int, runs: list[str], policy: str) -> EventFlow:
    flow = EventFlow(engine="memory:", surroundings=virtual(seed))
    webhook = {"scheme": "github", "secret": SECRET, "when_full": policy}
    flow.override({"common": {"capacity": 50}, "webhooks": {"github": webhook}})

    @flow.topic("ci", match="**", capacity=1_000)
    async def ci(event: Event) -> None:
        runs.append(event.id)

    return flow


async def burst(flow: EventFlow, count: int) -> Counter[int]:
    """Send deliveries so fast that the router does not come in between; count the answers."""
    client, body = Client(make_app(flow.door)), b'{"action": "opened"}'
    signature = "sha256=" + hmac.digest(SECRET.encode(), body, "sha256").hex()
    sent = (
        client.send(
            "POST",
            "/v1/webhooks/github",
            [body],
            {
                "content-type": "application/json",
                "x-github-event": "issues",
                "x-github-delivery": str(n),
                "x-hub-signature-256": signature,
            },
        )
        for n in range(count)
    )
    return Counter(answer.status for answer in await asyncio.gather(*sent))


@pytest.mark.parametrize(("policy", "result"), [("park", "parked"), ("refuse", "queue-full")])
def test_a_burst_into_a_full_common(seed: int, policy: str, result: str) -> None:
    async def story() -> None:
        runs: list[str] = []
        flow = node(seed, runs, policy)
        async with started(flow):
            answers = await burst(flow, 100)
            counted: Any = flow.flow.tools.metrics.counted(names.WEBHOOK_REQUESTS)
            over = counted["github", result]
            ledger = await settle(flow)

            assert over >= 40
            assert counted["github", "accepted"] == 100 - over
            let_in = 100 if policy == "park" else 100 - over
            assert answers == Counter({202: let_in, 429: 100 - let_in})
            assert (ledger.topics["ci"].delivered, ledger.unaccounted) == (let_in, 0)
            assert len(set(runs)) == len(runs) == let_in

    run(story(), seed=seed)
