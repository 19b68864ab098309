"""Seals the audit trail: once a minute the end of each chain that has grown goes to the log.

A chain held against itself shows an edit, a gap or a swap. That its tail was cut off, or all of
it computed anew, shows only against an end noted elsewhere: the log of this node, which is
usually shipped off the machine.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from eventflow.errors import EngineUnavailable, StorageUnavailable
from eventflow.telemetry import names
from eventflow.telemetry.logging import log

if TYPE_CHECKING:
    from eventflow.storage.protocol import Storage

SEAL_S = 60.0


async def seal(storage: Storage) -> None:
    """Log the ends of grown chains once a minute, until cancelled."""
    while True:
        await asyncio.sleep(SEAL_S)
        try:
            heads = await storage.seal()
        except (StorageUnavailable, EngineUnavailable):
            continue  # the rows wait in the engine; the next minute seals them
        for head in heads:
            log(names.AUDIT_SEALED, head=head)
