"""What the whole ledger is out by, as a node tells it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from eventflow import EventFlow
from eventflow.engine.protocol import Census, Counts, unaccounted
from eventflow.testing import run
from eventflow.testing.harness import started, virtual

if TYPE_CHECKING:
    from eventflow import Event

LEVEL = Counts(created=3, delivered=2, dead=1)
ONE_MISSING = Counts(created=3, delivered=2)
TWO_TOO_MANY = Counts(created=3, delivered=3, queued=2)


@pytest.mark.parametrize(
    ("lines", "off"),
    [
        ([], 0),
        ([LEVEL, LEVEL], 0),
        ([ONE_MISSING, LEVEL], 1),
        ([ONE_MISSING, ONE_MISSING], 2),
        ([TWO_TOO_MANY, LEVEL], -2),
        ([TWO_TOO_MANY, ONE_MISSING], -2),
        ([TWO_TOO_MANY, ONE_MISSING, ONE_MISSING], 2),
    ],
)
def test_no_topic_hides_another(lines: list[Counts], off: int) -> None:
    assert unaccounted(lines) == off
    assert Census(0.0, dict(enumerate(lines))).unaccounted == off  # type: ignore[arg-type]


def test_the_metric_says_what_the_ledger_does(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story() -> bytes:
        flow = EventFlow(surroundings=virtual(path=":memory:"))

        @flow.topic("a", match="a")
        async def a(_: Event) -> None: ...

        async with started(flow):
            lines = {"a": ONE_MISSING, "common": TWO_TOO_MANY}
            engine = type(flow.flow.tools.engine)
            monkeypatch.setattr(engine, "counts", lambda _, topic: lines[topic])
            return (await flow.door.metrics())[0]

    assert b"\neventflow_unaccounted_deliveries -2" in run(story())
