"""What servers say of themselves: whether they sync before they answer (G1).

A client isn't told. The monitoring port is: `/varz` shows the configuration in effect.
"""

from __future__ import annotations

import asyncio
import logging
import urllib.request
from typing import Any

import msgspec

from eventflow.errors import EngineUnavailable

_ANSWER_S = 5.0

_log = logging.getLogger(__name__)


async def check(monitor: str, durability: str) -> str:
    """Return what acceptance survives: "fsync", "os", or "unknown" where nobody can be asked.

    Args:
        monitor: URLs of monitoring ports, separated by commas; empty: there are none.
        durability: What is wanted: "fsync" or "os".

    Raises:
        EngineUnavailable: a server does not answer, or keeps less than is wanted.
    """
    if not monitor:
        if durability == "fsync":
            _log.warning(
                "[engine] monitor is not set, so it is not known whether the NATS servers sync "
                "before they answer. With their default sync_interval a power cut loses what "
                "they confirmed in the last two minutes."
            )
        return "unknown"
    lazy = [url for url in monitor.split(",") if not await _syncs(url)]
    if not lazy:
        return "fsync"
    if durability == "fsync":
        raise EngineUnavailable(
            f"expected NATS servers that sync before they answer, got sync_always off at "
            f"{', '.join(lazy)}: a power cut would lose what they confirmed. Nothing was sent. "
            f'Set sync_interval: always there, or [engine] durability to "os"'
        )
    return "os"


async def _syncs(url: str) -> bool:
    try:
        told = await asyncio.to_thread(_varz, url)
    except (OSError, ValueError, msgspec.MsgspecError) as error:
        raise EngineUnavailable(f"the monitoring port {url} does not answer ({error})") from error
    config = told.get("jetstream", {}).get("config") or {}
    return bool(config.get("sync_always"))


def _varz(url: str) -> Any:
    with urllib.request.urlopen(f"{url}/varz", timeout=_ANSWER_S) as answer:  # noqa: S310  # http: by its kind
        return msgspec.json.decode(answer.read())
