"""Where the servers of a cluster live: on the loopback, or each in a network of its own.

A network of its own is a namespace of the kernel, joined to the others by a cable (veth) and a
switch (bridge), on which this machine has an address too. A cut is a route that swallows what is
sent: nobody hears that a connection is gone, as behind a broken switch. It needs root on Linux,
nothing else; `unshared` says why it can't be had.
"""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tests.ports import lasting_port

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


@dataclass(frozen=True)
class Spot:
    """Where one server listens, and what its command begins with to get there."""

    name: str
    host: str = "127.0.0.1"
    port: int = field(default_factory=lasting_port)
    routes: int = field(default_factory=lasting_port)
    monitor: int = field(default_factory=lasting_port)
    command: tuple[str, ...] = ()


class Network:
    """Spots that hear each other, as long as nothing is cut."""

    can_cut = False

    def __init__(self, names: Sequence[str]) -> None:
        self.spots = [Spot(name) for name in names]

    def mute(self, one: int, to: Sequence[int]) -> None:
        """Let nothing that one sends reach these others."""
        raise NotImplementedError("nothing can be cut on the loopback")

    def unplug(self, one: int) -> None:
        """Let one reach nobody, and nobody reach it, this machine's processes either."""
        raise NotImplementedError("nothing can be cut on the loopback")

    def cut(self, one: int) -> None:
        """Let one and the others hear nothing of each other; this machine still reaches all."""
        others = [other for other in range(len(self.spots)) if other != one]
        self.mute(one, others)
        for other in others:
            self.mute(other, [one])

    def mend(self) -> None:
        """End every cut."""


class Namespaces(Network):
    """Spots in networks of their own."""

    can_cut = True

    def __init__(self, names: Sequence[str]) -> None:
        self._mark = f"ef{secrets.token_hex(3)}"
        self._subnet = f"10.211.{secrets.randbelow(250) + 1}"
        self._muted: list[tuple[int, str]] = []
        self._unplugged: list[int] = []
        self.spots = [
            Spot(
                name,
                *(f"{self._subnet}.{number}", 4222, 6222, 8222),
                ("ip", "netns", "exec", f"{self._mark}-{name}"),
            )
            for number, name in enumerate(names, start=1)
        ]

    def up(self) -> None:
        """Make the networks.

        Raises:
            OSError: the system does not let us.
        """
        bridge = self._mark
        _ip("link", "add", bridge, "type", "bridge")
        _ip("address", "add", f"{self._subnet}.254/24", "dev", bridge)
        _ip("link", "set", bridge, "up")
        for number, spot in enumerate(self.spots):
            inside = f"{self._mark}-{spot.name}"
            _ip("netns", "add", inside)
            cable = self._cable(number)
            ends = ("type", "veth", "peer", "name", "eth0", "netns", inside)
            _ip("link", "add", cable, *ends)
            _ip("link", "set", cable, "master", bridge, "up")
            _ip("-n", inside, "address", "add", f"{spot.host}/24", "dev", "eth0")
            _ip("-n", inside, "link", "set", "eth0", "up")
            _ip("-n", inside, "link", "set", "lo", "up")

    def down(self) -> None:
        """Remove what `up` has made, as far as it came."""
        for number, spot in enumerate(self.spots):
            _ip("link", "delete", self._cable(number), check=False)
            _ip("netns", "delete", f"{self._mark}-{spot.name}", check=False)
        _ip("link", "delete", self._mark, check=False)

    def mute(self, one: int, to: Sequence[int]) -> None:
        for other in to:
            host = self.spots[other].host
            _ip("-n", self._inside(one), "route", "add", "blackhole", f"{host}/32")
            self._muted.append((one, host))

    def unplug(self, one: int) -> None:
        _ip("link", "set", self._cable(one), "down")
        self._unplugged.append(one)

    def mend(self) -> None:
        while self._muted:
            one, host = self._muted.pop()
            _ip("-n", self._inside(one), "route", "delete", "blackhole", f"{host}/32")
        while self._unplugged:
            _ip("link", "set", self._cable(self._unplugged.pop()), "up")

    def _inside(self, number: int) -> str:
        return f"{self._mark}-{self.spots[number].name}"

    def _cable(self, number: int) -> str:
        return f"{self._mark}.{number}"


def unshared() -> str:
    """Return why there are no networks of their own here; empty: there are."""
    if shutil.which("ip") is None:
        return "there is no `ip` (Debian: iproute2)"
    if os.geteuid() != 0:
        return "it takes root"
    probe = Namespaces(["a"])
    try:
        probe.up()
    except OSError as error:
        return str(error)
    finally:
        probe.down()
    return ""


@contextmanager
def network(names: Sequence[str], *, cuts: bool) -> Iterator[Network]:
    """Make a network, gone on leaving; with `cuts`, one that can be cut.

    Raises:
        OSError: the system does not let us.
    """
    if not cuts:
        yield Network(names)
        return
    made = Namespaces(names)
    try:
        made.up()
        yield made
    finally:
        made.down()


def _ip(*words: str, check: bool = True) -> None:
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)  # noqa: S607  # the system's own
    if check and done.returncode:
        raise OSError(f"ip {' '.join(words)}: {done.stderr.strip()}")
