"""Tests of engines run on a virtual loop, if their class says `virtual_loop = True`."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from eventflow.testing import VirtualLoop

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import pytest


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Say which loop a test's coroutines run on."""
    del config
    if getattr(getattr(item, "cls", None), "virtual_loop", False):
        return {"virtual": lambda: VirtualLoop(seed=1)}
    return {"real": asyncio.new_event_loop}
