"""Opening the engine that the settings name, with the storage that belongs to it."""

from __future__ import annotations

import os
import re
import socket
from pathlib import Path
from typing import TYPE_CHECKING

from eventflow.app.build import audit_key_of
from eventflow.config.settings import DEFAULT_URL, STORAGE_URL
from eventflow.engine.embedded import EmbeddedEngine, open_engine
from eventflow.engine.embedded.leaving import glance, is_journal
from eventflow.engine.members import Member
from eventflow.errors import ConfigError, JournalInUse, JournalUnreadable
from eventflow.storage.sqlite import open_storage
from eventflow.version import VERSION

if TYPE_CHECKING:
    from collections.abc import Callable

    from eventflow.clock import Clock
    from eventflow.config import Settings
    from eventflow.engine.embedded.writer import Writer
    from eventflow.engine.jetstream import JetStreamEngine
    from eventflow.storage.protocol import Keeper

    AnyEngine = EmbeddedEngine | JetStreamEngine


def member_of(settings: Settings, now: float) -> Member:
    """Return what this node tells the others of itself."""
    host = socket.gethostname()
    name = settings.engine.node or host
    return Member(
        name=name,
        host=host,
        pid=os.getpid(),
        version=VERSION,
        roles=settings.engine.roles,
        started_at=now,
        beat_at=now,
    )


async def engine_of(
    settings: Settings,
    clock: Clock,
    draw_bits: Callable[[int], int],
    writer: Callable[[], Writer],
) -> AnyEngine:
    """Open the engine that the settings name.

    Raises:
        ConfigError: it needs a package that is not installed, or a database keeps less than the
            settings claim.
        EngineUnavailable: no server answers, or it keeps less than the settings claim.
        StorageUnavailable: the file or database of secondary storage can't be opened.
        JournalInUse: another process has the journal open.
        JournalMoved: what the journal held was moved elsewhere.
        JournalUnreadable: the journal is damaged, or of another version.
    """
    if settings.engine.on_servers:
        refuse_left_behind(settings)
        return await on_servers(settings, clock, draw_bits)
    path = settings.engine.path
    return await open_engine(
        ":memory:" if path is None else str(path),
        clock=clock,
        draw_bits=draw_bits,
        durability=settings.engine.durability,
        audit_key=audit_key_of(settings),
        writer=writer,
    )


def shown(url: str) -> str:
    """Return a URL without user, password and parameters: as it may stand in files and messages."""
    return re.sub(r"//[^@/,]*@", "//", url).partition("?")[0]


def refuse_left_behind(settings: Settings) -> None:
    """Start no node on servers while the file of before still holds deliveries: nobody would run
    them. That file is the default one, or the one that `[storage] url` names.

    Raises:
        ConfigError: it does; the message has the command that moves them.
    """  # noqa: D205  # one thought
    to, storage = shown(settings.engine.url), settings.storage
    default = Path(DEFAULT_URL.removeprefix("sqlite:"))
    if storage.path is not None and is_journal(storage.path):
        # A storage of its own is elsewhere: this one can't be both.
        _refuse_live(storage.path, to, STORAGE_URL)
        why = f"{storage.path} is the file of a node that kept its queues there, too"
        raise ConfigError([f'[storage] url: {why}. Name another, such as "{STORAGE_URL}"'])
    if is_journal(default):
        _refuse_live(default, to, storage.shown)


def _refuse_live(path: Path, to: str, storage: str) -> None:
    command = f"`eventflow move --from sqlite:{path} --to {to} --storage {storage}`"
    otherwise = "Or set the file aside under another name, to leave it behind"
    why = f"[engine] url: the queues are to be at {to}, but {path}"
    try:
        found = glance(path)
    except JournalUnreadable:
        return  # nothing is known of it: whoever starts a node on it is told
    except JournalInUse as error:
        why += f" is in use by {error.holder}. Stop that node and move what it holds: {command}."
        raise ConfigError([f"{why} {otherwise}."]) from error
    if found.mark is None and found.live:
        what = "delivery" if found.live == 1 else "deliveries"
        why += f" still holds {found.live:,} {what}, which nobody would deliver."
        raise ConfigError([f"{why} Move them: {command}. {otherwise}."])
    if found.mark is not None and found.mark.done_at is None:
        why += " is not wholly moved: its move has not ended, and goes on where it was."
        to, storage = found.mark.to, found.mark.storage
        command = f"`eventflow move --from sqlite:{path} --to {to} --storage {storage}`"
        raise ConfigError([f"{why} Run {command}."])


async def on_servers(
    settings: Settings, clock: Clock, draw_bits: Callable[[int], int]
) -> JetStreamEngine:
    """Open the engine on servers that the settings name, and secondary storage beside it.

    Raises:
        ConfigError, EngineUnavailable, StorageUnavailable: as `engine_of`.
    """
    try:
        from eventflow.engine import jetstream  # noqa: PLC0415  # its client is an extra
    except ModuleNotFoundError as error:
        why = f"nats:// needs the package {error.name!r}, which is not installed"
        raise ConfigError([f"[engine] url: {why}. Install eventflow[nats]"]) from error
    said = settings.engine
    node = member_of(settings, clock.now_s()).name
    storage = await _storage_of(settings, clock, node)
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


async def _storage_of(settings: Settings, clock: Clock, node: str) -> Keeper:
    """Open secondary storage beside NATS servers: a file of this node's, or a database of all.

    Args:
        settings: The settings.
        clock: Tells the time.
        node: This node's name, which its audit chain has as well.
    """
    said = settings.storage
    if said.in_database:
        try:
            from eventflow.storage import postgres  # noqa: PLC0415  # its client is an extra
        except ImportError as error:  # psycopg without libpq is no ModuleNotFoundError
            why = f"postgresql:// needs the package psycopg, which can't be loaded: {error}"
            raise ConfigError([f"[storage] url: {why}. Install eventflow[postgres]"]) from error
        return await postgres.open_postgres(
            said.url,
            clock=clock,
            chain=node,
            audit_key=audit_key_of(settings),
            max_bytes=said.max_size_bytes,
            durable=settings.engine.durability == "fsync",
        )
    path = said.path
    return await open_storage(
        ":memory:" if path is None else str(path),
        clock=clock,
        chain=node,
        audit_key=audit_key_of(settings),
        max_bytes=said.max_size_bytes,
    )
