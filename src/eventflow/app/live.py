"""Changing a node while it runs: its file read again, and what operators have set over it.

Precedence, the strongest last: defaults, what Python code declares, the file, the environment, the
command line, an operator's override of a topic. What can't be used changes nothing, and says why.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from eventflow.app import build
from eventflow.clock import rfc3339
from eventflow.config.difference import Difference, applied, difference
from eventflow.errors import ConfigError, EngineUnavailable, Orphaned, StorageUnavailable
from eventflow.storage.protocol import Actor
from eventflow.telemetry import names
from eventflow.telemetry.logging import log
from eventflow.web.webhooks import compile_webhooks

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from eventflow.app.door import Door
    from eventflow.config import Settings
    from eventflow.flow.node import Flow

    Values = Mapping[str, Any]
    Read = Callable[[Mapping[str, Values]], Settings]
    """Given operators' overrides by topic, reads file and environment anew."""

BY_FILE = Actor("the node", "its file was read again")
AGAIN_S = 1.0
"""How long it takes until what could not be read is read again."""
FIXED = ("handler", "sink", "executor", "batch", "match")
"""Keys of a topic that only the file may change: what it does, and with what."""
_OURS = ("paused", "set")
"""What an override holds beside settings: whether it is paused, and who set it when."""


def of_settings(overrides: Mapping[str, Values]) -> dict[str, Values]:
    """Return the settings among what operators have set, by topic."""
    found = {
        topic: {key: value for key, value in values.items() if key not in _OURS}
        for topic, values in overrides.items()
    }
    return {topic: values for topic, values in found.items() if values}


def merged(kept: Values, patch: Values) -> dict[str, Any]:
    """Return `kept` with a JSON merge patch (RFC 7396): null takes a key away."""
    result = dict(kept)
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        elif isinstance(value, dict):
            below = result.get(key)
            result[key] = merged(below if isinstance(below, dict) else {}, value)
        else:
            result[key] = value
    return {key: value for key, value in result.items() if value != {}}


class Live:
    """What can be changed of a node that runs."""

    def __init__(
        self,
        read: Read,
        settings: Settings,
        built: dict[str, build.Built],
        functions: Mapping[str, Callable[..., Any]],
        flow: Flow,
        door: Door,
    ) -> None:
        self.settings = settings
        self._read = read
        self._built = built
        self._functions = functions
        self._flow = flow
        self._door = door
        self.heard = asyncio.Event()
        """Set: another node's operator has changed something."""

    async def reload(self) -> Difference:
        """Read the file again, and be what it says.

        Returns:
            What was different.

        Raises:
            ConfigError: it can't be used. Nothing was changed.
            EngineUnavailable: the node is stopping.
        """
        async with self._flow.changing:
            new = self._read(await self._overrides())
            found = difference(self.settings, new)

            async def record() -> None:
                if found.live:
                    await self._flow.tools.storage.reconfigured(found.live, BY_FILE)

            return await self._become(new, record)

    async def override(self, topic: str, patch: Values, by: Actor) -> None:
        """Let settings of a topic win over the file, from now on and over restarts. Audited.

        Args:
            topic: Whose.
            patch: As in the topic's TOML table; None takes an override away.
            by: Who.

        Raises:
            UnknownName: there is no such topic.
            Orphaned: it has gone from the configuration.
            ConfigError: they can't be used. Nothing was changed.
        """
        fixed = [key for key in patch if key in FIXED or key in _OURS]
        if fixed:
            why = "can't be overridden: change it in the file"
            raise ConfigError([f"[topics.{topic}] {key}: {why}" for key in fixed])
        async with self._flow.changing:
            kept = await self._kept(topic)
            settings = merged({k: v for k, v in kept.items() if k not in _OURS}, patch)
            await self._set(topic, kept, settings, by)

    async def drop(self, topic: str, by: Actor) -> None:
        """Let the file say again what a topic is. Whether it is paused stays. Audited.

        Raises:
            UnknownName: there is no such topic.
            Orphaned: it has gone from the configuration.
        """
        async with self._flow.changing:
            kept = await self._kept(topic)
            if kept.keys() - {"paused"}:
                await self._set(topic, kept, {}, by)

    async def follow(self) -> None:
        """Be what operators of other nodes have set since: forever, each time `heard` is set."""
        while True:
            await self.heard.wait()
            self.heard.clear()
            try:
                await self._catch_up()
            except ConfigError as error:  # it fits that node's file, and not this one's
                log(names.SETTINGS_REFUSED, problems=list(error.problems))
            except (EngineUnavailable, StorageUnavailable):
                self.heard.set()
                await asyncio.sleep(AGAIN_S)

    async def _catch_up(self) -> None:
        async with self._flow.changing:
            values = await self._flow.tools.overrides.overrides()
            self._flow.follow({topic for topic, said in values.items() if said.get("paused")})
            new = self._read(of_settings(values))
            if difference(self.settings, new).live:
                await self._become(new, _nothing)

    async def _kept(self, topic: str) -> dict[str, Any]:
        if self._flow.operable(topic).orphan:
            raise Orphaned(topic)
        return dict((await self._flow.tools.overrides.overrides()).get(topic, {}))

    async def _set(self, topic: str, kept: Values, settings: Values, by: Actor) -> None:
        overrides = {**await self._overrides(), topic: settings}
        new = self._read(overrides)
        values: dict[str, Any] = {"paused": True} if kept.get("paused") else {}
        if settings:
            at = rfc3339(self._flow.tools.clock.now_s())
            values |= {**settings, "set": {"by": by.name, "at": at, "why": by.why}}

        async def record() -> None:
            await self._flow.tools.overrides.override(topic, values or None, by)

        await self._become(new, record)

    async def _overrides(self) -> dict[str, Values]:
        return of_settings(await self._flow.tools.overrides.overrides())

    async def _become(self, new: Settings, record: Callable[[], Awaitable[None]]) -> Difference:
        found = difference(self.settings, new)
        settings = applied(self.settings, new)
        wanted, built = build.wanted_of(settings, self._functions, self._built)
        webhooks = compile_webhooks(settings.webhooks)
        await self._flow.change(wanted, record)
        self._built, self.settings = built, settings
        self._door.become(settings, webhooks)
        return found


async def _nothing() -> None:
    """Record nothing: the node that was told has."""
