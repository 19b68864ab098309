"""Opening the engine that the settings name, with the storage that belongs to it."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

from eventflow.app.build import audit_key_of
from eventflow.engine.embedded import EmbeddedEngine, open_engine
from eventflow.engine.members import Member
from eventflow.errors import ConfigError
from eventflow.storage.sqlite import open_storage
from eventflow.version import VERSION

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from eventflow.clock import Clock
    from eventflow.config import Settings
    from eventflow.engine.embedded.writer import Writer
    from eventflow.engine.jetstream import JetStreamEngine

    AnyEngine = EmbeddedEngine | JetStreamEngine


def member_of(settings: Settings, now: float) -> Member:
    """Return what this node tells the others of itself."""
    host = socket.gethostname()
    name = settings.engine.node or host
    return Member(
        name=name, host=host, pid=os.getpid(), version=VERSION, started_at=now, beat_at=now
    )


async def engine_of(
    settings: Settings,
    clock: Clock,
    draw_bits: Callable[[int], int],
    writer: Callable[[], Writer],
) -> AnyEngine:
    """Open the engine that the settings name.

    Raises:
        ConfigError: it needs a package that is not installed.
        EngineUnavailable: no server answers, or it keeps less than the settings claim.
        StorageUnavailable: the file of secondary storage can't be opened.
        JournalInUse: another process has the journal open.
        JournalUnreadable: the journal is damaged, or of another version.
    """
    if settings.engine.on_servers:
        return await _on_servers(settings, clock, draw_bits)
    path = settings.engine.path
    return await open_engine(
        ":memory:" if path is None else str(path),
        clock=clock,
        draw_bits=draw_bits,
        durability=settings.engine.durability,
        audit_key=audit_key_of(settings),
        writer=writer,
    )


async def _on_servers(
    settings: Settings, clock: Clock, draw_bits: Callable[[int], int]
) -> JetStreamEngine:
    try:
        from eventflow.engine import jetstream  # noqa: PLC0415  # its client is an extra
    except ModuleNotFoundError as error:
        why = f"nats:// needs the package {error.name!r}, which is not installed"
        raise ConfigError([f"[engine] url: {why}. Install eventflow[nats]"]) from error
    said = settings.engine
    node = member_of(settings, clock.now_s()).name
    path: Path | None = settings.storage.path
    storage = await open_storage(
        ":memory:" if path is None else str(path),
        clock=clock,
        chain=node,
        audit_key=audit_key_of(settings),
        max_bytes=settings.storage.max_size_bytes,
    )
    try:
        return await jetstream.open_engine(
            said.url,
            storage=storage,
            clock=clock,
            node=jetstream.node_name(node),
            replicas=said.replicas,
            access=said.nats,
            encrypted=said.encrypted,
            monitor=said.monitor,
            durability=said.durability,
            draw_bits=draw_bits,
        )
    except BaseException:
        await storage.close()
        raise
