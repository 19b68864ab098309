"""What servers say of themselves at their monitoring ports.

A client isn't told whether they sync before they answer (G1), what time they have, or how many they
are; `/varz` shows the configuration in effect, `/jsz` the cluster.
"""

from __future__ import annotations

import asyncio
import time
import urllib.request
from typing import TYPE_CHECKING, Any

import msgspec

from eventflow.clock import from_rfc3339

if TYPE_CHECKING:
    import ssl
    from collections.abc import Sequence

_ANSWER_S = 5.0


class Told(msgspec.Struct, frozen=True, gc=False):
    """What one server says."""

    url: str
    """Of its monitoring port."""
    version: str
    syncs: bool
    max_payload: int
    servers: int
    """How many share its streams; 1: it is alone."""
    ahead_s: float
    """How much its clock is ahead of this node's."""
    unsure_s: float
    """How much of that may be the time that the answer took."""


class Silent(msgspec.Struct, frozen=True, gc=False):
    """A server that does not answer, or none."""

    url: str
    why: str


async def ask(
    monitor: str, context: ssl.SSLContext | None = None
) -> tuple[Sequence[Told], Sequence[Silent]]:
    """Return what the servers say, and which say nothing.

    Args:
        monitor: URLs of monitoring ports, separated by commas; empty: there are none.
        context: What https is spoken with.
    """
    urls = [url.rstrip("/") for url in monitor.split(",") if url]
    found = await asyncio.gather(*(asyncio.to_thread(_told, url, context) for url in urls))
    told = [one for one in found if isinstance(one, Told)]
    return told, [one for one in found if isinstance(one, Silent)]


def _told(url: str, context: ssl.SSLContext | None) -> Told | Silent:
    try:
        began = time.time()
        told = _read(f"{url}/varz", context)
        ended = time.time()
        cluster = _read(f"{url}/jsz", context).get("meta_cluster") or {}
        config = told.get("jetstream", {}).get("config") or {}
        return Told(
            url,
            told["version"],
            bool(config.get("sync_always")),
            told["max_payload"],
            cluster.get("cluster_size", 1),
            from_rfc3339(told["now"]) - (began + ended) / 2,
            (ended - began) / 2,
        )
    except (OSError, ValueError, KeyError, msgspec.MsgspecError) as error:
        return Silent(url, str(getattr(error, "reason", error)))


def _read(url: str, context: ssl.SSLContext | None) -> Any:
    with urllib.request.urlopen(  # noqa: S310  # http: or https: by its kind
        url, timeout=_ANSWER_S, context=context if url.startswith("https:") else None
    ) as answer:
        return msgspec.json.decode(answer.read())
