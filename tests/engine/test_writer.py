"""The writer of simulations: its disk takes as long as it is told to."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

from eventflow.engine.embedded.writer import InlineWriter
from eventflow.testing import run


def test_it_tells_in_the_next_round_unless_its_disk_takes_time() -> None:
    assert told_at_s(InlineWriter()) == [("a", 0.0), ("b", 0.0)]


def test_its_disk_does_one_thing_after_the_other() -> None:
    assert told_at_s(InlineWriter(lambda: 2.0)) == [("a", 2.0), ("b", 4.0)]


def told_at_s(writer: InlineWriter) -> list[tuple[Any, float]]:
    """Return what a writer tells of two things it is given at once, and when."""
    told: list[tuple[Any, float]] = []

    async def main() -> None:
        for name in ("a", "b"):
            writer.run(partial(str, name), tell)
        assert not told
        await asyncio.sleep(5.0)

    def tell(result: Any, error: BaseException | None) -> None:
        assert error is None
        told.append((result, asyncio.get_running_loop().time()))

    run(main())
    return told
