"""What nodes tell of themselves: who works on the same queues."""

from __future__ import annotations

import msgspec

from eventflow.policy.nodes import ROLES, State


class Member(msgspec.Struct, frozen=True, kw_only=True):
    """One node."""

    name: str
    """As in `[engine] node`: the same in its next life, and no other living node's."""
    host: str
    pid: int
    version: str
    """Of EventFlow."""
    roles: tuple[str, ...] = ROLES
    started_at: float
    """Seconds since 1970, by its own clock."""
    url: str = ""
    """Of its HTTP door; "" before that is open, or where it has none."""
    beat_at: float
    """When it said so last, by its own clock."""
    state: State = "alive"
    """As the node that tells it has heard."""

    @property
    def where(self) -> str:
        """The process, for messages."""
        return f"pid {self.pid} on {self.host}"
