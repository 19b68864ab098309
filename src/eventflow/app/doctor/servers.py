"""The servers of a node that needs some, NATS and PostgreSQL: each judgement as a finding."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from eventflow.app import build
from eventflow.app.doctor.finding import BAD, DOUBTFUL, GOOD, Finding, bad, good
from eventflow.clock import SystemClock
from eventflow.errors import ConfigError, EngineUnavailable, StorageUnavailable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from eventflow.config import Settings

WHAT: Final = "NATS servers"
DATABASE: Final = "PostgreSQL"
_STATES: Final = {"good": GOOD, "doubtful": DOUBTFUL, "refused": BAD}


async def servers(settings: Settings) -> AsyncIterator[Finding]:
    """Yield what a node would meet on its servers, if it needs any. Nothing is changed there."""
    if settings.engine.on_servers:
        async for finding in _nats(settings):
            yield finding
    if settings.storage.in_database:
        yield await _database(settings)


async def _nats(settings: Settings) -> AsyncIterator[Finding]:
    try:
        from eventflow.engine import jetstream  # noqa: PLC0415  # its client is an extra
    except ModuleNotFoundError as error:
        why = f"the package {error.name!r} is not installed"
        yield bad(WHAT, f"can't be asked: {why}", "Install eventflow[nats].")
        return
    wanted, _ = build.wanted_of(settings, {})
    try:
        async for verdict in jetstream.examine(settings.engine, wanted.shape.plan, SystemClock()):
            advice = f"{verdict.advice}." if verdict.advice else ""
            yield Finding(verdict.what, _STATES[verdict.state], verdict.found, advice)
    except EngineUnavailable as error:
        found, _, advice = error.reason.partition(". Nothing was sent. ")
        yield bad(WHAT, found, f"{advice}." if advice else "")
    except ConfigError as error:
        yield bad(
            WHAT, str(error).removesuffix(". Nothing was started"), "Put the right file there."
        )


async def _database(settings: Settings) -> Finding:
    try:
        from eventflow.storage.postgres.link import examine  # noqa: PLC0415  # its client is an extra
    except ModuleNotFoundError as error:
        why = f"the package {error.name!r} is not installed"
        return bad(DATABASE, f"can't be asked: {why}", "Install eventflow[postgres].")
    try:
        place = await examine(settings.storage.url, durable=settings.engine.durability == "fsync")
    except ConfigError as error:
        return bad(DATABASE, "; ".join(error.problems), "")
    except StorageUnavailable as error:
        return bad(DATABASE, str(error), "Start it, or put its address into [storage] url.")
    return good(DATABASE, f"{place}, as a node needs it")
