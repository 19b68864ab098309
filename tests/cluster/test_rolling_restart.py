"""One node after the other is stopped in order and started again, under load: nobody notices."""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections import defaultdict
from typing import TYPE_CHECKING, Any

import pytest
from tests.cluster.history import read
from tests.cluster.nodes import DRAIN_S
from tests.cluster.story import (
    EMPTY_S,
    Setup,
    cluster,
    note_the_dead,
    until_balanced,
    until_empty,
    watched,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from tests.cluster.history import Fact

BETWEEN_S = 3.0
NOBODY_S = 5.0
"""How long nothing may be accepted by anybody: a sender that tries the next node waits so long."""


async def story(folder: Path, seed: int) -> dict[str, Any]:
    """Restart all nodes in turn; return the figures."""
    statuses: list[int] = []
    took_s: dict[str, tuple[float, float]] = {}
    setup = Setup(cuts=False)
    async with cluster(setup, folder, random.Random(seed)) as one, watched(one):
        stop = asyncio.Event()
        loading = asyncio.create_task(one.load.run(stop))
        for node in one.nodes:
            await asyncio.sleep(BETWEEN_S)
            began = time.time()
            statuses.append(await node.end(signal.SIGTERM))
            ended = time.time()
            await node.start()
            await node.until_ready(one.session)
            took_s[node.name] = (round(ended - began, 1), round(time.time() - ended, 1))
        await asyncio.sleep(BETWEEN_S)
        stop.set()
        await loading
        one.history.note("calm")
        empty_s = await until_empty(one, time.time())
        balanced_s = await until_balanced(one)
        await note_the_dead(one)
    verdict = one.verdict()
    return {
        "seed": seed,
        **verdict.figures(),
        "broken_promises": verdict.faults,
        "exit_statuses": statuses,
        "stopped_and_started_in_s": took_s,
        "offered_per_s": round(one.load.offered / one.load.lasted_s, 1),
        "answers": dict(one.load.statuses),
        "longest_refusal_s": {
            node: round(seconds, 1) for node, seconds in refusals(read(one.path)).items()
        },
        "empty_s": empty_s,
        "balanced_s": balanced_s,
    }


def refusals(facts: Iterable[Fact]) -> dict[str, float]:
    """Return, by node, the longest time from a refusal to the next event that it accepted."""
    since: dict[str, float] = {}
    longest: dict[str, float] = defaultdict(float)
    for fact in sorted(facts, key=lambda one: one.at):
        if fact.what in {"refused", "unknown"}:
            since.setdefault(fact.node, fact.at)
        elif fact.what == "accepted" and fact.node in since:
            longest[fact.node] = max(longest[fact.node], fact.at - since.pop(fact.node))
    return longest


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_rolling_restart(tmp_path: Path, seed: int, proof: Callable[..., dict[str, Any]]) -> None:
    found = asyncio.run(story(tmp_path, seed))
    proof("rolling-restart", **found)

    assert found["broken_promises"] == [], found
    assert found["exit_statuses"] == [0, 0, 0]
    assert found["repeats"] == 0, found
    assert found["offered_per_s"] >= 200
    assert max(found["longest_refusal_s"].values()) <= DRAIN_S, found
    assert found["longest_gap_s"] <= NOBODY_S, found
    assert 0 <= found["empty_s"] <= EMPTY_S, found
